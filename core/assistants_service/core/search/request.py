"""The body of a search in a vector store."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from assistants_service.core.ports.search import Weights
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.hybrid_search import HybridSearch
from assistants_service.core.search.filters import Filter


def _string_or_array(value: Any) -> str:
    return "string" if isinstance(value, str) else "array"


Question = Annotated[str, StringConstraints(min_length=1, max_length=32_768)]
Questions = Annotated[
    Annotated[Question, Tag("string")] | Annotated[list[Question], Field(min_length=1, max_length=32), Tag("array")],
    Discriminator(_string_or_array),
]


class Ranking(Body):
    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    hybrid_search: HybridSearch | None = None

    @property
    def weights(self) -> Weights | None:
        balance = self.hybrid_search
        return Weights(vector=balance.embedding_weight, words=balance.text_weight) if balance else None


class SearchVectorStore(Body):
    query: Questions
    rewrite_query: bool | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    filters: Filter | None = None
    ranking_options: Ranking | None = None
