"""The state of a thread: the steps of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from assistants_service.core.protocol.runs.resources import Step, ToolCalls
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold_files import keep_files, show_files
from assistants_service.core.threads.fold_names import ThreadEffects, ThreadHandler, name_of, status_of
from assistants_service.core.threads.state import InProgress, Results, ThreadState
from assistants_service.core.tools.registry import tool_of


def _step_begun(state: ThreadState, event: e.StepBegun, at: int) -> ThreadEffects:
    """Reserves the places of step and message in the lists, where they remain cursors in any case. There is no change:
    documents and streams show only what is history."""
    run_state = state.runs[event.step.run_id]
    run_state.in_progress = InProgress(event.step, event.message)
    run_state.steps.reserve(event.step.id)
    if event.message:
        state.messages.reserve(event.message.id)
    return []


def _step_created(state: ThreadState, event: e.StepCreated, at: int) -> ThreadEffects:
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
    return [(name_of(event), event.step)]


def _step_outputs(state: ThreadState, event: e.StepOutputs, at: int) -> ThreadEffects:
    run_state = state.runs[event.run_id]
    run_state.claims = 1
    step = _answered(run_state.steps[event.step_id], event.outputs, event.results)
    run_state.steps.put(step.id, step)
    images = [image for call in step.calls if call.id in event.outputs for image in keep_files(state, call)]
    return [(name_of(event), step), *show_files(state, event.run_id, images, at)]


def _step_ended(
    state: ThreadState, event: e.StepCompleted | e.StepFailed | e.StepCancelled | e.StepExpired, at: int
) -> ThreadEffects:
    """expires_at is null once the step has ended."""
    run_state = state.runs[event.run_id]
    run_state.claims = 1
    step = run_state.steps[event.step_id]
    changed: dict[str, Any] = {"status": status_of(event), "usage": run_state.costs.get(step.id), "expires_at": None}
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
    return [(name_of(event), step)]


def _answered(step: Step, outputs: Mapping[str, str], results: Results = MappingProxyType({})) -> Step:
    details = step.step_details
    if not outputs or not isinstance(details, ToolCalls):
        return step
    calls = tuple(
        tool_of(call).completed(call, outputs[call.id], results.get(call.id)) if call.id in outputs else call
        for call in details.tool_calls
    )
    return replace(step, step_details=replace(details, tool_calls=calls))


STEP_EVENTS: dict[type, ThreadHandler] = {
    e.StepBegun: _step_begun,
    e.StepCreated: _step_created,
    e.StepOutputs: _step_outputs,
    e.StepCompleted: _step_ended,
    e.StepFailed: _step_ended,
    e.StepCancelled: _step_ended,
    e.StepExpired: _step_ended,
}
