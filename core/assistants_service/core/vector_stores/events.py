"""The events of a vector store's log."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from assistants_service.core.log import events as log
from assistants_service.core.protocol.objects import LastError, Metadata
from assistants_service.core.protocol.vector_stores.resources import (
    Attributes,
    ExpiresAfter,
    StaticChunking,
    VectorStore,
)


class StoreCreated(log.Event, frozen=True, kw_only=True, tag="vector_store.created"):
    store: VectorStore


class StoreUpdated(log.Event, frozen=True, kw_only=True, tag="vector_store.updated"):
    """The fields that were given."""

    name: str | UnsetType | None = UNSET
    expires_after: ExpiresAfter | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET


class StoreUsed(log.Event, frozen=True, kw_only=True, tag="vector_store.used"):
    """Private: the store was searched. Not written for every search."""


class StoreExpired(log.Event, frozen=True, kw_only=True, tag="vector_store.expired"):
    """The store has expired: its index is removed; its files are still listed, so that another store can be created
    from them."""


class StoreDeleted(log.Event, frozen=True, kw_only=True, tag="vector_store.deleted"):
    pass


class FileCreated(log.Event, frozen=True, kw_only=True, tag="vector_store.file.created"):
    """The file was attached, perhaps again after it was cancelled or had failed."""

    file_id: str
    chunking: StaticChunking = StaticChunking()
    attributes: Attributes = msgspec.field(default_factory=dict)


class FileUpdated(log.Event, frozen=True, kw_only=True, tag="vector_store.file.updated"):
    file_id: str
    attributes: Attributes


class FileClaimed(log.Event, frozen=True, kw_only=True, tag="vector_store.file.claimed"):
    """Private: a worker claimed the file, by the delivery `item` of a work item. `attempt` is unique within the
    store."""

    file_id: str
    attempt: int
    item: str


class FileReleased(log.Event, frozen=True, kw_only=True, tag="vector_store.file.released"):
    """Private: the claim is void, and others may claim the file."""

    file_id: str


class FileCompleted(log.Event, frozen=True, kw_only=True, tag="vector_store.file.completed"):
    """The file is searchable: its chunks are in the segment that is named by file and attempt, a blob of `size` bytes.
    `format` is that of its words (core.search.words)."""

    file_id: str
    filename: str
    size: int
    chunks: int
    model: str
    format: int = 1


class FileFailed(log.Event, frozen=True, kw_only=True, tag="vector_store.file.failed"):
    file_id: str
    error: LastError


class FilesReindexing(log.Event, frozen=True, kw_only=True, tag="vector_store.files.reindexing"):
    """Private: these completed files are to be read again. They stay completed and searchable.
    `vector_store.file.completed` replaces their index, `vector_store.file.failed` leaves it as it is."""

    file_ids: tuple[str, ...]


class FileCancelled(log.Event, frozen=True, kw_only=True, tag="vector_store.file.cancelled"):
    file_id: str


class FileDetached(log.Event, frozen=True, kw_only=True, tag="vector_store.file.deleted"):
    file_id: str


class BatchCreated(log.Event, frozen=True, kw_only=True, tag="vector_store.file_batch.created"):
    """Files that were not attached yet are attached by events before this one."""

    batch_id: str
    file_ids: tuple[str, ...]


class BatchCancelled(log.Event, frozen=True, kw_only=True, tag="vector_store.file_batch.cancelled"):
    """The files that are cancelled with it have their own events before this one."""

    batch_id: str


class MergeClaimed(log.Event, frozen=True, kw_only=True, tag="vector_store.segments.claimed"):
    """Private: a worker begins to write a segment that is to replace others."""

    attempt: int
    item: str


class ItemTakenOver(log.Event, frozen=True, kw_only=True, tag="vector_store.segments.taken"):
    """Private: this delivery of a work item has taken over from earlier ones. They claim nothing any more, and these
    segments, which they began to write, must not become part of the store."""

    names: tuple[str, ...]
    item: str


class SegmentsMerged(log.Event, frozen=True, kw_only=True, tag="vector_store.segments.merged"):
    """Private. `into` contains so many chunks; `sources` are the live ones in it, each with its number of chunks."""

    into: str
    merged: tuple[str, ...]
    size: int
    chunks: int
    model: str
    sources: dict[str, int]
    format: int = 1


class SegmentsDropped(log.Event, frozen=True, kw_only=True, tag="vector_store.segments.dropped"):
    """Private: these blobs, which are not part of the store, have been removed."""

    names: tuple[str, ...]


StoreEvent = (
    StoreCreated
    | StoreUpdated
    | StoreUsed
    | StoreExpired
    | StoreDeleted
    | FileCreated
    | FileUpdated
    | FileClaimed
    | FileReleased
    | FileCompleted
    | FileFailed
    | FilesReindexing
    | FileCancelled
    | FileDetached
    | BatchCreated
    | BatchCancelled
    | MergeClaimed
    | ItemTakenOver
    | SegmentsMerged
    | SegmentsDropped
)

Commit = log.Commit[StoreEvent]

_decoder = msgspec.json.Decoder(Commit)


def from_lines(data: bytes) -> list[Commit]:
    """The commits in whole lines of a log."""
    return _decoder.decode_lines(data)
