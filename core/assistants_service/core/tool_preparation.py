"""What tools do before a request is committed, such as the creation of a vector store for an assistant.

Such a request changes two aggregates, the tool's first: then the command commits the assistant, the thread or the
message, together with what the tool has prepared for it. A crash in between leaves what was prepared, and nothing that
uses it; the same request, repeated with its key, finds it by the id that the request has reserved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from assistants_service.core.protocol.assistants.requests import CreateAssistant
from assistants_service.core.protocol.threads.requests import CreateMessage, CreateThread
from assistants_service.core.protocol.tool_resources import RULES, ToolResources
from assistants_service.core.protocol.tools.requests import NewToolResources
from assistants_service.core.request_context import RequestContext
from assistants_service.core.tool_resources import UNPREPARED, Prepared, attached_files
from assistants_service.core.tools.resource_rules import Aggregates, Preparation

B = TypeVar("B", CreateAssistant, CreateThread)


@dataclass(frozen=True, slots=True)
class ToolPreparation:
    tools: Mapping[str, Preparation]  # by type, those that prepare anything

    @classmethod
    def over(cls, aggregates: Aggregates) -> ToolPreparation:
        each = {kind: rules.preparation(aggregates) for kind, rules in RULES.items()}
        return cls({kind: preparation for kind, preparation in each.items() if preparation})

    async def for_assistant(self, context: RequestContext, assistant_id: str, body: CreateAssistant) -> CreateAssistant:
        """The body with the entries that the tools have made of those in the request."""
        entries = {
            kind: await tool.for_assistant(context, assistant_id, _requested(body, kind))
            for kind, tool in self.tools.items()
        }
        return _replaced(body, entries)

    async def for_thread(self, context: RequestContext, thread_id: str, body: CreateThread) -> CreateThread:
        """The same for a new thread. Attachments of its messages are prepared, too."""
        files = attached_files(body.messages)
        entries = {
            kind: await tool.for_thread(context, thread_id, _requested(body, kind), files.get(kind, ()))
            for kind, tool in self.tools.items()
        }
        return _replaced(body, entries)

    async def for_messages(
        self,
        context: RequestContext,
        reserved_id: str,
        messages: Sequence[CreateMessage] | None,
        resources: Callable[[], Awaitable[ToolResources]],
    ) -> Prepared:
        """What the tools have prepared for the attachments of new messages. `resources` returns those of the thread,
        and raises what the command would raise: then nothing is prepared. It is called only if a tool has to prepare
        anything. `reserved_id` is the id of what the command creates."""
        files = {kind: ids for kind, ids in attached_files(messages).items() if kind in self.tools}
        if not files:
            return UNPREPARED
        before = await resources()
        return {
            kind: await self.tools[kind].for_messages(context, reserved_id, before.get(kind), ids)
            for kind, ids in files.items()
        }


def _requested(body: CreateAssistant | CreateThread, kind: str) -> Any:
    return getattr(body.tool_resources, kind, None)


def _replaced(body: B, entries: Mapping[str, Any]) -> B:
    """The body itself, if no entry is another one."""
    changed = {kind: entry for kind, entry in entries.items() if entry is not _requested(body, kind)}
    if not changed:
        return body
    resources = (body.tool_resources or NewToolResources()).model_copy(update=changed)
    return body.model_copy(update={"tool_resources": resources})
