"""What may be done to a vector store: pure functions from the folded state to events, or an ApiError.

The repository commits the events, and evaluates the command again if another process has written in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.vector_stores.requests import UpdateVectorStore
from assistants_service.core.protocol.vector_stores.resources import (
    Attributes,
    ExpiresAfter,
    StaticChunking,
    VectorStore,
)
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold_store import expiry
from assistants_service.core.vector_stores.lookups import batch_of, file_of, usable_store
from assistants_service.core.vector_stores.new import NewFile, NewStore
from assistants_service.core.vector_stores.state import StoreState

MAX_FILES: Final = 10_000  # per store
USED_EVERY: Final = 3600  # seconds between recorded uses: stores expire by days, and not every search may cost a commit


@dataclass(frozen=True, slots=True)
class VectorStoreCommands:
    """Commands on a vector store, at a given time."""

    now: float

    def create(self, store_id: str, new: NewStore) -> list[e.StoreEvent]:
        created_at = int(self.now)
        store = VectorStore(
            id=store_id,
            created_at=created_at,
            name=new.name,
            description=new.description,
            expires_after=new.expires_after,
            expires_at=expiry(new.expires_after, created_at),
            last_active_at=created_at,
            metadata=new.metadata or {},
        )
        return [e.StoreCreated(store=store), *self._attach(StoreState(), new.files)]

    def update(self, state: StoreState, body: UpdateVectorStore) -> list[e.StoreEvent]:
        usable_store(state, self.now)
        fields = body.model_fields_set
        if not fields:
            return []
        after = body.expires_after
        return [
            e.StoreUpdated(
                name=body.name if "name" in fields else UNSET,
                expires_after=(ExpiresAfter(days=after.days) if after else None)
                if "expires_after" in fields
                else UNSET,
                metadata=(body.metadata or {}) if "metadata" in fields else UNSET,
            )
        ]

    def attach(self, state: StoreState, files: Sequence[NewFile]) -> list[e.StoreEvent]:
        """A file that is attached already stays as it is, except that given attributes replace its own."""
        usable_store(state, self.now)
        return self._attach(state, files)

    def create_batch(self, state: StoreState, batch_id: str, files: Sequence[NewFile]) -> list[e.StoreEvent]:
        """No events if the batch exists: the same request came before."""
        usable_store(state, self.now)
        if batch_id in state.batches.places:
            return []
        file_ids = tuple(dict.fromkeys(file.file_id for file in files))
        return [*self._attach(state, files), e.BatchCreated(batch_id=batch_id, file_ids=file_ids)]

    def _attach(self, state: StoreState, files: Sequence[NewFile]) -> list[e.StoreEvent]:
        events: list[e.StoreEvent] = []
        wanted = {file.file_id: file for file in files}
        for file_id, file in wanted.items():
            file_state = state.files.get(file_id)
            if file_state and file_state.file.status in ("in_progress", "completed"):
                if file.attributes is not None and file.attributes != file_state.file.attributes:
                    events.append(e.FileUpdated(file_id=file_id, attributes=file.attributes))
                continue
            chunking = file.chunking or StaticChunking()
            events.append(e.FileCreated(file_id=file_id, chunking=chunking, attributes=file.attributes or {}))
        attached = state.store.file_counts.total if state.store else 0
        if attached + sum(isinstance(event, e.FileCreated) for event in events) > MAX_FILES:
            raise ApiError(f"A vector store holds at most {MAX_FILES} files.", code="max_files_exceeded")
        return events

    def update_file(self, state: StoreState, file_id: str, attributes: Attributes) -> list[e.StoreEvent]:
        usable_store(state, self.now)
        if file_of(state, file_id).file.attributes == attributes:
            return []
        return [e.FileUpdated(file_id=file_id, attributes=attributes)]

    def detach(self, state: StoreState, file_id: str) -> list[e.StoreEvent]:
        return [e.FileDetached(file_id=file_of(state, file_id).id)]

    def cancel_batch(self, state: StoreState, batch_id: str) -> list[e.StoreEvent]:
        """No events if it has ended."""
        batch_state = batch_of(state, batch_id)
        if batch_state.batch.status != "in_progress":
            return []
        waiting_files = [file_id for file_id in batch_state.file_ids if file_id in state.waiting]
        return [*(e.FileCancelled(file_id=file_id) for file_id in waiting_files), e.BatchCancelled(batch_id=batch_id)]

    def use(self, state: StoreState) -> list[e.StoreEvent]:
        """Record a search, at most once an hour."""
        store = usable_store(state, self.now)
        return [e.StoreUsed()] if self.now - store.last_active_at >= USED_EVERY else []

    def delete(self, state: StoreState) -> list[e.StoreEvent]:
        return [e.StoreDeleted()]
