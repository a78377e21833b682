"""The state of a vector store: what events of files mean, and those of their batches."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from assistants_service.core.protocol.vector_stores.resources import (
    ChunkingStrategy,
    FileCounts,
    FileStatus,
    VectorStoreFile,
    VectorStoreFileBatch,
)
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold_segments import leave_segment, mark_orphaned
from assistants_service.core.vector_stores.fold_store import StoreEffects, StoreHandler, store_in, used_store
from assistants_service.core.vector_stores.state import BatchState, FileState, Reindexing, SegmentState, StoreState


def _file_created(state: StoreState, event: e.FileCreated, at: int) -> StoreEffects:
    file = VectorStoreFile(
        id=event.file_id,
        created_at=at,
        vector_store_id=store_in(state).id,
        chunking_strategy=ChunkingStrategy(static=event.chunking),
        attributes=event.attributes,
    )
    before = state.files.get(file.id)
    state.files.put_last(file.id, FileState(file=file))
    state.waiting[file.id] = None
    _count(state, before.file.status if before else None, "in_progress")
    # If it was attached before, a document may show how that ended.
    name = "vector_store.file.updated" if before else "vector_store.file.created"
    return [(name, file), ("vector_store.updated", used_store(state, at))]


def _file_updated(state: StoreState, event: e.FileUpdated, at: int) -> StoreEffects:
    return [("vector_store.file.updated", _change(state, event.file_id, attributes=event.attributes))]


def _file_claimed(state: StoreState, event: e.FileClaimed, at: int) -> StoreEffects:
    file = state.reindexing.get(event.file_id) or state.files[event.file_id]
    mark_orphaned(state, file.source)  # the previous holder is dead, or removes what it wrote
    file.attempt, file.item, file.claims, file.claimed_at = event.attempt, event.item, file.claims + 1, at
    state.attempt = max(state.attempt, event.attempt)
    state.orphaned[file.source] = event.item
    return []


def _file_released(state: StoreState, event: e.FileReleased, at: int) -> StoreEffects:
    file = state.reindexing.get(event.file_id) or state.files[event.file_id]
    file.item = ""
    mark_orphaned(state, file.source)
    return []


def _file_completed(state: StoreState, event: e.FileCompleted, at: int) -> StoreEffects:
    file_state = state.files[event.file_id]
    again = state.reindexing.pop(event.file_id, None)
    if again:
        leave_segment(state, file_state.source)
        file_state.attempt, file_state.item, file_state.claims = again.attempt, again.item, again.claims
        file_state.claimed_at = again.claimed_at
    file_state.filename = event.filename
    state.orphaned.pop(file_state.source, None)
    state.segments[file_state.source] = SegmentState(
        event.size, event.model, event.chunks, {file_state.source: event.chunks}, event.format
    )
    state.source_segments[file_state.source] = file_state.source
    store = store_in(state)
    state.store = replace(store, usage_bytes=store.usage_bytes - file_state.file.usage_bytes + event.size)
    if again:
        return [("", _change(state, event.file_id, usage_bytes=event.size)), ("", store_in(state))]
    return end_file(state, event.file_id, "completed", "vector_store.file.completed", usage_bytes=event.size)


def _file_failed(state: StoreState, event: e.FileFailed, at: int) -> StoreEffects:
    if again := state.reindexing.get(event.file_id):
        mark_orphaned(state, again.source)
        state.reindexing[again.id] = Reindexing(again.id, error=event.error.message)
        return []
    mark_orphaned(state, state.files[event.file_id].source)
    return end_file(state, event.file_id, "failed", "vector_store.file.failed", last_error=event.error)


def _files_reindexing(state: StoreState, event: e.FilesReindexing, at: int) -> StoreEffects:
    for file_id in event.file_ids:
        no_reindexing(state, file_id)
        state.reindexing[file_id] = Reindexing(file_id)
    return []


def no_reindexing(state: StoreState, file_id: str) -> None:
    """End reading again; a worker that is doing it removes what it wrote."""
    if again := state.reindexing.pop(file_id, None):
        mark_orphaned(state, again.source)


def _file_cancelled(state: StoreState, event: e.FileCancelled, at: int) -> StoreEffects:
    return end_file(state, event.file_id, "cancelled", "vector_store.file.cancelled")


def _file_detached(state: StoreState, event: e.FileDetached, at: int) -> StoreEffects:
    file_state = state.files[event.file_id]
    batches: StoreEffects = []
    if file_state.file.status == "in_progress":  # for its batches it counts as cancelled, so they still complete
        batches = [
            ("vector_store.file_batch.updated", resource)
            for _, resource in end_file(state, file_state.id, "cancelled", "")
            if isinstance(resource, VectorStoreFileBatch)
        ]
    file = state.files.remove(event.file_id).file
    _count(state, file.status, None)
    store = store_in(state)
    if store.status != "expired":  # an expired store no longer counts its files' bytes
        store = store_in(state, usage_bytes=store.usage_bytes - file.usage_bytes)
    no_reindexing(state, file.id)
    leave_segment(state, file_state.source)
    return [("vector_store.file.deleted", file), *batches, ("vector_store.updated", store)]


def end_file(state: StoreState, file_id: str, status: FileStatus, name: str, **changed: Any) -> StoreEffects:
    """End a file in progress, for the store and for the batches that wait for it."""
    file_state = state.files[file_id]
    state.waiting.pop(file_id)
    _count(state, file_state.file.status, status)
    file = _change(state, file_id, status=status, **changed)
    named: StoreEffects = [(name, file)]
    for batch_id in file_state.batches:
        batch = state.batches[batch_id]
        counts = _moved(batch.batch.file_counts, "in_progress", status)
        batch.batch = replace(batch.batch, file_counts=counts, status=_status(batch.batch, counts))
        named.append(("", batch.batch))
    file_state.batches = ()
    return [*named, ("", store_in(state))]


def _batch_created(state: StoreState, event: e.BatchCreated, at: int) -> StoreEffects:
    counts = FileCounts()
    for file_id in event.file_ids:
        file_state = state.files[file_id]
        counts = _moved(counts, None, file_state.file.status)
        if file_state.file.status == "in_progress":
            file_state.batches = (*file_state.batches, event.batch_id)
    batch = VectorStoreFileBatch(
        id=event.batch_id, created_at=at, vector_store_id=store_in(state).id, file_counts=counts
    )
    batch = replace(batch, status=_status(batch, counts))
    state.batches.put(batch.id, BatchState(batch, event.file_ids))
    return [("vector_store.file_batch.created", batch), ("vector_store.updated", used_store(state, at))]


def _batch_cancelled(state: StoreState, event: e.BatchCancelled, at: int) -> StoreEffects:
    batch_state = state.batches[event.batch_id]
    batch_state.batch = replace(batch_state.batch, status="cancelled")
    return [("vector_store.file_batch.updated", batch_state.batch), ("vector_store.updated", store_in(state))]


def _status(batch: VectorStoreFileBatch, counts: FileCounts) -> FileStatus:
    """A batch whose files have all failed has failed. A cancelled one stays cancelled."""
    if counts.in_progress or batch.status == "cancelled":
        return batch.status
    return "failed" if counts.failed and counts.failed == counts.total else "completed"


def _change(state: StoreState, file_id: str, **changed: Any) -> VectorStoreFile:
    file_state = state.files[file_id]
    file_state.file = replace(file_state.file, **changed)
    return file_state.file


def _count(state: StoreState, before: FileStatus | None, after: FileStatus | None) -> None:
    store = store_in(state)
    counts = _moved(store.file_counts, before, after)
    status = store.status if store.status == "expired" else "in_progress" if counts.in_progress else "completed"
    state.store = replace(store, file_counts=counts, status=status)


def _moved(counts: FileCounts, before: FileStatus | None, after: FileStatus | None) -> FileCounts:
    """One more file with a status, one less with another."""
    moved = msgspec.structs.asdict(counts)
    for status, number in ((before, -1), (after, 1)):
        if status is not None:
            moved[status] += number
            moved["total"] += number
    return FileCounts(**moved)


FILE_EVENTS: dict[type, StoreHandler] = {
    e.FileCreated: _file_created,
    e.FileUpdated: _file_updated,
    e.FileClaimed: _file_claimed,
    e.FileReleased: _file_released,
    e.FileCompleted: _file_completed,
    e.FileFailed: _file_failed,
    e.FilesReindexing: _files_reindexing,
    e.FileCancelled: _file_cancelled,
    e.FileDetached: _file_detached,
    e.BatchCreated: _batch_created,
    e.BatchCancelled: _batch_cancelled,
}
