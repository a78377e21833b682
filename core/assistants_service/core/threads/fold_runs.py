"""The state of a thread: its runs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from assistants_service.core.protocol.runs.resources import RequiredAction, Run, SubmitToolOutputs
from assistants_service.core.protocol.threads.resources import Reason
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold_names import ThreadEffects, ThreadHandler, name_of, status_of
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.tools.registry import CLIENTS


def _run_created(state: ThreadState, event: e.RunCreated, at: int) -> ThreadEffects:
    run_state = RunState(
        run=event.run, stream=event.stream, trace=event.trace, with_results=event.with_results, chosen=event.chosen
    )
    state.runs.put(event.run.id, run_state)
    state.active = event.run.id
    return [("thread.run.created", event.run), ("thread.run.queued", event.run)]


def _run_updated(state: ThreadState, event: e.RunUpdated, at: int) -> ThreadEffects:
    return [("thread.run.updated", _change(state, event.run_id, metadata=event.metadata))]


def _run_claimed(state: ThreadState, event: e.RunClaimed, at: int) -> ThreadEffects:
    run_state = state.runs[event.run_id]
    run_state.attempt, run_state.item, run_state.claimed_at = event.attempt, event.item, state.version
    run_state.in_progress = None  # its worker is dead: this one calls the model again
    run_state.claims = 1 if run_state.run.status == "queued" else run_state.claims + (not event.handed_back)
    if run_state.run.status != "queued":  # a take-over: nothing changes on the wire
        return [(name_of(event), run_state.run)]
    return [("thread.run.in_progress", _change(state, event.run_id, status="in_progress", started_at=at))]


def _run_requires_action(state: ThreadState, event: e.RunRequiresAction, at: int) -> ThreadEffects:
    run_state = state.runs[event.run_id]
    run_state.published_at = run_state.claimed_at
    calls = tuple(map(CLIENTS.as_required, run_state.owed_calls))
    action = RequiredAction(submit_tool_outputs=SubmitToolOutputs(tool_calls=calls))
    return [(name_of(event), _change(state, event.run_id, status="requires_action", required_action=action))]


def _run_queued(state: ThreadState, event: e.RunQueued, at: int) -> ThreadEffects:
    run_state = state.runs[event.run_id]
    run_state.stream = run_state.stream or event.stream
    return [(name_of(event), _change(state, event.run_id, status="queued", required_action=None))]


def _run_cancelling(state: ThreadState, event: e.RunCancelling, at: int) -> ThreadEffects:
    state.runs[event.run_id].cancel_requested_at = at
    return [(name_of(event), _change(state, event.run_id, status="cancelling", required_action=None))]


def _run_ended(
    state: ThreadState, event: e.RunCompleted | e.RunIncomplete | e.RunFailed | e.RunCancelled | e.RunExpired, at: int
) -> ThreadEffects:
    """expires_at is null once terminal, usage the sum over the steps."""
    run_state = state.runs[event.run_id]
    run_state.thoughts = {}
    run_state.later, run_state.joined, run_state.orders = (), (), {}
    changed: dict[str, Any] = {"status": status_of(event), "expires_at": None, "required_action": None}
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
    return [(name_of(event), _change(state, event.run_id, **changed))]


def _change(state: ThreadState, run_id: str, **changed: Any) -> Run:
    run_state = state.runs[run_id]
    run_state.run = replace(run_state.run, **changed)
    return run_state.run


RUN_EVENTS: dict[type, ThreadHandler] = {
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
}
