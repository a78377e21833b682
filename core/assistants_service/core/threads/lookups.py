"""Objects of a thread's state by id, or the 404; and objects in a list of changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.resources import MESSAGE, RUN, THREAD
from assistants_service.core.threads.state import RunState, ThreadChange, ThreadObject, ThreadState

R = TypeVar("R", bound=ThreadObject)


def thread_of(state: ThreadState, thread_id: str = "") -> Thread:
    if state.thread is None:
        raise THREAD.unknown(thread_id)
    return state.thread


def message_of(state: ThreadState, message_id: str) -> Message:
    message = state.messages.get(message_id)
    if message is None:
        raise MESSAGE.unknown(message_id)
    return message


def whole_message(state: ThreadState, message_id: str) -> Message:
    if state.in_progress and state.in_progress.named(message_id):
        raise ApiError(f"Message {message_id} is still in progress: it can't be changed or deleted yet.")
    return message_of(state, message_id)


def run_of(state: ThreadState, run_id: str) -> RunState:
    run_state = state.runs.get(run_id)
    if run_state is None:
        raise RUN.unknown(run_id)
    return run_state


def object_after(changes: Iterable[ThreadChange], name: str, kind: type[R]) -> R | None:
    """The object after the first event of this name; None if there was no such event."""
    objects = (change.object for change in changes if change.name == name)
    return next((each for each in objects if isinstance(each, kind)), None)
