"""Objects of a vector store's state by id, or the 404; and whether a store is usable."""

from __future__ import annotations

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.vector_stores.resources import VectorStore
from assistants_service.core.resources import FILE_BATCH, STORE_FILE, VECTOR_STORE
from assistants_service.core.vector_stores.state import BatchState, FileState, StoreState


def store_of(state: StoreState, store_id: str = "") -> VectorStore:
    if state.store is None or state.deleted:
        raise VECTOR_STORE.unknown(state.store.id if state.store else store_id)
    return state.store


def file_of(state: StoreState, file_id: str) -> FileState:
    file_state = state.files.get(file_id)
    if file_state is None:
        raise STORE_FILE.unknown(file_id)
    return file_state


def batch_of(state: StoreState, batch_id: str) -> BatchState:
    batch_state = state.batches.get(batch_id)
    if batch_state is None:
        raise FILE_BATCH.unknown(batch_id)
    return batch_state


def has_expired(store: VectorStore, now: float) -> bool:
    """Whether the store has expired, even if its log does not say so yet."""
    return store.status == "expired" or (store.expires_at is not None and now >= store.expires_at)


def usable_store(state: StoreState, now: float) -> VectorStore:
    """Raises the 404 for an unknown store, or the 400 for an expired one."""
    store = store_of(state)
    if has_expired(store, now):
        raise ApiError(f"Vector store {store.id} has expired.")
    return store
