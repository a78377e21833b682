"""The functions offered to a run's model, and the tool of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from assistants_service.core.ports.models import Function, ToolCall
from assistants_service.core.tools.registry import CLIENTS, TOOLS, tool_of
from assistants_service.core.tools.run_info import RunInfo, ThreadInfo
from assistants_service.core.tools.tool import AnyTool, ToolServices
from assistants_service.core.tools.wire import StepCall
from assistants_service.core.tools.worker_parts import WorkerParts


class Named(Protocol):
    """A call of a function."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)
ServicesByKind = Mapping[str, ToolServices]  # of all tools in a worker, by type


def started(worker: WorkerParts) -> ServicesByKind:
    return {tool.kind: tool.start(worker) for tool in TOOLS}


@dataclass(frozen=True, slots=True)
class Offer:
    functions: tuple[Function, ...] = ()
    tools: Mapping[str, AnyTool] = field(default_factory=dict)  # by function name

    def tool(self, name: str) -> AnyTool:
        """The tool of a function, also if the model calls it in another case or by an alias of the tool. Unknown
        functions are left to the client."""
        return self.tools.get(name) or self._alike(name.casefold()) or CLIENTS

    def _alike(self, name: str) -> AnyTool | None:
        aliases = ((alias, tool) for tool in self.tools.values() for alias in tool.aliases)
        known = itertools.chain(self.tools.items(), aliases)
        return next((tool for each, tool in known if each.casefold() == name), None)

    def executes(self, name: str, services: ServicesByKind) -> bool:
        """Whether the worker executes calls of this function."""
        tool = self.tool(name)
        return tool.executes(name, services[tool.kind])

    def by_step(self, calls: Sequence[C]) -> list[list[C]]:
        """The calls of a reply, step by step: those of tools that are `alone` have one each, all others share one."""
        steps: list[list[C]] = []
        shared: list[C] = []
        for call in calls:
            if self.tool(call.name).alone:
                steps.append([call])
            elif shared:
                shared.append(call)
            else:
                shared = [call]
                steps.append(shared)
        return steps

    def name(self, kind: str) -> str | None:
        """The function name of the tool of this type, if it is offered."""
        return next((name for name, tool in self.tools.items() if tool.kind == kind), None)

    def model_call(self, call: StepCall) -> ToolCall:
        """A call of a step, in the form in which the model makes it in this run."""
        tool = tool_of(call)
        name, arguments = tool.called_with(call)
        return ToolCall(call.id, name or self.name(tool.kind) or tool.kind, arguments)


async def offer_of(project: str, thread: ThreadInfo, run: RunInfo, services: ServicesByKind) -> Offer:
    functions: list[Function] = []
    tools: dict[str, AnyTool] = {}
    for tool in TOOLS:
        for function in await tool.offer(project, thread, run, tools, services[tool.kind]):
            functions.append(function)
            tools[function.name] = tool
    return Offer(tuple(functions), tools)
