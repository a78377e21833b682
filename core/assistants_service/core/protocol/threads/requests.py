"""Request bodies of threads and messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)
from pydantic_core import PydanticCustomError

from assistants_service.core.protocol.bodies import Body, Detail, MetadataBody, NamedFile, documented
from assistants_service.core.protocol.tool_resources import RULES
from assistants_service.core.protocol.tools.requests import NewToolResources, ToolResourcesBody

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


ContentBody = Annotated[
    Annotated[MessageText, documented(minLength=1), Tag("string")]
    | Annotated[list[PartBody], Field(min_length=1, max_length=1000), Tag("array")],
    Discriminator(_string_or_array),
    AfterValidator(_says_something),
]


ATTACHABLE = tuple(kind for kind, rules in RULES.items() if rules.attachable)


class AttachmentTool(Body):
    type: Literal[ATTACHABLE]  # type: ignore[valid-type]


class AttachmentBody(Body):
    file_id: NamedFile
    tools: Annotated[list[AttachmentTool], Field(max_length=len(ATTACHABLE))] | None = None


class CreateMessage(Body):
    role: Literal["user", "assistant"]
    content: ContentBody
    attachments: Annotated[list[AttachmentBody], Field(max_length=500)] | None = None
    metadata: MetadataBody | None = None


class UpdateMetadata(Body):
    """The body of updates of messages and runs: only their metadata can change."""

    metadata: MetadataBody | None = None


Messages = Annotated[list[CreateMessage], Field(max_length=1000)]


class CreateThread(Body):
    messages: Messages | None = None
    tool_resources: NewToolResources | None = None
    metadata: MetadataBody | None = None


class UpdateThread(Body):
    tool_resources: ToolResourcesBody | None = None
    metadata: MetadataBody | None = None
