"""Handles one work item, from its delivery to its deletion."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from assistants_service.core import log_context
from assistants_service.core.fanout import AT_ONCE
from assistants_service.core.log.events import Event
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.notifier import Listener
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.threads.decide import KeepItem, Wait, WaitUntil, failure_events
from assistants_service.core.threads.purging import ThreadPurge
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.work_items import (
    MAX_DELAY,
    AdvanceRun,
    CleanUpFile,
    CleanUpOutputs,
    CleanUpStore,
    CleanUpUpload,
    MaintainStore,
    PurgeFile,
    PurgeStore,
    PurgeThread,
    WorkItem,
    delivery_name,
    from_body,
    to_body,
)
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.ingestion import IngestionJob
from assistants_service.worker.run_executor import Outcome, RunExecutor
from assistants_service.worker.slots import NoSlot
from assistants_service.worker.store_work import ABANDONED

log = logging.getLogger(__name__)
T = TypeVar("T")

# Pauses in seconds while waiting for what the work item announced, before it is put back.
EARLY = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
PUT_BACK = 1.0  # minimum seconds; the older a work item, the longer
CROWDED, LONG_CROWDED = 2.0, 15.0  # likewise, minimum and maximum, if too many items wait for a slot
STALE = 600.0  # seconds after which a work item is dropped if its commit never came: no request takes so long
NOTHING_NEW = -1  # the sender of a work item that announces no commit has seen this version
DELIVERIES = 5  # of one item; the last failed one ends its run
REASON = 4_000  # characters of an error that are kept: an item and its reason are one message of the queue
REMEMBERED = 2_000  # deliveries that a process remembers
RETRY, MAX_RETRY = 2.0, 30.0  # seconds, doubled with each failed delivery


@dataclass(slots=True)
class Hold:
    """The delivery as last extended: only the newest receipt is valid."""

    delivery: Delivery


@dataclass(slots=True)
class WorkItemHandler:
    """Handles deliveries, regardless of the host from which they come."""

    context: WorkerContext
    # Hand-backs in progress. Thousands of items may wait for a slot, and all are handed back when the worker stops.
    _returning: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)
    # Names of deliveries that this process lost or could not hand back because of an outage. It has not died.
    _lost_deliveries: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED), init=False)

    async def answer(self, delivery: Delivery) -> None:
        """Do the work and delete the item; or leave it, so that it is delivered again."""
        try:
            item = from_body(delivery.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return await self._dead_letter(delivery, f"not a work item: {error}")
        log_context.bind(lambda: item.facts)
        hold = Hold(delivery)
        item = self._with_own_loss(item, delivery)
        extending = asyncio.create_task(self._keep(hold))
        try:
            done = await self._work(item, delivery)
        except asyncio.CancelledError:
            async with self._returning:
                await self._hand_back(hold.delivery, item, 0)  # drained: another worker takes over at once
            raise
        except Exception as error:
            if isinstance(error, UnreadableLog):  # its message says everything
                log.warning("delivery %d failed of %s: %s", delivery.count, item, error)
            else:
                log.exception("delivery %d failed of %s", delivery.count, item)
            return await self._failed(hold.delivery, item, error)
        finally:
            extending.cancel()
            await asyncio.wait((extending,))
        if done:
            async with self._returning:
                await self.context.storage.delete(hold.delivery)
        self.context.telemetry.count("delivery", outcome="done" if done else "left")

    def _with_own_loss(self, item: WorkItem, delivery: Delivery) -> WorkItem:
        """The item, marked as handed back if this process had it before and lost it in an outage."""
        before = delivery_name(delivery.id, delivery.count - 1)
        vouched = isinstance(item, AdvanceRun) and before in self._lost_deliveries
        return replace(item, handed_back=before) if vouched else item

    async def _keep(self, hold: Hold) -> None:
        """Keep the item hidden from other workers while this one is alive."""
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

    async def _hand_back(self, delivery: Delivery, item: WorkItem, visibility_timeout: float) -> None:
        """Make it visible to others after `visibility_timeout` seconds, with a note that this worker has not died."""
        name = delivery_name(delivery.id, delivery.count)
        if isinstance(item, AdvanceRun):
            delivery = dataclasses.replace(delivery, body=to_body(replace(item, handed_back=name)))
        try:
            await self.context.storage.extend(delivery, visibility_timeout=visibility_timeout)
        except Conflict:
            pass  # another worker has it by now
        except StorageUnavailable:
            self._lost_deliveries.append(name)

    async def _work(self, item: WorkItem, delivery: Delivery) -> bool:
        """Returns whether the item may be deleted."""
        try:
            match item:
                case AdvanceRun():
                    return await self._run(item, delivery.id, delivery.count)
                case MaintainStore():
                    return await self._maintain_store(item, delivery.id, delivery.count)
                case _:
                    async with self.context.chores.slot(item.project, item.sent_at):
                        await self._do(item)
        except NoSlot as way:
            await self._send_again(item, way)
        return True

    async def _send_again(self, item: WorkItem, way: NoSlot) -> None:
        """Send a new item, so that this delivery, in which nothing was tried, does not count. No log names this item,
        and none will: a redelivered item stays."""
        delay = min(max(CROWDED, self._age(item) / 4), LONG_CROWDED) if way.crowded else 0.0
        async with self._returning:
            await self.context.storage.send(to_body(item), delay=max(0.0, min(delay, way.within)))

    async def _do(self, item: WorkItem) -> None:
        match item:
            case PurgeThread() | PurgeStore():
                await self._purge(item)
            case PurgeFile():
                if not await self.context.files.purge(item.project, item.file_id) and self._age(item) < STALE:
                    await self._put_back(item)
            case CleanUpOutputs():
                state = (await self.context.threads.load(item.project, item.thread_id)).state
                await self.context.outputs.clean_up(item, state.held_files if state.known else ())
            case CleanUpFile():
                await self._redeliver_at(
                    item, await self.context.files.clean_up(item.project, item.file_id, item.sent_at)
                )
            case CleanUpStore():
                await self._redeliver_at(item, await self.context.stores.expire(item.project, item.store_id))
            case CleanUpUpload():
                await self._redeliver_at(item, await self.context.uploads.clean_up(item.project, item.upload_id))

    async def _run(self, item: AdvanceRun, item_id: str, count: int) -> bool:
        match await self._advance(item, item_id, count):
            case WaitUntil(until=until):
                await self._redeliver_at(replace(item, seen=NOTHING_NEW), until)
            case Wait() if self._age(item) < STALE and item.seen != NOTHING_NEW:
                return await self._put_back(item, count)
            case Wait(gone=False):
                log.info("run %s: its commit never came, dropping the work item", item.run_id)
            case KeepItem():
                return False
        return True

    async def _advance(self, item: AdvanceRun, item_id: str, count: int) -> Outcome:
        def advance() -> Awaitable[Outcome]:
            return RunExecutor(self.context, item, item_id, item.seen, count).run()

        if item.seen == NOTHING_NEW:
            return await advance()
        return await self._early(lambda: self.context.threads.listen(item.project, item.thread_id), advance)

    @staticmethod
    async def _early(listen: Callable[[], Listener], look: Callable[[], Awaitable[T]]) -> T:
        """A work item is sent before its commit: if it arrives too early, check again a few times."""
        for pause in (*EARLY, None):
            listener = listen()
            try:
                outcome = await look()
                if not isinstance(outcome, Wait) or pause is None:
                    return outcome
                await listener.wait(pause)
            finally:
                listener.close()
        raise AssertionError

    async def _maintain_store(self, item: MaintainStore, item_id: str, count: int) -> bool:
        outcome = await self._early(
            lambda: self.context.stores.listen(item.project, item.store_id),
            lambda: IngestionJob(self.context.ingestion, item, item_id, count).run(),
        )
        if isinstance(outcome, Wait) and self._age(item) < STALE:
            return await self._put_back(item, count)
        return True

    async def _purge(self, item: PurgeThread | PurgeStore) -> None:
        """Purge a deleted object: first everything but its tombstones; much later, by a second item, those as well."""
        aggregates: ThreadPurge | VectorStoreRepository = self.context.stores
        if isinstance(item, PurgeThread):
            aggregates, log_id = ThreadPurge(self.context.threads, self.context.outputs), item.thread_id
        else:
            log_id = item.store_id
        state = (await aggregates.load(item.project, log_id)).state
        if item.tombstones:
            if await self._too_early(item):
                return
            if not state.known:  # else the id has been used again
                # The holder of the first item may have died before its purge, and this item may be handled before that
                # one.
                await aggregates.purge(item.project, log_id)
                await aggregates.purge_tombstones(item.project, log_id)
        elif not state.known:  # or a purge has died after the log was removed
            again = replace(item, sent_at=self.context.clock.now(), tombstones=True)
            await self.context.storage.send(to_body(again), delay=self.context.tombstone_seconds)
            await aggregates.purge(item.project, log_id)
        elif self._age(item) < STALE:
            await self._put_back(item)

    async def _too_early(self, item: WorkItem) -> bool:
        """A queue may deliver early; a late write would then find no tombstone any more."""
        early = self._age(item) < self.context.tombstone_seconds / 2  # clocks of two machines may differ by seconds
        if early:
            await self._redeliver_at(item, item.sent_at + self.context.tombstone_seconds)
        return early

    async def _redeliver_at(self, item: WorkItem, until: float | None) -> None:
        """Have the item delivered again at this time, if any; or earlier, if the queue cannot hide it for so long."""
        if until is not None:
            # The order matters: first the new item, then (in `answer`) the deletion of this one.
            delay = min(max(0.0, until - self.context.clock.now()), MAX_DELAY)
            await self.context.storage.send(to_body(item), delay=delay)

    async def _put_back(self, item: WorkItem, count: int = 1) -> bool:
        """Returns whether a new item replaces this one. If the item was redelivered, an earlier holder may still be
        alive, and claim by this item when the commit comes: if the item were gone then, and that holder died, no worker
        could continue."""
        if count == 1:
            await self.context.storage.send(to_body(item), delay=max(PUT_BACK, self._age(item) / 4))
        return count == 1

    def _age(self, item: WorkItem) -> float:
        return self.context.clock.now() - item.sent_at

    async def _failed(self, delivery: Delivery, item: WorkItem, error: Exception) -> None:
        # A failing store is not the item's fault: retry for as long as it takes.
        if delivery.count < DELIVERIES or isinstance(error, StorageUnavailable):
            self.context.telemetry.count("delivery", outcome="failed")
            return await self._hand_back(delivery, item, min(RETRY * 2 ** (delivery.count - 1), MAX_RETRY))
        try:
            await self._end(item, delivery)
        except (StorageUnavailable, Conflict):
            await self._hand_back(delivery, item, MAX_RETRY)
            raise
        detail = f": {error}" if isinstance(error, UnreadableLog) else ""  # other errors may quote content
        await self._dead_letter(delivery, f"{type(error).__name__}: {error}", detail)

    async def give_up(self, delivery: Delivery) -> None:
        """For an item that its host no longer delivers and has moved under a new id. So it is unknown whether a run in
        progress belongs to this item: such a run is left alone, and checked again when it expires."""
        try:
            item = from_body(delivery.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return await self._dead_letter(delivery, f"not a work item: {error}")
        log_context.bind(lambda: item.facts)
        if await self._end(item, delivery):
            await self._enqueue_once_more(item)
        await self._dead_letter(delivery, "given up by its host")

    async def _enqueue_once_more(self, item: WorkItem) -> None:
        if isinstance(item, AdvanceRun):
            state = await self.context.threads.cached(item.project, item.thread_id)
            run_state = state.runs.get(item.run_id)
            if run_state and run_state.run.active and not state.deleted:
                await self._redeliver_at(replace(item, seen=NOTHING_NEW), run_state.run.expires_at)
        if isinstance(item, MaintainStore):  # likewise for files, until their claims are too old to be valid
            await self.context.stores.project(item.project, item.store_id, None)
            await self._redeliver_at(replace(item, seen=0), self.context.clock.now() + ABANDONED + 1)

    async def _dead_letter(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        await self.context.storage.dead_letter(delivery, reason[:REASON])
        self.context.telemetry.count("delivery", outcome="poison")
        log.error(
            "work item %s moved to the dead-letter queue after %d deliveries%s", delivery.id, delivery.count, detail
        )

    async def _end(self, item: WorkItem, delivery: Delivery) -> bool:
        """Returns whether what waits for the item could be ended. If its log cannot be read, it has to wait for the
        operator, who finds the item in the dead-letter queue; otherwise it would be delivered for ever. Raises
        StorageUnavailable and Conflict: then the item is delivered again."""
        try:
            await self._give_up(item, delivery)
        except (StorageUnavailable, Conflict):
            raise
        except UnreadableLog as error:
            log.warning("cannot end what waits for work item %s: %s", delivery.id, error)
        except Exception:
            log.exception("cannot end what waits for work item %s", delivery.id)
        else:
            return True
        return False

    async def _give_up(self, item: WorkItem, delivery: Delivery) -> None:
        """A poison item must not leave a run in progress."""
        if isinstance(item, MaintainStore):
            return await IngestionJob(self.context.ingestion, item, delivery.id, delivery.count + 1).give_up()
        if not isinstance(item, AdvanceRun):
            return None
        error = LastError(code="server_error", message="Sorry, something went wrong.")

        def decision(state: ThreadState) -> Sequence[Event]:
            run_state = state.runs.get(item.run_id)
            if run_state is None or not run_state.run.active or state.deleted:
                return ()
            if run_state.run.status == "in_progress" and run_state.item != delivery.id:
                return ()  # it belongs to that item
            return failure_events(run_state, error)

        await self.context.threads.commit(item.project, item.thread_id, decision)
        try:
            await RunExecutor(self.context, item, "", NOTHING_NEW).run()  # updates the stream
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("run %s: cannot update its stream", item.run_id)
