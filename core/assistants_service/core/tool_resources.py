"""`tool_resources`: what the tools of an assistant, a thread or a run use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.protocol.tool_resources import RULES, ToolResources
from assistants_service.core.protocol.tools.requests import ToolResourcesBody
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.tools.registry import tool_of

Prepared = Mapping[str, object]  # what the preparations of tools returned, by the tool's type
UNPREPARED: Final[Prepared] = {}


def resources_from(body: ToolResourcesBody | None) -> ToolResources:
    return overridden({}, body)


def overridden(old: ToolResources, body: ToolResourcesBody | None) -> ToolResources:
    """The result of an update: given entries replace those of their tool, and null removes all."""
    if body is None:
        return {}
    given = {kind: each for kind, each in _entries(body).items() if kind not in old or not RULES[kind].keeps(each)}
    return {**old, **{kind: RULES[kind].entry_of(each) for kind, each in given.items()}}


def together(first: ToolResources, second: ToolResources) -> ToolResources:
    """The resources of a run: those of its assistant and of its thread."""
    kinds = {**first, **second}
    return {kind: RULES[kind].merged([each[kind] for each in (first, second) if kind in each]) for kind in kinds}


def with_tools(resources: ToolResources, tools: Sequence[Tool]) -> ToolResources:
    """The resources of an assistant with these tools."""
    kinds = {tool_of(tool).kind for tool in tools}
    return {**{kind: rules.stored() for kind, rules in RULES.items() if rules.always and kind in kinds}, **resources}


def with_attached(
    resources: ToolResources, messages: Sequence[CreateMessage] | None, prepared: Prepared = UNPREPARED
) -> ToolResources:
    """The resources of a thread after the attachments of new messages: each tool adds the files attached for it."""
    files = attached_files(messages)
    for kind, rules in RULES.items():
        if kind in files and (entry := rules.attached(resources.get(kind), files[kind], prepared.get(kind))):
            resources = {**resources, kind: entry}
    return resources


def attached_files(messages: Sequence[CreateMessage] | None) -> dict[str, list[str]]:
    """The ids of the files that new messages attach, by the type of the tool that they are for."""
    found: dict[str, list[str]] = {}
    for message in messages or ():
        for attachment in message.attachments or ():
            for kind in dict.fromkeys(tool.type for tool in attachment.tools or ()):
                found.setdefault(kind, []).append(attachment.file_id)
    return found


def _entries(body: ToolResourcesBody | None) -> dict[str, Any]:
    """The entries of the request, by tool."""
    return {kind: given for kind, given in body or () if given is not None}
