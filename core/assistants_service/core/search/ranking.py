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
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.search.segment import Array, Floats, Segment
from assistants_service.core.search.words import FORMAT, asked, forms, term

Doubles = NDArray[np.float64]
Spread = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]

K1: Final = 1.2  # of BM25, as in Lucene: how soon further occurrences of a word stop counting,
B: Final = 0.75  # and how much longer chunks count less
LEAST: Final = 1e-4  # lower scores count as no match
ERROR: Final = 1e-5  # maximum error of a float32 score
OTHER_FORM: Final = 0.5  # weight of another form of a word, which may be another word
QUERY_TERMS: Final = 512  # distinct words and word beginnings of a query that are looked up
POSTINGS: Final = 250_000  # postings read by a query: beyond, its most common words, which say little, are left out


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
    parts = [part for segment in segments if (part := _part(segment, eligible))]
    measures = [measure for query in queries if (measure := _measure(parts, query, weights))]
    if not measures:
        return []
    least = max(threshold, LEAST)
    best = list(spread(lambda place: _best(place, parts[place], measures, limit, least), range(len(parts))))
    bound = _bound(np.concatenate([candidates.rough for candidates in best]), limit, least)
    hits = []
    for part, candidates in zip(parts, best, strict=True):
        for chunk, score in candidates.exactly(part.segment, measures, bound):
            if score >= least:
                hits.append(Hit(*part.segment.source(chunk), score, part.segment, chunk))
    hits.sort(key=lambda hit: (-hit.score, hit.source, hit.number))
    return hits[:limit]


# --- what is eligible ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """The eligible part of a segment: all of it, if `mask` is None."""

    segment: Segment
    mask: Array | None
    chunks: int
    words: int

    def fits(self, model: str, dimensions: int) -> bool:
        """Whether its vectors are comparable with one of that model."""
        return (self.segment.model, self.segment.vectors.shape[1]) == (model, dimensions) and dimensions > 0


def _part(segment: Segment, eligible: Collection[str]) -> _Part | None:
    taken = [source in eligible for source in segment.sources]
    mask = None if all(taken) else np.repeat(taken, np.diff(segment.firsts))
    lengths = segment.tables.lengths if mask is None else segment.tables.lengths[mask]
    return _Part(segment, mask, len(lengths), int(lengths.sum(dtype=np.int64))) if len(lengths) else None


# --- a query, prepared --------------------------------------------------------------------------------------------

Posting = tuple[Array, Array]  # chunks, and how often each has a term


@dataclass(frozen=True, slots=True)
class _Measure:
    """A prepared query, part by part. Each vector is scaled by the vectors' share of the score, and empty where it is
    not comparable: there, a chunk that contains words of the query gets `usual`. `worth` is each term's maximum
    contribution to a score, and `mean` the average length of the chunks in words."""

    vectors: Sequence[Doubles]
    postings: Sequence[Sequence[Posting]]
    worth: Doubles
    mean: float
    usual: float

    def by_words(self, place: int, segment: Segment) -> Doubles | None:
        """What is added to the vector score of each chunk of the part at `place`; None if nothing is."""
        found = _bm25(segment, self.postings[place], self.worth, self.mean)
        if found is not None and self.usual and not len(self.vectors[place]):
            found[found > 0] += self.usual
        return found


def _measure(parts: Sequence[_Part], query: Query, weights: Weights) -> _Measure | None:
    """None if there is nothing to search, or nothing to search by."""
    format = min((part.segment.format for part in parts), default=FORMAT)
    own = _numbers(asked(query.text, format))
    terms = np.union1d(own, _numbers(forms(query.text, format)))
    vector = np.zeros(0) if query.vector is None else query.vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    by_vector, by_words = weights.vector, weights.words
    if not (length and len(terms)):
        by_vector, by_words = float(length > 0), float(len(terms) > 0)
    if not parts or by_vector + by_words == 0:
        return None
    chunks, total = sum(part.chunks for part in parts), sum(part.words for part in parts)
    fits = [part.fits(query.model, len(vector)) for part in parts]
    near = [part for part, fit in zip(parts, fits, strict=True) if fit]
    covered = sum(part.chunks for part in near) / chunks
    if by_words:
        by_vector *= covered**2
    share = by_words / (by_vector + by_words)
    vector *= (1 - share) / (length or 1)
    usual = max(0.0, float((_mean(near) * vector).sum())) if 0 < covered < 1 and share < 1 else 0.0
    vectors = [vector if share < 1 and fit else np.zeros(0) for fit in fits]
    postings = [_postings(part, terms if share else terms[:0]) for part in parts]
    having = np.array([sum(len(own) for own, _ in posting) for posting in zip(*postings, strict=True)], np.int64)
    taken = np.lexsort((terms[: len(having)], having))
    taken = taken[: max(1, int(np.searchsorted(np.cumsum(having[taken]), POSTINGS, side="right")))]
    worth = np.log1p((chunks - having + 0.5) / (having + 0.5))[taken]  # Lucene's idf, which is never negative
    worth *= np.where(np.isin(terms[taken], own), 1, OTHER_FORM * (having[taken] > 0))
    worth *= share / (worth.sum() or 1)
    return _Measure(
        vectors, [[posting[place] for place in taken] for posting in postings], worth, total / chunks, usual
    )


