"""`tool_resources`: the files and the stores that the tools of an assistant, a thread and a run have (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from assistants_service.core.protocol.objects import ToolResources
from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.protocol.tools.requests import ToolResourcesBody
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.tools.code_interpreter import CodeInterpreterTool

MAX_CODE_FILES: Final = 20  # of a thread, by the published schema; the newest ones stay


def resources_from(body: ToolResourcesBody | None) -> ToolResources:
    found: ToolResources = {}
    if body and body.code_interpreter:
        found["code_interpreter"] = {"file_ids": body.code_interpreter.file_ids or []}
    if body and body.file_search:
        found["file_search"] = {"vector_store_ids": body.file_search.vector_store_ids or []}
    return found


def overridden(old: ToolResources, body: ToolResourcesBody | None) -> ToolResources:
    """What an update leaves: ids that it gives override those of their tool, and null takes all of them away.

    A tool whose ids are not given keeps them. Those of code_interpreter are given by an empty object, too: in the
    published schema `file_ids` has the default [], and `vector_store_ids` has none.
    """
    if body is None:
        return {}
    given = resources_from(body)
    if body.file_search and body.file_search.vector_store_ids is None and "file_search" in old:
        del given["file_search"]
    return {**old, **given}


def together(first: ToolResources, second: ToolResources) -> ToolResources:
    """What a run has of its assistant and of its thread: the files and the stores of both."""
    found: ToolResources = {}
    for tool, resources in (*first.items(), *second.items()):
        known = found.setdefault(tool, {})
        for kind, ids in resources.items():
            known[kind] = list(dict.fromkeys([*known.get(kind, ()), *ids]))
    return found


def with_tools(resources: ToolResources, tools: Sequence[Tool]) -> ToolResources:
    if any(isinstance(tool, CodeInterpreterTool) for tool in tools):
        return {"code_interpreter": {"file_ids": []}, **resources}
    return resources


def with_attached(resources: ToolResources, messages: Sequence[CreateMessage] | None) -> ToolResources:
    """With the files that new messages attach for `code_interpreter`."""
    files = _for_code(messages)
    if not files:
        return resources
    before = resources.get("code_interpreter", {}).get("file_ids", [])
    return {**resources, "code_interpreter": {"file_ids": list(dict.fromkeys([*before, *files]))[-MAX_CODE_FILES:]}}


def _for_code(messages: Sequence[CreateMessage] | None) -> list[str]:
    return [
        attachment.file_id
        for message in messages or ()
        for attachment in message.attachments or ()
        if any(tool.type == "code_interpreter" for tool in attachment.tools or ())
    ]
