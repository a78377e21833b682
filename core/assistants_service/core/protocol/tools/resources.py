"""Tools as they go over the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from assistants_service.core.protocol.objects import Struct


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
