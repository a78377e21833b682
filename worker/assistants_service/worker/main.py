"""The worker as a process: takes work items off the queue and answers each in a task of its own.

It takes them whether or not there are slots for them: else the items of one project, which come first, would hide those
of another, and runs that are to end would wait for others that go on. An item is looked at, and waits for a slot (see
worker/slots.py) if it needs one and there is none.
"""

from __future__ import annotations

import asyncio
import logging

from assistants_service.core.ports.storage import Delivery, StorageUnavailable
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.item_handler import WorkItemHandler

log = logging.getLogger(__name__)

POLL_FAST, POLL_SLOW = 0.01, 0.5  # seconds between looks at the queue: while work keeps coming, and after idle time
POLL_GROWTH = 1.1  # of the pause: an item waits for a tenth of the time that nothing came, at most
BATCH = 32  # items of one receive: the most that Azure gives
HOLD_OFF = POLL_SLOW + 0.1  # seconds in which other workers may take what this one gave back, however idle they are
LOOKED_AT = 256  # items at once that neither have a slot nor wait for one


class Worker:
    """Consumes the queue until it is stopped."""

    def __init__(self, context: WorkerContext) -> None:
        self._context, self._handler = context, WorkItemHandler(context)
        self._stopping = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}  # by item id
        self._idle = asyncio.Event()  # nothing more is received
        self._idle.set()

    async def run(self) -> None:
        """Raises what no worker can go on with."""
        self._idle.clear()
        try:
            await self._consume()
        finally:
            self._idle.set()

    async def _consume(self) -> None:
        pause = POLL_FAST
        while not self._stopping.is_set():
            if (room := LOOKED_AT - self._looked_at) <= 0:
                await asyncio.sleep(POLL_FAST)
                continue
            await self._hold_off()
            listener = self._context.notifier.listen("work")
            try:
                deliveries = await self._receive(min(room, BATCH))
                for delivery in deliveries:
                    self._take(delivery)  # even while stopping: what was received is handed back, not kept hidden
                if deliveries:
                    pause = POLL_FAST
                    # Let the new tasks begin; and a worker that has slots have the next items first.
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
    def _looked_at(self) -> int:
        return len(self._busy) - sum(slots.held for slots in self._context.slots)

    async def stop(self, grace: float) -> None:
        """Take nothing more; give what is in flight `grace` seconds; hand the rest back, for another worker."""
        self._stopping.set()
        self._context.notifier.notify("work")
        await self._idle.wait()  # a receive may be under way
        for slots in self._context.slots:
            slots.close()
        tasks = set(self._busy.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._context.interpreters:
            await self._context.interpreters.close()

    async def take_over(self, delivery: Delivery) -> None:
        """Answer an item that a host of another kind has received, and hides for as long as it likes.

        It is hidden anew before anything else. This makes the host's receipt void: whatever the host does with it later
        is refused. From here on the item is this worker's to hide and to delete, and comes back soon should the worker
        die.

        Raises StorageUnavailable or Conflict if the item was not taken over. The host must hear of it, or it would
        delete what it still holds: a Conflict may be another delivery's doing, to which the host can do no harm, or the
        host's own, which has renewed its hold before the function began.
        """
        mine = await self._context.storage.extend(delivery, visibility_timeout=self._context.visibility_timeout)
        if task := self._take(mine):
            await asyncio.wait((task,))

    async def give_up(self, delivery: Delivery) -> None:
        """End the run of an item that a host of another kind delivers no more, and bury the item. Raises
        StorageUnavailable."""
        await self._handler.give_up(delivery)

    async def _receive(self, limit: int) -> list[Delivery]:
        try:
            return await self._context.storage.receive(limit, visibility_timeout=self._context.visibility_timeout)
        except StorageUnavailable as error:
            log.warning("the queue is not responding: %s", error)
            await asyncio.sleep(POLL_SLOW)
            return []

    def _take(self, delivery: Delivery) -> asyncio.Task[None] | None:
        if delivery.id in self._busy:
            return None  # the item came back while this process still works on it: its hiding was renewed too late
        task = asyncio.create_task(self._answer(delivery))
        self._busy[delivery.id] = task
        task.add_done_callback(lambda _: self._finished(delivery.id))
        return task

    async def _answer(self, delivery: Delivery) -> None:
        try:
            await self._handler.answer(delivery)
        except Exception:
            log.exception("work item %s failed and waits for its next delivery", delivery.id)

    def _finished(self, item_id: str) -> None:
        self._busy.pop(item_id, None)
