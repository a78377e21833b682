"""What the domain asks of a storage engine: contents, which are the bytes of files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A staged part, `size` in bytes: a content consists of such parts."""

    id: str
    size: int


class Listing(Protocol):
    """The names in a container, of whatever kind."""

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        """Up to `limit` names that start with `prefix`, after the name `after`, in an engine-specific order: names of
        documents, tombstones, logs and contents; and of staged parts, unless the engine removes those by itself. Never
        called on the path of a request."""


class Contents(Listing, Protocol):
    """Contents of up to gigabytes, processed with a few MiB of memory. Parts are staged, then one commit makes them the
    content.

    A content exists as a whole or not at all, and never changes.
    """

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> StagedPart:
        """Store a part. `part` is an id that was not used for this content before; all ids of a content have one
        length.

        Staged parts cannot be read. If `chunks` raises, the part is removed if the engine can remove a single part;
        otherwise, or if the process dies, it stays until `discard`.
        """

    async def staged(self, container: str, name: str) -> Sequence[StagedPart]:
        """The existing parts, unordered, committed or not; of a part that is being staged, what has arrived so far."""

    async def commit(self, container: str, name: str, parts: Sequence[StagedPart]) -> None:
        """Make these parts, in this order, the content, and drop all others. Nothing is copied.

        Repeating it changes nothing. Raises Conflict if the content has other parts, or a part does not exist.
        """

    def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from `offset` on (at most `length`), in pieces of a few MiB; none if there is no such content.

        Raises ContentGone if the content is discarded in the meantime.
        """

    async def discard(self, container: str, name: str) -> None:
        """Delete the content and everything staged for it. Idempotent."""
