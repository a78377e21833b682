"""The service of threads and messages."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.threads.requests import (
    CreateMessage,
    CreateThread,
    UpdateMetadata,
    UpdateThread,
)
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.references import References
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads.attachments import ThreadPreparation
from assistants_service.core.threads.commands import ThreadCommands
from assistants_service.core.threads.lookups import message_of, object_after, thread_of
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.work_items import PurgeThread


@dataclass(frozen=True, slots=True)
class ThreadService:
    """The threads of all projects, and their messages. Changes return the object as this request left it, regardless of
    later changes by others."""

    repository: ThreadRepository
    preparation: ThreadPreparation
    references: References

    async def create(self, context: RequestContext, thread_id: str, body: CreateThread) -> Thread:
        """If a thread with this id exists, the same request came before: return it as it is."""
        body = await self.preparation.for_new_thread(context, thread_id, body)
        events = ThreadCommands(context).create_thread(body, thread_id)
        with contextlib.suppress(Conflict):  # the thread exists
            await self.repository.start(context.project, thread_id, events)
        return thread_of(await self.repository.cached(context.project, thread_id), thread_id)

    async def update(self, context: RequestContext, thread_id: str, body: UpdateThread) -> Thread:
        """Raises the 404 for an unknown thread, and for missing objects that the body refers to."""
        await self.references.check(context.project, body)
        update = partial(ThreadCommands(context).update_thread, body=body)
        changes = await self.repository.commit(context.project, thread_id, update, by_client=True)
        updated = object_after(changes, "thread.updated", Thread)
        return updated or thread_of(await self.repository.cached(context.project, thread_id), thread_id)

    async def delete(self, context: RequestContext, thread_id: str) -> None:
        """The thread is gone at once; the worker removes the rest."""
        item = PurgeThread(project=context.project, thread_id=thread_id, sent_at=context.now)
        delete = ThreadCommands(context).delete_thread
        await self.repository.commit(context.project, thread_id, delete, lambda _: item, by_client=True)

    # -- messages --------------------------------------------------------------------------------------------------

    async def create_message(
        self, context: RequestContext, thread_id: str, message_id: str, body: CreateMessage
    ) -> Message:
        """If a message with this id exists, the same request came before: return it as it is."""
        project = context.project
        create = partial(ThreadCommands(context).create_message, body=body, message_id=message_id)
        prepared = await self.preparation.for_messages(context, thread_id, message_id, [body], create)
        changes = await self.repository.commit(project, thread_id, partial(create, prepared=prepared), by_client=True)
        created = object_after(changes, "thread.message.created", Message)
        return created or message_of(await self.repository.cached(project, thread_id), message_id)

    async def update_message(
        self, context: RequestContext, thread_id: str, message_id: str, body: UpdateMetadata
    ) -> Message:
        update = partial(ThreadCommands(context).update_message, message_id=message_id, body=body)
        changes = await self.repository.commit(context.project, thread_id, update, by_client=True)
        updated = object_after(changes, "thread.message.updated", Message)
        return updated or message_of(await self.repository.cached(context.project, thread_id), message_id)

    async def delete_message(self, context: RequestContext, thread_id: str, message_id: str) -> None:
        delete = partial(ThreadCommands(context).delete_message, message_id=message_id)
        await self.repository.commit(context.project, thread_id, delete, by_client=True)
