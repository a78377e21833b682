"""What a worker does next for a run: a pure function of the folded state and the time.

The worker repeats: read, fold, decide, act, commit, project. After a crash, any worker decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from assistants_service.core.protocol.objects import LastError
from assistants_service.core.protocol.runs.resources import Usage
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads import events as e
from assistants_service.core.threads.endings import cancel_events, expire_events
from assistants_service.core.threads.state import RunState, ThreadState

# Seconds in which the worker that holds a run may end it: it checks every second, and only it knows the partial answer
# of its model. After that it is presumed dead.
CLOSING = 5.0
CLAIMS = 5  # consecutive claims whose workers died without a result; then the run fails, as it may be the cause
DEADLY = LastError(
    code="server_error", message=f"{CLAIMS} workers in a row died while they worked on this run. It is not tried again."
)


@dataclass(frozen=True, slots=True)
class Wait:
    """The log does not yet contain what the work item announced; or, if `gone`, the thread was deleted."""

    gone: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do for this work item: the run has ended, or another item is responsible for it."""


@dataclass(frozen=True, slots=True)
class KeepItem:
    """Another delivery of this item is responsible for the run: deleting the item would leave the run without a
    worker."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Only the client, or the worker that holds the run, can continue; the item is delivered again at that time."""

    until: float


@dataclass(frozen=True, slots=True)
class CommitEvents:
    """Commit these events."""

    events: list[e.ThreadEvent]

    @property
    def claim(self) -> int:
        """The attempt that these events begin; 0 if they contain no claim."""
        return next((event.attempt for event in self.events if isinstance(event, e.RunClaimed)), 0)


@dataclass(frozen=True, slots=True)
class CallModel:
    run_state: RunState


@dataclass(frozen=True, slots=True)
class CallTools:
    """Execute the worker's own calls of the open step."""

    run_state: RunState
    step_id: str
    calls: list[StepToolCall]


Move = Wait | Done | KeepItem | WaitUntil | CommitEvents | CallModel | CallTools


def decide(
    state: ThreadState, run_id: str, *, seen: int, item: str, attempt: int, now: float, handed_back: bool = False
) -> Move:
    """`seen` is the version of the thread that the work item's sender knew, `item` the work item's id, `attempt` the
    claim that this worker holds (0: none). `handed_back`: the item's last holder has handed it back, and has not
    died."""
    if state.deleted:
        return Done()
    run_state = state.runs.get(run_id)
    if run_state is None or state.version <= seen:
        # Only the work item of a new thread can arrive before the first commit.
        return Wait(gone=not state.version and seen != 0)
    run = run_state.run
    if not run.active:
        return Done()
    if end := _end(run_state, now):
        since, events = end
        if run.status in ("in_progress", "cancelling") and attempt != run_state.attempt and now < since + CLOSING:
            return WaitUntil(until=since + CLOSING)
        return CommitEvents(events)
    match run.status:
        case "requires_action":
            return WaitUntil(until=run.expires_at or now)
        case "queued":
            return CommitEvents([e.RunClaimed(run_id=run_id, attempt=run_state.attempt + 1, item=item)])
    if attempt == run_state.attempt:
        return _go_on(run_state)
    if run_state.item != item:
        return Done()
    if attempt:
        # Another delivery of the item, maybe an older one, has taken over this worker's claim. Its holder cannot hide
        # the item any more, so the item is delivered again, and finds the run done or its holder dead.
        return KeepItem()
    # The same item was delivered again: the worker that claimed the run by it has died, or handed it back.
    if run_state.claims >= CLAIMS and not handed_back:
        return CommitEvents(failure_events(run_state, DEADLY))
    return CommitEvents(
        [e.RunClaimed(run_id=run_id, attempt=run_state.attempt + 1, item=item, handed_back=handed_back)]
    )


def _end(run_state: RunState, now: float) -> tuple[float, list[e.ThreadEvent]] | None:
    """Since when the run should have ended, and the events that end it; None if it should go on."""
    if run_state.run.expires_at is not None and now >= run_state.run.expires_at:
        return run_state.run.expires_at, expire_events(run_state)
    return (run_state.cancel_requested_at, cancel_events(run_state)) if run_state.run.status == "cancelling" else None


def _go_on(run_state: RunState) -> Move:
    """The next move for a run that is in progress and claimed by this worker."""
    run_id, step = run_state.run.id, run_state.open_step
    if step and (own := run_state.own_calls):
        return CallTools(run_state, step.id, own)
    if run_state.owed_calls:
        return CommitEvents([e.RunRequiresAction(run_id=run_id)])
    following = [e.StepCreated(step=each, usage=Usage()) for each in run_state.later[:1]]
    if step:
        return CommitEvents([e.StepCompleted(run_id=run_id, step_id=step.id), *following])
    if following:
        return CommitEvents([*following])
    if reason := exhausted_limit(run_state):
        return CommitEvents([e.RunIncomplete(run_id=run_id, reason=reason)])
    return CallModel(run_state)


def exhausted_limit(run_state: RunState) -> str | None:
    """The token limit of the run that leaves nothing for another model call."""
    run, usage = run_state.run, run_state.usage
    if run.max_completion_tokens is not None and usage.completion_tokens >= run.max_completion_tokens:
        return "max_completion_tokens"
    if run.max_prompt_tokens is not None and usage.prompt_tokens >= run.max_prompt_tokens:
        return "max_prompt_tokens"
    return None


def failure_events(run_state: RunState, error: LastError) -> list[e.ThreadEvent]:
    """The end of a run that cannot continue, with its open step."""
    step, run_id = run_state.open_step, run_state.run.id
    closing: list[e.ThreadEvent] = []
    if step:
        closing = [e.StepFailed(run_id=run_id, step_id=step.id, error=error.of_step)]
    return [*closing, e.RunFailed(run_id=run_id, error=error)]
