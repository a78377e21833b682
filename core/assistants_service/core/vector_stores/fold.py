"""The state of a vector store: a left fold over its log. Counts are derived event by event, so they always add up."""

from __future__ import annotations

from msgspec import UNSET

from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold_files import FILE_EVENTS, end_file, no_reindexing
from assistants_service.core.vector_stores.fold_segments import SEGMENT_EVENTS, retire
from assistants_service.core.vector_stores.fold_store import StoreEffects, StoreHandler, store_in, used_store
from assistants_service.core.vector_stores.state import StoreChange, StoreState


def apply(state: StoreState, commit: e.Commit) -> list[StoreChange]:
    """Fold one commit into the state, and return the changes."""
    state.version += 1
    at = int(commit.at)
    return [
        StoreChange(state.version, name, resource)
        for event in commit.events
        for name, resource in APPLY[type(event)](state, event, at)
    ]


def _store_created(state: StoreState, event: e.StoreCreated, at: int) -> StoreEffects:
    state.store = event.store
    return [("vector_store.created", event.store)]


def _store_updated(state: StoreState, event: e.StoreUpdated, at: int) -> StoreEffects:
    changed = {
        key: value for key in ("name", "expires_after", "metadata") if (value := getattr(event, key)) is not UNSET
    }
    return [("vector_store.updated", used_store(state, at, **changed))]


def _store_used(state: StoreState, event: e.StoreUsed, at: int) -> StoreEffects:
    return [("vector_store.used", used_store(state, at))]


def _store_expired(state: StoreState, event: e.StoreExpired, at: int) -> StoreEffects:
    named: StoreEffects = []
    for file_id in list(state.waiting):
        named += end_file(state, file_id, "cancelled", "vector_store.file.cancelled")
    for file_id in list(state.reindexing):
        no_reindexing(state, file_id)
    for name in list(state.segments):
        retire(state, name)
    changed = store_in(state, status="expired", usage_bytes=0)
    return [*named, ("vector_store.expired", changed)]


def _store_deleted(state: StoreState, event: e.StoreDeleted, at: int) -> StoreEffects:
    state.deleted = True
    return [("vector_store.deleted", store_in(state))]


APPLY: dict[type, StoreHandler] = {
    e.StoreCreated: _store_created,
    e.StoreUpdated: _store_updated,
    e.StoreUsed: _store_used,
    e.StoreExpired: _store_expired,
    e.StoreDeleted: _store_deleted,
    **FILE_EVENTS,
    **SEGMENT_EVENTS,
}
