"""All tools, in the order in which they are offered to models and named in errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Union

from assistants_service.core.tools.code_interpreter.tool import CODE_INTERPRETER
from assistants_service.core.tools.file_search.tool import FILE_SEARCH
from assistants_service.core.tools.functions import FUNCTIONS
from assistants_service.core.tools.tool import AnyTool
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct

CLIENTS: Final[AnyTool] = FUNCTIONS  # the client executes its calls, unless the worker does
TOOLS: list[AnyTool] = [FUNCTIONS, CODE_INTERPRETER, FILE_SEARCH]


def by_type() -> Mapping[str, AnyTool]:
    return {tool.kind: tool for tool in TOOLS}


def tool_of(tool_or_call: StepCall | ToolStruct) -> AnyTool:
    """The tool of a call, or of an entry in `tools`."""
    kind = type(tool_or_call)
    return next(tool for tool in TOOLS if kind in (tool.call, tool.definition))


def annotator_of(annotation: Annotation) -> AnyTool:
    """The tool whose results it cites."""
    return next(tool for tool in TOOLS if tool.annotation is type(annotation))


def union_of(kinds: list[Any]) -> Any:
    """A union of types that are known only at start-up; mypy knows their base."""
    return Union[tuple(kinds)]  # noqa: UP007
