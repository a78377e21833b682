"""Selects the work for each kind of work item."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from assistants_service.core.notifier import Listener
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.threads.decide import KeepItem, Wait, WaitUntil
from assistants_service.core.work_items import NOTHING_NEW, AdvanceRun, MaintainStore, WorkItem
from assistants_service.worker.chores import Chores
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.ingestion import IngestionJob
from assistants_service.worker.run_executor import RunExecutor, RunOutcome
from assistants_service.worker.slots import NoSlot
from assistants_service.worker.work_queue import WorkQueue

log = logging.getLogger(__name__)
T = TypeVar("T")

# Pauses in seconds while waiting for what the work item announced, before it is put back.
EARLY = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Dispatcher:
    context: WorkerContext
    queue: WorkQueue

    async def dispatch(self, item: WorkItem, delivery: Delivery) -> bool:
        """Do the item's work. Returns whether the item may be deleted."""
        try:
            match item:
                case AdvanceRun():
                    return await self._advance_run(item, delivery)
                case MaintainStore():
                    return await self._maintain_store(item, delivery)
                case _:
                    async with self.context.chores.slot(item.project, item.sent_at):
                        await Chores(self.context, self.queue).do(item)
        except NoSlot as way:
            await self.queue.send_again(item, way)
        return True

    async def _advance_run(self, item: AdvanceRun, delivery: Delivery) -> bool:
        def advance() -> Awaitable[RunOutcome]:
            return RunExecutor(self.context, item, delivery.id, item.seen, delivery.count).run()

        def listen() -> Listener:
            return self.context.threads.listen(item.project, item.thread_id)

        match await (advance() if item.seen == NOTHING_NEW else _until_committed(listen, advance)):
            case WaitUntil(until=until):
                await self.queue.redeliver_at(replace(item, seen=NOTHING_NEW), until)
            case Wait() if not self.queue.is_stale(item) and item.seen != NOTHING_NEW:
                return await self.queue.put_back(item, delivery.count)
            case Wait(gone=False):
                log.info("run %s: its commit never came, dropping the work item", item.run_id)
            case KeepItem():
                return False
        return True

    async def _maintain_store(self, item: MaintainStore, delivery: Delivery) -> bool:
        outcome = await _until_committed(
            lambda: self.context.stores.listen(item.project, item.store_id),
            lambda: IngestionJob(self.context.ingestion, item, delivery.id, delivery.count).run(),
        )
        if isinstance(outcome, Wait) and not self.queue.is_stale(item):
            return await self.queue.put_back(item, delivery.count)
        return True


async def _until_committed(listen: Callable[[], Listener], work: Callable[[], Awaitable[T]]) -> T:
    """A work item is sent before its commit: if it arrives too early, try again a few times."""
    for pause in (*EARLY, None):
        listener = listen()
        try:
            outcome = await work()
            if not isinstance(outcome, Wait) or pause is None:
                return outcome
            await listener.wait(pause)
        finally:
            listener.close()
    raise AssertionError
