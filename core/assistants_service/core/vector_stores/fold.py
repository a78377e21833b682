"""The state of a vector store: a left fold over its log. Counts are derived event by event, so they always add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from assistants_service.core.protocol.vector_stores.resources import (
    ChunkingStrategy,
    ExpiresAfter,
    FileCounts,
    FileStatus,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
)
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.state import (
    DAY,
    DELIVERIES,
    BatchState,
    FileState,
    Reindexing,
    Resource,
    SegmentState,
    StoreChange,
    StoreState,
    merged_segment,
)


def expiry(after: ExpiresAfter | None, active_at: int) -> int | None:
    return None if after is None else active_at + after.days * DAY


def apply(state: StoreState, commit: e.Commit) -> list[StoreChange]:
    """Fold one commit into the state, and return the changes."""
    state.version += 1
    at = int(commit.at)
    return [
        StoreChange(state.version, name, thing)
        for event in commit.events
        for name, thing in APPLY[type(event)](state, event, at)
    ]


Named = list[tuple[str, Resource]]


def _store_created(state: StoreState, event: e.StoreCreated, at: int) -> Named:
    state.store = event.store
    return [("vector_store.created", event.store)]


def _store_updated(state: StoreState, event: e.StoreUpdated, at: int) -> Named:
    given = {key: value for key in ("name", "expires_after", "metadata") if (value := getattr(event, key)) is not UNSET}
    return [("vector_store.updated", _active(state, at, **given))]


def _store_used(state: StoreState, event: e.StoreUsed, at: int) -> Named:
    return [("vector_store.used", _active(state, at))]


def _store_expired(state: StoreState, event: e.StoreExpired, at: int) -> Named:
    named: Named = []
    for file_id in list(state.waiting):
        named += _ended(state, file_id, "cancelled", "vector_store.file.cancelled")
    for file_id in list(state.reindexing):
        _no_reindexing(state, file_id)
    for name in list(state.segments):
        _retire(state, name)
    changed = _store(state, status="expired", usage_bytes=0)
    return [*named, ("vector_store.expired", changed)]


def _store_deleted(state: StoreState, event: e.StoreDeleted, at: int) -> Named:
    state.deleted = True
    return [("vector_store.deleted", _store(state))]


# --- files ----------------------------------------------------------------------------------------------------------


def _file_created(state: StoreState, event: e.FileCreated, at: int) -> Named:
    file = VectorStoreFile(
        id=event.file_id,
        created_at=at,
        vector_store_id=_store(state).id,
        chunking_strategy=ChunkingStrategy(static=event.chunking),
        attributes=event.attributes,
    )
    before = state.files.get(file.id)
    state.files.put_last(file.id, FileState(file=file))
    state.waiting[file.id] = None
    _count(state, before.file.status if before else None, "in_progress")
    # If it was attached before, a document may show how that ended.
    name = "vector_store.file.updated" if before else "vector_store.file.created"
    return [(name, file), ("vector_store.updated", _active(state, at))]


def _file_updated(state: StoreState, event: e.FileUpdated, at: int) -> Named:
    return [("vector_store.file.updated", _change(state, event.file_id, attributes=event.attributes))]


def _file_claimed(state: StoreState, event: e.FileClaimed, at: int) -> Named:
    file = state.reindexing.get(event.file_id) or state.files[event.file_id]
    _mark_orphaned(state, file.source)  # the previous holder is dead, or removes what it wrote
    file.attempt, file.item, file.claims, file.claimed_at = event.attempt, event.item, file.claims + 1, at
    state.attempt = max(state.attempt, event.attempt)
    state.orphaned[file.source] = event.item
    return []


def _file_released(state: StoreState, event: e.FileReleased, at: int) -> Named:
    file = state.reindexing.get(event.file_id) or state.files[event.file_id]
    file.item = ""
    _mark_orphaned(state, file.source)
    return []


def _file_completed(state: StoreState, event: e.FileCompleted, at: int) -> Named:
    file_state = state.files[event.file_id]
    again = state.reindexing.pop(event.file_id, None)
    if again:
        _leave_segment(state, file_state.source)
        file_state.attempt, file_state.item, file_state.claims = again.attempt, again.item, again.claims
        file_state.claimed_at = again.claimed_at
    file_state.filename = event.filename
    state.orphaned.pop(file_state.source, None)
    state.segments[file_state.source] = SegmentState(
        event.size, event.model, event.chunks, {file_state.source: event.chunks}, event.format
    )
    state.source_segments[file_state.source] = file_state.source
    store = _store(state)
    state.store = replace(store, usage_bytes=store.usage_bytes - file_state.file.usage_bytes + event.size)
    if again:
        return [("", _change(state, event.file_id, usage_bytes=event.size)), ("", _store(state))]
    return _ended(state, event.file_id, "completed", "vector_store.file.completed", usage_bytes=event.size)


def _file_failed(state: StoreState, event: e.FileFailed, at: int) -> Named:
    if again := state.reindexing.get(event.file_id):
        _mark_orphaned(state, again.source)
        state.reindexing[again.id] = Reindexing(again.id, error=event.error.message)
        return []
    _mark_orphaned(state, state.files[event.file_id].source)
    return _ended(state, event.file_id, "failed", "vector_store.file.failed", last_error=event.error)


def _files_reindexing(state: StoreState, event: e.FilesReindexing, at: int) -> Named:
    for file_id in event.file_ids:
        _no_reindexing(state, file_id)
        state.reindexing[file_id] = Reindexing(file_id)
    return []


def _no_reindexing(state: StoreState, file_id: str) -> None:
    """End reading again; a worker that is doing it removes what it wrote."""
    if again := state.reindexing.pop(file_id, None):
        _mark_orphaned(state, again.source)


def _file_cancelled(state: StoreState, event: e.FileCancelled, at: int) -> Named:
    return _ended(state, event.file_id, "cancelled", "vector_store.file.cancelled")


def _file_detached(state: StoreState, event: e.FileDetached, at: int) -> Named:
    file_state = state.files[event.file_id]
    batches: Named = []
    if file_state.file.status == "in_progress":  # for its batches it counts as cancelled, so they still complete
        batches = [
            ("vector_store.file_batch.updated", thing)
            for _, thing in _ended(state, file_state.id, "cancelled", "")
            if isinstance(thing, VectorStoreFileBatch)
        ]
    file = state.files.remove(event.file_id).file
    _count(state, file.status, None)
    store = _store(state)
    if store.status != "expired":  # an expired store no longer counts its files' bytes
        store = _store(state, usage_bytes=store.usage_bytes - file.usage_bytes)
    _no_reindexing(state, file.id)
    _leave_segment(state, file_state.source)
    return [("vector_store.file.deleted", file), *batches, ("vector_store.updated", store)]


def _ended(state: StoreState, file_id: str, status: FileStatus, name: str, **changed: Any) -> Named:
    """End a file in progress, for the store and for the batches that wait for it."""
    file_state = state.files[file_id]
    state.waiting.pop(file_id)
    _count(state, file_state.file.status, status)
    file = _change(state, file_id, status=status, **changed)
    named: Named = [(name, file)]
    for batch_id in file_state.batches:
        batch = state.batches[batch_id]
        counts = _moved(batch.batch.file_counts, "in_progress", status)
        batch.batch = replace(batch.batch, file_counts=counts, status=_status(batch.batch, counts))
        named.append(("", batch.batch))
    file_state.batches = ()
    return [*named, ("", _store(state))]


# --- batches --------------------------------------------------------------------------------------------------------


def _batch_created(state: StoreState, event: e.BatchCreated, at: int) -> Named:
    counts = FileCounts()
    for file_id in event.file_ids:
        file_state = state.files[file_id]
        counts = _moved(counts, None, file_state.file.status)
        if file_state.file.status == "in_progress":
            file_state.batches = (*file_state.batches, event.batch_id)
    batch = VectorStoreFileBatch(id=event.batch_id, created_at=at, vector_store_id=_store(state).id, file_counts=counts)
    batch = replace(batch, status=_status(batch, counts))
    state.batches.put(batch.id, BatchState(batch, event.file_ids))
    return [("vector_store.file_batch.created", batch), ("vector_store.updated", _active(state, at))]


def _batch_cancelled(state: StoreState, event: e.BatchCancelled, at: int) -> Named:
    batch_state = state.batches[event.batch_id]
    batch_state.batch = replace(batch_state.batch, status="cancelled")
    return [("vector_store.file_batch.updated", batch_state.batch), ("vector_store.updated", _store(state))]


def _status(batch: VectorStoreFileBatch, counts: FileCounts) -> FileStatus:
    """A batch whose files have all failed has failed. A cancelled one stays cancelled."""
    if counts.in_progress or batch.status == "cancelled":
        return batch.status
    return "failed" if counts.failed and counts.failed == counts.total else "completed"


# --- segments -------------------------------------------------------------------------------------------------------


def _merge_claimed(state: StoreState, event: e.MergeClaimed, at: int) -> Named:
    state.attempt = max(state.attempt, event.attempt)
    state.orphaned[merged_segment(event.attempt)] = event.item
    state.merging_since = at
    return []


def _item_taken_over(state: StoreState, event: e.ItemTakenOver, at: int) -> Named:
    state.orphaned |= dict.fromkeys(event.names, event.item)
    item, _, count = event.item.rpartition("/")
    state.deliveries.pop(item, None)
    state.deliveries[item] = int(count)
    for old in list(state.deliveries)[:-DELIVERIES]:
        del state.deliveries[old]
    return []


def _segments_merged(state: StoreState, event: e.SegmentsMerged, at: int) -> Named:
    for name in event.merged:
        _retire(state, name)
    state.orphaned.pop(event.into, None)
    state.segments[event.into] = SegmentState(event.size, event.model, event.chunks, event.sources, event.format)
    state.source_segments |= dict.fromkeys(event.sources, event.into)
    return []


def _segments_dropped(state: StoreState, event: e.SegmentsDropped, at: int) -> Named:
    for name in event.names:
        state.orphaned.pop(name, None)
    return []


def _leave_segment(state: StoreState, source: str) -> None:
    """Remove a source from the segment that contains it."""
    home = state.source_segments.pop(source, None)
    if home is None:
        return
    segment = state.segments[home]
    segment.sources = {other: chunks for other, chunks in segment.sources.items() if other != source}
    if not segment.sources:
        _retire(state, home)


def _mark_orphaned(state: StoreState, name: str) -> None:
    """Any worker may remove this blob."""
    if name in state.orphaned:
        state.orphaned[name] = ""


def _retire(state: StoreState, name: str) -> None:
    for source in state.segments.pop(name).sources:
        state.source_segments.pop(source, None)
    state.orphaned[name] = ""


# --------------------------------------------------------------------------------------------------------------------


def _active(state: StoreState, at: int, **changed: Any) -> VectorStore:
    """Record that the store was used."""
    after = changed.get("expires_after", _store(state).expires_after)
    return _store(state, **changed, last_active_at=at, expires_at=expiry(after, at))


def _store(state: StoreState, **changed: Any) -> VectorStore:
    if state.store is None:
        raise ValueError("a log begins with vector_store.created")
    if changed:
        state.store = replace(state.store, **changed)
    return state.store


def _change(state: StoreState, file_id: str, **changed: Any) -> VectorStoreFile:
    file_state = state.files[file_id]
    file_state.file = replace(file_state.file, **changed)
    return file_state.file


def _count(state: StoreState, before: FileStatus | None, after: FileStatus | None) -> None:
    store = _store(state)
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


APPLY: dict[type, Callable[[StoreState, Any, int], Named]] = {
    e.StoreCreated: _store_created,
    e.StoreUpdated: _store_updated,
    e.StoreUsed: _store_used,
    e.StoreExpired: _store_expired,
    e.StoreDeleted: _store_deleted,
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
    e.MergeClaimed: _merge_claimed,
    e.ItemTakenOver: _item_taken_over,
    e.SegmentsMerged: _segments_merged,
    e.SegmentsDropped: _segments_dropped,
}
