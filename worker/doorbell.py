"""One work item, from its delivery to its deletion."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from core.decide import Done, Leave, Park, Wait, failed
from core.events import Event
from core.fold import ThreadState
from core.ports import Conflict, Delivery, StorageUnavailable
from core.resources import LastError
from core.work import WorkItem, from_body, to_body
from worker.advance import Advance, Kit

log = logging.getLogger(__name__)

# Seconds between looks for what the doorbell announced, before it is put back.
EARLY = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
PUT_BACK = 1.0  # seconds at least; the older a doorbell, the longer
STALE = 600.0  # seconds after which a doorbell whose commit never came is dropped: no request takes so long
NOTHING_NEW = -1  # seen by the sender of a doorbell that announces no commit
DELIVERIES = 5  # of one item; the last failed one ends its run
RETRY, MAX_RETRY = 2.0, 30.0  # seconds, doubled with each failed delivery


@dataclass(slots=True)
class Hold:
    """The delivery as last extended: only the newest receipt proves anything."""

    delivery: Delivery


@dataclass(slots=True)
class Doorbell:
    """Answers deliveries. Nothing here knows what host they come from."""

    kit: Kit

    async def answer(self, delivery: Delivery) -> None:
        """Do the work and delete the item; or leave it, so that it is delivered again."""
        try:
            item = from_body(delivery.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("not a work item, moved to the poison queue: %s", error)
            return await self.kit.storage.bury(delivery, str(error))
        hold = Hold(delivery)
        extending = asyncio.create_task(self._keep(hold))
        try:
            done = await self._work(item, delivery.id)
        except asyncio.CancelledError:
            with contextlib.suppress(Conflict, StorageUnavailable):
                await self.kit.storage.extend(hold.delivery, hide=0)  # drained: another worker takes over at once
            raise
        except Exception as error:
            log.exception("run %s: delivery %d of its work item failed", item.run_id, delivery.count)
            return await self._failed(hold.delivery, item, error)
        finally:
            extending.cancel()
            await asyncio.wait((extending,))
        if done:
            await self.kit.storage.delete(hold.delivery)

    async def _keep(self, hold: Hold) -> None:
        """Keep the item hidden from others while this worker is alive."""
        while True:
            await asyncio.sleep(self.kit.hide / 3)
            try:
                hold.delivery = await self.kit.storage.extend(hold.delivery, hide=self.kit.hide)
            except Conflict:
                return  # somebody else holds it by now: the log's fence decides
            except StorageUnavailable as error:
                log.warning("the queue does not answer: %s", error)

    async def _work(self, item: WorkItem, item_id: str) -> bool:
        """Whether the item may be deleted."""
        if item.kind == "purge":
            await self._purge(item)
            return True
        match await self._advance(item, item_id):
            case Park(until=until):
                # The order matters: first the item that will ring when the run expires, then the end of this one.
                bell = replace(item, seen=NOTHING_NEW)
                await self.kit.storage.send(to_body(bell), delay=max(0.0, until - self.kit.clock.now()))
            case Wait() if self._age(item) < STALE and item.seen != NOTHING_NEW:
                await self._put_back(item)
            case Wait():
                log.info("run %s: its commit never came, the doorbell is dropped", item.run_id)
            case Leave():
                return False
        return True

    async def _advance(self, item: WorkItem, item_id: str) -> Done | Leave | Park | Wait:
        """A doorbell rings before its commit: one that came too early looks again a few times."""
        for pause in (*EARLY, None):
            # A stale one is no announcement any more, but whatever the log says is still worth doing.
            seen = item.seen if self._age(item) < STALE else NOTHING_NEW
            listener = self.kit.ledger.listen(item.project, item.thread_id)
            try:
                outcome = await Advance(self.kit, item, item_id, seen).run()
                if not isinstance(outcome, Wait) or pause is None or seen < 0:
                    return outcome
                await listener.wait(pause)
            finally:
                listener.close()
        raise AssertionError

    async def _purge(self, item: WorkItem) -> None:
        state = (await self.kit.ledger.look(item.project, item.thread_id)).state
        if state.deleted or state.thread is None:
            await self.kit.ledger.purge(item.project, item.thread_id)
        elif self._age(item) < STALE:
            await self._put_back(item)

    async def _put_back(self, item: WorkItem) -> None:
        await self.kit.storage.send(to_body(item), delay=max(PUT_BACK, self._age(item) / 4))

    def _age(self, item: WorkItem) -> float:
        return self.kit.clock.now() - item.sent_at

    async def _failed(self, delivery: Delivery, item: WorkItem, error: Exception) -> None:
        # A store that fails is no fault of the item: it is tried for as long as it takes.
        if delivery.count < DELIVERIES or isinstance(error, StorageUnavailable):
            with contextlib.suppress(Conflict, StorageUnavailable):
                await self.kit.storage.extend(delivery, hide=min(RETRY * 2 ** (delivery.count - 1), MAX_RETRY))
            return
        await self._give_up(item, delivery.id)
        await self.kit.storage.bury(delivery, f"{type(error).__name__}: {error}")

    async def _give_up(self, item: WorkItem, item_id: str) -> None:
        """A poison item never leaves a run hanging."""
        if item.kind != "run":
            return
        error = LastError(code="server_error", message="Sorry, something went wrong.")

        def decision(state: ThreadState) -> Sequence[Event]:
            held = state.runs.get(item.run_id)
            if held is None or not held.run.active or state.deleted:
                return ()
            # A run that is in progress by another item is that item's.
            return failed(held, error) if held.run.status != "in_progress" or held.item == item_id else ()

        await self.kit.ledger.commit(item.project, item.thread_id, decision)
        try:
            await Advance(self.kit, item, "", -1).run()  # brings up the stream
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("run %s: its stream cannot be brought up", item.run_id)
