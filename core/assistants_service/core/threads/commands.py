"""What clients may do to a thread and its messages: pure functions from the folded state to events, or an ApiError.

The repository commits the events, and evaluates the command again if another process has written in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.threads import requests
from assistants_service.core.protocol.threads.requests import (
    CreateMessage,
    CreateThread,
    ImageFilePartBody,
    ImageUrlPartBody,
    TextPartBody,
    UpdateMetadata,
    UpdateThread,
)
from assistants_service.core.protocol.threads.resources import (
    AttachedTool,
    Attachment,
    ImageFile,
    ImageFilePart,
    ImageUrl,
    ImageUrlPart,
    Message,
    MessagePart,
    Text,
    TextPart,
    Thread,
)
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import MESSAGE
from assistants_service.core.threads import endings
from assistants_service.core.threads import events as e
from assistants_service.core.threads.attachments import attach
from assistants_service.core.threads.lookups import thread_of, whole_message
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tool_resources import UNPREPARED, Prepared, overridden, resources_from, with_attached


def message_from(body: CreateMessage, thread_id: str, message_id: str, now: float) -> Message:
    content = [TextPartBody(type="text", text=body.content)] if isinstance(body.content, str) else body.content
    return Message(
        id=message_id,
        created_at=int(now),
        thread_id=thread_id,
        role=body.role,
        completed_at=int(now),
        content=tuple(_part(part) for part in content),
        attachments=tuple(_attachment(attachment) for attachment in body.attachments or ()),
        metadata=body.metadata or {},
    )


def _attachment(body: requests.AttachmentBody) -> Attachment:
    return Attachment(file_id=body.file_id, tools=tuple(AttachedTool(type=tool.type) for tool in body.tools or ()))


def _part(body: TextPartBody | ImageUrlPartBody | ImageFilePartBody) -> MessagePart:
    match body:
        case TextPartBody(text=text):
            return TextPart(text=Text(value=text))
        case ImageUrlPartBody(image_url=image):
            return ImageUrlPart(image_url=ImageUrl(url=image.url, detail=image.detail or "auto"))
        case ImageFilePartBody(image_file=image):
            return ImageFilePart(image_file=ImageFile(file_id=image.file_id, detail=image.detail or "auto"))


def messages_from(
    bodies: Sequence[CreateMessage] | None, thread_id: str, context: RequestContext
) -> list[e.MessageCreated]:
    return [
        e.MessageCreated(message=message_from(body, thread_id, context.ids.new(MESSAGE.prefix), context.now))
        for body in bodies or ()
    ]


@dataclass(frozen=True, slots=True)
class ThreadCommands:
    """Commands on a thread and its messages. Those on runs are in run_commands.py."""

    context: RequestContext

    def create_thread(self, body: CreateThread, thread_id: str) -> list[e.ThreadEvent]:
        thread = Thread(
            id=thread_id,
            created_at=int(self.context.now),
            metadata=body.metadata or {},
            tool_resources=with_attached(resources_from(body.tool_resources), body.messages),
        )
        return [e.ThreadCreated(thread=thread), *messages_from(body.messages, thread_id, self.context)]

    def update_thread(self, state: ThreadState, body: UpdateThread) -> list[e.ThreadEvent]:
        changed_fields, old = body.model_fields_set, thread_of(state).tool_resources
        if not changed_fields:
            return []
        return [
            e.ThreadUpdated(
                metadata=(body.metadata or {}) if "metadata" in changed_fields else None,
                tool_resources=overridden(old, body.tool_resources) if "tool_resources" in changed_fields else None,
            )
        ]

    def delete_thread(self, state: ThreadState) -> list[e.ThreadEvent]:
        return [e.ThreadDeleted()]

    def create_message(
        self, state: ThreadState, body: CreateMessage, message_id: str, prepared: Prepared = UNPREPARED
    ) -> list[e.ThreadEvent]:
        """No events if a message with this id exists or existed: the same request came before."""
        thread_id = thread_of(state).id
        if message_id in state.messages.places:
            return []
        overdue = endings.expire_overdue(state, self.context.now)
        active = state.active_run
        if active and not overdue:
            raise ApiError(f"Can't add messages to {thread_id} while a run {active.run.id} is active.")
        attached = attach(state, [body], prepared)
        message = message_from(body, thread_id, message_id, self.context.now)
        return [*overdue, *attached, e.MessageCreated(message=message)]

    def update_message(self, state: ThreadState, message_id: str, body: UpdateMetadata) -> list[e.ThreadEvent]:
        message = whole_message(state, message_id)
        if "metadata" not in body.model_fields_set:
            return []
        return [e.MessageUpdated(message_id=message.id, metadata=body.metadata or {})]

    def delete_message(self, state: ThreadState, message_id: str) -> list[e.ThreadEvent]:
        return [e.MessageDeleted(message_id=whole_message(state, message_id).id)]
