"""Attachments of new messages: how they change their thread, and what tools do for them first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistants_service.core.protocol.threads.requests import CreateMessage, CreateThread
from assistants_service.core.protocol.tool_resources import ToolResources
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads import events as e
from assistants_service.core.threads.lookups import thread_of
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tool_preparation import ToolPreparation
from assistants_service.core.tool_resources import Prepared, with_attached


def attach(state: ThreadState, messages: Sequence[CreateMessage] | None, prepared: Prepared) -> list[e.ThreadUpdated]:
    """Returns the change that attachments make to the thread's tool resources, if any."""
    before = thread_of(state).tool_resources
    after = with_attached(before, messages, prepared)
    return [e.ThreadUpdated(tool_resources=after)] if after != before else []


@dataclass(frozen=True, slots=True)
class ThreadPreparation:
    """What tools do before a thread or its new messages are committed."""

    threads: ThreadRepository
    tools: ToolPreparation

    async def for_new_thread(self, context: RequestContext, thread_id: str, body: CreateThread) -> CreateThread:
        """The body to create the thread with."""
        return await self.tools.for_thread(context, thread_id, body)

    async def for_messages(
        self,
        context: RequestContext,
        thread_id: str,
        reserved_id: str,
        messages: Sequence[CreateMessage] | None,
        command: Callable[[ThreadState], Sequence[e.ThreadEvent]],
    ) -> Prepared:
        """Prepare the attachments of new messages, before the command commits them. Raises what the command raises,
        before anything is prepared. `reserved_id` is the id of what the command creates."""

        async def resources() -> ToolResources:
            state = await self.threads.read(context.project, thread_id)
            command(state)
            return thread_of(state).tool_resources

        return await self.tools.for_messages(context, reserved_id, messages, resources)
