"""What a worker asks of the queue: to hide an item while it works on it, to hand it back, to send it again, or to move
it to the dead-letter queue."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from assistants_service.core.fanout import AT_ONCE
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.work_items import MAX_DELAY, AdvanceRun, WorkItem, delivery_name, to_body
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.slots import NoSlot

log = logging.getLogger(__name__)

PUT_BACK = 1.0  # minimum seconds; the older a work item, the longer
CROWDED, LONG_CROWDED = 2.0, 15.0  # likewise, minimum and maximum, if too many items wait for a slot
STALE = 600.0  # seconds after which a work item is dropped if its commit never came: no request takes so long
REASON = 4_000  # characters of an error that are kept: an item and its reason are one message of the queue
REMEMBERED = 2_000  # deliveries that a process remembers


@dataclass(slots=True)
class Hold:
    """The delivery as last extended: only the newest receipt is valid."""

    delivery: Delivery


@dataclass(slots=True)
class WorkQueue:
    """The queue of work items, for one process. During an outage, `keep_hidden` and `hand_back` remember that this
    process is alive; the others raise StorageUnavailable."""

    context: WorkerContext
    # Hand-backs in progress. Thousands of items may wait for a slot, and all are handed back when the worker stops.
    returning: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)
    # Names of deliveries that this process lost or could not hand back because of an outage. It has not died.
    _lost_deliveries: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED), init=False)

    def age(self, item: WorkItem) -> float:
        return self.context.clock.now() - item.sent_at

    def is_stale(self, item: WorkItem) -> bool:
        """Whether the commit that the item announced will not come any more."""
        return self.age(item) >= STALE

    # -- the delivery ----------------------------------------------------------------------------------------------

    async def keep_hidden(self, hold: Hold) -> None:
        """Keep the item hidden from other workers, until this is cancelled."""
        timeout = self.context.visibility_timeout
        while True:
            await asyncio.sleep(timeout / 3)
            try:
                hold.delivery = await self.context.storage.extend(hold.delivery, visibility_timeout=timeout)
            except Conflict:
                return  # another worker has it by now: the claim in the log decides
            except StorageUnavailable as error:
                self._lost_deliveries.append(delivery_name(hold.delivery.id, hold.delivery.count))
                log.warning("the queue is not responding: %s", error)
            except Exception:  # otherwise the item would be delivered again while this worker works on it
                log.exception("cannot extend the visibility timeout of an item, trying again")

    async def hand_back(self, delivery: Delivery, item: WorkItem, visibility_timeout: float) -> None:
        """Make it visible to others after `visibility_timeout` seconds, with a note that this worker has not died.
        During an outage the note is kept here: see `with_own_loss`."""
        name = delivery_name(delivery.id, delivery.count)
        if isinstance(item, AdvanceRun):
            delivery = dataclasses.replace(delivery, body=to_body(replace(item, handed_back=name)))
        try:
            await self.context.storage.extend(delivery, visibility_timeout=visibility_timeout)
        except Conflict:
            pass  # another worker has it by now
        except StorageUnavailable:
            self._lost_deliveries.append(name)

    def with_own_loss(self, item: WorkItem, delivery: Delivery) -> WorkItem:
        """The item, marked as handed back if this process had it before and lost it in an outage."""
        before = delivery_name(delivery.id, delivery.count - 1)
        vouched = isinstance(item, AdvanceRun) and before in self._lost_deliveries
        return replace(item, handed_back=before) if vouched else item

    async def dead_letter(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        """`reason` is stored with the item; `detail` is for the log, and has no content."""
        await self.context.storage.dead_letter(delivery, reason[:REASON])
        self.context.telemetry.count("delivery", outcome="poison")
        log.error(
            "work item %s moved to the dead-letter queue after %d deliveries%s", delivery.id, delivery.count, detail
        )

    # -- new items -------------------------------------------------------------------------------------------------

    async def redeliver_at(self, item: WorkItem, until: float | None) -> None:
        """Have the item delivered again at this time, if any; or earlier, if the queue cannot hide it for so long."""
        if until is not None:
            # The order matters: first the new item, then (in WorkItemHandler) the deletion of this one.
            delay = min(max(0.0, until - self.context.clock.now()), MAX_DELAY)
            await self.context.storage.send(to_body(item), delay=delay)

    async def put_back(self, item: WorkItem, count: int = 1) -> bool:
        """Returns whether a new item replaces this one. If the item was redelivered, an earlier holder may still be
        alive, and claim by this item when the commit comes: if the item were gone then, and that holder died, no worker
        could continue."""
        if count == 1:
            await self.context.storage.send(to_body(item), delay=max(PUT_BACK, self.age(item) / 4))
        return count == 1

    async def send_again(self, item: WorkItem, way: NoSlot) -> None:
        """Send a new item, so that this delivery, in which nothing was tried, does not count. No log names this item,
        and none will: a redelivered item stays."""
        delay = min(max(CROWDED, self.age(item) / 4), LONG_CROWDED) if way.crowded else 0.0
        async with self.returning:
            await self.context.storage.send(to_body(item), delay=max(0.0, min(delay, way.within)))
