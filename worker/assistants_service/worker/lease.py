"""A worker's claim on a run. The result of an act is committed only if the claim is still valid."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from assistants_service.core.log.repository import Command
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.work_items import AdvanceRun
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.partial_reply import PartialReply

T = TypeVar("T")

LOOK_EVERY = 1.0  # seconds between reads of the log while a model or a tool works
# Seconds of a model call until objects in progress are committed: at the first check, unless news woke it earlier.
ANNOUNCE_AFTER = 0.9


class LeaseLost(Exception):
    """The run is not this worker's any more: stop at once, write nothing."""


@dataclass(slots=True)
class RunLease:
    """`attempt` is the claim that this worker holds; 0: none."""

    context: WorkerContext
    item: AdvanceRun
    attempt: int = 0

    def mine(self, state: ThreadState) -> RunState | None:
        run_state = state.runs.get(self.item.run_id)
        if state.deleted or run_state is None or run_state.attempt != self.attempt:
            return None
        return run_state if run_state.run.status == "in_progress" else None

    def if_mine(self, events: Callable[[RunState], Sequence[e.ThreadEvent]]) -> Command[ThreadState]:
        """The fence: the result of an act is committed only if the claim under which it began is still valid."""

        def decision(state: ThreadState) -> Sequence[e.ThreadEvent]:
            run_state = self.mine(state)
            return events(run_state) if run_state else ()

        return decision

    async def still_mine(self) -> set[str]:
        """The ids of this run's objects in the log. Raises LeaseLost."""
        run_state = self.mine((await self.context.threads.load(self.item.project, self.item.thread_id)).state)
        if run_state is None or (run_state.run.expires_at or 0) <= self.context.clock.now():
            raise LeaseLost
        return run_state.known

    async def guard(self, act: Awaitable[T], partial: PartialReply | None = None) -> T:
        """Perform it, unless the run is cancelled, expires, is taken over or deleted in the meantime: then raises
        LeaseLost. If it takes a while, the objects in progress of `partial` are committed."""
        task, clock = asyncio.ensure_future(act), asyncio.get_running_loop().time
        announce_at = clock() + ANNOUNCE_AFTER
        try:
            while True:
                listener = self.context.threads.listen(self.item.project, self.item.thread_id)
                await asyncio.wait((task, listener.future), timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                listener.close()
                if task.done():
                    return _result(task)
                # The check serves only to interrupt. If the store fails, the act continues: its commit checks the claim
                # again.
                with contextlib.suppress(StorageUnavailable):
                    if partial and not partial.announced and clock() >= announce_at:
                        await self._announce(partial)
                    await self.still_mine()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # of an abandoned act: else asyncio would complain

    async def _announce(self, partial: PartialReply) -> None:
        """Once per model call, regardless of the number of deltas. If a crash or another worker comes in between, the
        fold drops it again. No document and no stream shows it, so nothing has to be projected."""
        partial.open_expected(self.context.clock.now())
        if in_progress := partial.in_progress:
            item = self.item
            await self.context.threads.commit(item.project, item.thread_id, self.if_mine(lambda _: [in_progress]))
            partial.announced = True


def _result(task: asyncio.Future[T]) -> T:
    """The result; or the first error of a group of tasks, instead of the group."""
    try:
        return task.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
