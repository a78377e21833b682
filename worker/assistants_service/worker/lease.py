"""A worker's hold on a run. What comes of an act is committed only if the run is still where its claim left it."""

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

LOOK_EVERY = 1.0  # seconds between looks at the log while a model or a tool works
# Seconds of a model call until the log has what is in the making: at its first look, unless news woke it earlier.
ANNOUNCE_AFTER = 0.9


class Lost(Exception):
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

    def if_mine(self, events: Callable[[RunState], Sequence[e.Event]]) -> Command[ThreadState]:
        """The fence: what came of an act is committed only if the run is still where the act began."""

        def decision(state: ThreadState) -> Sequence[e.Event]:
            run_state = self.mine(state)
            return events(run_state) if run_state else ()

        return decision

    async def still_mine(self) -> set[str]:
        """The ids that the log knows of this run. Raises Lost."""
        run_state = self.mine((await self.context.threads.look(self.item.project, self.item.thread_id)).state)
        if run_state is None or (run_state.run.expires_at or 0) <= self.context.clock.now():
            raise Lost
        return run_state.known

    async def guard(self, act: Awaitable[T], partial: PartialReply | None = None) -> T:
        """Do it, unless the run is cancelled, expires, is taken over or deleted meanwhile: raises Lost. If it takes a
        while, the log gets what of `partial` is in the making."""
        task, clock = asyncio.ensure_future(act), asyncio.get_running_loop().time
        announce_at = clock() + ANNOUNCE_AFTER
        try:
            while True:
                listener = self.context.threads.listen(self.item.project, self.item.thread_id)
                await asyncio.wait((task, listener.future), timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                listener.close()
                if task.done():
                    return _result(task)
                # The look is there to interrupt. Should the store fail, the act goes on: the fence is at its commit.
                with contextlib.suppress(StorageUnavailable):
                    if partial and not partial.announced and clock() >= announce_at:
                        await self._announce(partial)
                    await self.still_mine()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # of an act that nothing waits for any more: asyncio would complain

    async def _announce(self, partial: PartialReply) -> None:
        """Once for a model call, however many deltas there are. If a crash or another worker comes in between, the fold
        of what follows forgets it. No document and no stream shows it, so there is nothing to bring up."""
        partial.open_expected(self.context.clock.now())
        if making := partial.making:
            item = self.item
            await self.context.threads.commit(item.project, item.thread_id, self.if_mine(lambda _: [making]))
            partial.announced = True


def _result(task: asyncio.Future[T]) -> T:
    """The result; of a group of tasks the first error, as if there were no group."""
    try:
        return task.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
