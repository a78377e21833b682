"""Tools in request bodies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

from assistants_service.core.protocol.bodies import Body, JsonObject, NamedFile, NamedStore
from assistants_service.core.protocol.vector_stores.requests import StoreHelper


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


class NewFileSearchResources(FileSearchResources):
    vector_stores: Annotated[list[StoreHelper], Field(max_length=1)] | None = None


class ToolResourcesBody(Body):
    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None


class NewToolResources(ToolResourcesBody):
    """Of what is created: it may have a store made for it."""

    file_search: NewFileSearchResources | None = None
