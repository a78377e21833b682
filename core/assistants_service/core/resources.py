"""The protocol's resources as they go over the wire: field order as recorded, every key always there.

Section 3 of the wire contract. Frozen; `msgspec.structs.replace` makes the next state, `encode` the wire's bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

Metadata = dict[str, str]
ToolResources = dict[str, Any]
ResponseFormat = Any  # "auto" or an object that is passed on to the model as it came

encode = msgspec.json.Encoder().encode


class Struct(msgspec.Struct, frozen=True):
    """What all wire objects share: immutable, unknown keys of a later version ignored."""


# --- tools --------------------------------------------------------------------------------------------------------


class FunctionDefinition(Struct, frozen=True, kw_only=True):
    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = False


class FunctionTool(Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    function: FunctionDefinition


class CodeInterpreterTool(Struct, frozen=True, kw_only=True, tag_field="type", tag="code_interpreter"):
    pass


class FileSearchTool(Struct, frozen=True, kw_only=True, tag_field="type", tag="file_search"):
    file_search: dict[str, Any] | UnsetType = UNSET


Tool = FunctionTool | CodeInterpreterTool | FileSearchTool


# --- assistants and threads ---------------------------------------------------------------------------------------


class Assistant(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["assistant"] = "assistant"
    created_at: int
    name: str | None = None
    description: str | None = None
    model: str
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    top_p: float | None = 1.0
    temperature: float | None = 1.0
    reasoning_effort: str | None = None
    tool_resources: ToolResources = {}
    metadata: Metadata = {}
    response_format: ResponseFormat = "auto"


class StoredAssistant(Assistant, frozen=True, kw_only=True):
    """As it is kept. `chosen` is not on the wire: which of temperature and top_p are 1 because a client said so, and
    not because that is what the wire shows for nothing."""

    chosen: tuple[str, ...] | UnsetType = UNSET


class Thread(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["thread"] = "thread"
    created_at: int
    metadata: Metadata = {}
    tool_resources: ToolResources = {}


# --- messages -----------------------------------------------------------------------------------------------------


class Text(Struct, frozen=True, kw_only=True):
    value: str
    annotations: tuple[dict[str, Any], ...] = ()


class TextPart(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: Text


class RefusalPart(Struct, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    refusal: str


class ImageUrl(Struct, frozen=True, kw_only=True):
    url: str
    detail: str = "auto"


class ImageUrlPart(Struct, frozen=True, kw_only=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class ImageFile(Struct, frozen=True, kw_only=True):
    file_id: str
    detail: str = "auto"


class ImageFilePart(Struct, frozen=True, kw_only=True, tag_field="type", tag="image_file"):
    image_file: ImageFile


Part = TextPart | RefusalPart | ImageUrlPart | ImageFilePart


class Reason(Struct, frozen=True, kw_only=True):
    reason: str


class Message(Struct, frozen=True, kw_only=True):
    """`status` and its kin are always there: the union of the recordings and the specification (section 10)."""

    id: str
    object: Literal["thread.message"] = "thread.message"
    created_at: int
    assistant_id: str | None = None
    thread_id: str
    run_id: str | None = None
    status: Literal["in_progress", "incomplete", "completed"] = "completed"
    incomplete_details: Reason | None = None
    incomplete_at: int | None = None
    completed_at: int | None = None
    role: Literal["user", "assistant"]
    content: tuple[Part, ...] = ()
    attachments: tuple[dict[str, Any], ...] = ()
    metadata: Metadata = {}


# --- runs and steps -----------------------------------------------------------------------------------------------


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


class LastError(Struct, frozen=True, kw_only=True):
    code: str
    message: str

    @property
    def of_step(self) -> LastError:
        """As a step has it, which knows two codes only (section 3.5)."""
        return self if self.code == "rate_limit_exceeded" else LastError(code="server_error", message=self.message)


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


# --- files --------------------------------------------------------------------------------------------------------


class File(Struct, frozen=True, kw_only=True):
    object: Literal["file"] = "file"
    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None = None
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


class Upload(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    expires_at: int
    file: File | None = None


class UploadPart(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


# --- vector stores ------------------------------------------------------------------------------------------------


class FileCounts(Struct, frozen=True, kw_only=True):
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


class ExpiresAfter(Struct, frozen=True, kw_only=True):
    anchor: Literal["last_active_at"] = "last_active_at"
    days: int


class VectorStore(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str | None = None
    description: str | None = None
    usage_bytes: int = 0
    file_counts: FileCounts = FileCounts()
    status: Literal["in_progress", "completed", "expired"] = "completed"
    expires_after: ExpiresAfter | None = None
    expires_at: int | None = None
    last_active_at: int
    metadata: Metadata = {}


class StaticChunking(Struct, frozen=True, kw_only=True):
    max_chunk_size_tokens: int = 800
    chunk_overlap_tokens: int = 400


class ChunkingStrategy(Struct, frozen=True, kw_only=True):
    """`auto` is told as what it stands for (section 3.8)."""

    type: Literal["static"] = "static"
    static: StaticChunking = StaticChunking()


Attributes = dict[str, str | bool | int | float]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class VectorStoreFile(Struct, frozen=True, kw_only=True):
    """Its id is the file's."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: int = 0
    created_at: int
    vector_store_id: str
    status: FileStatus = "in_progress"
    last_error: LastError | None = None
    chunking_strategy: ChunkingStrategy = ChunkingStrategy()
    attributes: Attributes = {}


class VectorStoreFileBatch(Struct, frozen=True, kw_only=True):
    """`object` as on the wire, which is not the specification's `vector_store.files_batch` (section 10)."""

    id: str
    object: Literal["vector_store.file_batch"] = "vector_store.file_batch"
    created_at: int
    vector_store_id: str
    status: FileStatus = "in_progress"
    file_counts: FileCounts = FileCounts()


class TextContent(Struct, frozen=True, kw_only=True):
    type: Literal["text"] = "text"
    text: str


class SearchResult(Struct, frozen=True, kw_only=True):
    file_id: str
    filename: str
    score: float
    attributes: Attributes
    content: tuple[TextContent, ...]


class SearchResults(Struct, frozen=True, kw_only=True):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: tuple[str, ...]
    data: tuple[SearchResult, ...]
    has_more: bool = False
    next_page: None = None


class FileContent(Struct, frozen=True, kw_only=True):
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: tuple[TextContent, ...]
    has_more: bool = False
    next_page: None = None


class Deleted(Struct, frozen=True, kw_only=True):
    id: str
    object: str
    deleted: bool = True


# --- lists --------------------------------------------------------------------------------------------------------


class Page(Struct, frozen=True, kw_only=True):
    """The list envelope; an empty page has null ids (section 7)."""

    object: Literal["list"] = "list"
    data: tuple[Any, ...] = ()
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
