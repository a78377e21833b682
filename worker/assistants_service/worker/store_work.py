"""Work on one vector store for one delivery of a work item: what ingestion and merging have in common.

A claim is a fence, as for runs: its result is committed only if it is still the last claim. It is made by a delivery of
a work item, and the holder of a later delivery takes over: the previous one must have died, or is too late. No blob is
removed that a valid claim could make part of the store: first a commit invalidates the claim, then the blob is removed,
then its name. A holder whose claim is void removes what it wrote; if it dies before that, the next work on the store
finds a blob that the log does not name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from assistants_service.core import names
from assistants_service.core.files.service import FileService
from assistants_service.core.log.events import Event
from assistants_service.core.log.repository import Command, ItemOf
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.ports.extraction import Extraction
from assistants_service.core.ports.storage import Storage
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import FileState, Reindexing, StoreState
from assistants_service.core.work_items import MaintainStore, delivery_name
from assistants_service.worker.slots import Slots

ABANDONED: Final = 3600.0  # seconds after which a claim without an item is void: nothing takes so long
JOBS: Final = 8  # stores in work in one worker


@dataclass(slots=True)
class Ingestion:
    """What ingestion uses. `at_once` files are in work in one worker; most of the time they wait for others."""

    storage: Storage
    stores: VectorStoreRepository
    files: FileService
    extraction: Extraction
    embeddings: Embeddings
    clock: Clock
    jobs: Slots = field(default_factory=lambda: Slots(JOBS))
    at_once: int = 4
    room: Slots = field(init=False)
    merging: asyncio.Lock = field(default_factory=asyncio.Lock)  # a merge keeps its segments in memory

    def __post_init__(self) -> None:
        self.room = Slots(self.at_once, self.jobs.size * self.at_once)


@dataclass(slots=True)
class StoreWork:
    """The work on one store for one delivery of a work item, the `count`th."""

    context: Ingestion
    item: MaintainStore
    item_id: str
    count: int = 1

    @property
    def claimant(self) -> str:
        """The name under which this delivery makes claims."""
        return delivery_name(self.item_id, self.count)

    @property
    def store(self) -> str:
        return names.document(self.item.project, self.item.store_id)

    def is_earlier(self, item: str) -> bool:
        """Whether this was an earlier delivery of the same item."""
        item_id, _, count = item.rpartition("/")
        return item_id == self.item_id and int(count) < self.count

    def _take_over(self, state: StoreState) -> Sequence[e.StoreEvent]:
        """Stop earlier deliveries from claiming anything, and from committing a merge that they have begun, even if
        their holders live: after this delivery no item is left by which another worker could take over. A merge that
        was begun so long ago that its item is gone is stopped as well, because it would block all later merges."""
        if not state.known or self.overtaken(state):
            return ()
        old = self.abandoned(state.merging_since)
        begun = tuple(
            name
            for name, item in state.orphaned.items()
            if name.startswith("merged.") and item not in ("", self.claimant) and (old or self.is_earlier(item))
        )
        recorded = self.count == 1 or state.deliveries.get(self.item_id) == self.count
        return () if recorded and not begun else [e.ItemTakenOver(names=begun, item=self.claimant)]

    def overtaken(self, state: StoreState) -> bool:
        return state.deliveries.get(self.item_id, 0) > self.count

    async def remove_orphaned(self) -> None:
        """Remove segments that can no longer become part of the store."""
        state = await self.load()
        if self._take_over(state):
            await self.commit(self._take_over)
            state = await self.load()
        if not state.known:
            return
        counting = {file.source for file in self.unread(state) if file.item}
        orphaned = [
            name
            for name, item in state.orphaned.items()
            if name not in counting
            and (item in ("", self.claimant) or (self.is_earlier(item) and not name.startswith("merged.")))
        ]
        if orphaned:
            await self.discard(*orphaned)
            await self.commit(lambda state: _dropped(state, orphaned))

    def abandoned(self, since: float) -> bool:
        return self.context.clock.now() - since > ABANDONED

    def unread(self, state: StoreState) -> Iterable[FileState | Reindexing]:
        return state.unread() if state.known else ()

    async def discard(self, *segments: str) -> None:
        await self.context.stores.index.drop(self.store, segments)

    async def known(self) -> Collection[str]:
        state = await self.load()
        return {*state.segments, *state.orphaned}

    async def load(self) -> StoreState:
        return (await self.context.stores.load(self.item.project, self.item.store_id)).state

    async def commit(self, decide: Command[StoreState], item_of: ItemOf | None = None) -> bool:
        """Returns whether there was something to commit."""
        events: Sequence[Event] = ()

        def deciding(state: StoreState) -> Sequence[Event]:
            nonlocal events
            events = decide(state)
            return events

        await self.context.stores.commit(self.item.project, self.item.store_id, deciding, item_of)
        return bool(events)


def _dropped(state: StoreState, orphaned: Collection[str]) -> Sequence[e.StoreEvent]:
    gone = tuple(name for name in orphaned if name in state.orphaned)
    return [e.SegmentsDropped(names=gone)] if gone and state.known else ()
