"""Runs and steps as they go over the wire."""

from __future__ import annotations

import operator
from typing import Literal

from msgspec.structs import replace

from assistants_service.core.protocol.objects import LastError, Metadata, Struct
from assistants_service.core.protocol.response_formats import ResponseFormat
from assistants_service.core.protocol.threads.resources import Reason
from assistants_service.core.protocol.tool_choices import ToolChoice
from assistants_service.core.protocol.tool_resources import ToolResources
from assistants_service.core.protocol.tools.resources import ClientToolCall, StepToolCall, Tool
from assistants_service.core.tools.registry import tool_of


class CachedTokens(Struct, frozen=True, kw_only=True):
    cached_tokens: int = 0


class ReasoningTokens(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class Usage(Struct, frozen=True, kw_only=True):
    """`prompt_token_details` in the singular, as on the wire."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_token_details: CachedTokens = CachedTokens()
    completion_tokens_details: ReasoningTokens = ReasoningTokens()

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            prompt_token_details=CachedTokens(
                cached_tokens=self.prompt_token_details.cached_tokens + other.prompt_token_details.cached_tokens
            ),
            completion_tokens_details=ReasoningTokens(
                reasoning_tokens=self.completion_tokens_details.reasoning_tokens
                + other.completion_tokens_details.reasoning_tokens
            ),
        )


class MessageRef(Struct, frozen=True, kw_only=True):
    message_id: str


class MessageCreation(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_creation"):
    message_creation: MessageRef


class ToolCalls(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_calls"):
    tool_calls: tuple[StepToolCall, ...] = ()


StepStatus = Literal["in_progress", "completed", "failed", "cancelled", "expired"]


class Step(Struct, frozen=True, kw_only=True):
    """`expires_at` comes from the recordings, `expired_at` and `metadata` from the specification."""

    id: str
    object: Literal["thread.run.step"] = "thread.run.step"
    created_at: int
    run_id: str
    assistant_id: str
    thread_id: str
    type: Literal["message_creation", "tool_calls"]
    status: StepStatus = "in_progress"
    cancelled_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    expired_at: int | None = None
    failed_at: int | None = None
    last_error: LastError | None = None
    step_details: MessageCreation | ToolCalls
    usage: Usage | None = None
    metadata: Metadata = {}

    @property
    def calls(self) -> tuple[StepToolCall, ...]:
        return self.step_details.tool_calls if isinstance(self.step_details, ToolCalls) else ()


def step_on_wire(step: Step, *, with_results: bool = False) -> Step:
    """The step as on the wire; contents of results only for callers that ask for them by include[]."""
    calls = tuple(tool_of(call).on_wire(call, included=with_results) for call in step.calls)
    if all(map(operator.is_, calls, step.calls)):
        return step
    return replace(step, step_details=ToolCalls(tool_calls=calls))


class SubmitToolOutputs(Struct, frozen=True, kw_only=True):
    tool_calls: tuple[ClientToolCall, ...]


class RequiredAction(Struct, frozen=True, kw_only=True):
    type: Literal["submit_tool_outputs"] = "submit_tool_outputs"
    submit_tool_outputs: SubmitToolOutputs


class TruncationStrategy(Struct, frozen=True, kw_only=True):
    type: Literal["auto", "last_messages"] = "auto"
    last_messages: int | None = None


RunStatus = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]


TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})


class Run(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["thread.run"] = "thread.run"
    created_at: int
    assistant_id: str
    thread_id: str
    status: RunStatus = "queued"
    started_at: int | None = None
    expires_at: int | None = None
    cancelled_at: int | None = None
    failed_at: int | None = None
    completed_at: int | None = None
    required_action: RequiredAction | None = None
    last_error: LastError | None = None
    model: str
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_resources: ToolResources = {}
    metadata: Metadata = {}
    temperature: float | None = 1.0
    top_p: float | None = 1.0
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    max_prompt_tokens: int | None = None
    truncation_strategy: TruncationStrategy = TruncationStrategy()
    incomplete_details: Reason | None = None
    usage: Usage | None = None
    response_format: ResponseFormat = "auto"
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True

    @property
    def active(self) -> bool:
        """An active run locks its thread: no other run, no new message."""
        return self.status not in TERMINAL
