"""`tool_resources`: the files and stores for the tools of an assistant, a thread or a run (section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.protocol.tool_resources import (
    CodeInterpreterFiles,
    FileSearchStores,
    ToolResources,
    files_in,
    stores_in,
)
from assistants_service.core.protocol.tools.requests import ToolResourcesBody
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterTool

MAX_CODE_FILES: Final = 20  # of a thread, by the published schema; the newest are kept


def resources_from(body: ToolResourcesBody | None) -> ToolResources:
    found: ToolResources = {}
    if body and body.code_interpreter:
        found["code_interpreter"] = CodeInterpreterFiles(file_ids=tuple(body.code_interpreter.file_ids or ()))
    if body and body.file_search:
        found["file_search"] = FileSearchStores(vector_store_ids=tuple(body.file_search.vector_store_ids or ()))
    return found


def overridden(old: ToolResources, body: ToolResourcesBody | None) -> ToolResources:
    """The result of an update: given ids replace those of their tool, and null removes all.

    A tool whose ids are not given keeps them. For code_interpreter an empty object counts as given: in the published
    schema `file_ids` has the default [], and `vector_store_ids` has none.
    """
    if body is None:
        return {}
    given = resources_from(body)
    if body.file_search and body.file_search.vector_store_ids is None and "file_search" in old:
        del given["file_search"]
    return {**old, **given}


def together(first: ToolResources, second: ToolResources) -> ToolResources:
    """The resources of a run: the files and stores of its assistant and of its thread."""
    found: ToolResources = {**first, **second}
    if "code_interpreter" in found:
        found["code_interpreter"] = CodeInterpreterFiles(file_ids=_distinct((*files_in(first), *files_in(second))))
    if "file_search" in found:
        found["file_search"] = FileSearchStores(vector_store_ids=_distinct((*stores_in(first), *stores_in(second))))
    return found


def _distinct(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))


def with_tools(resources: ToolResources, tools: Sequence[Tool]) -> ToolResources:
    if any(isinstance(tool, CodeInterpreterTool) for tool in tools):
        return {"code_interpreter": CodeInterpreterFiles(), **resources}
    return resources


def with_attached(resources: ToolResources, messages: Sequence[CreateMessage] | None) -> ToolResources:
    """Adds the files that new messages attach for `code_interpreter`."""
    files = _for_code(messages)
    if not files:
        return resources
    newest = _distinct((*files_in(resources), *files))[-MAX_CODE_FILES:]
    return {**resources, "code_interpreter": CodeInterpreterFiles(file_ids=newest)}


def _for_code(messages: Sequence[CreateMessage] | None) -> list[str]:
    return [
        attachment.file_id
        for message in messages or ()
        for attachment in message.attachments or ()
        if any(tool.type == "code_interpreter" for tool in attachment.tools or ())
    ]
