"""The port of file readers, which return a file's text in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a text is cut, in tokens; the defaults are the strategy `auto`. Requests are validated to have
    100 <= size <= 4096 and 0 <= overlap <= size / 2."""

    size: int = 800
    overlap: int = 400


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's text. `start` is its offset in the text, in code points; `tokens` is its length."""

    text: str
    start: int
    tokens: int


class Unreadable(Exception):
    """The file's text cannot be extracted. `code` and `message` become its `last_error`: unsupported_file and
    invalid_file are final, server_error is not the file's fault."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Extraction(Protocol):
    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        """The text of the file at `path`, at least one chunk, in order; the same bytes give the same chunks.

        A process that has read a file of `project` never reads one of another project: the file may have taken it over.
        The extension of `filename` determines the type, or else the content does. A call may be cancelled while it
        waits or runs. Raises Unreadable.
        """

    async def close(self) -> None: ...
