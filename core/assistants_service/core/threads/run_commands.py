"""What clients may do to a run: pure functions from the folded state of its thread to events, or an ApiError.

The repository commits the events, and evaluates the command again if another process has written in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from assistants_service.core.assistants.commands import chosen_of
from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.runs.requests import (
    CreateRun,
    CreateThreadAndRun,
    RunFields,
    SubmitToolOutputsBody,
)
from assistants_service.core.protocol.runs.resources import TERMINAL, Run, TruncationStrategy
from assistants_service.core.protocol.threads.requests import CreateThread, UpdateMetadata
from assistants_service.core.protocol.threads.resources import Thread
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads import endings
from assistants_service.core.threads import events as e
from assistants_service.core.threads.attachments import attach
from assistants_service.core.threads.commands import ThreadCommands, messages_from
from assistants_service.core.threads.lookups import run_of, thread_of
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tool_resources import UNPREPARED, Prepared, overridden, together
from assistants_service.core.tools.setup import check_choice, choice_from, format_from, tools_from


@dataclass(frozen=True, slots=True)
class RunCommands:
    """`lifetime` of a run in seconds."""

    context: RequestContext
    lifetime: int

    def create_run(
        self,
        state: ThreadState,
        body: CreateRun,
        assistant: StoredAssistant,
        run_id: str,
        prepared: Prepared = UNPREPARED,
        *,
        with_results: bool = False,
    ) -> list[e.ThreadEvent]:
        """No events if a run with this id exists: the same request came before. `with_results`: the client wants the
        contents of search results."""
        thread = thread_of(state)
        if run_id in state.runs.places:
            return []
        overdue = endings.expire_overdue(state, self.context.now)
        active = state.active_run
        if active and not overdue:
            raise ApiError(f"Thread {thread.id} already has an active run {active.run.id}.")
        attached = attach(state, body.additional_messages, prepared)
        for event in attached:
            if event.tool_resources is not None:
                thread = replace(thread, tool_resources=event.tool_resources)
        added = messages_from(body.additional_messages, thread.id, self.context)
        run = self._run(body, assistant, run_id, thread, body.additional_instructions)
        asked = any(message.role == "user" for message in state.messages.newest())
        self._check_startable(asked, added, run)
        created = self._created(run, body, assistant)
        return [*overdue, *attached, *added, replace(created, with_results=with_results)]

    def create_thread_and_run(
        self, body: CreateThreadAndRun, assistant: StoredAssistant, thread_id: str, run_id: str
    ) -> list[e.ThreadEvent]:
        started = ThreadCommands(self.context).create_thread(body.thread or CreateThread(), thread_id)
        thread = next(event.thread for event in started if isinstance(event, e.ThreadCreated))
        run = self._run(body, assistant, run_id, thread, None)
        if body.tool_resources is not None:
            own = overridden(assistant.tool_resources, body.tool_resources)
            run = replace(run, tool_resources=together(own, thread.tool_resources))
        self._check_startable(False, started, run)
        return [*started, self._created(run, body, assistant)]

    def _created(self, run: Run, body: RunFields, assistant: StoredAssistant) -> e.RunCreated:
        chosen = chosen_of(body, assistant.chosen or ())
        return e.RunCreated(run=run, stream=bool(body.stream), trace=self.context.trace, chosen=chosen)

    def _run(
        self, body: RunFields, assistant: StoredAssistant, run_id: str, thread: Thread, additional: str | None
    ) -> Run:
        """A copy of the assistant's configuration, with the request's own values on top."""
        instructions = assistant.instructions if body.instructions is None else body.instructions
        if additional:
            instructions = f"{instructions}\n\n{additional}" if instructions else additional
        truncation, tools = body.truncation_strategy, assistant.tools if body.tools is None else tools_from(body.tools)
        choice = choice_from(body.tool_choice)
        check_choice(choice, tools)
        return Run(
            id=run_id,
            created_at=int(self.context.now),
            assistant_id=assistant.id,
            thread_id=thread.id,
            expires_at=int(self.context.now) + self.lifetime,
            model=body.model or assistant.model,
            instructions=instructions,
            tools=tools,
            tool_resources=together(assistant.tool_resources, thread.tool_resources),
            metadata=body.metadata or {},
            temperature=assistant.temperature if body.temperature is None else body.temperature,
            top_p=assistant.top_p if body.top_p is None else body.top_p,
            reasoning_effort=body.reasoning_effort or assistant.reasoning_effort,
            max_completion_tokens=body.max_completion_tokens,
            max_prompt_tokens=body.max_prompt_tokens,
            truncation_strategy=TruncationStrategy(type=truncation.type, last_messages=truncation.last_messages)
            if truncation
            else TruncationStrategy(),
            response_format=format_from(body.response_format) if body.response_format else assistant.response_format,
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
        )

    @staticmethod
    def _check_startable(asked: bool, added: Sequence[e.ThreadEvent], run: Run) -> None:
        asked = asked or any(isinstance(event, e.MessageCreated) and event.message.role == "user" for event in added)
        if not asked and not run.instructions:
            raise ApiError(
                "Run creation requires a Thread with a user message or an assistant with instructions.",
                code="invalid_thread",
            )

    def update_run(self, state: ThreadState, run_id: str, body: UpdateMetadata) -> list[e.ThreadEvent]:
        run_state = run_of(state, run_id)
        if "metadata" not in body.model_fields_set:
            return []
        return [e.RunUpdated(run_id=run_state.run.id, metadata=body.metadata or {})]

    def submit_tool_outputs(self, state: ThreadState, run_id: str, body: SubmitToolOutputsBody) -> list[e.ThreadEvent]:
        run_state = run_of(state, run_id)
        status = "expired" if endings.is_overdue(run_state, self.context.now) else run_state.run.status
        step = run_state.open_step
        if status != "requires_action" or step is None:
            raise ApiError(f'Runs in status "{status}" do not accept tool outputs.')
        wanted = [call.id for call in run_state.owed_calls]
        got = [output.tool_call_id or "" for output in body.tool_outputs]
        if sorted(wanted) != sorted(got):
            raise ApiError(f"Expected tool outputs for call_ids {wanted}, got {got}")
        outputs = {output.tool_call_id or "": output.output or "" for output in body.tool_outputs}
        return [
            e.StepCompleted(run_id=run_id, step_id=step.id, outputs=outputs),
            e.RunQueued(run_id=run_id, stream=bool(body.stream)),
        ]

    def cancel_run(self, state: ThreadState, run_id: str) -> list[e.ThreadEvent]:
        """`cancelling`, and `cancelled` at once if no worker holds the run. A second cancellation changes nothing."""
        run_state = run_of(state, run_id)
        if run_state.run.status in TERMINAL:
            raise ApiError(f"Cannot cancel run with status '{run_state.run.status}'.")
        if run_state.run.status == "cancelling":
            return []
        asked: list[e.ThreadEvent] = [e.RunCancelling(run_id=run_id)]
        if run_state.run.status in ("queued", "requires_action"):
            return [*asked, *endings.cancel_events(run_state)]
        return asked
