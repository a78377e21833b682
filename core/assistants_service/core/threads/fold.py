"""The state of a thread: a left fold over its log. This module alone defines what each event means.

`apply` also returns the changes, event by event: projections and streams are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.protocol.runs.resources import (
    RequiredAction,
    Run,
    Step,
    SubmitToolOutputs,
    ToolCalls,
    step_on_wire,
)
from assistants_service.core.protocol.threads.resources import Reason, Thread
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import (
    InProgress,
    Resource,
    Results,
    RunState,
    ShownFile,
    ThreadChange,
    ThreadState,
)
from assistants_service.core.tools.registry import tool_of


def apply(state: ThreadState, commit: e.Commit) -> list[ThreadChange]:
    """Fold one commit into the state, and return the changes."""
    state.version += 1
    at = int(commit.at)
    return [
        ThreadChange(state.version, name, _published(state, thing))
        for event in commit.events
        for name, thing in APPLY[type(event)](state, event, at)
    ]


def _published(state: ThreadState, thing: Resource) -> Resource:
    return step_on_wire(thing, contents=state.runs[thing.run_id].contents) if isinstance(thing, Step) else thing


def fold(commits: Iterable[e.Commit], state: ThreadState | None = None) -> ThreadState:
    state = state or ThreadState()
    for commit in commits:
        apply(state, commit)
    return state


Named = list[tuple[str, Resource]]


def _thread_created(state: ThreadState, event: e.ThreadCreated, at: int) -> Named:
    state.thread = event.thread
    return [("thread.created", event.thread)]


def _thread_updated(state: ThreadState, event: e.ThreadUpdated, at: int) -> Named:
    thread = _thread(state)
    state.thread = replace(
        thread,
        metadata=thread.metadata if event.metadata is None else event.metadata,
        tool_resources=thread.tool_resources if event.tool_resources is None else event.tool_resources,
    )
    return [("thread.updated", state.thread)]


def _thread_deleted(state: ThreadState, event: e.ThreadDeleted, at: int) -> Named:
    state.deleted, state.active = True, None
    return [("thread.deleted", _thread(state))]


def _message_created(state: ThreadState, event: e.MessageCreated, at: int) -> Named:
    state.messages.put(event.message.id, event.message)
    return [(_name(event), event.message)]


def _message_ended(state: ThreadState, event: e.MessageCompleted | e.MessageIncomplete, at: int) -> Named:
    message = event.message
    state.messages.put(message.id, message)
    attached = {attachment.file_id for attachment in message.attachments}
    cited = [file for file in state.files.values() if file.file_id in attached] if attached else []
    return [(_name(event), message), *_shown(state, message.run_id or "", cited, at)]


def _message_updated(state: ThreadState, event: e.MessageUpdated, at: int) -> Named:
    message = replace(state.messages[event.message_id], metadata=event.metadata)
    state.messages.put(message.id, message)
    return [("thread.message.updated", message)]


def _message_deleted(state: ThreadState, event: e.MessageDeleted, at: int) -> Named:
    return [("thread.message.deleted", state.messages.remove(event.message_id))]


def _run_created(state: ThreadState, event: e.RunCreated, at: int) -> Named:
    run_state = RunState(
        run=event.run, stream=event.stream, trace=event.trace, contents=event.contents, chosen=event.chosen
    )
    state.runs.put(event.run.id, run_state)
    state.active = event.run.id
    return [("thread.run.created", event.run), ("thread.run.queued", event.run)]


def _run_updated(state: ThreadState, event: e.RunUpdated, at: int) -> Named:
    return [("thread.run.updated", _change(state, event.run_id, metadata=event.metadata))]


def _run_claimed(state: ThreadState, event: e.RunClaimed, at: int) -> Named:
    run_state = state.runs[event.run_id]
    run_state.attempt, run_state.item, run_state.claimed_at = event.attempt, event.item, state.version
    run_state.in_progress = None  # its worker is dead: this one calls the model again
    run_state.claims = 1 if run_state.run.status == "queued" else run_state.claims + (not event.handed_back)
    if run_state.run.status != "queued":  # a take-over: nothing changes on the wire
        return [(_name(event), run_state.run)]
    return [("thread.run.in_progress", _change(state, event.run_id, status="in_progress", started_at=at))]


def _run_requires_action(state: ThreadState, event: e.RunRequiresAction, at: int) -> Named:
    run_state = state.runs[event.run_id]
    run_state.published_at = run_state.claimed_at
    calls = tuple(replace(call, function=replace(call.function, output=UNSET)) for call in run_state.owed_calls)
    action = RequiredAction(submit_tool_outputs=SubmitToolOutputs(tool_calls=calls))
    return [(_name(event), _change(state, event.run_id, status="requires_action", required_action=action))]


def _run_queued(state: ThreadState, event: e.RunQueued, at: int) -> Named:
    run_state = state.runs[event.run_id]
    run_state.stream = run_state.stream or event.stream
    return [(_name(event), _change(state, event.run_id, status="queued", required_action=None))]


def _run_cancelling(state: ThreadState, event: e.RunCancelling, at: int) -> Named:
    state.runs[event.run_id].cancel_requested_at = at
    return [(_name(event), _change(state, event.run_id, status="cancelling", required_action=None))]


def _run_ended(
    state: ThreadState, event: e.RunCompleted | e.RunIncomplete | e.RunFailed | e.RunCancelled | e.RunExpired, at: int
) -> Named:
    """expires_at is null once terminal, usage the sum over the steps (section 3.4)."""
    run_state = state.runs[event.run_id]
    run_state.thoughts = {}
    run_state.later, run_state.joined, run_state.orders = (), (), {}
    changed: dict[str, Any] = {"status": _status(event), "expires_at": None, "required_action": None}
    changed["usage"], run_state.in_progress = run_state.usage, None
    match event:
        case e.RunCompleted():
            changed["completed_at"] = at
        case e.RunIncomplete(reason=reason):
            changed["completed_at"] = at
            changed["incomplete_details"] = Reason(reason=reason)
        case e.RunFailed(error=error):
            changed["failed_at"], changed["last_error"] = at, error
        case e.RunCancelled():
            changed["cancelled_at"] = at
    if state.active == event.run_id:
        state.active = None
    return [(_name(event), _change(state, event.run_id, **changed))]


def _step_begun(state: ThreadState, event: e.StepBegun, at: int) -> Named:
    """Reserves the places of step and message in the lists, where they remain cursors in any case. There is no change:
    documents and streams show only what is history."""
    run_state = state.runs[event.step.run_id]
    run_state.in_progress = InProgress(event.step, event.message)
    run_state.steps.reserve(event.step.id)
    if event.message:
        state.messages.reserve(event.message.id)
    return []


def _step_created(state: ThreadState, event: e.StepCreated, at: int) -> Named:
    run_state = state.runs[event.step.run_id]
    run_state.published_at, run_state.claims = run_state.claimed_at, 1
    run_state.steps.put(event.step.id, event.step)
    run_state.in_progress = None
    if run_state.later and event.step.id == run_state.later[0].id:
        run_state.later, run_state.joined = run_state.later[1:], (*run_state.joined, event.step.id)
    else:
        run_state.own = set(event.own)  # of the last reply alone: some models number the calls of each turn anew
        run_state.later = event.later
    if event.order:
        run_state.orders = {**run_state.orders, event.step.id: event.order}
    if event.usage is not None:
        run_state.costs = {**run_state.costs, event.step.id: event.usage}
    if event.thought is not None:
        run_state.thoughts = {**run_state.thoughts, event.step.id: event.thought}
    return [(_name(event), event.step)]


def _step_outputs(state: ThreadState, event: e.StepOutputs, at: int) -> Named:
    run_state = state.runs[event.run_id]
    run_state.claims = 1
    step = _answered(run_state.steps[event.step_id], event.outputs, event.results)
    run_state.steps.put(step.id, step)
    images = [image for call in step.calls if call.id in event.outputs for image in _made(state, call)]
    return [(_name(event), step), *_shown(state, event.run_id, images, at)]


def _made(state: ThreadState, call: StepToolCall) -> Sequence[KeptFile]:
    """What a call has made of the thread's files. Returns the images that it shows."""
    made = tool_of(call).made(call)
    if made is None:
        return ()
    left = {path: file for path, file in state.files.items() if path not in made.removed}
    state.files = {**left, **{file.path: file for file in made.files}}
    state.executed = made.state or state.executed
    return made.shown


