"""What the domain asks of a storage engine: documents, logs, contents and a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Conflict(Exception):
    """Another process wrote: the condition of a write did not hold, so nothing was written. Read and decide again."""


class StorageUnavailable(Exception):
    """The store did not answer, or answered that it cannot now. A write may or may not have happened."""


class ContentGone(StorageUnavailable):
    """The content was discarded while it was read: what came of it is not the whole."""


class Unsent(StorageUnavailable):
    """Nothing has happened, for certain: the store was not even asked, or undid what it had begun."""


class Full(Unsent):
    """The store has no room for it."""


class Undecided(StorageUnavailable):
    """A commit was sent, and it is unknown whether it is in the log."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a log stood when it was last read or written: the condition of the next append.

    `generation` counts roll-overs, `offset` is in bytes from the start of that generation. `etag` is the engine's own
    (empty where it needs none).
    """

    generation: int
    offset: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a log holds beyond a mark, and where it ends now.

    `data` starts at the mark that was asked for; with `restarted`, the log was rolled over since, and `data` is the
    whole new generation, to be folded on the snapshot that the generation starts from.
    """

    data: bytes
    mark: Mark
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A projection: the wire JSON of one object as of a version of its thread (the number of commits folded).

    An empty body is a tombstone: readers find nothing, and no late writer brings the object back.
    """

    container: str
    name: str
    body: bytes
    version: int
    created: bool = False  # this commit created the object, so that no older document can exist: saves a read


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as read: bytes for the wire, and the ETag (quoted, as HTTP wants it)."""

    name: str
    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Part:
    """What was staged under an id, `size` in bytes: a content is put together of such parts."""

    id: str
    size: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a work item. `count` is 1 for the first; `receipt` proves that this delivery still holds it."""

    id: str
    body: bytes
    count: int
    receipt: str = field(repr=False)


Project = Callable[[], Sequence[Document]]


def nothing() -> Sequence[Document]:
    """The projection of a log that has no documents."""
    return ()


class Listing(Protocol):
    """The names in a container, whatever they are of."""

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        """Up to `limit` names that start with `prefix`, beyond the name `after`, in an order of the engine's own: of
        documents, tombstones, logs and contents; and of what is only staged, unless the engine removes that by itself.
        Never on the way of a request."""


class Documents(Protocol):
    """JSON documents by container and name (`project/id`, `project/thread/id`, ...)."""

    async def get(self, container: str, name: str) -> Stored | None:
        """The document, or None if it is absent or a tombstone."""

    async def create(self, container: str, name: str, body: bytes) -> str:
        """Store a new plain document and return its ETag. Raises Conflict if the name is taken."""

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        """Store over the version that has this ETag, and return the new one. Raises Conflict if it moved or is gone."""

    async def remove(self, container: str, name: str) -> bool:
        """Delete for good; False if there was none."""

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        """Up to `limit` documents whose name starts with `prefix`, in the order of their names (ids sort by creation)
        or in the reverse of it, beyond the name `after` (which need not exist any more)."""

    async def advance(self, document: Document) -> None:
        """Project: write unless a document of the same or a later version is there. Idempotent, never back in time."""

    async def sweep(self, container: str, prefix: str) -> None:
        """Delete for good the tombstones whose names start with `prefix`: when no late writer is left."""


class Logs(Protocol):
    """Append-only logs. A block is stored whole or not at all, and only where the writer thinks the log ends."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Create a log with its first block. Raises Conflict if it exists. Returns as `append` does."""

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Append at `mark` and return the new mark. Raises Conflict if the log moved or is gone, and ValueError for a
        block of more than 64 MiB.

        `project` makes the documents of this block; it is called once, when the condition has held. An engine with
        transactions stores them in the same one, any other leaves them to the caller: returned are those that the
        caller still has to `advance`.
        A lost reply is no conflict: the engine reads back, and its own block at the mark means success.
        """

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        """All after `since` (None: from the start of the current generation). None if there is no such log.

        With a `limit`, that many bytes after the mark `since` at most, wherever that cuts a block, and the new mark is
        where they end. A generation that began since comes as a whole.
        """

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        """Begin the next generation: an empty log, conditional on `mark`. Raises Conflict if the log moved.

        What the old generation held is kept under `name` + `.` + its number.
        """

    async def drop(self, container: str, name: str) -> None:
        """Delete a log if it is there."""

    async def logs(self, container: str) -> Sequence[str]:
        """The names of all logs that end in `.log`, without what is kept of their old generations, in no order. Goes
        through all names of the container: never on the way of a request."""

    async def weigh(self, container: str, prefix: str) -> int:
        """How many bytes are kept under names that start with `prefix`: logs, documents and contents together. Goes
        through all of their names: never on the way of a request."""


class Contents(Listing, Protocol):
    """Bytes by the gigabyte, in a memory of a few MiB. Parts are staged, then one commit makes them the content.

    A content is there as a whole or not at all, and never changes.
    """

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> Part:
        """Store a part. `part` is an id that was not used for this content before; all of a content have one length.

        What is staged cannot be read. If `chunks` raises, what came is removed where the engine can do that with one
        part; where it cannot, or if the process dies, it is left to `discard`.
        """

    async def staged(self, container: str, name: str) -> Sequence[Part]:
        """The parts that there are, in no order, committed or not; of one that is being staged, what came so far."""

    async def commit(self, container: str, name: str, parts: Sequence[Part]) -> None:
        """Make these parts, in this order, the content, and drop all others. Nothing is copied.

        The same again changes nothing. Raises Conflict if there is a content of other parts, or a part is not there.
        """

    def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from `offset` on (`length` at most), in pieces of a few MiB; none if there is no such content.

        Raises ContentGone if the content is discarded meanwhile.
        """

    async def discard(self, container: str, name: str) -> None:
        """Delete the content, and whatever is staged for it. Idempotent."""


class Queue(Protocol):
    """Work items: at least once, in no order, hidden while a worker has them."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        """Enqueue (48 KiB at most), visible after `delay` seconds (7 days at most)."""

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        """Up to `limit` (32 at most) visible items, hidden from others for `visibility_timeout` seconds."""

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        """Hide for `visibility_timeout` seconds from now; the returned delivery replaces the old one, and the
        item has its body from then on. Raises Conflict if lost."""

    async def delete(self, delivery: Delivery) -> None:
        """The work is done. No error if another worker holds the item by now, or if it is gone."""

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Move a poison item to the queue of the buried ones, for people to look at."""


class Storage(Documents, Logs, Contents, Queue, Protocol):
    """A storage engine. It counts by kind what it asked of the store, and by reason what it had to ask again."""

    operations: Counter[str]
    retries: Counter[str]

    async def open(self) -> None:
        """Connect, and create what is missing. Raises StorageUnavailable, or ValueError for a bad configuration."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Raises StorageUnavailable unless the store answers."""
