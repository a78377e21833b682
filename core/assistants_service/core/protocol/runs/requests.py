"""Request bodies of runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from assistants_service.core.protocol.bodies import Body, Effort, Instructions, MetadataBody, ModelName, documented
from assistants_service.core.protocol.response_formats import ResponseFormatBody, string_or_object
from assistants_service.core.protocol.threads.requests import CreateThread, Messages
from assistants_service.core.protocol.tools.requests import ToolResourcesBody, Tools
from assistants_service.core.resources import ASSISTANT
from assistants_service.core.tools.registry import CLIENTS, TOOLS


class AutoTruncation(Body):
    type: Literal["auto"]
    last_messages: Annotated[int, Field(ge=1)] | None = None


class LastMessages(Body):
    type: Literal["last_messages"]
    last_messages: Annotated[int, Field(ge=1)]


TruncationBody = Annotated[AutoTruncation | LastMessages, Field(discriminator="type")]


class NamedFunction(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class FunctionChoice(Body):
    type: Literal["function"]
    function: NamedFunction


BUILT_IN = tuple(tool.kind for tool in reversed(TOOLS) if tool is not CLIENTS)


class BuiltInChoice(Body):
    type: Literal[BUILT_IN]  # type: ignore[valid-type]


NamedToolChoice = Annotated[FunctionChoice | BuiltInChoice, Field(discriminator="type")]


ToolChoiceBody = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")] | Annotated[NamedToolChoice, Tag("object")],
    Discriminator(string_or_object),
]


MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]


class RunFields(Body):
    assistant_id: Annotated[str, documented(pattern=f"^{ASSISTANT.prefix}")]
    model: ModelName | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    metadata: MetadataBody | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    reasoning_effort: Effort | None = None
    stream: bool | None = None
    max_prompt_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    truncation_strategy: TruncationBody | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatBody | None = None


class CreateRun(RunFields):
    additional_instructions: Instructions | None = None
    additional_messages: Messages | None = None


class CreateThreadAndRun(RunFields):
    thread: CreateThread | None = None
    tool_resources: ToolResourcesBody | None = None


class ToolOutput(Body):
    tool_call_id: str | None = None
    output: Annotated[str, StringConstraints(max_length=1_048_576)] | None = None


MOST_OUTPUTS = 512


class SubmitToolOutputsBody(Body):
    tool_outputs: Annotated[list[ToolOutput], Field(max_length=MOST_OUTPUTS)]
    stream: bool | None = None