def _shown(state: ThreadState, run_id: str, files: Iterable[KeptFile], at: int) -> Named:
    """The files of the API that those become which clients were not shown before."""
    new = [ShownFile(state.version, at, kept) for kept in files if kept.file_id not in state.shown]
    for shown in new:
        run_state, file_id = state.runs[run_id], shown.kept.file_id
        run_state.files = {**run_state.files, file_id: shown}
        state.shown.add(file_id)
    return [("file.created", shown.file) for shown in new]


def _step_ended(
    state: ThreadState, event: e.StepCompleted | e.StepFailed | e.StepCancelled | e.StepExpired, at: int
) -> Named:
    """expires_at is null once the step has ended (section 3.5)."""
    run_state = state.runs[event.run_id]
    run_state.claims = 1
    step = run_state.steps[event.step_id]
    changed: dict[str, Any] = {"status": _status(event), "usage": run_state.costs.get(step.id), "expires_at": None}
    run_state.costs = {key: cost for key, cost in run_state.costs.items() if key != step.id}
    match event:
        case e.StepCompleted(outputs=outputs):
            step = _answered(step, outputs)
            changed["completed_at"] = at
        case e.StepFailed(error=error):
            changed["failed_at"], changed["last_error"] = at, error
        case e.StepCancelled():
            changed["cancelled_at"] = at
        case e.StepExpired():
            changed["expired_at"] = at
    step = replace(step, **changed)
    run_state.steps.put(step.id, step)
    return [(_name(event), step)]


