"""Merges the segments of a vector store: small ones are combined, and chunks of detached files dropped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from assistants_service.core.ports.search import SegmentGone, Weight
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.search.embedded import EmbeddedIndex
from assistants_service.core.search.words import FORMAT
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.state import StoreState, merged_segment
from assistants_service.worker.store_work import StoreWork

log = logging.getLogger(__name__)

MERGES: Final = 16  # per item, at most


async def merge(work: StoreWork) -> None:
    for _ in range(MERGES):
        async with work.context.merging:
            if not await _merge_some(work):
                return


async def _merge_some(work: StoreWork) -> bool:
    """One merge, if one is due and no other worker is merging."""
    index = work.context.stores.index
    plan: Sequence[str] = ()
    attempt = 0

    def claim(state: StoreState) -> Sequence[e.StoreEvent]:
        nonlocal plan, attempt
        plan, attempt = () if work.overtaken(state) else _plan(index, state), state.attempt + 1
        return [e.MergeClaimed(attempt=attempt, item=work.claimant)] if plan else ()

    await work.commit(claim)
    if not plan:
        return False
    state = await work.load()
    if not state.segments.keys() >= set(plan):
        return False
    # Before the merge: another task of this process may fold the end of one of them into this state in the meantime.
    live = {source: chunks for name in plan for source, chunks in state.segments[name].sources.items()}
    into = merged_segment(attempt)
    try:
        size = await index.merge(work.store, plan, set(live), into)
    except SegmentGone as gone:
        state = await work.load()
        if state.known and state.segments.keys() >= set(plan):
            store = work.item.store_id
            log.error("vector store %s cannot be merged: %s; run `assistants reindex %s`", store, gone, store)
        return False  # one of them, or the store, was removed in the meantime, or it is lost
    except Conflict:  # removed by the worker that took over
        return False
    if size is None:
        return False

    def commit(state: StoreState) -> Sequence[e.StoreEvent]:
        # Nothing if another worker has merged one of them or taken over, or if the store has expired.
        if not state.known or state.orphaned.get(into) != work.claimant or not state.segments.keys() >= set(plan):
            return ()
        return [_merged(state, plan, into, size, sum(live.values()))]

    if await work.commit(commit):
        return True
    await work.discard(into)
    return False


def _merged(state: StoreState, plan: Sequence[str], into: str, size: int, chunks: int) -> e.SegmentsMerged:
    sources = {source: number for name in plan for source, number in state.segments[name].sources.items()}
    model = state.segments[plan[0]].model
    return e.SegmentsMerged(
        into=into, merged=tuple(plan), size=size, chunks=chunks, model=model, sources=sources, format=FORMAT
    )


def _plan(index: EmbeddedIndex, state: StoreState) -> Sequence[str]:
    """The segments to merge; none while a worker is merging."""
    if not state.known or any(item and name.startswith("merged.") for name, item in state.orphaned.items()):
        return []
    return index.plan(
        [
            Weight(
                name,
                segment_state.size,
                sum(segment_state.sources.values()) / segment_state.chunks,
                segment_state.model,
                segment_state.format,
            )
            for name, segment_state in state.segments.items()
        ]
    )
