"""The folded state of a vector store's log: the store, its files, batches and segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from assistants_service.core.log.state import State
from assistants_service.core.paging import Index
from assistants_service.core.protocol.vector_stores.resources import (
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
)

DAY: Final = 86_400
DELIVERIES: Final = 100  # remembered: the holders of older ones are long gone
StoreObject = VectorStore | VectorStoreFile | VectorStoreFileBatch


@dataclass(frozen=True, slots=True)
class StoreChange:
    """The effect of one event: its name, the object right after it, and the resulting version of the store."""

    version: int
    name: str
    object: StoreObject


class FileState(msgspec.Struct):
    """A file in a store, and what the wire does not show: its claims, and the batches that wait for it."""

    file: VectorStoreFile
    filename: str = ""  # known when it is completed
    attempt: int = 0  # of the last claim
    claims: int = 0  # since it was attached
    claimed_at: float = 0.0
    item: str = ""  # the delivery of a work item by which it was last claimed
    batches: tuple[str, ...] = ()  # waiting for its end

    @property
    def id(self) -> str:
        return self.file.id

    @property
    def source(self) -> str:
        """The name of its chunks in the index, unique to file and attempt within the store."""
        return segment_of(self.file.id, self.attempt)


class Reindexing(msgspec.Struct):
    """A completed file that is being read again, and its claims. With an `error` that has failed, and the file keeps
    its old index."""

    id: str
    attempt: int = 0
    claims: int = 0
    claimed_at: float = 0.0
    item: str = ""
    error: str = ""

    @property
    def source(self) -> str:
        return segment_of(self.id, self.attempt)


class BatchState(msgspec.Struct):
    batch: VectorStoreFileBatch
    file_ids: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.batch.id


class SegmentState(msgspec.Struct):
    """A blob of the index: its size in bytes, and its live sources with their numbers of chunks."""

    size: int
    model: str
    chunks: int
    sources: dict[str, int]
    format: int = 1


class StoreState(State):
    """The folded log of a store. Segments are named by their blobs, without project and store."""

    store: VectorStore | None = None
    files: Index[FileState] = msgspec.field(default_factory=Index)
    batches: Index[BatchState] = msgspec.field(default_factory=Index)
    waiting: dict[str, None] = msgspec.field(default_factory=dict)  # files in progress, in the order of attachment
    segments: dict[str, SegmentState] = msgspec.field(default_factory=dict)
    source_segments: dict[str, str] = msgspec.field(default_factory=dict)  # the segment that contains a source
    # Blobs that may exist and are not part of the store. The value is the delivery of a work item whose holder may be
    # writing the blob: it, or the holder of a later delivery, removes it. "": any worker.
    orphaned: dict[str, str] = msgspec.field(default_factory=dict)
    attempt: int = 0  # the last one assigned
    # The latest known delivery of each redelivered work item. Earlier ones claim nothing any more.
    deliveries: dict[str, int] = msgspec.field(default_factory=dict)
    merging_since: float = 0.0  # when the last merge was claimed
    reindexing: dict[str, Reindexing] = msgspec.field(default_factory=dict)  # in the order of the requests

    def unread(self) -> Iterator[FileState | Reindexing]:
        """The files that workers have to read: those in progress first."""
        yield from (self.files[file_id] for file_id in self.waiting)
        yield from (file for file in self.reindexing.values() if not file.error)

    def to_read(self, file_id: str) -> FileState | Reindexing | None:
        """This file, if it is among the `unread`."""
        if file_id in self.waiting:
            return self.files[file_id]
        again = self.reindexing.get(file_id)
        return None if again is None or again.error else again


def segment_of(file_id: str, attempt: int) -> str:
    return f"{file_id}.{attempt}"


def merged_segment(attempt: int) -> str:
    return f"merged.{attempt}"
