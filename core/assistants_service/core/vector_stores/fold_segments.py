"""The state of a vector store: which segments its index has, and which are orphaned."""

from __future__ import annotations

from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold_store import StoreEffects, StoreHandler
from assistants_service.core.vector_stores.state import DELIVERIES, SegmentState, StoreState, merged_segment


def _merge_claimed(state: StoreState, event: e.MergeClaimed, at: int) -> StoreEffects:
    state.attempt = max(state.attempt, event.attempt)
    state.orphaned[merged_segment(event.attempt)] = event.item
    state.merging_since = at
    return []


def _item_taken_over(state: StoreState, event: e.ItemTakenOver, at: int) -> StoreEffects:
    state.orphaned |= dict.fromkeys(event.names, event.item)
    item, _, count = event.item.rpartition("/")
    state.deliveries.pop(item, None)
    state.deliveries[item] = int(count)
    for old in list(state.deliveries)[:-DELIVERIES]:
        del state.deliveries[old]
    return []


def _segments_merged(state: StoreState, event: e.SegmentsMerged, at: int) -> StoreEffects:
    for name in event.merged:
        retire(state, name)
    state.orphaned.pop(event.into, None)
    state.segments[event.into] = SegmentState(event.size, event.model, event.chunks, event.sources, event.format)
    state.source_segments |= dict.fromkeys(event.sources, event.into)
    return []


def _segments_dropped(state: StoreState, event: e.SegmentsDropped, at: int) -> StoreEffects:
    for name in event.names:
        state.orphaned.pop(name, None)
    return []


def leave_segment(state: StoreState, source: str) -> None:
    """Remove a source from the segment that contains it."""
    home = state.source_segments.pop(source, None)
    if home is None:
        return
    segment = state.segments[home]
    segment.sources = {other: chunks for other, chunks in segment.sources.items() if other != source}
    if not segment.sources:
        retire(state, home)


def mark_orphaned(state: StoreState, name: str) -> None:
    """Any worker may remove this blob."""
    if name in state.orphaned:
        state.orphaned[name] = ""


def retire(state: StoreState, name: str) -> None:
    for source in state.segments.pop(name).sources:
        state.source_segments.pop(source, None)
    state.orphaned[name] = ""


SEGMENT_EVENTS: dict[type, StoreHandler] = {
    e.MergeClaimed: _merge_claimed,
    e.ItemTakenOver: _item_taken_over,
    e.SegmentsMerged: _segments_merged,
    e.SegmentsDropped: _segments_dropped,
}
