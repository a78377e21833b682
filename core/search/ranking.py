"""Search over the segments of a store: by vectors, by words, or by both.

A chunk's score is in 0..1, and says nothing of other chunks: the weighted sum of
* the cosine of its vector with that of the query (0 if it is negative), and
* its BM25 score, as a share of what it could be at most.

The statistics of BM25 are those of the eligible chunks, so what is not eligible (files that were removed, or that a
filter excludes) has no influence on a result, and no more has the number of segments that the chunks are spread over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.search.segment import Floats, Segment


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for. `vector` is made by `model`, as those of the segments; None searches by words alone.
    Segments whose vectors are of another model are searched by words alone as well."""

    text: str
    vector: Floats | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much vectors and words count. Only their ratio matters."""

    vector: float
    words: float


HYBRID = Weights(vector=0.5, words=0.5)
VECTOR = Weights(vector=1, words=0)
WORDS = Weights(vector=0, words=1)


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: the `number`th of its source (from 0), at `chunk` in `segment`. `score` in 0..1."""

    source: str
    number: int
    score: float
    segment: Segment
    chunk: int


def search(
    segments: Sequence[Segment],
    queries: Sequence[Query],
    eligible: Collection[str],
    limit: int,
    *,
    weights: Weights = HYBRID,
    threshold: float = 0.0,
) -> list[Hit]:
    """The best `limit` chunks of the `eligible` sources, by what fits them best of the queries; ties by source and number.

    Chunks below `threshold`, and those that have nothing in common with any query, are no results. Takes some ten
    milliseconds for 100,000 chunks: call it in a thread.
    """
    raise NotImplementedError
