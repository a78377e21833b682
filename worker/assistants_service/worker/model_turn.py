"""One turn of a run's model: from a prompt that fits to a whole reply, streamed or not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from assistants_service.core.citations import citations_of, images_of
from assistants_service.core.ports.models import ContextExceeded, Deltas, ModelError, Prompt, Refused, Reply, Tokens
from assistants_service.core.protocol.runs.requests import MOST_OUTPUTS
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.tools.offer import offer_of
from assistants_service.worker.budget import TRIES
from assistants_service.worker.deltas import DeltaBuffer
from assistants_service.worker.lease import RunLease
from assistants_service.worker.partial_reply import PartialReply
from assistants_service.worker.turn_events import calls_of, expected, may_mean_its_stream

ENDLESS = "The model still called tools after {} rounds of tool calls, which is the limit (MAX_TOOL_ROUNDS)."
TOO_MANY = "The model called {} tools at once; {} are the most whose outputs can be submitted."


@dataclass(slots=True)
class ModelTurn:
    """`partial` is the reply received so far: of the last attempt, if the model is called again."""

    lease: RunLease
    stream: StreamWriter
    partial: PartialReply | None = None
    provider: str = ""  # that answered

    async def reply(self, state: ThreadState, run_state: RunState) -> tuple[Reply, PartialReply] | None:
        """Call the model, and again with a shorter prompt while the provider says that it is too long, unless a client
        has seen deltas. None: max_prompt_tokens leaves too little. Raises ModelError and LeaseLost."""
        context, most, streamed = self.lease.context, None, run_state.stream
        offer = await offer_of(self.lease.item.project, state, run_state.run, context.tools)
        for tries_left in reversed(range(TRIES)):
            fitted = await context.budget.fit(state, run_state, offer, most)
            if fitted is None:
                return None
            citations = await citations_of(
                self.lease.item.project, state, run_state, fitted.built.earlier, context.tools
            )
            self.partial = partial = PartialReply(
                run_state.run, context.ids, state.version, offer, citations, images_of(run_state)
            )
            try:
                reply = await self.lease.guard(self._ask(fitted.prompt, partial, streamed), partial)
            except ContextExceeded as error:
                most = await context.budget.shrink(fitted, error)
                if most is None or (streamed and partial.begun) or not tries_left:
                    raise
            else:
                self.provider = reply.provider
                context.budget.record_usage(fitted, reply.tokens)
                self._check(reply, run_state)
                return reply, partial
        raise AssertionError("the last attempt either answers or fails")

    def _check(self, reply: Reply, run_state: RunState) -> None:
        """Raises ModelError for calls with which the run cannot continue."""
        called, most_rounds = len(calls_of(reply)), self.lease.context.max_rounds
        if called > MOST_OUTPUTS and run_state.run.parallel_tool_calls:
            raise ModelError("server_error", TOO_MANY.format(called, MOST_OUTPUTS))
        if called and run_state.rounds >= most_rounds:
            raise ModelError("server_error", ENDLESS.format(most_rounds))

    async def _ask(self, prompt: Prompt, partial: PartialReply, streamed: bool) -> Reply:
        context = self.lease.context
        prompt = await context.images.fill(self.lease.item.project, prompt)
        if not streamed:
            return await self._ask_unstreamed(prompt, partial)
        buffer = DeltaBuffer(self.stream, partial, context.flush_interval, context.clock.now, self.lease.still_mine)
        partial.deltas = Deltas(buffer.wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(buffer.run())
            try:
                reply = await context.models.reply(prompt, partial.deltas)
                buffer.complete()
            finally:
                buffer.close()
        return reply

    async def _ask_unstreamed(self, prompt: Prompt, partial: PartialReply) -> Reply:
        """A whole reply costs less than a stream, which only shows earlier what the reply will be."""
        context, model = self.lease.context, prompt.model
        partial.expected = expected(prompt)
        if partial.expected or not context.budget.streams(model):
            return await context.models.reply(prompt, None)
        # They show whether the model writes a message or calls functions.
        partial.deltas = deltas = Deltas(lambda: partial.open_first(context.clock.now()), final=False)
        try:
            reply = await context.models.reply(prompt, deltas)
        except Refused as error:
            if not may_mean_its_stream(error):
                raise
            refused = error
        else:
            return await self._counted(prompt, reply)
        deltas.restart()
        reply = await context.models.reply(prompt, None)  # no client has asked for a stream: this refusal counts
        if refused.status and refused.status < 500:  # otherwise it may have been temporary
            context.budget.ask_whole(model, f"it refused a stream with status {refused.status}")
        return reply

    async def _counted(self, prompt: Prompt, reply: Reply) -> Reply:
        """Some servers report usage only for whole replies. An estimate is better than none, with which the run's
        limits would have no effect."""
        if reply.tokens != Tokens():
            return reply
        budget = self.lease.context.budget
        budget.ask_whole(prompt.model, "its streams report no usage")
        return replace(reply, tokens=await budget.estimate(prompt, reply))
