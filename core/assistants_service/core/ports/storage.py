"""The port of storage engines: documents, logs, contents and a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Conflict(Exception):
    """A condition of a write failed because another process has written. Nothing was written: read and decide again."""


class StorageUnavailable(Exception):
    """The store did not respond, or responded that it is unavailable. A write may or may not have taken effect."""


class ContentGone(StorageUnavailable):
    """The content was discarded while it was read: the data read so far is incomplete."""


class Unsent(StorageUnavailable):
    """The write certainly had no effect: the request was not sent, or was rolled back."""


class Full(Unsent):
    """The store is full."""


class Undecided(StorageUnavailable):
    """A commit was sent, and it is unknown whether it is in the log."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a log when it was last read or written: the condition of the next append.

    `generation` counts roll-overs, `offset` is in bytes from the start of that generation. `etag` is the engine's own
    (empty where it needs none).
    """

    generation: int
    offset: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a log contains beyond a mark, and where it ends now.

    `data` starts at the given mark; if `restarted`, the log has been rolled over since, and `data` is the whole new
    generation, to be folded on top of its snapshot.
    """

    data: bytes
    mark: Mark
    restarted: bool = False


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


@dataclass(frozen=True, slots=True)
class Part:
    """A staged part, `size` in bytes: a content consists of such parts."""

    id: str
    size: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a work item. `count` is 1 for the first; `receipt` proves that this delivery is the current
    one."""

    id: str
    body: bytes
    count: int
    receipt: str = field(repr=False)


Project = Callable[[], Sequence[Document]]


def nothing() -> Sequence[Document]:
    """The projection of a log that has no documents."""
    return ()


class Listing(Protocol):
    """The names in a container, of whatever kind."""

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        """Up to `limit` names that start with `prefix`, after the name `after`, in an engine-specific order: names of
        documents, tombstones, logs and contents; and of staged parts, unless the engine removes those by itself. Never
        called on the path of a request."""


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

    async def advance(self, document: Document) -> None:
        """Project: write unless the stored version is the same or later. Idempotent; never goes back in time."""

    async def remove_tombstones(self, container: str, prefix: str) -> None:
        """Delete the tombstones whose names start with `prefix` permanently, once no late writer is left."""


class Logs(Protocol):
    """Append-only logs. A block is stored whole or not at all, and only at the position that the writer expects."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Create a log with its first block. Raises Conflict if it exists. Returns the same as `append`."""

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Append at `mark` and return the new mark. Raises Conflict if the log has changed or is gone, and ValueError
        for a block of more than 64 MiB.

        `project` makes the documents of this block; it is called once, when the condition is met. An engine with
        transactions stores them in the same one, any other returns them, and the caller has to `advance` them.

        A lost response is no conflict: the engine reads back, and its own block at the mark means success.
        """

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        """Everything after `since` (None: from the start of the current generation). None if there is no such log.

        With a `limit`, at most that many bytes after `since`, wherever that cuts a block, and the returned mark is
        where they end. A newer generation is returned as a whole.
        """

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        """Begin the next generation: an empty log, conditional on `mark`. Raises Conflict if the log has changed.

        The old generation is kept under `name` + `.` + its number.
        """

    async def drop(self, container: str, name: str) -> None:
        """Delete a log, if it exists."""

    async def logs(self, container: str) -> Sequence[str]:
        """The names of all logs that end in `.log`, without their old generations, unordered. Lists the whole
        container: never called on the path of a request."""

    async def weigh(self, container: str, prefix: str) -> int:
        """The total size in bytes of logs, documents and contents whose names start with `prefix`. Lists all of them:
        never called on the path of a request."""


class Contents(Listing, Protocol):
    """Contents of up to gigabytes, processed with a few MiB of memory. Parts are staged, then one commit makes them the
    content.

    A content exists as a whole or not at all, and never changes.
    """

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> Part:
        """Store a part. `part` is an id that was not used for this content before; all ids of a content have one
        length.

        Staged parts cannot be read. If `chunks` raises, the part is removed if the engine can remove a single part;
        otherwise, or if the process dies, it stays until `discard`.
        """

    async def staged(self, container: str, name: str) -> Sequence[Part]:
        """The existing parts, unordered, committed or not; of a part that is being staged, what has arrived so far."""

    async def commit(self, container: str, name: str, parts: Sequence[Part]) -> None:
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


class Queue(Protocol):
    """Work items: delivered at least once, unordered, hidden while a worker has them."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        """Enqueue (at most 48 KiB), visible after `delay` seconds (at most 7 days)."""

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        """Up to `limit` (at most 32) visible items, hidden from others for `visibility_timeout` seconds."""

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        """Hide for `visibility_timeout` seconds from now; the returned delivery replaces the old one, and its body is
        stored in the item. Raises Conflict if another worker has the item."""

    async def delete(self, delivery: Delivery) -> None:
        """The work is done. No error if another worker has the item by now, or if it is gone."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move a poison item to the queue for inspection."""


class Storage(Documents, Logs, Contents, Queue, Protocol):
    """A storage engine. It counts its operations by kind, and its retries by reason."""

    operations: Counter[str]
    retries: Counter[str]

    async def open(self) -> None:
        """Connect, and create what is missing. Raises StorageUnavailable, or ValueError for a bad configuration."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Raises StorageUnavailable unless the store responds."""
