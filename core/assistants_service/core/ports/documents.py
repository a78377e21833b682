"""What the domain asks of a storage engine: documents, each the wire JSON of one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A projection: the wire JSON of one object as of a version of its thread (the number of commits folded).

    An empty body is a tombstone: readers find nothing, and no late writer can restore the object.
    """

    container: str
    name: str
    body: bytes
    version: int
    created: bool = False  # this commit created the object, so no older document can exist: saves a read


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as read: bytes for the wire, and the ETag (quoted, as in HTTP)."""

    name: str
    body: bytes
    etag: str


class Documents(Protocol):
    """JSON documents by container and name (`project/id`, `project/thread/id`, ...)."""

    async def get(self, container: str, name: str) -> Stored | None:
        """The document, or None if it is absent or a tombstone."""

    async def create(self, container: str, name: str, body: bytes) -> str:
        """Store a new plain document and return its ETag. Raises Conflict if the name is taken."""

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        """Replace the version that has this ETag, and return the new one. Raises Conflict if it has changed or is
        gone."""

    async def remove(self, container: str, name: str) -> bool:
        """Delete permanently; False if there was none."""

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        """Up to `limit` documents whose names start with `prefix`, ordered by name (ids sort by creation) or in
        reverse, after the name `after` (which need not exist any more)."""

    async def write_if_newer(self, document: Document) -> None:
        """Project: write unless the stored version is the same or later. Idempotent; never goes back in time."""

    async def remove_tombstones(self, container: str, prefix: str) -> None:
        """Delete the tombstones whose names start with `prefix` permanently, once no late writer is left."""
