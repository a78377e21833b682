"""The tools of assistants and runs, from bodies to resources (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.tools.requests import CodeInterpreterBody, FileSearchBody, FunctionToolBody
from assistants_service.core.protocol.tools.resources import (
    CodeInterpreterTool,
    FileSearchTool,
    FunctionDefinition,
    FunctionTool,
    Tool,
)

RANKING: Final = {"ranker": "default_2024_08_21", "score_threshold": 0.0, "hybrid_search": None}


def tools_from(tools: Sequence[Any] | None) -> tuple[Tool, ...]:
    return tuple(_tool(tool) for tool in tools or ())


def _tool(body: FunctionToolBody | CodeInterpreterBody | FileSearchBody) -> Tool:
    """Normalised as recorded: section 3.1."""
    match body:
        case FunctionToolBody(function=function):
            definition = FunctionDefinition(
                name=function.name,
                description=UNSET if function.description is None else function.description,
                strict=bool(function.strict),
            )
            if function.parameters is not None:
                definition = replace(definition, parameters=function.parameters)
            return FunctionTool(function=definition)
        case CodeInterpreterBody():
            return CodeInterpreterTool()
        case FileSearchBody(file_search=options):
            given = plain(options) or {}
            ranking = {**RANKING, **(given.pop("ranking_options", None) or {})}
            return FileSearchTool(file_search={**given, "ranking_options": ranking})


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
        there = any(tool.__struct_config__.tag == choice["type"] for tool in tools)
    if not there:
        message = f"Invalid value for 'tool_choice': no {wanted} was specified in the 'tools' parameter."
        raise ApiError(message, param="tool_choice", code="invalid_value")


def plain(body: Any) -> Any:
    """The JSON that the body came from."""
    return body.model_dump(exclude_none=True, by_alias=True) if isinstance(body, Body) else body
