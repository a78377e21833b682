"""What is asked of the index of a vector store (core.search.embedded), and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for. `vector` was made by `model`; None searches by words alone. Segments whose vectors are of
    another model, or of other dimensions, or that have none, are searched by words alone, too."""

    text: str
    vector: NDArray[np.float32] | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much vectors and words count: only the ratio matters. Of a query that has no vector, or no words, the other
    one is all that counts."""

    vector: float
    words: float


class Weight(NamedTuple):
    """A segment as the merge policy sees it. `size` of its blob in bytes, `live` is the share of its chunks whose files
    are still in the store, `model` is that of its vectors, `format` that of its words (core.search.words)."""

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
    """A result of a search: the `number`th chunk (from 0) of a source. `score` in 0..1."""

    source: str
    number: int
    score: float
    text: str


class SegmentGone(Exception):
    """There is no such segment. If it was merged, the state of the store that names it is old: look at it again."""
