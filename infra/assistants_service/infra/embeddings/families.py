"""The input formats that embedding models expect, and the weights of their cosines, by model family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from assistants_service.core.ports.embeddings import TextRole
from assistants_service.core.ports.search import Weights
from assistants_service.core.search.ranking import HYBRID


@dataclass(frozen=True, slots=True)
class Input:
    """How a text is sent: after `prefix`, and with these additional fields in the request."""

    prefix: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """`weights` are the defaults for hybrid searches."""

    query: Input = Input()
    passage: Input = Input()
    weights: Weights = HYBRID

    def of(self, kind: TextRole) -> Input:
        return self.query if kind == "query" else self.passage


# Cosines of E5 lie between .7 and 1 (FAQ of its model card; measured between .71 and .83), and so do those of ada-002,
# and of the first BGE (.6 to 1, its README): only a fifth of their range distinguishes passages.
_NARROW: Final = Weights(vector=0.8, words=0.2)
_INSTRUCT: Final = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_REPRESENT: Final = "Represent this sentence for searching relevant passages: "
# From the model cards; the first match applies. Where a family sets nothing, the general defaults apply.
_FAMILIES: Final = (
    (r"e5-.*instruct|e5-mistral", Family(Input(f"{_INSTRUCT} "), weights=_NARROW)),
    (r"\be5\b", Family(Input("query: "), Input("passage: "), _NARROW)),
    (r"nomic-embed", Family(Input("search_query: "), Input("search_document: "))),
    (r"embeddinggemma", Family(Input("task: search result | query: "), Input("title: none | text: "))),
    (r"qwen3-embedding", Family(Input(_INSTRUCT))),
    (r"arctic-embed.*(2\.0|2:|-v2)|arctic-embed2", Family(Input("query: "))),
    (r"arctic-embed|mxbai-embed-large", Family(Input(_REPRESENT))),
    (r"\bbge-(small|base|large)-en-v1\.5", Family(Input(_REPRESENT))),
    (r"\bbge-(small|base|large)-en", Family(Input(_REPRESENT), weights=_NARROW)),
    (r"text-embedding-ada-002", Family(weights=_NARROW)),
)


def family_of(model: str) -> Family:
    """The family of a model by its name, with any provider and folder in front of it."""
    name = model.lower().replace("_", "-")
    return next((family for pattern, family in _FAMILIES if re.search(pattern, name)), Family())
