"""Ends of a run that need no model, used by clients' commands and by the worker's decisions."""

from __future__ import annotations

from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import RunState, ThreadState


def cancel_events(run_state: RunState) -> list[e.ThreadEvent]:
    step, run_id = run_state.open_step, run_state.run.id
    closing: list[e.ThreadEvent] = [e.StepCancelled(run_id=run_id, step_id=step.id)] if step else []
    return [*closing, e.RunCancelled(run_id=run_id)]


def expire_events(run_state: RunState) -> list[e.ThreadEvent]:
    step, run_id = run_state.open_step, run_state.run.id
    closing: list[e.ThreadEvent] = [e.StepExpired(run_id=run_id, step_id=step.id)] if step else []
    return [*closing, e.RunExpired(run_id=run_id)]


def is_overdue(run_state: RunState, now: float) -> bool:
    return run_state.run.active and run_state.run.expires_at is not None and now >= run_state.run.expires_at


def expire_overdue(state: ThreadState, now: float) -> list[e.ThreadEvent]:
    """Expire an active run that is past its time, so that clients need not wait for a worker."""
    run_state = state.active_run
    return expire_events(run_state) if run_state and is_overdue(run_state, now) else []
