"""Advances a run until only its client, or nothing, has work to do: read, fold, decide, act, commit, project."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from assistants_service.core import events as e
from assistants_service.core.citations import citations_of
from assistants_service.core.errors import ApiError
from assistants_service.core.fanout import fan_out
from assistants_service.core.ports.models import ContextExceeded, ModelError, Prompt, Refused, Reply, Tokens
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.ports.telemetry import SILENCE, Span
from assistants_service.core.protocol.objects import LastError, Struct
from assistants_service.core.protocol.runs.requests import MOST_OUTPUTS
from assistants_service.core.protocol.tools.resources import StepToolCall
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
    failed,
)
from assistants_service.core.threads.fold import RunState, ThreadState
from assistants_service.core.threads.repository import Decision
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.tools.offer import offer_of
from assistants_service.core.tools.registry import tool_of
from assistants_service.core.tools.tool import Execution, Output
from assistants_service.core.work_items import AdvanceRun, delivery_name
from assistants_service.worker.budget import TRIES
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.deltas import DeltaBuffer, Lost, PartialReply, Unheard
from assistants_service.worker.slots import GiveWay
from assistants_service.worker.turn import calls_of, cause_of, cut_off, events_of, expected, may_mean_its_stream

log = logging.getLogger(__name__)
T = TypeVar("T")

ENDLESS = "The model still called tools after {} rounds of tool calls, which is the limit (MAX_TOOL_ROUNDS)."
TOO_MANY = "The model called {} tools at once; {} are the most whose outputs can be submitted."
LOOK_EVERY = 1.0  # seconds between looks at the log while a model or a tool works
TELL_AFTER = 0.9  # seconds of a model call until the log is told of it: at its first look, unless news woke it earlier

Outcome = Wait | Done | KeepItem | WaitUntil


@dataclass(slots=True)
class RunExecutor:
    """The work on one run for one work item. `item_id` names the item that stands for the run while it is claimed."""

    context: WorkerContext
    item: AdvanceRun
    item_id: str
    seen: int
    count: int = 1  # of the item's deliveries
    attempt: int = 0
    stream: StreamWriter = field(init=False)
    span: Span = SILENCE
    shown: Struct | None = None  # the run as this claim ended or paused it: its documents and its stream show that
    _apart: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)  # while it is a suspect
    _claiming: int = 0  # the attempt of the claim that is being written
    _taken_over: bool = False  # there was a claim before that
    _draft: PartialReply | None = None  # of the turn that was begun last
    _cause: ModelError | None = None  # what the turn failed by
    _provider: str = ""  # that answered last

    def __post_init__(self) -> None:
        item, context = self.item, self.context
        self.stream = StreamWriter(context.storage, context.notifier, item.project, item.thread_id, item.run_id)

    async def run(self) -> Outcome:
        """Work until there is nothing to do here. Everything that was committed is projected by then."""
        item = self.item
        state = (await self.context.threads.look(item.project, item.thread_id)).state
        held, move = state.runs.get(item.run_id), self._decide(state)
        if held is None or isinstance(move, Outcome):
            return await self._work(state)  # nothing to do: no span tells of it
        if not (isinstance(move, CommitEvents) and _claims(move.events)):
            return await self._traced(state, held)  # its end: that waits for nothing
        # That came again: an earlier holder may have claimed by it, or live and do so yet. None could go on then if it
        # were put back under another id.
        again = self.count > 1
        try:
            async with self._apart:
                if suspects := self.context.beside(held.claims):
                    slot = suspects.slot(item.project, item.sent_at, within=self._left(held), stays=True)
                    await self._apart.enter_async_context(slot)
                async with self.context.runs.slot(item.project, item.sent_at, within=self._left(held), stays=again):
                    return await self._traced(state, held)
        except GiveWay as way:
            way.within = self._left(held)
            if way.within > 0:
                raise
        return await self._traced(state, held)  # it has expired meanwhile

    def _left(self, held: RunState) -> float:
        return (held.run.expires_at or math.inf) - self.context.clock.now()

    async def _traced(self, state: ThreadState, held: RunState) -> Outcome:
        item = self.item
        with self.context.telemetry.span(
            "run",
            trace=held.trace or item.trace,
            cause=item.trace,
            project=item.project,
            thread_id=item.thread_id,
            run_id=item.run_id,
            assistant_id=held.run.assistant_id,
        ) as self.span:
            return await self._work(state)

    async def _work(self, state: ThreadState) -> Outcome:
        while True:
            move = self._decide(state)
            try:
                match move:
                    case Wait() | KeepItem():
                        return move
                    case Done() | WaitUntil():
                        held = state.runs.get(self.item.run_id)
                        if held is None or held.run != self.shown:  # else none has moved since who may have died
                            await self._mend(state)
                        return move
                    case CommitEvents():
                        await self._commit(self._write)
                    case CallModel(held=held):
                        await self._turn(state, held)
                    case CallTools():
                        await self._tools(move)
            except Lost:
                log.info("run %s: interrupted", self.item.run_id)
            state = await self.context.threads.recall(self.item.project, self.item.thread_id)
            held = state.runs.get(self.item.run_id)
            if held is None or held.claims <= 1:  # something came of it: others may have its turn
                await self._apart.aclose()

    def _decide(self, state: ThreadState) -> Move:
        return decide(
            state,
            self.item.run_id,
            seen=self.seen,
            item=self.item_id,
            attempt=self.attempt,
            now=self.context.clock.now(),
            handed_back=self.item.handed_back == delivery_name(self.item_id, self.count - 1),
        )

    # -- commits ---------------------------------------------------------------------------------------------------

    def _write(self, state: ThreadState) -> Sequence[e.Event]:
        """What is to be written, by the newest state: decided again inside the commit, which may meet another's."""
        move = self._decide(state)
        events = move.events if isinstance(move, CommitEvents) else []
        held = state.runs.get(self.item.run_id)
        if self._draft and held and held.attempt == self.attempt:
            events = cut_off(held, self._draft, events, self.context.clock.now())
        self._claiming = _claims(events)
        if self._claiming:
            self._taken_over = state.runs[self.item.run_id].claimed_at > 0
        return events

    def _if_mine(self, events: Callable[[RunState], Sequence[e.Event]]) -> Decision:
        """The fence: what came of an act is committed only if the run is still where the act began."""

        def decision(state: ThreadState) -> Sequence[e.Event]:
            held = self._mine(state)
            return events(held) if held else ()

        return decision

    def _mine(self, state: ThreadState) -> RunState | None:
        held = state.runs.get(self.item.run_id)
        if state.deleted or held is None or held.attempt != self.attempt or held.run.status != "in_progress":
            return None
        return held

    async def _commit(self, decision: Decision) -> None:
        item = self.item
        try:
            changes = await self.context.threads.commit(item.project, item.thread_id, decision)
        except ApiError as error:  # of what a worker writes, only the size is ever refused
            self._draft, last = None, LastError(code="server_error", message=error.message)
            decision = self._if_mine(lambda held: failed(held, last))
            changes = await self.context.threads.commit(item.project, item.thread_id, decision)
        held = (await self.context.threads.recall(item.project, item.thread_id)).runs.get(item.run_id)
        if held is None or not changes:
            return
        self.span.tell(status=held.run.status)
        if changes[-1].name == "thread.run.failed":
            log.warning("run %s failed: %s", item.run_id, cause_of(held.run, self._cause, self._provider))
        if self._claiming:
            if changes[0].name == "thread.run.in_progress":  # and not taken over from another worker
                self.context.telemetry.measure("queued", self.context.clock.now() - item.sent_at, project=item.project)
            self.attempt, self._claiming = self._claiming, 0
            if self._taken_over:
                # The last committer, a worker or a client's submission, may have died before it projected that; and
                # the worker that claimed next, before it made up for it.
                await self.context.threads.project(item.project, item.thread_id, item.run_id, held.shown_at)
            if held.stream:
                now = self.context.clock.now()
                await self.stream.take_over(held.run, mine=self._still_mine, opened=frozenset(), now=now)
        if held.stream:
            await self._catch_up()
        shown = self.attempt > 0 and changes[-1].name in (*sse.ENDINGS, sse.PAUSE)
        self.shown = changes[-1].object if shown else None

    async def _catch_up(self) -> None:
        await self.stream.show(self.context.threads, self.item.project, self.item.thread_id, self.item.run_id)

    async def _mend(self, state: ThreadState) -> None:
        """Another process worked on the run, or ended it. It may have died before it showed that, or leave it to us."""
        item, held = self.item, state.runs.get(self.item.run_id)
        if held is None or state.deleted:
            return
        await self.context.threads.project(item.project, item.thread_id, item.run_id)
        if held.stream:
            await self._catch_up()

    # -- acts ------------------------------------------------------------------------------------------------------

    async def _turn(self, state: ThreadState, held: RunState) -> None:
        now = self.context.clock.now
        try:
            answer = await self._answer(state, held)
        except ModelError as error:
            last, draft, self._cause = LastError(code=error.code, message=error.message), self._draft, error
            return await self._commit(self._if_mine(lambda held: cut_off(held, draft, failed(held, last), now())))
        if answer is None:
            spent = e.RunIncomplete(run_id=self.item.run_id, reason="max_prompt_tokens")
            return await self._commit(self._if_mine(lambda _: [spent]))
        await self._commit(self._if_mine(lambda held: events_of(*answer, held, self.context.tool_services, now())))

    async def _answer(self, state: ThreadState, held: RunState) -> tuple[Reply, PartialReply] | None:
        """Ask, and ask again with less while the provider says that it is too much, if no client has heard anything.
        None: what max_prompt_tokens leaves is not enough. Raises ModelError."""
        context, most = self.context, None
        offer = offer_of(held.run, context.tool_services)
        for tries_left in reversed(range(TRIES)):
            fitted = await context.budget.fit(state, held, offer, most)
            if fitted is None:
                return None
            citations = citations_of(state, held, fitted.built.earlier)
            self._draft = draft = PartialReply(held.run, context.ids, state.version, offer, citations)
            try:
                reply = await self._guard(self._ask(fitted.prompt, draft, held), draft)
            except ContextExceeded as error:
                most = await context.budget.less(fitted, error)
                if most is None or (held.stream and draft.begun) or not tries_left:
                    raise
            else:
                self._provider = reply.provider
                context.budget.answered(fitted, reply.tokens)
                called = len(calls_of(reply))
                if called > MOST_OUTPUTS and held.run.parallel_tool_calls:
                    raise ModelError("server_error", TOO_MANY.format(called, MOST_OUTPUTS))
                if calls_of(reply) and held.rounds >= context.max_rounds:
                    raise ModelError("server_error", ENDLESS.format(context.max_rounds))
                return reply, draft
        raise AssertionError("the last try either answers or fails")

    async def _ask(self, prompt: Prompt, draft: PartialReply, held: RunState) -> Reply:
        context = self.context
        prompt = await context.images.fill(self.item.project, prompt)
        if not held.stream:
            return await self._ask_unheard(prompt, draft)
        live = DeltaBuffer(self.stream, draft, context.flush_every, context.clock.now, self._still_mine)
        async with asyncio.TaskGroup() as group:
            group.create_task(live.run())
            try:
                return await context.models.reply(prompt, live)
            finally:
                live.close()

    async def _ask_unheard(self, prompt: Prompt, draft: PartialReply) -> Reply:
        """A whole reply costs less than a stream, which only tells earlier what it will be."""
        context, model = self.context, prompt.model
        draft.expected = expected(prompt)
        if draft.expected or not context.budget.streams(model):
            return await context.models.reply(prompt, None)
        heard = Unheard(draft, context.clock.now)
        try:
            reply = await context.models.reply(prompt, heard)
        except Refused as error:
            if not may_mean_its_stream(error):
                raise
            refused = error
        else:
            return await self._counted(prompt, reply)
        heard.restart()
        reply = await context.models.reply(prompt, None)  # no client has asked for a stream: this refusal counts
        if refused.status and refused.status < 500:  # else it may have been the moment
            context.budget.ask_whole(model, f"it refused a stream with status {refused.status}")
        return reply

    async def _counted(self, prompt: Prompt, reply: Reply) -> Reply:
        """Some servers tell what an answer cost only if it comes whole. One estimate is better than no figure, which
        no limit of the run would heed."""
        if reply.tokens != Tokens():
            return reply
        self.context.budget.ask_whole(prompt.model, "its streams tell no usage")
        return replace(reply, tokens=await self.context.budget.estimate(prompt, reply))

    async def _tools(self, move: CallTools) -> None:
        """At least once: a worker that dies in here leaves the calls to the next one."""
        calls, step = move.calls, move.held.open_step
        kinds = Counter(map(type, calls))
        done = await self._guard(fan_out(lambda call: self._call(move.held, call, kinds[type(call)]), calls))
        if step is not None:
            told = {call.id: output.told for call, output in zip(calls, done, strict=True)}
            stored = {call.id: raw for call, output in zip(calls, done, strict=True) if (raw := output.raw)}
            event = e.StepOutputs(run_id=self.item.run_id, step_id=step.id, outputs=told, results=stored)
            await self._commit(self._if_mine(lambda _: [event]))

    async def _call(self, held: RunState, call: StepToolCall, beside: int) -> Output:
        tool, telemetry = tool_of(call), self.context.telemetry
        name, arguments = tool.asked(call)
        with telemetry.span("tool", tool=name or tool.kind, call_id=call.id) as span:
            output = await tool.execute(Execution(self.item.project, held, call, beside), self.context.tool_services)
            if telemetry.content:
                span.tell(arguments=arguments, **({"output": output.told} if output.told else {}))
            return output

    async def _guard(self, act: Awaitable[T], draft: PartialReply | None = None) -> T:
        """Do it, unless the run is cancelled, expires, is taken over or deleted meanwhile: raises Lost. If it takes a
        while, the log is told what of `draft` is in the making."""
        task, clock = asyncio.ensure_future(act), asyncio.get_running_loop().time
        tell_at = clock() + TELL_AFTER
        try:
            while True:
                listener = self.context.threads.listen(self.item.project, self.item.thread_id)
                await asyncio.wait((task, listener.future), timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                listener.close()
                if task.done():
                    return _result(task)
                # The look is there to interrupt. Should the store fail, the act goes on: the fence is at its commit.
                with contextlib.suppress(StorageUnavailable):
                    if draft and not draft.told and clock() >= tell_at:
                        await self._tell(draft)
                    await self._still_mine()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # of an act that nothing waits for any more: asyncio would complain

    async def _tell(self, draft: PartialReply) -> None:
        """Once for a model call, however many deltas there are. If a crash or another worker comes in between, the fold
        of what follows forgets it. No document and no stream shows it, so there is nothing to bring up."""
        draft.open_expected(self.context.clock.now())
        if making := draft.making:
            item = self.item
            await self.context.threads.commit(item.project, item.thread_id, self._if_mine(lambda _: [making]))
            draft.told = True

    async def _still_mine(self) -> set[str]:
        """The ids that the log knows of this run. Raises Lost."""
        held = self._mine((await self.context.threads.look(self.item.project, self.item.thread_id)).state)
        if held is None or (held.run.expires_at or 0) <= self.context.clock.now():
            raise Lost
        return held.known


def _claims(events: Sequence[e.Event]) -> int:
    """The attempt that begins with these events; 0 if none does."""
    return next((event.attempt for event in events if isinstance(event, e.RunClaimed)), 0)


def _result(task: asyncio.Future[T]) -> T:
    """The result; of a group of tasks the first error, as if there were no group."""
    try:
        return task.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
