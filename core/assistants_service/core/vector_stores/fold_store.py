"""The state of a vector store: the store itself, which events of its files change, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from assistants_service.core.protocol.vector_stores.resources import ExpiresAfter, VectorStore
from assistants_service.core.vector_stores.state import DAY, StoreObject, StoreState


def expiry(after: ExpiresAfter | None, active_at: int) -> int | None:
    return None if after is None else active_at + after.days * DAY


StoreEffects = list[tuple[str, StoreObject]]
StoreHandler = Callable[[StoreState, Any, int], StoreEffects]  # of one type of event; the time in seconds


def used_store(state: StoreState, at: int, **changed: Any) -> VectorStore:
    """Record that the store was used."""
    after = changed.get("expires_after", store_in(state).expires_after)
    return store_in(state, **changed, last_active_at=at, expires_at=expiry(after, at))


def store_in(state: StoreState, **changed: Any) -> VectorStore:
    if state.store is None:
        raise ValueError("a log begins with vector_store.created")
    if changed:
        state.store = replace(state.store, **changed)
    return state.store
