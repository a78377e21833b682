"""The tool `function`. The client executes functions, except those that are registered as actions with the worker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from pydantic import StringConstraints

from assistants_service.core.ports.models import Function, ToolCall
from assistants_service.core.protocol.bodies import Body, JsonObject
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.run_info import RunInfo, ThreadInfo
from assistants_service.core.tools.tool import Execution, Output, Tool, ToolServices
from assistants_service.core.tools.wire import StepCall, ToolStruct
from assistants_service.core.tools.worker_parts import Functions, WorkerParts


class FunctionBody(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: Annotated[str, StringConstraints(max_length=65_536)] | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionToolBody(Body):
    type: Literal["function"]
    function: FunctionBody


class FunctionDefinition(Struct, frozen=True, kw_only=True):
    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = False


class FunctionTool(ToolStruct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    function: FunctionDefinition


class FunctionCall(Struct, frozen=True, kw_only=True):
    """`arguments` is JSON text. `output` is null until submitted; it is left out in required_action, and when read from
    a snapshot of that."""

    name: str
    arguments: str
    output: str | UnsetType | None = UNSET


class FunctionToolCall(StepCall, frozen=True, kw_only=True, tag_field="type", tag="function"):
    function: FunctionCall


@dataclass(frozen=True, slots=True)
class FunctionServices(ToolServices):
    functions: Functions


class FunctionTools(Tool[FunctionToolBody, FunctionTool, FunctionToolCall, FunctionServices]):
    kind = "function"
    body = FunctionToolBody
    definition = FunctionTool
    call = FunctionToolCall
    streams = "arguments"

    def start(self, worker: WorkerParts) -> FunctionServices:
        return FunctionServices(worker.functions)

    def definition_of(self, body: FunctionToolBody) -> FunctionTool:
        """Normalised as recorded."""
        function = body.function
        definition = FunctionDefinition(
            name=function.name,
            description=UNSET if function.description is None else function.description,
            strict=bool(function.strict),
        )
        if function.parameters is not None:
            definition = replace(definition, parameters=function.parameters)
        return FunctionTool(function=definition)

    def defined_name(self, tool: FunctionTool) -> str | None:
        return tool.function.name

    async def offer(
        self, project: str, thread: ThreadInfo, run: RunInfo, taken: Collection[str], services: FunctionServices
    ) -> Sequence[Function]:
        own = services.functions.definitions
        tools = (tool.function for tool in run.tools if isinstance(tool, FunctionTool))
        return [_offered(function, own.get(function.name)) for function in tools]

    def executes(self, name: str, services: FunctionServices) -> bool:
        return name in services.functions.definitions

    def begin(self, call: ToolCall, run: RunInfo, number: int) -> FunctionToolCall:
        function = FunctionCall(name=call.name, arguments=call.arguments, output=None)
        return FunctionToolCall(id=call.id, function=function)

    async def execute(self, execution: Execution[FunctionToolCall], services: FunctionServices) -> Output:
        function = execution.call.function
        return Output(await services.functions.call(execution.project, function.name, function.arguments))

    def completed(self, call: FunctionToolCall, output: str, stored: msgspec.Raw | None) -> FunctionToolCall:
        return replace(call, function=replace(call.function, output=output))

    def is_pending(self, call: FunctionToolCall) -> bool:
        return call.function.output is None

    def as_required(self, call: FunctionToolCall) -> FunctionToolCall:
        return replace(call, function=replace(call.function, output=UNSET))

    def called_with(self, call: FunctionToolCall) -> tuple[str | None, str]:
        return call.function.name, call.function.arguments

    def outputs(self, calls: Sequence[FunctionToolCall]) -> Iterable[str]:
        return [call.function.output or "" for call in calls]

    def as_begun(self, call: FunctionToolCall) -> FunctionToolCall:
        return replace(call, function=replace(call.function, arguments="", output=None))


def _offered(function: FunctionDefinition, action: Function | None) -> Function:
    """The assistant's definition; for an action, its own definition fills in what the assistant leaves out."""
    parameters: Mapping[str, Any] | None = function.parameters
    if action and not function.parameters.get("properties"):
        parameters = action.parameters
    description = function.description
    described = (action.description if action else None) if description is UNSET else description
    return Function(function.name, described, parameters, function.strict)


FUNCTIONS: Final = FunctionTools()