def _answered(step: Step, outputs: Mapping[str, str], results: Results = MappingProxyType({})) -> Step:
    details = step.step_details
    if not outputs or not isinstance(details, ToolCalls):
        return step
    calls = tuple(
        tool_of(call).completed(call, outputs[call.id], results.get(call.id)) if call.id in outputs else call
        for call in details.tool_calls
    )
    return replace(step, step_details=replace(details, tool_calls=calls))


def _change(state: ThreadState, run_id: str, **changed: Any) -> Run:
    run_state = state.runs[run_id]
    run_state.run = replace(run_state.run, **changed)
    return run_state.run


def _thread(state: ThreadState) -> Thread:
    if state.thread is None:
        raise ValueError("a log begins with thread.created")
    return state.thread


def _name(event: e.Event) -> str:
    return str(event.__struct_config__.tag)


def _status(event: e.Event) -> str:
    return _name(event).rpartition(".")[2]


APPLY: dict[type, Callable[[ThreadState, Any, int], Named]] = {
    e.ThreadCreated: _thread_created,
    e.ThreadUpdated: _thread_updated,
    e.ThreadDeleted: _thread_deleted,
    e.MessageCreated: _message_created,
    e.MessageCompleted: _message_ended,
    e.MessageIncomplete: _message_ended,
    e.MessageUpdated: _message_updated,
    e.MessageDeleted: _message_deleted,
    e.RunCreated: _run_created,
    e.RunUpdated: _run_updated,
    e.RunClaimed: _run_claimed,
    e.RunRequiresAction: _run_requires_action,
    e.RunQueued: _run_queued,
    e.RunCancelling: _run_cancelling,
    e.RunCompleted: _run_ended,
    e.RunIncomplete: _run_ended,
    e.RunFailed: _run_ended,
    e.RunCancelled: _run_ended,
    e.RunExpired: _run_ended,
    e.StepBegun: _step_begun,
    e.StepCreated: _step_created,
    e.StepOutputs: _step_outputs,
    e.StepCompleted: _step_ended,
    e.StepFailed: _step_ended,
    e.StepCancelled: _step_ended,
    e.StepExpired: _step_ended,
}
