"""Advances a run until it has ended or waits for its client: read, fold, decide, act, commit, project."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from assistants_service.core.errors import ApiError
from assistants_service.core.log.repository import Command
from assistants_service.core.ports.models import ModelError
from assistants_service.core.ports.telemetry import SILENCE, Span
from assistants_service.core.protocol.objects import LastError, Struct
from assistants_service.core.threads import events as e
from assistants_service.core.threads import sse
from assistants_service.core.threads.decide import (
    CallModel,
    CallTools,
    CommitEvents,
    Done,
    KeepItem,
    Move,
    Wait,
    WaitUntil,
    decide,
    failure_events,
)
from assistants_service.core.threads.state import RunState, ThreadChange, ThreadState
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.work_items import AdvanceRun, delivery_name
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.lease import LeaseLost, RunLease
from assistants_service.worker.model_turn import ModelTurn
from assistants_service.worker.slots import NoSlot
from assistants_service.worker.tool_calls import outputs_of
from assistants_service.worker.turn_events import begun_of, cause_of, cut_off_events, events_of

log = logging.getLogger(__name__)

RunOutcome = Wait | Done | KeepItem | WaitUntil


@dataclass(slots=True)
class RunExecutor:
    """The work on one run for one work item. `item_id` names the item that is responsible for the run while it is
    claimed."""

    context: WorkerContext
    item: AdvanceRun
    item_id: str
    seen: int
    count: int = 1  # of the item's deliveries
    lease: RunLease = field(init=False)
    stream: StreamWriter = field(init=False)
    span: Span = SILENCE
    published: Struct | None = None  # the run as this claim ended or paused it, if documents and stream show it
    _isolation: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)  # its isolation slot
    _turn: ModelTurn | None = None  # the last one

    def __post_init__(self) -> None:
        item, context = self.item, self.context
        self.lease = RunLease(context, item)
        self.stream = StreamWriter(context.storage, context.notifier, item.project, item.thread_id, item.run_id)

    async def run(self) -> RunOutcome:
        """Work until nothing is left to do here. Everything that was committed is projected by then. Raises NoSlot."""
        state = (await self.context.threads.load(self.item.project, self.item.thread_id)).state
        async with self._isolation, contextlib.AsyncExitStack() as stack:
            await self._enter(stack, state)
            while not isinstance(move := self._decide(state, self.context.clock.now()), RunOutcome):
                try:
                    match move:
                        case CommitEvents():
                            await self._commit(self._if_next(move), claim=move.claim)
                        case CallModel():
                            await self._call_model(state, move.run_state)
                        case CallTools():
                            await self._call_tools(state, move)
                except LeaseLost:
                    log.info(
                        "run %s: interrupted, because it was cancelled, has ended, or another worker took it over",
                        self.item.run_id,
                    )
                state = await self._next_state()
            if isinstance(move, Done | WaitUntil):
                await self._project_missing(state)
            return move

    async def _enter(self, stack: contextlib.AsyncExitStack, state: ThreadState) -> None:
        """If there is something to do, wait for a slot and begin the run's span, both until `stack` is closed."""
        run_state, move = state.runs.get(self.item.run_id), self._decide(state, self.context.clock.now())
        if run_state is None or isinstance(move, RunOutcome):
            return
        if isinstance(move, CommitEvents) and move.claim:  # the end of a run needs no slot
            await self._wait_for_slot(stack, run_state)
        item = self.item
        self.span = stack.enter_context(
            self.context.telemetry.span(
                "run",
                trace=run_state.trace or item.trace,
                cause=item.trace,
                project=item.project,
                thread_id=item.thread_id,
                run_id=item.run_id,
                assistant_id=run_state.run.assistant_id,
            )
        )

    async def _wait_for_slot(self, stack: contextlib.AsyncExitStack, run_state: RunState) -> None:
        """Raises NoSlot, unless the run has expired in the meantime: its end needs none."""
        item = self.item
        # On a redelivery, an earlier holder may have claimed the run by this item, or may still do so. If the item were
        # put back under another id, no worker could take the run over.
        again = self.count > 1
        try:
            if suspects := self.context.isolation_slots(run_state.claims):
                slot = suspects.slot(item.project, item.sent_at, within=self._left(run_state), stays=True)
                await self._isolation.enter_async_context(slot)
            slot = self.context.runs.slot(item.project, item.sent_at, within=self._left(run_state), stays=again)
            await stack.enter_async_context(slot)
        except NoSlot as way:
            way.within = self._left(run_state)
            if way.within > 0:
                raise
            await self._isolation.aclose()

    def _left(self, run_state: RunState) -> float:
        return (run_state.run.expires_at or math.inf) - self.context.clock.now()

    async def _next_state(self) -> ThreadState:
        state = await self.context.threads.cached(self.item.project, self.item.thread_id)
        run_state = state.runs.get(self.item.run_id)
        if run_state is None or run_state.claims <= 1:  # it has a result: others may use its slot
            await self._isolation.aclose()
        return state

    def _decide(self, state: ThreadState, now: float) -> Move:
        return decide(
            state,
            self.item.run_id,
            seen=self.seen,
            item=self.item_id,
            attempt=self.lease.attempt,
            now=now,
            handed_back=self.item.handed_back == delivery_name(self.item_id, self.count - 1),
        )

    # -- commits ---------------------------------------------------------------------------------------------------

    def _if_next(self, move: CommitEvents) -> Command[ThreadState]:
        """The move, if it is still the next one by the newest state; otherwise nothing, and the next move is decided
        again."""
        begun, now = begun_of(self._turn.partial if self._turn else None), self.context.clock.now()

        def decision(state: ThreadState) -> Sequence[e.ThreadEvent]:
            if self._decide(state, now) != move:
                return ()
            run_state = state.runs.get(self.item.run_id)
            if run_state and run_state.attempt == self.lease.attempt:
                return cut_off_events(run_state, begun, move.events, now)
            return move.events

        return decision

    async def _commit(self, decision: Command[ThreadState], *, claim: int = 0, cause: ModelError | None = None) -> None:
        """Commit the decided events, and their consequences. `claim`: the attempt that begins with them; `cause`: the
        error of the model."""
        item, threads = self.item, self.context.threads
        changes = await self._append(decision)
        run_state = (await threads.cached(item.project, item.thread_id)).runs.get(item.run_id)
        if run_state is None or not changes:
            return
        self.span.record(status=run_state.run.status)
        if changes[-1].name == "thread.run.failed":
            provider = self._turn.provider if self._turn else ""
            log.warning("run %s failed: %s", item.run_id, cause_of(run_state.run, cause, provider))
        if claim:
            await self._claimed(claim, changes[0], run_state)
        if run_state.stream:
            await self._catch_up()
        settled = self.lease.attempt > 0 and changes[-1].name in (*sse.ENDINGS, sse.PAUSE)
        self.published = changes[-1].object if settled else None

    async def _append(self, decision: Command[ThreadState]) -> list[ThreadChange]:
        item, threads = self.item, self.context.threads
        try:
            return await threads.commit(item.project, item.thread_id, decision)
        except ApiError as error:  # of what a worker writes, only the size can be refused
            if self._turn:
                self._turn.partial = None
            last = LastError(code="server_error", message=error.message)
            decision = self.lease.if_mine(lambda run_state: failure_events(run_state, last))
            return await threads.commit(item.project, item.thread_id, decision)

    async def _claimed(self, attempt: int, first: ThreadChange, run_state: RunState) -> None:
        item = self.item
        if first.name == "thread.run.in_progress":  # and not taken over from another worker
            self.context.telemetry.measure("queued", self.context.clock.now() - item.sent_at, project=item.project)
        self.lease.attempt = attempt
        if attempt > 1:
            # The last committer, a worker or a client's submission, may have died before projecting; and so may the
            # worker that claimed next.
            await self.context.threads.project(item.project, item.thread_id, item.run_id, run_state.published_at)
        if run_state.stream:
            now = self.context.clock.now()
            await self.stream.take_over(run_state.run, mine=self.lease.still_mine, opened=frozenset(), now=now)

    async def _catch_up(self) -> None:
        await self.stream.publish(self.context.threads, self.item.project, self.item.thread_id, self.item.run_id)

    async def _project_missing(self, state: ThreadState) -> None:
        """Another process worked on the run, or ended it. It may have died before projecting."""
        item, run_state = self.item, state.runs.get(self.item.run_id)
        if run_state is None or state.deleted or run_state.run == self.published:
            return
        await self.context.threads.project(item.project, item.thread_id, item.run_id)
        if run_state.stream:
            await self._catch_up()

    # -- acts ------------------------------------------------------------------------------------------------------

    async def _call_model(self, state: ThreadState, run_state: RunState) -> None:
        context, if_mine = self.context, self.lease.if_mine
        self._turn = turn = ModelTurn(self.lease, self.stream)
        try:
            answer = await turn.reply(state, run_state)
        except ModelError as error:
            last = LastError(code=error.code, message=error.message)
            begun, now = begun_of(turn.partial), context.clock.now()
            ended = if_mine(lambda run_state: cut_off_events(run_state, begun, failure_events(run_state, last), now))
            return await self._commit(ended, cause=error)
        if answer is None:
            spent = e.RunIncomplete(run_id=self.item.run_id, reason="max_prompt_tokens")
            return await self._commit(if_mine(lambda _: [spent]))
        # Once, before the commit: its attempts must not differ in IDs or citations. What the events take from the run
        # changes by this worker only.
        events = events_of(*answer, run_state, context.tools, context.clock.now())
        await self._commit(if_mine(lambda _: events))

    async def _call_tools(self, state: ThreadState, move: CallTools) -> None:
        """Executes the calls at least once: if this worker dies here, the next one repeats them."""
        outputs = await self.lease.guard(outputs_of(move, self.item.project, state, self.context))
        await self._commit(self.lease.if_mine(lambda _: [outputs]))
