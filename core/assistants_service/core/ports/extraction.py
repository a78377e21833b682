"""What the domain asks of a reader of files: their text, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a text is cut, in tokens; as it stands the strategy `auto` (section 3.8). Requests are checked to have
    100 <= size <= 4096 and 0 <= overlap <= size / 2."""

    size: int = 800
    overlap: int = 400


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's text. `start` is its place in the text, in code points; `tokens` is its length."""

    text: str
    start: int
    tokens: int


class Unreadable(Exception):
    """No text can be had of this file. `code` and `message` are those of its `last_error`: unsupported_file and
    invalid_file are final, server_error is no fault of the file."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Extraction(Protocol):
    async def chunks(self, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        """The text of the file at `path` in chunks, at least one, in their order; the same for the same bytes.

        What the file is, the extension of `filename` says, or else its bytes. A call that waits for its turn may be
        cancelled, and one that is at work, too. Raises Unreadable.
        """

    async def close(self) -> None: ...
