"""Objects of a thread's state by their ids. Each raises the 404 of what is not there."""

from __future__ import annotations

from assistants_service.core.errors import ApiError, no_such
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.threads.fold import RunState, ThreadState


def thread_of(state: ThreadState, thread_id: str = "") -> Thread:
    if state.thread is None:
        raise no_such("thread", thread_id)
    return state.thread


def message_of(state: ThreadState, message_id: str) -> Message:
    message = state.messages.get(message_id)
    if message is None:
        raise no_such("message", message_id)
    return message


def whole_message(state: ThreadState, message_id: str) -> Message:
    if state.making and state.making.named(message_id):
        raise ApiError(f"Message {message_id} is still in progress: it can't be changed or deleted yet.")
    return message_of(state, message_id)


def run_of(state: ThreadState, run_id: str) -> RunState:
    held = state.runs.get(run_id)
    if held is None:
        raise no_such("run", run_id)
    return held
