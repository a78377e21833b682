"""Handles one work item, from its delivery to its deletion."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import msgspec

from assistants_service.core import log_context
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.work_items import WorkItem, from_body
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.dispatch import Dispatcher
from assistants_service.worker.poison import PoisonItem
from assistants_service.worker.work_queue import Hold, WorkQueue

log = logging.getLogger(__name__)

DELIVERIES = 5  # of one item; the last failed one ends its run
RETRY, MAX_RETRY = 2.0, 30.0  # seconds, doubled with each failed delivery


@dataclass(slots=True)
class WorkItemHandler:
    """Handles deliveries, regardless of the host from which they come."""

    context: WorkerContext
    _queue: WorkQueue = field(init=False)
    _dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        self._queue = WorkQueue(self.context)
        self._dispatcher = Dispatcher(self.context, self._queue)

    async def handle(self, delivery: Delivery) -> None:
        """Do the work and delete the item; or leave it, so that it is delivered again."""
        try:
            item = from_body(delivery.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return await self._queue.dead_letter(delivery, f"not a work item: {error}")
        log_context.bind(lambda: item.facts)
        hold = Hold(delivery)
        item = self._queue.with_own_loss(item, delivery)
        extending = asyncio.create_task(self._queue.keep_hidden(hold))
        try:
            done = await self._dispatcher.dispatch(item, delivery)
        except asyncio.CancelledError:
            async with self._queue.returning:
                await self._queue.hand_back(hold.delivery, item, 0)  # drained: another worker takes over at once
            raise
        except Exception as error:
            return await self._failed(hold.delivery, item, error)
        finally:
            extending.cancel()
            await asyncio.wait((extending,))
        if done:
            async with self._queue.returning:
                await self.context.storage.delete(hold.delivery)
        self.context.telemetry.count("delivery", outcome="done" if done else "left")

    async def _failed(self, delivery: Delivery, item: WorkItem, error: Exception) -> None:
        if isinstance(error, UnreadableLog):  # its message says everything
            log.warning("delivery %d failed of %s: %s", delivery.count, item, error)
        else:
            log.error("delivery %d failed of %s", delivery.count, item, exc_info=error)
        # A failing store is not the item's fault: retry for as long as it takes.
        if delivery.count < DELIVERIES or isinstance(error, StorageUnavailable):
            self.context.telemetry.count("delivery", outcome="failed")
            return await self._queue.hand_back(delivery, item, min(RETRY * 2 ** (delivery.count - 1), MAX_RETRY))
        try:
            await PoisonItem(self.context, self._queue, item, delivery).end()
        except (StorageUnavailable, Conflict):
            await self._queue.hand_back(delivery, item, MAX_RETRY)
            raise
        detail = f": {error}" if isinstance(error, UnreadableLog) else ""  # other errors may quote content
        await self._queue.dead_letter(delivery, f"{type(error).__name__}: {error}", detail)

    async def give_up(self, delivery: Delivery) -> None:
        """Gives up an item that its host no longer delivers and has moved under a new id. It is unknown whether a run
        in progress belongs to this item: such a run is left alone, and checked again when it expires."""
        try:
            item = from_body(delivery.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return await self._queue.dead_letter(delivery, f"not a work item: {error}")
        log_context.bind(lambda: item.facts)
        poison = PoisonItem(self.context, self._queue, item, delivery)
        if await poison.end():
            await poison.check_again()
        await self._queue.dead_letter(delivery, "given up by its host")