def _numbers(found: Iterable[str]) -> NDArray[np.uint64]:
    return np.unique(np.array([term(each) for each in islice(found, QUERY_TERMS)], np.uint64))


def _mean(parts: Sequence[_Part]) -> Doubles:
    """The mean of the eligible vectors. They were float16: in float64 their sum is exact, in any order."""
    rows = ((part.segment.vectors if part.mask is None else part.segment.vectors[part.mask]) for part in parts)
    total: Doubles = sum(each.sum(axis=0, dtype=np.float64) for each in rows)
    return total / sum(part.chunks for part in parts)


def _postings(part: _Part, terms: Array) -> list[Posting]:
    """The eligible postings of each term."""
    tables, found = part.segment.tables, []
    places = np.searchsorted(tables.terms, terms)
    for place, wanted in zip(places.tolist(), terms, strict=True):
        there = place < len(tables.terms) and tables.terms[place] == wanted
        begin, end = (int(tables.ends[place]), int(tables.ends[place + 1])) if there else (0, 0)
        chunks, counts = tables.chunks[begin:end], tables.counts[begin:end]
        if part.mask is not None:
            kept = part.mask[chunks]
            chunks, counts = chunks[kept], counts[kept]
        found.append((chunks, counts))
    return found


# --- scores -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Chunks of the part at `place` that may be among the best, with approximate scores, and for each query their score
    by words."""

    place: int
    chunks: Array
    rough: Floats
    by_words: Sequence[Doubles | None]

    def exactly(self, segment: Segment, measures: Sequence[_Measure], bound: float) -> Iterator[tuple[int, float]]:
        """The chunks with at least the score `bound`, with exact scores. The last bits of a BLAS product depend on
        neighbouring rows; those of these sums do not."""
        near = self.rough >= bound
        chunks = self.chunks[near]
        best = np.zeros(len(chunks))
        for measure, by_words in zip(measures, self.by_words, strict=True):
            scores, vector = np.zeros(len(chunks)), measure.vectors[self.place]
            if len(vector):
                scores = np.maximum((segment.vectors[chunks].astype(np.float64) * vector).sum(axis=1), 0)
            if by_words is not None:
                scores += by_words[near]
            np.maximum(best, scores, out=best)
        yield from zip(chunks.tolist(), np.minimum(best, 1).tolist(), strict=True)


def _best(place: int, part: _Part, measures: Sequence[_Measure], limit: int, least: float) -> _Candidates:
    segment, best = part.segment, np.zeros(len(part.segment), np.float32)
    shares = [measure.by_words(place, segment) for measure in measures]
    for measure, by_words in zip(measures, shares, strict=True):
        if len(vector := measure.vectors[place]):
            scores = segment.vectors @ vector.astype(np.float32)
            np.maximum(scores, 0, out=scores)
            if by_words is not None:
                scores += by_words
            best = scores if len(measures) == 1 else np.maximum(best, scores)
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


def _bm25(segment: Segment, postings: Sequence[Posting], worth: Doubles, mean: float) -> Doubles | None:
    """The words' contribution to the score of each chunk; None if no chunk has any."""
    chunks = np.concatenate([np.zeros(0, np.intp), *(own for own, _ in postings)], dtype=np.intp)
    if not len(chunks):
        return None
    counts = np.concatenate([counts for _, counts in postings], dtype=np.float32)
    slow = segment.tables.lengths * np.float32(K1 * B / mean) + np.float32(K1 * (1 - B))
    gained = counts / (counts + slow[chunks])
    ends = np.cumsum([len(own) for own, _ in postings])
    for own, value in zip(np.split(gained, ends[:-1]), worth.tolist(), strict=True):
        np.multiply(own, value, out=own)
    return np.asarray(np.bincount(chunks, gained, len(segment)), np.float64)
