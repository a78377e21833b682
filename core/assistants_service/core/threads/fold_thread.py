"""The state of a thread: the thread itself, and its messages."""

from __future__ import annotations

from msgspec.structs import replace

from assistants_service.core.protocol.threads.resources import Thread
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold_files import show_files
from assistants_service.core.threads.fold_names import ThreadEffects, ThreadHandler, name_of
from assistants_service.core.threads.state import ThreadState


def _thread_created(state: ThreadState, event: e.ThreadCreated, at: int) -> ThreadEffects:
    state.thread = event.thread
    return [("thread.created", event.thread)]


def _thread_updated(state: ThreadState, event: e.ThreadUpdated, at: int) -> ThreadEffects:
    thread = _thread(state)
    state.thread = replace(
        thread,
        metadata=thread.metadata if event.metadata is None else event.metadata,
        tool_resources=thread.tool_resources if event.tool_resources is None else event.tool_resources,
    )
    return [("thread.updated", state.thread)]


def _thread_deleted(state: ThreadState, event: e.ThreadDeleted, at: int) -> ThreadEffects:
    state.deleted, state.active = True, None
    return [("thread.deleted", _thread(state))]


def _thread(state: ThreadState) -> Thread:
    if state.thread is None:
        raise ValueError("a log begins with thread.created")
    return state.thread


def _message_created(state: ThreadState, event: e.MessageCreated, at: int) -> ThreadEffects:
    state.messages.put(event.message.id, event.message)
    return [(name_of(event), event.message)]


def _message_ended(state: ThreadState, event: e.MessageCompleted | e.MessageIncomplete, at: int) -> ThreadEffects:
    message = event.message
    state.messages.put(message.id, message)
    attached = {attachment.file_id for attachment in message.attachments}
    cited = [file for file in state.files.values() if file.file_id in attached] if attached else []
    return [(name_of(event), message), *show_files(state, message.run_id or "", cited, at)]


def _message_updated(state: ThreadState, event: e.MessageUpdated, at: int) -> ThreadEffects:
    message = replace(state.messages[event.message_id], metadata=event.metadata)
    state.messages.put(message.id, message)
    return [("thread.message.updated", message)]


def _message_deleted(state: ThreadState, event: e.MessageDeleted, at: int) -> ThreadEffects:
    return [("thread.message.deleted", state.messages.remove(event.message_id))]


THREAD_EVENTS: dict[type, ThreadHandler] = {
    e.ThreadCreated: _thread_created,
    e.ThreadUpdated: _thread_updated,
    e.ThreadDeleted: _thread_deleted,
    e.MessageCreated: _message_created,
    e.MessageCompleted: _message_ended,
    e.MessageIncomplete: _message_ended,
    e.MessageUpdated: _message_updated,
    e.MessageDeleted: _message_deleted,
}
