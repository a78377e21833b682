"""What a vector store's log folds into: the store, its files, batches and segments."""

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
DELIVERIES: Final = 100  # that are remembered: holders that were overtaken before those are long gone
Resource = VectorStore | VectorStoreFile | VectorStoreFileBatch


@dataclass(frozen=True, slots=True)
class StoreChange:
    """What one event did: its name and the object as it was right after, at this version of the store."""

    version: int
    name: str
    object: Resource


class FileState(msgspec.Struct):
    """A file in a store, and what the wire does not show: who works on it, and since when it is in which batches."""

    file: VectorStoreFile
    filename: str = ""  # known when it is completed
    attempt: int = 0  # of the last claim
    claims: int = 0  # since it was attached
    claimed_at: float = 0.0
    item: str = ""  # the delivery of a work item by which it was last claimed
    batches: tuple[str, ...] = ()  # that wait for its end

    @property
    def id(self) -> str:
        return self.file.id

    @property
    def source(self) -> str:
        """What its chunks are known by in the index: no other file or attempt of the store has this name."""
        return segment_of(self.file.id, self.attempt)


class Reindexing(msgspec.Struct):
    """A file that is completed and is read again: who works on it. With an `error` that has failed, and the file is as
    it was."""

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
    """A blob of the index: its size in bytes, and the sources in it that are alive, with their numbers of chunks."""

    size: int
    model: str
    chunks: int
    sources: dict[str, int]
    format: int = 1


class StoreState(State):
    """Everything that a store's log says. Names of segments are those of their blobs, without project and store."""

    store: VectorStore | None = None
    files: Index[FileState] = msgspec.field(default_factory=Index)
    batches: Index[BatchState] = msgspec.field(default_factory=Index)
    waiting: dict[str, None] = msgspec.field(default_factory=dict)  # files in progress, in the order in which they came
    segments: dict[str, SegmentState] = msgspec.field(default_factory=dict)
    source_segments: dict[str, str] = msgspec.field(default_factory=dict)  # which segment a source is in
    # Blobs that may be there and are not, or no longer, part of the store. The value is the delivery of a work item
    # whose holder may be writing it: that one, or the holder of a later delivery, removes it. "": any worker.
    orphaned: dict[str, str] = msgspec.field(default_factory=dict)
    attempt: int = 0  # the last one that was given away
    # Of work items that came again: which delivery has taken over. Earlier ones take nothing up any more.
    deliveries: dict[str, int] = msgspec.field(default_factory=dict)
    merging_since: float = 0.0  # when the last merge was claimed
    reindexing: dict[str, Reindexing] = msgspec.field(default_factory=dict)  # in the order in which it was asked for

    def unread(self) -> Iterator[FileState | Reindexing]:
        """The files that workers are to read: those in progress first."""
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
