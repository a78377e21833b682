"""Threads and messages as they go over the wire."""

from __future__ import annotations

from typing import Literal

from assistants_service.core.protocol.objects import Metadata, Struct
from assistants_service.core.protocol.tool_resources import ToolResources
from assistants_service.core.protocol.tools.resources import TextAnnotation


class Thread(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["thread"] = "thread"
    created_at: int
    metadata: Metadata = {}
    tool_resources: ToolResources = {}


class Text(Struct, frozen=True, kw_only=True):
    value: str
    annotations: tuple[TextAnnotation, ...] = ()


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


MessagePart = TextPart | RefusalPart | ImageUrlPart | ImageFilePart


class Reason(Struct, frozen=True, kw_only=True):
    reason: str


class AttachedTool(Struct, frozen=True, kw_only=True):
    type: str


class Attachment(Struct, frozen=True, kw_only=True):
    """A file of a message, and the tools that may use it."""

    file_id: str
    tools: tuple[AttachedTool, ...] = ()


class Message(Struct, frozen=True, kw_only=True):
    """`status` and related fields are always present: the union of recordings and specification."""

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
    content: tuple[MessagePart, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    metadata: Metadata = {}
