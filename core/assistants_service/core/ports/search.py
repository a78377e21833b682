"""Types of the index of vector stores (core.search.embedded)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Query:
    """A search query. `vector` was made by `model`; None searches by words only. Segments whose vectors come from
    another model or have other dimensions, and those without vectors, are searched by words only as well."""

    text: str
    vector: NDArray[np.float32] | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of vectors and words: only their ratio matters. If a query has no vector, or no words, only the other
    one counts."""

    vector: float
    words: float


class Weight(NamedTuple):
    """A segment as the merge policy sees it. `size` of its blob in bytes, `live` is the share of its chunks whose files
    are still in the store, `model` made its vectors, `format` is that of its words (core.search.words)."""

    name: str
    size: int
    live: float
    model: str
    format: int

    @property
    def useful(self) -> float:
        return self.size * self.live


@dataclass(frozen=True, slots=True)
class Passage:
    """A search result: chunk `number` (from 0) of a source. `score` is in 0..1."""

    source: str
    number: int
    score: float
    text: str


class SegmentGone(Exception):
    """The segment does not exist. If it was merged, the state that names it is stale: read it again."""
