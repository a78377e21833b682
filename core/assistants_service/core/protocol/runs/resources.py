"""Runs and steps as they go over the wire."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from assistants_service.core.protocol.objects import LastError, Metadata, ResponseFormat, Struct, ToolResources
from assistants_service.core.protocol.threads.resources import Reason
from assistants_service.core.protocol.tools.resources import Tool
from assistants_service.core.protocol.vector_stores.resources import Attributes, TextContent


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


class FunctionCall(Struct, frozen=True, kw_only=True):
    """`arguments` is JSON text. `output` is null until submitted; required_action leaves it out, and so does whatever
    is read from a snapshot of that."""

    name: str
    arguments: str
    output: str | UnsetType | None = UNSET


class FunctionToolCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """On the wire `id` comes first; msgspec puts the tag first. No client minds."""

    id: str
    function: FunctionCall


class RankingOptions(Struct, frozen=True, kw_only=True):
    ranker: str = "default_2024_08_21"
    score_threshold: float = 0.0


class FileSearchResult(Struct, frozen=True, kw_only=True):
    """`content` is shown to who asks for it with include[]."""

    file_id: str
    file_name: str
    score: float
    attributes: Attributes
    content: tuple[TextContent, ...] | UnsetType = UNSET


class FileSearch(Struct, frozen=True, kw_only=True):
    ranking_options: RankingOptions = RankingOptions()
    results: tuple[FileSearchResult, ...] = ()


class Asked(Struct, frozen=True, kw_only=True):
    """What the log knows of a search and the wire does not show: its arguments as the model gave them (JSON text), the
    number by which its results are cited, and what the model was told beside them. None: it is not done yet."""

    arguments: str
    number: int
    told: str | None = None


NOT_SHOWN = Asked(arguments="{}", number=0, told="")


class FileSearchToolCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="file_search", omit_defaults=True):
    """`asked` never leaves the log."""

    id: str
    file_search: FileSearch
    asked: Asked = NOT_SHOWN


class MessageRef(Struct, frozen=True, kw_only=True):
    message_id: str


class MessageCreation(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_creation"):
    message_creation: MessageRef


StepToolCall = FunctionToolCall | FileSearchToolCall


class ToolCalls(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_calls"):
    tool_calls: tuple[StepToolCall, ...] = ()


StepStatus = Literal["in_progress", "completed", "failed", "cancelled", "expired"]


class Step(Struct, frozen=True, kw_only=True):
    """`expires_at` is the recordings', `expired_at` and `metadata` the specification's: all three (section 10)."""

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


def shown(step: Step, *, contents: bool = False) -> Step:
    """The step as the wire shows it; with the contents of search results only to who asked for them."""
    details = step.step_details
    if not isinstance(details, ToolCalls) or not any(isinstance(c, FileSearchToolCall) for c in details.tool_calls):
        return step
    calls = tuple(
        _shown(call, contents) if isinstance(call, FileSearchToolCall) else call for call in details.tool_calls
    )
    return replace(step, step_details=ToolCalls(tool_calls=calls))


def _shown(call: FileSearchToolCall, contents: bool) -> FileSearchToolCall:
    if contents:
        return replace(call, asked=NOT_SHOWN)
    results = tuple(replace(result, content=UNSET) for result in call.file_search.results)
    return replace(call, asked=NOT_SHOWN, file_search=replace(call.file_search, results=results))


class SubmitToolOutputs(Struct, frozen=True, kw_only=True):
    tool_calls: tuple[FunctionToolCall, ...]


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
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True

    @property
    def active(self) -> bool:
        """The thread is locked: no other run, no new message."""
        return self.status not in TERMINAL
