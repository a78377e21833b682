"""Work items that are not delivered again: what waits for them must not wait for ever."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from assistants_service.core.log.events import Event
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.threads.decide import failure_events
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.work_items import NOTHING_NEW, AdvanceRun, MaintainStore, WorkItem
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.ingestion import IngestionJob
from assistants_service.worker.run_executor import RunExecutor
from assistants_service.worker.store_work import ABANDONED
from assistants_service.worker.work_queue import WorkQueue

log = logging.getLogger(__name__)

ERROR = LastError(code="server_error", message="Sorry, something went wrong.")


@dataclass(frozen=True, slots=True)
class PoisonItem:
    """An item at its last delivery."""

    context: WorkerContext
    queue: WorkQueue
    item: WorkItem
    delivery: Delivery

    async def end(self) -> bool:
        """Returns whether what waits for the item could be ended. If its log cannot be read, it has to wait for the
        operator, who finds the item in the dead-letter queue; otherwise it would be delivered for ever. Raises
        StorageUnavailable and Conflict: then the item is delivered again."""
        try:
            await self._end()
        except (StorageUnavailable, Conflict):
            raise
        except UnreadableLog as error:
            log.warning("cannot end what waits for work item %s: %s", self.delivery.id, error)
        except Exception:
            log.exception("cannot end what waits for work item %s", self.delivery.id)
        else:
            return True
        return False

    async def _end(self) -> None:
        """A poison item must not leave a run in progress."""
        match self.item:
            case MaintainStore() as item:
                later = self.delivery.count + 1
                await IngestionJob(self.context.ingestion, item, self.delivery.id, later).give_up()
            case AdvanceRun() as item:
                await self._fail_run(item)

    async def _fail_run(self, item: AdvanceRun) -> None:
        def decision(state: ThreadState) -> Sequence[Event]:
            run_state = state.runs.get(item.run_id)
            if run_state is None or not run_state.run.active or state.deleted:
                return ()
            if run_state.run.status == "in_progress" and run_state.item != self.delivery.id:
                return ()  # it belongs to that item
            return failure_events(run_state, ERROR)

        await self.context.threads.commit(item.project, item.thread_id, decision)
        try:
            await RunExecutor(self.context, item, "", NOTHING_NEW).run()  # updates the stream
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("run %s: cannot update its stream", item.run_id)

    async def check_again(self) -> None:
        """Send a new item for what may still be in progress, and belong to another item."""
        match self.item:
            case AdvanceRun() as item:
                state = await self.context.threads.cached(item.project, item.thread_id)
                run_state = state.runs.get(item.run_id)
                if run_state and run_state.run.active and not state.deleted:
                    await self.queue.redeliver_at(replace(item, seen=NOTHING_NEW), run_state.run.expires_at)
            case MaintainStore() as item:  # likewise for files, until their claims are too old to be valid
                await self.context.stores.project(item.project, item.store_id, None)
                await self.queue.redeliver_at(replace(item, seen=0), self.context.clock.now() + ABANDONED + 1)
