"""Request bodies of assistants."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
    StringConstraints,
)

from assistants_service.core.protocol.bodies import Body, Effort, Instructions, MetadataBody, ModelName
from assistants_service.core.protocol.response_formats import ResponseFormatBody
from assistants_service.core.protocol.tools.requests import NewToolResources, ToolResourcesBody, Tools


class AssistantFields(Body):
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_resources: ToolResourcesBody | None = None
    metadata: MetadataBody | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormatBody | None = None


class CreateAssistant(AssistantFields):
    model: ModelName
    tool_resources: NewToolResources | None = None


class UpdateAssistant(AssistantFields):
    model: ModelName | None = None
