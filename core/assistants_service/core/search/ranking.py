"""Search over the segments of a store: by vectors, by words, or by both.

A chunk's score is in 0..1 and depends on no other result. It is the weighted mean of
* the cosine of its vector and the query's, or 0 if that is negative, and
* its BM25 score as a share of the highest that there could be for the query.

BM25 counts only the eligible chunks. So other chunks (of files that were removed or are filtered out) have no
influence, nor has the distribution of chunks over segments: the result is that of a store that never contained anything
else, to the last bit.

What only some chunks have must not rank them higher or lower than others:
* Word beginnings count if all eligible segments have them. Otherwise only whole words do, in newer segments, too.
* The vectors' weight is multiplied by the square of the share of chunks whose vectors are comparable with the query's:
  it is the share of chunk pairs that vectors can order. A chunk without such a vector that contains words of the query
  gets the average similarity of the eligible chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.search.prepared_query import Doubles, EligiblePart, PreparedQuery, eligible_part, prepare
from assistants_service.core.search.segment import Array, Floats, Segment

Spread = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]

LEAST: Final = 1e-4  # lower scores count as no match
ERROR: Final = 1e-5  # maximum error of a float32 score

# Measured on the questions of the test corpus with the offline model: a mean of scores places the right passages higher
# than reciprocal rank fusion does, whatever the weights, and these do best.
HYBRID: Final = Weights(vector=0.4, words=0.6)
VECTOR: Final = Weights(vector=1, words=0)
WORDS: Final = Weights(vector=0, words=1)


@dataclass(frozen=True, slots=True)
class Hit:
    """Chunk `number` (from 0) of a source. It is chunk `chunk` of `segment`."""

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
    spread: Spread = map,
) -> list[Hit]:
    """The `limit` chunks of the `eligible` sources that match one of the queries best; ties ordered by source and
    number.

    Chunks below `threshold` are left out, and those that have nothing in common with a query. It takes up to tens of
    milliseconds, mostly without the GIL: do not call it on the event loop. `spread` may be a thread pool's `map`.
    """
    parts = [part for segment in segments if (part := eligible_part(segment, eligible))]
    prepared = [each for query in queries if (each := prepare(parts, query, weights))]
    if not prepared:
        return []
    least = max(threshold, LEAST)
    best = list(spread(lambda place: _best(place, parts[place], prepared, limit, least), range(len(parts))))
    bound = _bound(np.concatenate([candidates.rough for candidates in best]), limit, least)
    hits = []
    for part, candidates in zip(parts, best, strict=True):
        for chunk, score in candidates.exact_scores(part.segment, prepared, bound):
            if score >= least:
                hits.append(Hit(*part.segment.source(chunk), score, part.segment, chunk))
    hits.sort(key=lambda hit: (-hit.score, hit.source, hit.number))
    return hits[:limit]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Chunks of the part at `place` that may be among the best, with approximate scores, and for each query their score
    by words."""

    place: int
    chunks: Array
    rough: Floats
    by_words: Sequence[Doubles | None]

    def exact_scores(
        self, segment: Segment, queries: Sequence[PreparedQuery], bound: float
    ) -> Iterator[tuple[int, float]]:
        """The chunks with at least the score `bound`, with exact scores. The last bits of a BLAS product depend on
        neighbouring rows; those of these sums do not."""
        near = self.rough >= bound
        chunks = self.chunks[near]
        best = np.zeros(len(chunks))
        for query, by_words in zip(queries, self.by_words, strict=True):
            scores, vector = np.zeros(len(chunks)), query.vectors[self.place]
            if len(vector):
                scores = np.maximum((segment.vectors[chunks].astype(np.float64) * vector).sum(axis=1), 0)
            if by_words is not None:
                scores += by_words[near]
            np.maximum(best, scores, out=best)
        yield from zip(chunks.tolist(), np.minimum(best, 1).tolist(), strict=True)


def _best(place: int, part: EligiblePart, queries: Sequence[PreparedQuery], limit: int, least: float) -> _Candidates:
    segment, best = part.segment, np.zeros(len(part.segment), np.float32)
    shares = [query.by_words(place, segment) for query in queries]
    for query, by_words in zip(queries, shares, strict=True):
        if len(vector := query.vectors[place]):
            scores = segment.vectors @ vector.astype(np.float32)
            np.maximum(scores, 0, out=scores)
            if by_words is not None:
                scores += by_words
            best = scores if len(queries) == 1 else np.maximum(best, scores)
        elif by_words is not None:
            np.maximum(best, by_words, out=best, casting="same_kind")
    if part.mask is not None:
        best[~part.mask] = -1
    chunks = np.flatnonzero(best >= least - ERROR)
    chunks = chunks[best[chunks] >= _bound(best[chunks], limit, least)]
    return _Candidates(place, chunks, best[chunks], [None if own is None else own[chunks] for own in shares])


def _bound(scores: Floats, limit: int, least: float) -> float:
    """The minimum approximate score of a chunk whose exact score may be among the `limit` best."""
    if len(scores) <= limit:
        return least - ERROR
    return max(least - ERROR, float(np.partition(scores, -limit)[-limit]) - 2 * ERROR)
