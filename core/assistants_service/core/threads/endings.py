"""The ends of a run that need no model, shared by what clients may do and by what a worker decides."""

from __future__ import annotations

from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold import RunState, ThreadState


def cancelled(held: RunState) -> list[e.Event]:
    step, run_id = held.open_step, held.run.id
    closing: list[e.Event] = [e.StepCancelled(run_id=run_id, step_id=step.id)] if step else []
    return [*closing, e.RunCancelled(run_id=run_id)]


def expired(held: RunState) -> list[e.Event]:
    step, run_id = held.open_step, held.run.id
    closing: list[e.Event] = [e.StepExpired(run_id=run_id, step_id=step.id)] if step else []
    return [*closing, e.RunExpired(run_id=run_id)]


def overdue(held: RunState, now: float) -> bool:
    return held.run.active and held.run.expires_at is not None and now >= held.run.expires_at


def expire_overdue(state: ThreadState, now: float) -> list[e.Event]:
    """The expiry of an active run that is past its time: no client waits for a worker to notice."""
    held = state.active_run
    return expired(held) if held and overdue(held, now) else []
