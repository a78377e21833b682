"""Work items that neither advance a run nor fill a vector store: purges of deleted objects, and checks of others."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from assistants_service.core.files.service import PATIENCE
from assistants_service.core.threads.purging import ThreadPurge
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.work_items import (
    CleanUpFile,
    CleanUpOutputs,
    CleanUpStore,
    CleanUpUpload,
    PurgeFile,
    PurgeStore,
    PurgeThread,
    WorkItem,
    to_body,
)
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.work_queue import WorkQueue


@dataclass(frozen=True, slots=True)
class Chores:
    context: WorkerContext
    queue: WorkQueue

    async def do(self, item: WorkItem) -> None:
        match item:
            case PurgeThread() | PurgeStore():
                await self._purge(item)
            case PurgeFile():
                if not await self.context.files.purge(item.project, item.file_id) and not self.queue.is_stale(item):
                    await self.queue.put_back(item)
            case CleanUpOutputs():
                if await self._too_early(item, PATIENCE):
                    return
                state = (await self.context.threads.load(item.project, item.thread_id)).state
                await self.context.outputs.clean_up(item, state.referenced_files if state.known else ())
            case CleanUpFile():
                await self.queue.redeliver_at(
                    item, await self.context.files.clean_up(item.project, item.file_id, item.sent_at)
                )
            case CleanUpStore():
                await self.queue.redeliver_at(item, await self.context.stores.expire(item.project, item.store_id))
            case CleanUpUpload():
                await self.queue.redeliver_at(item, await self.context.uploads.clean_up(item.project, item.upload_id))

    async def _purge(self, item: PurgeThread | PurgeStore) -> None:
        """Purge a deleted object: first everything but its tombstones; much later, by a second item, those as well."""
        aggregates: ThreadPurge | VectorStoreRepository = self.context.stores
        if isinstance(item, PurgeThread):
            aggregates = ThreadPurge(self.context.threads, self.context.outputs, last=item.tombstones)
            log_id = item.thread_id
        else:
            log_id = item.store_id
        if item.tombstones and await self._too_early(item, self.context.tombstone_seconds):
            return
        state = (await aggregates.load(item.project, log_id)).state
        if item.tombstones:
            if not state.known:  # else the id has been used again
                # The holder of the first item may have died before its purge, and this item may be handled before that
                # one.
                await aggregates.purge(item.project, log_id)
                await aggregates.purge_tombstones(item.project, log_id)
        elif not state.known:  # or a purge has died after the log was removed
            again = replace(item, sent_at=self.context.clock.now(), tombstones=True)
            await self.context.storage.send(to_body(again), delay=self.context.tombstone_seconds)
            await aggregates.purge(item.project, log_id)
        elif not self.queue.is_stale(item):
            await self.queue.put_back(item)

    async def _too_early(self, item: WorkItem, delay: float) -> bool:
        """A queue may deliver before this delay has passed. A late write would then find no tombstone any more, or a
        late commit no content."""
        # Half, because the clocks of two machines may differ by seconds.
        early = self.queue.age(item) < delay / 2
        if early:
            await self.queue.redeliver_at(item, item.sent_at + delay)
        return early
