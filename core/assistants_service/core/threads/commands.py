"""What the API may do to a thread: each rule is a pure function from the folded state to events, or to a refusal.

`now` is Unix time. The repository commits what comes out, and asks again if another process moved in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from assistants_service.core.assistants.commands import chosen_of
from assistants_service.core.errors import ApiError
from assistants_service.core.ids import Ids
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, RunFields, SubmitToolOutputs
from assistants_service.core.protocol.runs.resources import TERMINAL, Run, TruncationStrategy
from assistants_service.core.protocol.threads.requests import (
    CreateMessage,
    CreateThread,
    ImageFilePartBody,
    ImageUrlPartBody,
    TextPartBody,
    UpdateMetadata,
    UpdateThread,
)
from assistants_service.core.protocol.threads.resources import (
    ImageFile,
    ImageFilePart,
    ImageUrl,
    ImageUrlPart,
    Message,
    Part,
    Text,
    TextPart,
    Thread,
)
from assistants_service.core.threads import events as e
from assistants_service.core.threads.endings import cancelled, expired
from assistants_service.core.threads.fold import RunState, ThreadState
from assistants_service.core.threads.lookups import run_of, thread_of, whole_message
from assistants_service.core.tool_resources import overridden, resources_from, together, with_attached
from assistants_service.core.tools.setup import check_choice, plain, tools_from


def message_from(body: CreateMessage, thread_id: str, message_id: str, now: float) -> Message:
    content = [TextPartBody(type="text", text=body.content)] if isinstance(body.content, str) else body.content
    return Message(
        id=message_id,
        created_at=int(now),
        thread_id=thread_id,
        role=body.role,
        completed_at=int(now),
        content=tuple(_part(part) for part in content),
        attachments=tuple(
            {"file_id": attachment.file_id, "tools": [{"type": tool.type} for tool in attachment.tools or ()]}
            for attachment in body.attachments or ()
        ),
        metadata=body.metadata or {},
    )


def _part(body: TextPartBody | ImageUrlPartBody | ImageFilePartBody) -> Part:
    match body:
        case TextPartBody(text=text):
            return TextPart(text=Text(value=text))
        case ImageUrlPartBody(image_url=image):
            return ImageUrlPart(image_url=ImageUrl(url=image.url, detail=image.detail or "auto"))
        case ImageFilePartBody(image_file=image):
            return ImageFilePart(image_file=ImageFile(file_id=image.file_id, detail=image.detail or "auto"))


@dataclass(frozen=True, slots=True)
class Filing:
    """The attachments of new messages are in the vector store `after`, since the thread had `before` ("": none)."""

    before: str
    after: str


def store_of_thread(state: ThreadState) -> str:
    """The id of the thread's vector store; "" if it has none."""
    search = (state.thread.tool_resources if state.thread else {}).get("file_search", {})
    return next(iter(search.get("vector_store_ids", ())), "")


