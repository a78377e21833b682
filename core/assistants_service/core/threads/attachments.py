"""Attachments of new messages: how they change their thread, and how they are added to its vector store first.

A message with attachments changes two aggregates, the store first: the files are added to it, then the command commits
the message, and the store's id if the thread had none. A crash in between leaves files in a store, and no message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.protocol.tool_resources import FileSearchStores, stores_in
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads import events as e
from assistants_service.core.threads.lookups import thread_of
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tool_resources import with_attached
from assistants_service.core.tools.file_search.implicit_stores import ImplicitStores, attached_files


@dataclass(frozen=True, slots=True)
class IndexedAttachments:
    """The attachments of new messages are in the vector store `after`; the thread had `before` ("": none)."""

    before: str
    after: str


def store_of_thread(state: ThreadState) -> str:
    """The id of the thread's vector store; "" if it has none."""
    return next(iter(stores_in(state.thread.tool_resources) if state.thread else ()), "")


def attach(
    state: ThreadState, messages: Sequence[CreateMessage] | None, indexed: IndexedAttachments | None
) -> list[e.ThreadUpdated]:
    """How attachments change the thread's tool resources (section 3.3)."""
    before = thread_of(state).tool_resources
    after = with_attached(before, messages)
    if indexed:
        if store_of_thread(state) != indexed.before:  # a 409, which the SDKs retry
            raise ApiError("The vector store of the thread has changed. Please retry your request.", status=409)
        if indexed.after != indexed.before:
            after = {**after, "file_search": FileSearchStores(vector_store_ids=(indexed.after,))}
    return [e.ThreadUpdated(tool_resources=after)] if after != before else []


@dataclass(frozen=True, slots=True)
class AttachmentIndexing:
    threads: ThreadRepository
    implicit_stores: ImplicitStores

    async def index(
        self,
        context: RequestContext,
        thread_id: str,
        reserved_id: str,
        messages: Sequence[CreateMessage] | None,
        command: Callable[[ThreadState], Sequence[e.Event]],
    ) -> IndexedAttachments | None:
        """Add the attachments of new messages to their thread's store, before the command commits them. None if there
        are none. Raises what the command raises, before anything is indexed. `reserved_id` is the id of what the
        command creates."""
        files = attached_files(messages)
        if not files:
            return None
        state = await self.threads.read(context.project, thread_id)
        command(state)
        before = store_of_thread(state)
        return IndexedAttachments(before, await self.implicit_stores.for_messages(context, reserved_id, before, files))
