"""Converts the tools of assistants and runs from request bodies to resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.response_formats import ResponseFormat
from assistants_service.core.protocol.tool_choices import ChosenTool, ToolChoice
from assistants_service.core.protocol.tools.requests import ToolBody
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.tools.registry import by_type, tool_of


def tools_from(tools: Sequence[ToolBody] | None) -> tuple[Tool, ...]:
    known = by_type()
    return tuple(known[tool.type].definition_of(tool) for tool in tools or ())


def check_choice(choice: ToolChoice, tools: Sequence[Tool]) -> None:
    """The tool that a run is forced to call must be one of its own. The text is the original's."""
    if isinstance(choice, str):
        return
    if function := choice.function:
        wanted = f"function named '{function.name}'"
        there = any(tool_of(tool).defined_name(tool) == function.name for tool in tools)
    else:
        wanted = f"{choice.type} tool"
        there = any(tool_of(tool).kind == choice.type for tool in tools)
    if not there:
        message = f"Invalid value for 'tool_choice': no {wanted} was specified in the 'tools' parameter."
        raise ApiError(message, param="tool_choice", code="invalid_value")


def choice_from(body: Body | str | None) -> ToolChoice:
    return msgspec.convert(body.as_given(), ChosenTool) if isinstance(body, Body) else body or "auto"


def format_from(body: Body | str | None) -> ResponseFormat:
    """The response format of an assistant, or of a run that sets another one."""
    requested = body.as_given() if isinstance(body, Body) else body or "auto"
    return cast("ResponseFormat", msgspec.convert(requested, ResponseFormat))
