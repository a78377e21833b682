"""Assistants as they go over the wire."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from assistants_service.core.protocol.objects import Metadata, Struct
from assistants_service.core.protocol.response_formats import ResponseFormat
from assistants_service.core.protocol.tool_resources import ToolResources
from assistants_service.core.protocol.tools.resources import Tool


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
    """An assistant as stored. `chosen` is not on the wire: which of temperature and top_p are 1 because a client set
    them, and not because 1 is what the wire shows for unset values."""

    chosen: tuple[str, ...] | UnsetType = UNSET
