"""The settings of a hybrid search: of a vector store's own search, and of the tool that searches files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from assistants_service.core.protocol.bodies import Body


class HybridSearch(Body):
    """The weights of vectors and words in a passage's score: only their ratio matters, and one of them is above 0."""

    embedding_weight: Annotated[float, Field(ge=0, le=1)]
    text_weight: Annotated[float, Field(ge=0, le=1)]

    @field_validator("text_weight")
    @classmethod
    def _one_counts(cls, value: float, info: ValidationInfo) -> float:
        if not value and not info.data.get("embedding_weight", 1):
            raise PydanticKnownError("greater_than", {"gt": 0})
        return value
