"""Request bodies, with every limit of section 3 of the wire contract. api.validation turns what breaks them into 4xx.

Optional fields take null, as the SDKs send it; unknown ones are refused. Updates merge the keys that were given: they
look at `model_fields_set`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

T = TypeVar("T")


class Body(BaseModel):
    # Each schema is built for its first request: all of them together are a tenth of a process's start.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


def _few_properties(value: dict[str, T]) -> dict[str, T]:
    if len(value) > 16:
        raise PydanticCustomError("object_above_max_properties", "{count}", {"count": len(value), "max": 16})
    return value


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What is written must come back as it was: no NaN, no infinity, no integer that is too long to be read again."""
    try:
        same = msgspec.json.decode(msgspec.json.encode(value)) == value
    except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
        same = False
    if not same:
        raise PydanticCustomError("value_error", "a number is out of range")
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_storable)]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], AfterValidator(_few_properties)]
Instructions = Annotated[str, StringConstraints(max_length=256_000)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Detail = Literal["auto", "low", "high"]
FileId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _begins(prefix: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.startswith(prefix):
            raise PydanticCustomError("wrong_prefix", "{prefix}", {"prefix": prefix})
        return value

    return AfterValidator(check)


# What assistants, threads and runs name. That it is there is checked by api.references, before anything is written.
NamedFile = Annotated[str, StringConstraints(max_length=256), _begins("file")]
NamedStore = Annotated[str, StringConstraints(max_length=256), _begins("vs")]


# --- tools --------------------------------------------------------------------------------------------------------


class FunctionBody(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: Annotated[str, StringConstraints(max_length=65_536)] | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionToolBody(Body):
    type: Literal["function"]
    function: FunctionBody


class CodeInterpreterBody(Body):
    type: Literal["code_interpreter"]


class HybridSearch(Body):
    """How much meaning and words count in a passage's score: only the ratio matters."""

    embedding_weight: Annotated[float, Field(ge=0, le=1)]
    text_weight: Annotated[float, Field(ge=0, le=1)]

    @field_validator("text_weight")
    @classmethod
    def _one_counts(cls, value: float, info: ValidationInfo) -> float:
        if not value and not info.data.get("embedding_weight", 1):
            raise PydanticKnownError("greater_than", {"gt": 0})
        return value


class RankingOptions(Body):
    ranker: Literal["auto", "default_2024_08_21"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    hybrid_search: HybridSearch | None = None


class FileSearchOptions(Body):
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None


class FileSearchBody(Body):
    type: Literal["file_search"]
    file_search: FileSearchOptions | None = None


ToolBody = Annotated[FunctionToolBody | CodeInterpreterBody | FileSearchBody, Field(discriminator="type")]
Tools = Annotated[list[ToolBody], Field(max_length=128)]


class CodeInterpreterResources(Body):
    file_ids: Annotated[list[NamedFile], Field(max_length=20)] | None = None


class FileSearchResources(Body):
    vector_store_ids: Annotated[list[NamedStore], Field(max_length=1)] | None = None


class AutoChunkingBody(Body):
    type: Literal["auto"]


class StaticSizes(Body):
    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0)]

    @field_validator("chunk_overlap_tokens")
    @classmethod
    def _at_most_half(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_chunk_size_tokens", 4096) // 2
        if value > most:
            raise PydanticKnownError("less_than_equal", {"le": most})
        return value


class StaticChunkingBody(Body):
    type: Literal["static"]
    static: StaticSizes


Chunking = Annotated[AutoChunkingBody | StaticChunkingBody, Field(discriminator="type")]


class StoreHelper(Body):
    """A store to be made with the assistant or the thread that it is for."""

    file_ids: Annotated[list[NamedFile], Field(max_length=10_000)] | None = None
    chunking_strategy: Chunking | None = None
    metadata: Metadata | None = None


class NewFileSearchResources(FileSearchResources):
    vector_stores: Annotated[list[StoreHelper], Field(max_length=1)] | None = None


class ToolResourcesBody(Body):
    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None


class NewToolResources(ToolResourcesBody):
    """Of what is created: it may have a store made for it."""

    file_search: NewFileSearchResources | None = None


class JsonSchemaBody(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchemaBody


FormatObject = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _string_or_object(value: Any) -> str:
    return "string" if isinstance(value, str) else "object"


ResponseFormat = Annotated[
    Annotated[Literal["auto"], Tag("string")] | Annotated[FormatObject, Tag("object")], Discriminator(_string_or_object)
]


# --- assistants ---------------------------------------------------------------------------------------------------


class AssistantFields(Body):
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_resources: ToolResourcesBody | None = None
    metadata: Metadata | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None


class CreateAssistant(AssistantFields):
    model: ModelName
    tool_resources: NewToolResources | None = None


class UpdateAssistant(AssistantFields):
    model: ModelName | None = None


# --- messages and threads -----------------------------------------------------------------------------------------

MessageText = Annotated[str, StringConstraints(max_length=256_000)]


class TextPartBody(Body):
    type: Literal["text"]
    text: MessageText


class ImageUrlBody(Body):
    url: Annotated[str, StringConstraints(min_length=1, max_length=20_000_000, pattern=r"^(https?://|data:image/)")]
    detail: Detail | None = None


class ImageUrlPartBody(Body):
    type: Literal["image_url"]
    image_url: ImageUrlBody


class ImageFileBody(Body):
    file_id: NamedFile
    detail: Detail | None = None


class ImageFilePartBody(Body):
    type: Literal["image_file"]
    image_file: ImageFileBody


PartBody = Annotated[TextPartBody | ImageUrlPartBody | ImageFilePartBody, Field(discriminator="type")]


def _string_or_array(value: Any) -> str:
    return "string" if isinstance(value, str) else "array"


def _says_something(content: str | list[TextPartBody | ImageUrlPartBody | ImageFilePartBody]) -> Any:
    if not any(not isinstance(part, TextPartBody) or part.text for part in content):
        raise PydanticCustomError("empty_content", "nothing is said")
    return content


Content = Annotated[
    Annotated[MessageText, Tag("string")]
    | Annotated[list[PartBody], Field(min_length=1, max_length=1000), Tag("array")],
    Discriminator(_string_or_array),
    AfterValidator(_says_something),
]


class AttachmentTool(Body):
    type: Literal["code_interpreter", "file_search"]


class Attachment(Body):
    file_id: NamedFile
    tools: Annotated[list[AttachmentTool], Field(max_length=2)] | None = None


class CreateMessage(Body):
    role: Literal["user", "assistant"]
    content: Content
    attachments: Annotated[list[Attachment], Field(max_length=500)] | None = None
    metadata: Metadata | None = None


class UpdateMetadata(Body):
    """Messages and runs: only their metadata can change."""

    metadata: Metadata | None = None


Messages = Annotated[list[CreateMessage], Field(max_length=1000)]


class CreateThread(Body):
    messages: Messages | None = None
    tool_resources: NewToolResources | None = None
    metadata: Metadata | None = None


class UpdateThread(Body):
    tool_resources: ToolResourcesBody | None = None
    metadata: Metadata | None = None


# --- runs ---------------------------------------------------------------------------------------------------------


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


class BuiltInChoice(Body):
    type: Literal["file_search", "code_interpreter"]


NamedToolChoice = Annotated[FunctionChoice | BuiltInChoice, Field(discriminator="type")]

ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")] | Annotated[NamedToolChoice, Tag("object")],
    Discriminator(_string_or_object),
]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]


class RunFields(Body):
    assistant_id: str
    model: ModelName | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    metadata: Metadata | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    reasoning_effort: Effort | None = None
    stream: bool | None = None
    max_prompt_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    truncation_strategy: TruncationBody | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


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


class SubmitToolOutputs(Body):
    tool_outputs: Annotated[list[ToolOutput], Field(max_length=MOST_OUTPUTS)]
    stream: bool | None = None


# --- files and uploads --------------------------------------------------------------------------------------------


def _file_name(value: str) -> str:
    """The name alone, as some clients send a path; with nothing in it that a terminal or a header would obey."""
    name = re.split(r"[/\\]", value)[-1]
    if name in {"", ".", ".."} or any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise PydanticCustomError("value_error", "not a file name")
    return name


FileName = Annotated[str, StringConstraints(max_length=255), AfterValidator(_file_name)]
Purpose = Literal["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]


class ExpiresAfter(Body):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class CreateFile(Body):
    """The fields of the form; the file itself is streamed past them. `filename` is the file's."""

    filename: FileName
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CreateUpload(Body):
    filename: FileName
    purpose: Purpose
    bytes: Annotated[int, Field(ge=1)]
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Body):
    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


# --- vector stores ------------------------------------------------------------------------------------------------


def _kind_of_value(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


MOST = 2**53  # beyond, a JSON number is no exact integer, whichever way it is written: 10000000000000001, or 1e16
AttributeValue = Annotated[
    Annotated[Annotated[str, StringConstraints(max_length=512)], Tag("string")]
    | Annotated[bool, Tag("boolean")]
    | Annotated[Annotated[int, Field(ge=-MOST, le=MOST)], Tag("integer")]
    | Annotated[Annotated[float, Field(ge=-MOST, le=MOST)], Tag("number")],
    Discriminator(_kind_of_value),
]
Attributes = Annotated[dict[MetadataKey, AttributeValue], AfterValidator(_few_properties)]


class StoreExpiresAfter(Body):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


StoreName = Annotated[str, StringConstraints(max_length=256)]


class CreateVectorStore(Body):
    file_ids: Annotated[list[FileId], Field(max_length=500)] | None = None
    name: StoreName | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    expires_after: StoreExpiresAfter | None = None
    chunking_strategy: Chunking | None = None
    metadata: Metadata | None = None


class UpdateVectorStore(Body):
    name: StoreName | None = None
    expires_after: StoreExpiresAfter | None = None
    metadata: Metadata | None = None


class CreateVectorStoreFile(Body):
    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class UpdateVectorStoreFile(Body):
    """`attributes` replaces the old ones whole; null takes them all away."""

    attributes: Attributes | None


class CreateFileBatch(Body):
    """One of `file_ids` and `files`."""

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=2000)] | None = None
    files: Annotated[list[CreateVectorStoreFile], Field(min_length=1, max_length=2000)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None
