"""One query of a LanceDB table: candidates of its index of vectors and of its index of words, scored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from lancedb.query import AsyncFTSQuery, BooleanQuery, MatchQuery, Occur
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.search.segment import Floats
from assistants_service.core.search.words import BEGUN, WHOLE, asked, forms
from assistants_service.infra.search.lance_rows import ALONE, BEGINNINGS, among, column_of, matrix

CANDIDATES: Final = 100  # that each index is asked for, at least
PER_RESULT: Final = 4  # candidates for each wanted result
QUERY_TERMS: Final = 48  # distinct words of a query, and beginnings of words, that are looked up
USUAL: Final = 0.5  # of the most that BM25 gives a word however often it is said, what it gives in the best chunk


@dataclass(frozen=True, slots=True)
class Opened:
    """A table as a search reads it. `segments` are those that were in the log when it was opened; `format` is what all
    of its rows have of the words (core.search.words); `covered` is the share of its rows that have a vector, by
    column."""

    table: AsyncTable
    segments: frozenset[str]
    until: float
    format: int
    covered: Mapping[str, float]


async def vector_columns(table: AsyncTable) -> list[str]:
    """The columns of vectors, one for each model."""
    return [name for name in (await table.schema()).names if name.startswith("vector_")]


async def format_of(table: AsyncTable) -> int:
    if BEGINNINGS.name not in (await table.schema()).names:
        return WHOLE
    return WHOLE if await table.count_rows(f"{BEGINNINGS.name} IS NULL") else BEGUN


async def coverage_of(table: AsyncTable) -> Mapping[str, float]:
    """To count reads the vectors: only where there is more than one kind of rows."""
    names = await vector_columns(table)
    if len(names) == 1 and ALONE.name not in (await table.schema()).names:
        return {names[0]: 1.0}
    rows = await table.count_rows()
    return {name: await table.count_rows(f"{name} IS NOT NULL") / (rows or 1) for name in names}


Scores = dict[tuple[str, int], float]  # by source and number


async def found_by(opened: Opened, query: Query, where: str, limit: int, weights: Weights) -> Scores:
    """The scores of the candidates: the weighted mean of
    * the cosine of the chunk's vector and the query's, or 0 if that is negative, and
    * its BM25 score as a share of what it could be at most, estimated: LanceDB does not tell in how many chunks a word
      is, but what the word gets in the chunk that it fits best.

    As core.search.ranking has it, vectors weigh less where only some chunks have one, and a chunk without one that has
    words of the query is as near to it as the others that have are on average: here, those among the candidates.
    """
    table = opened.table
    distinct = [
        *islice(asked(query.text, opened.format), QUERY_TERMS),
        *islice(forms(query.text, opened.format), QUERY_TERMS),
    ]
    vector = np.zeros(0) if query.vector is None else query.vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    by_vector, by_words = weights.vector, weights.words
    if not (length and distinct):
        by_vector, by_words = float(length > 0), float(len(distinct) > 0)
    if by_vector + by_words == 0:
        return {}
    column = column_of(query.model, len(vector))
    covered = opened.covered.get(column, 0.0)
    if by_words:
        by_vector *= covered**2
    share = by_words / (by_vector + by_words)
    distinct = distinct if share else []
    number = max(CANDIDATES, PER_RESULT * limit)
    if share == 1 or not covered:  # of another model: only words are comparable
        column = ""
    near, said, most = await asyncio.gather(
        _near(table, vector / (length or 1), number, where, column),
        _said(table, distinct, number, where, column),
        _most(table, distinct),
    )
    if distinct and (unheard := [row for row in near.ids if row not in said.scores]):
        among = f"_rowid IN ({', '.join(map(str, unheard))})"
        said.scores |= (await _Candidates.of(_saying(table, distinct, len(unheard)), among, "")).scores
    rows = {row: place for place, row in enumerate((*near.ids, *said.ids))}
    chunks, places = [*near.chunks, *said.chunks], list(rows.values())
    cosines = _cosines([each.vectors for each in (near, said) if each.ids], places, vector / length) if column else None
    found: Scores = {}
    for number, (row, place) in enumerate(rows.items()):
        heard = min(1.0, USUAL * said.scores.get(row, 0.0) / most) if most else 0.0
        cosine = 0.0 if cosines is None else float(cosines[number])
        found[chunks[place]] = (1 - share) * min(1.0, cosine) + share * heard
    return found


def _cosines(found: Sequence[Floats], places: Sequence[int], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the rows at these places of what was found, with the query's vector; the mean for a row without a vector."""
    vectors = np.concatenate([*found, np.zeros((0, len(vector)), np.float32)])[places]
    cosines: NDArray[np.float64] = np.maximum((vectors * vector).sum(axis=1), 0)
    there = vectors.any(axis=1)
    cosines[~there] = cosines[there].mean() if there.any() else 0
    return cosines


