"""Search over the segments of a store: by vectors, by words, or by both.

A chunk's score is in 0..1 and depends on no other result. It is the weighted mean of
* the cosine of its vector and the query's, or 0 if that is negative, and
* its BM25 score as a share of the highest that there could be for the query.

BM25 counts over the eligible chunks alone. So what is not eligible (files that were removed, or that a filter excludes)
has no influence, nor has it how the chunks are spread over segments: the result is that of a store which never held
anything else, to the last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.search.segment import Array, Floats, Segment
from core.search.words import term, words

Doubles = NDArray[np.float64]

K1: Final = 1.2  # of BM25, as Lucene has it: how soon further occurrences of a word stop counting,
B: Final = 0.75  # and how much a long chunk counts less
LEAST: Final = 1e-4  # a score below this is none
ERROR: Final = 1e-5  # of a score that is computed in float32, at most
QUERY_WORDS: Final = 256  # distinct words of a query that are looked up
POSTINGS: Final = 500_000  # that a query reads: then its commonest words, which say least, are left out


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for. `vector` was made by `model`; None searches by words alone. Segments whose vectors are of
    another model are searched by words alone, too: their chunks cannot have more than the words' share of a score."""

    text: str
    vector: Floats | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much vectors and words count: only the ratio matters. Of a query that has no vector, or no words, the other
    one is all that counts."""

    vector: float
    words: float


# Measured on the questions of the test corpus with the offline model: a mean of scores places the right passages higher
# than reciprocal rank fusion does, whatever the weights, and these do best.
HYBRID: Final = Weights(vector=0.4, words=0.6)
VECTOR: Final = Weights(vector=1, words=0)
WORDS: Final = Weights(vector=0, words=1)
# The wire's names (section 3.8). There is no second model that would rank again: `none` saves the search by words.
RANKERS: Final = {"auto": HYBRID, "default-2024-11-15": HYBRID, "default_2024_08_21": HYBRID, "none": VECTOR}


@dataclass(frozen=True, slots=True)
class Hit:
    """The `number`th chunk (from 0) of a source. It lies at `chunk` in `segment`."""

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
    """The `limit` chunks of the `eligible` sources that fit one of the queries best; ties by source and number.

    Chunks below `threshold` are left out, and those that have nothing in common with a query. It takes milliseconds to
    tens of them, mostly without the GIL: not for the event loop.
    """
    parts = [part for segment in segments if (part := _part(segment, eligible))]
    measured = [measure for query in queries if (measure := _measure(parts, query, weights))]
    least = max(threshold, LEAST)
    bound, best = least - ERROR, np.zeros(0, np.float32)
    rough: list[tuple[int, Array, Floats]] = []
    for place, part in enumerate(parts if measured else ()):
        scores = _roughly(measured, place, part)
        chosen = np.flatnonzero(scores >= bound)
        best = np.concatenate([best, scores[chosen]])
        if len(best) > limit:
            best = np.partition(best, -limit)[-limit:]
            bound = max(bound, float(best.min()) - 2 * ERROR)
            chosen = chosen[scores[chosen] >= bound]
        rough.append((place, chosen, scores[chosen]))
    hits = []
    for place, chosen, scores in rough:
        segment, chunks = parts[place].segment, chosen[scores >= bound]
        for chunk, score in zip(chunks.tolist(), _exactly(measured, place, segment, chunks).tolist(), strict=True):
            if score >= least:
                hits.append(Hit(*segment.source(chunk), score, segment, chunk))
    hits.sort(key=lambda hit: (-hit.score, hit.source, hit.number))
    return hits[:limit]


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a segment is eligible: all of it, if `mask` is None."""

    segment: Segment
    mask: Array | None
    chunks: int
    words: int


def _part(segment: Segment, eligible: Collection[str]) -> _Part | None:
    taken = [source in eligible for source in segment.sources]
    mask = None if all(taken) else np.repeat(taken, np.diff(segment.firsts))
    lengths = segment.tables.lengths if mask is None else segment.tables.lengths[mask]
    return _Part(segment, mask, len(lengths), int(lengths.sum(dtype=np.int64))) if len(lengths) else None


@dataclass(frozen=True, slots=True)
class _Measure:
    """A query against each part, both times its weight: the BM25 shares of its chunks, and the vector. None where there
    is nothing to compare."""

    shares: Sequence[Doubles | None]
    vectors: Sequence[Doubles | None]


