"""The tools of assistants and runs, from bodies to resources (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.tools.requests import ToolBody
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.tools.functions import FunctionTool
from assistants_service.core.tools.registry import by_type, tool_of


def tools_from(tools: Sequence[ToolBody] | None) -> tuple[Tool, ...]:
    known = by_type()
    return tuple(known[tool.type].resource_of(tool) for tool in tools or ())


def check_choice(choice: str | dict[str, Any], tools: Sequence[Tool]) -> None:
    """A tool that a run is to call must be one of its own. The words are the original's."""
    if isinstance(choice, str):
        return
    if choice["type"] == "function":
        wanted = f"function named '{choice['function']['name']}'"
        there = any(
            isinstance(tool, FunctionTool) and tool.function.name == choice["function"]["name"] for tool in tools
        )
    else:
        wanted = f"{choice['type']} tool"
        there = any(tool_of(tool).kind == choice["type"] for tool in tools)
    if not there:
        message = f"Invalid value for 'tool_choice': no {wanted} was specified in the 'tools' parameter."
        raise ApiError(message, param="tool_choice", code="invalid_value")


def plain(body: Any) -> Any:
    """The JSON that the body came from."""
    return body.model_dump(exclude_none=True, by_alias=True) if isinstance(body, Body) else body
