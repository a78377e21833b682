"""The state of a thread: a left fold over its log. The fold_*.py here define what each event means.

`apply` also returns the changes, event by event: projections and streams are made from them.
"""

from __future__ import annotations

from collections.abc import Iterable

from assistants_service.core.protocol.runs.resources import Step, step_on_wire
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold_names import ThreadHandler
from assistants_service.core.threads.fold_runs import RUN_EVENTS
from assistants_service.core.threads.fold_steps import STEP_EVENTS
from assistants_service.core.threads.fold_thread import THREAD_EVENTS
from assistants_service.core.threads.state import ThreadChange, ThreadObject, ThreadState

APPLY: dict[type, ThreadHandler] = {**THREAD_EVENTS, **RUN_EVENTS, **STEP_EVENTS}


def apply(state: ThreadState, commit: e.Commit) -> list[ThreadChange]:
    """Fold one commit into the state, and return the changes."""
    state.version += 1
    at = int(commit.at)
    return [
        ThreadChange(state.version, name, _published(state, resource))
        for event in commit.events
        for name, resource in APPLY[type(event)](state, event, at)
    ]


def _published(state: ThreadState, resource: ThreadObject) -> ThreadObject:
    return (
        step_on_wire(resource, with_results=state.runs[resource.run_id].with_results)
        if isinstance(resource, Step)
        else resource
    )


def fold(commits: Iterable[e.Commit], state: ThreadState | None = None) -> ThreadState:
    state = state or ThreadState()
    for commit in commits:
        apply(state, commit)
    return state
