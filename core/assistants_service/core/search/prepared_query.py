"""A query, prepared for the segments of a store: what is eligible of each, the terms to look up, and their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.search.segment import Array, Segment
from assistants_service.core.search.words import FORMAT, other_forms, query_terms, term_number

Doubles = NDArray[np.float64]
Posting = tuple[Array, Array]  # chunks, and how often each has a term

K1: Final = 1.2  # of BM25, as in Lucene: how soon further occurrences of a word stop counting,
B: Final = 0.75  # and how much longer chunks count less
OTHER_FORM: Final = 0.5  # weight of another form of a word, which may be another word
QUERY_TERMS: Final = 512  # distinct words and word beginnings of a query that are looked up
POSTINGS: Final = 250_000  # postings read by a query: beyond, its most common words, which say little, are left out


@dataclass(frozen=True, slots=True)
class EligiblePart:
    """The eligible part of a segment: all of it, if `mask` is None."""

    segment: Segment
    mask: Array | None
    chunks: int
    words: int

    def fits(self, model: str, dimensions: int) -> bool:
        """Whether its vectors are comparable with one of that model."""
        return (self.segment.model, self.segment.vectors.shape[1]) == (model, dimensions) and dimensions > 0


def eligible_part(segment: Segment, eligible: Collection[str]) -> EligiblePart | None:
    taken = [source in eligible for source in segment.sources]
    mask = None if all(taken) else np.repeat(taken, np.diff(segment.firsts))
    lengths = segment.tables.lengths if mask is None else segment.tables.lengths[mask]
    return EligiblePart(segment, mask, len(lengths), int(lengths.sum(dtype=np.int64))) if len(lengths) else None


@dataclass(frozen=True, slots=True)
class PreparedQuery:
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


def prepare(parts: Sequence[EligiblePart], query: Query, weights: Weights) -> PreparedQuery | None:
    """None if no segment is eligible or the query is empty."""
    format = min((part.segment.format for part in parts), default=FORMAT)
    own = _numbers(query_terms(query.text, format))
    terms = np.union1d(own, _numbers(other_forms(query.text, format)))
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
    return PreparedQuery(
        vectors, [[posting[place] for place in taken] for posting in postings], worth, total / chunks, usual
    )


def _numbers(found: Iterable[str]) -> NDArray[np.uint64]:
    return np.unique(np.array([term_number(each) for each in islice(found, QUERY_TERMS)], np.uint64))


def _mean(parts: Sequence[EligiblePart]) -> Doubles:
    """The mean of the eligible vectors. They were float16: in float64 their sum is exact, in any order."""
    rows = ((part.segment.vectors if part.mask is None else part.segment.vectors[part.mask]) for part in parts)
    total: Doubles = sum(each.sum(axis=0, dtype=np.float64) for each in rows)
    return total / sum(part.chunks for part in parts)


def _postings(part: EligiblePart, terms: Array) -> list[Posting]:
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