# --- threads and messages -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThreadCommands:
    """What a decision needs beside the state: names for new things, the time, a run's lifetime in seconds, and the
    trace of the request."""

    ids: Ids
    now: float
    lifetime: int = 600
    trace: str = ""

    def create_thread(self, body: CreateThread, thread_id: str) -> list[e.Event]:
        thread = Thread(
            id=thread_id,
            created_at=int(self.now),
            metadata=body.metadata or {},
            tool_resources=with_attached(resources_from(body.tool_resources), body.messages),
        )
        return [e.ThreadCreated(thread=thread), *self._messages(body.messages, thread_id)]

    def update_thread(self, state: ThreadState, body: UpdateThread) -> list[e.Event]:
        given, old = body.model_fields_set, thread_of(state).tool_resources
        if not given:
            return []
        return [
            e.ThreadUpdated(
                metadata=(body.metadata or {}) if "metadata" in given else None,
                tool_resources=overridden(old, body.tool_resources) if "tool_resources" in given else None,
            )
        ]

    def delete_thread(self, state: ThreadState) -> list[e.Event]:
        return [e.ThreadDeleted()]

    def create_message(
        self, state: ThreadState, body: CreateMessage, message_id: str, filing: Filing | None = None
    ) -> list[e.Event]:
        """Nothing if there is, or was, a message of this id: the same request came before."""
        thread_id = thread_of(state).id
        if message_id in state.messages.places:
            return []
        settled = self._settle(state)
        active = state.active_run
        if active and not settled:
            raise ApiError(f"Can't add messages to {thread_id} while a run {active.run.id} is active.")
        filed = self._filed(state, [body], filing)
        return [*settled, *filed, e.MessageCreated(message=message_from(body, thread_id, message_id, self.now))]

    @staticmethod
    def _filed(state: ThreadState, messages: Sequence[CreateMessage] | None, filing: Filing | None) -> list[e.Event]:
        """What attachments do to the thread's tool resources (section 3.3)."""
        before = thread_of(state).tool_resources
        after = with_attached(before, messages)
        if filing:
            if store_of_thread(state) != filing.before:  # a 409, which the SDKs send again
                raise ApiError("The vector store of the thread has changed. Please retry your request.", status=409)
            if filing.after != filing.before:
                after = {**after, "file_search": {"vector_store_ids": [filing.after]}}
        return [e.ThreadUpdated(tool_resources=after)] if after != before else []

    def update_message(self, state: ThreadState, message_id: str, body: UpdateMetadata) -> list[e.Event]:
        message = whole_message(state, message_id)
        if "metadata" not in body.model_fields_set:
            return []
        return [e.MessageUpdated(message_id=message.id, metadata=body.metadata or {})]

    def delete_message(self, state: ThreadState, message_id: str) -> list[e.Event]:
        return [e.MessageDeleted(message_id=whole_message(state, message_id).id)]

    def _messages(self, bodies: Sequence[CreateMessage] | None, thread_id: str) -> list[e.Event]:
        return [
            e.MessageCreated(message=message_from(body, thread_id, self.ids.new("msg"), self.now))
            for body in bodies or ()
        ]

    # -- runs ------------------------------------------------------------------------------------------------------

    def create_run(
        self,
        state: ThreadState,
        body: CreateRun,
        assistant: StoredAssistant,
        run_id: str,
        filing: Filing | None = None,
        *,
        contents: bool = False,
    ) -> list[e.Event]:
        """Nothing if there is a run of this id: the same request came before. `contents`: its client wants to see what
        was found in files."""
        thread = thread_of(state)
        if run_id in state.runs.places:
            return []
        settled = self._settle(state)
        active = state.active_run
        if active and not settled:
            raise ApiError(f"Thread {thread.id} already has an active run {active.run.id}.")
        filed = self._filed(state, body.additional_messages, filing)
        for event in filed:
            if isinstance(event, e.ThreadUpdated) and event.tool_resources is not None:
                thread = replace(thread, tool_resources=event.tool_resources)
        added = self._messages(body.additional_messages, thread.id)
        run = self._run(body, assistant, run_id, thread, body.additional_instructions)
        asked = any(message.role == "user" for message in state.messages.newest())
        self._check_startable(asked, added, run)
        created = self._created(run, body, assistant)
        return [*settled, *filed, *added, replace(created, contents=contents)]

    def create_thread_and_run(
        self, body: CreateThreadAndRun, assistant: StoredAssistant, thread_id: str, run_id: str
    ) -> list[e.Event]:
        started = self.create_thread(body.thread or CreateThread(), thread_id)
        thread = next(event.thread for event in started if isinstance(event, e.ThreadCreated))
        run = self._run(body, assistant, run_id, thread, None)
        if body.tool_resources is not None:
            own = overridden(assistant.tool_resources, body.tool_resources)
            run = replace(run, tool_resources=together(own, thread.tool_resources))
        self._check_startable(False, started, run)
        return [*started, self._created(run, body, assistant)]

    def _created(self, run: Run, body: RunFields, assistant: StoredAssistant) -> e.RunCreated:
        chosen = chosen_of(body, assistant.chosen or ())
        return e.RunCreated(run=run, stream=bool(body.stream), trace=self.trace, chosen=chosen)

    def _run(
        self, body: RunFields, assistant: StoredAssistant, run_id: str, thread: Thread, additional: str | None
    ) -> Run:
        """The assistant's configuration of this moment, under the run's own (section 3.4)."""
        instructions = assistant.instructions if body.instructions is None else body.instructions
        if additional:
            instructions = f"{instructions}\n\n{additional}" if instructions else additional
        truncation, tools = body.truncation_strategy, assistant.tools if body.tools is None else tools_from(body.tools)
        choice = plain(body.tool_choice) or "auto"
        check_choice(choice, tools)
        return Run(
            id=run_id,
            created_at=int(self.now),
            assistant_id=assistant.id,
            thread_id=thread.id,
            expires_at=int(self.now) + self.lifetime,
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
            response_format=plain(body.response_format) or assistant.response_format,
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
        )

    @staticmethod
    def _check_startable(asked: bool, added: list[e.Event], run: Run) -> None:
        asked = asked or any(isinstance(event, e.MessageCreated) and event.message.role == "user" for event in added)
        if not asked and not run.instructions:
            raise ApiError(
                "Run creation requires a Thread with a user message or an assistant with instructions.",
                code="invalid_thread",
            )

    def update_run(self, state: ThreadState, run_id: str, body: UpdateMetadata) -> list[e.Event]:
        held = run_of(state, run_id)
        if "metadata" not in body.model_fields_set:
            return []
        return [e.RunUpdated(run_id=held.run.id, metadata=body.metadata or {})]

    def submit_tool_outputs(self, state: ThreadState, run_id: str, body: SubmitToolOutputs) -> list[e.Event]:
        held = run_of(state, run_id)
        status = "expired" if self._overdue(held) else held.run.status
        step = held.open_step
        if status != "requires_action" or step is None:
            raise ApiError(f'Runs in status "{status}" do not accept tool outputs.')
        wanted = [call.id for call in held.owed_calls]
        got = [output.tool_call_id or "" for output in body.tool_outputs]
        if sorted(wanted) != sorted(got):
            raise ApiError(f"Expected tool outputs for call_ids {wanted}, got {got}")
        outputs = {output.tool_call_id or "": output.output or "" for output in body.tool_outputs}
        return [
            e.StepCompleted(run_id=run_id, step_id=step.id, outputs=outputs),
            e.RunQueued(run_id=run_id, stream=bool(body.stream)),
        ]

    def cancel_run(self, state: ThreadState, run_id: str) -> list[e.Event]:
        """`cancelling`, and at once `cancelled` where no worker holds the run. A second cancel changes nothing."""
        held = run_of(state, run_id)
        if held.run.status in TERMINAL:
            raise ApiError(f"Cannot cancel run with status '{held.run.status}'.")
        if held.run.status == "cancelling":
            return []
        asked: list[e.Event] = [e.RunCancelling(run_id=run_id)]
        if held.run.status in ("queued", "requires_action"):
            return [*asked, *cancelled(held)]
        return asked

    def _settle(self, state: ThreadState) -> list[e.Event]:
        """The expiry of an active run that is past its time: no client waits for a worker to notice."""
        held = state.active_run
        return expired(held) if held and self._overdue(held) else []

    def _overdue(self, held: RunState) -> bool:
        return held.run.active and held.run.expires_at is not None and self.now >= held.run.expires_at