@dataclass(slots=True)
class _Candidates:
    """Candidates: their row ids, sources with numbers, and vectors; and by row id, their BM25 scores."""

    ids: list[int] = field(default_factory=list)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    scores: dict[int, float] = field(default_factory=dict)

    @classmethod
    async def of(cls, query: Any, where: str, column: str) -> _Candidates:
        """The answer to a query; vectors only if their column is named."""
        scored = isinstance(query, AsyncFTSQuery)
        wanted = ["source", "number", *([column] if column else []), "_score" if scored else "_distance"]
        asked = query.where(where) if where else query
        rows = await asked.with_row_id().select(wanted).to_arrow()
        ids = rows["_rowid"].to_pylist()
        return cls(
            ids,
            list(zip(rows["source"].to_pylist(), rows["number"].to_pylist(), strict=True)),
            matrix(rows[column]) if column else np.zeros((len(ids), 1), np.float32),
            dict(zip(ids, rows["_score"].to_pylist(), strict=True)) if scored else {},
        )


async def _near(table: AsyncTable, vector: NDArray[np.float64], number: int, where: str, column: str) -> _Candidates:
    if not column:
        return _Candidates()
    nearest = table.query().nearest_to(vector).column(column).distance_type("cosine").limit(number)
    return await _Candidates.of(nearest, where, column)


async def _said(table: AsyncTable, terms: Sequence[str], number: int, where: str, column: str) -> _Candidates:
    return await _Candidates.of(_saying(table, terms, number), where, column) if terms else _Candidates()


async def _most(table: AsyncTable, terms: Sequence[str]) -> float:
    """The sum of what each word gets in the chunk that it fits best: of those that are indexed, as soon as some are,
    since all others would be read for each word."""
    if not terms:
        return 0.0
    stats = await table.index_stats("words_idx")
    queries = [_saying(table, [each], 1).select(["_score"]) for each in terms]
    if stats and stats.num_indexed_rows:
        queries = [query.fast_search() for query in queries]
    tops = await asyncio.gather(*(query.to_arrow() for query in queries))
    return float(sum(top["_score"][0].as_py() for top in tops if len(top)))


def _saying(table: AsyncTable, terms: Sequence[str], number: int) -> AsyncFTSQuery:
    """The chunks that have the most to do with these words."""
    begun = [each for each in terms if each.endswith("*")]
    whole = [each for each in terms if not each.endswith("*")]
    parts = [(said, name) for said, name in ((whole, "words"), (begun, BEGINNINGS.name)) if said]
    matches = [(Occur.SHOULD, MatchQuery(" ".join(said), name)) for said, name in parts]
    query = matches[0][1] if len(matches) == 1 else BooleanQuery(matches)
    return table.query().nearest_to_text(query).limit(number)


async def texts_of(table: AsyncTable, chunks: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
    if not chunks:
        return {}
    where = " OR ".join(f"({among([source])} AND number = {number})" for source, number in chunks)
    rows = await table.query().where(where).select(["source", "number", "text"]).to_arrow()
    return {(row["source"], row["number"]): row["text"] for row in rows.to_pylist()}