def _measure(parts: Sequence[_Part], query: Query, weights: Weights) -> _Measure | None:
    """None if there is nothing to search by."""
    distinct = islice(dict.fromkeys(words(query.text)), QUERY_WORDS)
    terms = np.unique(np.array([term(word) for word in distinct], np.uint64))
    vector = np.zeros(0) if query.vector is None else query.vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    by_vector, by_words = weights.vector, weights.words
    if not (length and len(terms)):
        by_vector, by_words = float(length > 0), float(len(terms) > 0)
    if not parts or by_vector + by_words == 0:
        return None
    share = by_words / (by_vector + by_words)
    vector *= (1 - share) / (length or 1)
    fits = [share < 1 and part.segment.model == query.model for part in parts]
    return _Measure(
        _bm25(parts, terms, share) if share else [None] * len(parts), [vector if fit else None for fit in fits]
    )


Posting = tuple[Array, Array]  # chunks, and how often each has a term


def _bm25(parts: Sequence[_Part], terms: Array, weight: float) -> list[Doubles | None]:
    """What each chunk has of the BM25 score of one in which all terms occur without end, times `weight`."""
    chunks = sum(part.chunks for part in parts)
    mean = sum(part.words for part in parts) / chunks
    postings = [_postings(part, terms) for part in parts]
    having = np.array([sum(len(posting[place][0]) for posting in postings) for place in range(len(terms))])
    rarest = np.lexsort((terms, having))
    taken = rarest[: max(1, np.searchsorted(np.cumsum(having[rarest]), POSTINGS, side="right"))]
    worth = np.log1p((chunks - having + 0.5) / (having + 0.5))  # Lucene's idf, which is never negative
    worth *= weight / worth[taken].sum()
    return [
        _shares(part.segment, [posting[place] for place in taken], worth[taken], mean)
        for part, posting in zip(parts, postings, strict=True)
    ]


def _postings(part: _Part, terms: Array) -> list[Posting]:
    """The eligible ones of each term."""
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


def _shares(segment: Segment, postings: Sequence[Posting], worth: Doubles, mean: float) -> Doubles | None:
    """`mean` is that of the chunks' lengths."""
    chunks = np.concatenate([chunks for chunks, _ in postings], dtype=np.intp)
    if not len(chunks):
        return None
    counts = np.concatenate([counts for _, counts in postings], dtype=np.float32)
    slow = segment.tables.lengths * np.float32(K1 * B / mean) + np.float32(K1 * (1 - B))
    gained = counts / (counts + slow[chunks])
    ends = np.cumsum([len(chunks) for chunks, _ in postings])
    for own, value in zip(np.split(gained, ends[:-1]), worth.tolist(), strict=True):
        np.multiply(own, value, out=own)
    return np.asarray(np.bincount(chunks, gained, len(segment)), np.float64)


def _roughly(measured: Sequence[_Measure], place: int, part: _Part) -> Floats:
    """The scores of all chunks of a part, off by no more than ERROR; -1 for those that are not eligible."""
    best: Floats | None = None
    for measure in measured:
        vector, shares = measure.vectors[place], measure.shares[place]
        if vector is not None:
            scores = part.segment.vectors @ vector.astype(np.float32)
            np.maximum(scores, 0, out=scores)
            if shares is not None:
                scores += shares
        elif shares is not None:
            scores = shares.astype(np.float32)
        else:
            continue
        best = scores if best is None else np.maximum(best, scores, out=best)
    if best is None:
        best = np.zeros(len(part.segment), np.float32)
    if part.mask is not None:
        best[~part.mask] = -1
    return best


def _exactly(measured: Sequence[_Measure], place: int, segment: Segment, chunks: Array) -> Doubles:
    """The scores of these chunks. A BLAS product of one row depends on the rows beside it, in the last bits; these sums
    do not."""
    best = np.zeros(len(chunks))
    for measure in measured:
        vector, shares = measure.vectors[place], measure.shares[place]
        scores = np.zeros(len(chunks))
        if vector is not None:
            scores = np.maximum((segment.vectors[chunks].astype(np.float64) * vector).sum(axis=1), 0)
        if shares is not None:
            scores += shares[chunks]
        np.maximum(best, scores, out=best)
    return np.minimum(best, 1)
