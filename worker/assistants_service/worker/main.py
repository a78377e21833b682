"""The worker as a process: receives work items, and handles each in its own task.

It receives items whether or not slots are free: otherwise the items of one project that come first would hide those of
another, and runs that should end would wait for others. An item is examined, and waits for a slot (worker/slots.py) if
it needs one and none is free.
"""

from __future__ import annotations

import asyncio
import logging

from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.item_handler import WorkItemHandler

log = logging.getLogger(__name__)

POLL_FAST, POLL_SLOW = 0.01, 0.5  # seconds between polls of the queue: while items keep coming, and after idle time
POLL_GROWTH = 1.1  # growth of the pause: an item waits for at most a tenth of the preceding idle time
BATCH = 32  # items per receive: the maximum of Azure
HOLD_OFF = POLL_SLOW + 0.1  # seconds in which other workers can take what this one gave back, even if they poll slowly
MAX_EXAMINED = 256  # concurrent items that neither have a slot nor wait for one


class Worker:
    """Consumes the queue until it is stopped."""

    def __init__(self, context: WorkerContext) -> None:
        self._context, self._handler = context, WorkItemHandler(context)
        self._stopping = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}  # by item id
        self._idle = asyncio.Event()  # nothing more is received
        self._idle.set()

    async def check(self) -> None:
        """Find out what this machine cannot do, and log it."""
        for services in self._context.tools.values():
            await services.check()

    async def run(self) -> None:
        """Raises errors that prevent the worker from continuing."""
        self._idle.clear()
        try:
            await self._consume()
        finally:
            self._idle.set()

    async def _consume(self) -> None:
        pause = POLL_FAST
        while not self._stopping.is_set():
            if (room := MAX_EXAMINED - self._examined) <= 0:
                await asyncio.sleep(POLL_FAST)
                continue
            await self._hold_off()
            listener = self._context.notifier.listen("work")
            try:
                deliveries = await self._receive(min(room, BATCH))
                for delivery in deliveries:
                    self._start(delivery)  # even while stopping: what was received is handed back, not kept hidden
                if deliveries:
                    pause = POLL_FAST
                    # Let the new tasks start, and let a worker with free slots have the next items first.
                    await asyncio.sleep(POLL_FAST if any(slots.full for slots in self._context.slots) else 0)
                    continue
                notified = await listener.wait(pause)
                pause = POLL_FAST if notified else min(pause * POLL_GROWTH, POLL_SLOW)
            finally:
                listener.close()

    async def _hold_off(self) -> None:
        if any(slots.given_back for slots in self._context.slots):
            for slots in self._context.slots:
                slots.given_back = False
            await asyncio.sleep(min(HOLD_OFF, self._context.runs.patience / 15))

    @property
    def _examined(self) -> int:
        return len(self._busy) - sum(slots.item_count for slots in self._context.slots)

    async def stop(self, grace: float) -> None:
        """Stop receiving; give items in flight `grace` seconds; hand the rest back to other workers."""
        self._stopping.set()
        self._context.notifier.notify("work")
        await self._idle.wait()  # a receive may be in progress
        for slots in self._context.slots:
            slots.close()
        tasks = set(self._busy.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for services in self._context.tools.values():
            await services.close()
        if self._context.stored:
            await self._context.stored.close()

    async def take_over(self, delivery: Delivery) -> None:
        """Handle an item that a foreign host has received, and hides for a time of its own choice.

        The item is first hidden again, which invalidates the host's receipt: what the host does with it later is
        refused. From then on this worker hides and deletes the item, and if the worker dies, it becomes visible again
        soon.

        Raises StorageUnavailable or Conflict if the item was not taken over. The host must get this error, or it would
        delete an item that it still holds: a Conflict may be caused by another delivery, to which the host can do no
        harm, or by the host itself, which has renewed its receipt before the function began.
        """
        mine = await self._context.storage.extend(delivery, visibility_timeout=self._context.visibility_timeout)
        if task := self._start(mine):
            await asyncio.wait((task,))

    async def give_up(self, delivery: Delivery) -> None:
        """End the run of an item that a foreign host no longer delivers, and move the item to the queue for inspection.
        Raises StorageUnavailable."""
        await self._handler.give_up(delivery)

    async def _receive(self, limit: int) -> list[Delivery]:
        try:
            return await self._context.storage.receive(limit, visibility_timeout=self._context.visibility_timeout)
        except StorageUnavailable as error:
            log.warning("the queue is not responding: %s", error)
            await asyncio.sleep(POLL_SLOW)
            return []

    def _start(self, delivery: Delivery) -> asyncio.Task[None] | None:
        if delivery.id in self._busy:
            return None  # the item was redelivered while this process still works on it: it was hidden again too late
        task = asyncio.create_task(self._handle(delivery))
        self._busy[delivery.id] = task
        task.add_done_callback(lambda _: self._finished(delivery.id))
        return task

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._handler.handle(delivery)
        except Exception:
            log.exception("work item %s failed and waits for its next delivery", delivery.id)

    def _finished(self, item_id: str) -> None:
        self._busy.pop(item_id, None)
