"""Tools in request bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from assistants_service.core.protocol.bodies import Body, NamedFile, NamedStore
from assistants_service.core.protocol.vector_stores.requests import StoreHelper
from assistants_service.core.tools.registry import TOOLS, union_of

if TYPE_CHECKING:

    class ToolBody(Body):
        type: str

else:
    ToolBody = Annotated[union_of([tool.body for tool in TOOLS]), Field(discriminator="type")]

Tools = Annotated[list[ToolBody], Field(max_length=128)]


class CodeInterpreterResources(Body):
    file_ids: Annotated[list[NamedFile], Field(max_length=20)] | None = None


class FileSearchResources(Body):
    vector_store_ids: Annotated[list[NamedStore], Field(max_length=1)] | None = None


class NewFileSearchResources(FileSearchResources):
    vector_stores: Annotated[list[StoreHelper], Field(max_length=1)] | None = None


class ToolResourcesBody(Body):
    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None


class NewToolResources(ToolResourcesBody):
    """For new objects, which may have a store created for them."""

    file_search: NewFileSearchResources | None = None
