"""The index for large stores: LanceDB, which searches on disk or in blobs what the embedded index holds in memory.

A vector store is a table, a chunk is a row, and a segment is what the rows of one file share: their source. LanceDB is
asked for candidates, by its index of vectors and by its index of words; the few that it names are scored here, so that
a score is exact whichever index named the chunk.

A table that is open is one version of it: what others add or remove meanwhile is seen when it is opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.db import AsyncConnection
from lancedb.index import FTS, BTree, IvfSq
from lancedb.query import AsyncFTSQuery, MatchQuery
from lancedb.table import AsyncTable
from numpy.typing import NDArray
from pyarrow import compute as pc

from core.ports import Chunk, Merging, Passage, StorageUnavailable
from core.search.ranking import HYBRID, LEAST, Query, Weights
from core.search.segment import Floats
from core.search.words import words

log = logging.getLogger(__name__)

TABLES: Final = 256  # kept open
FRESH: Final = 60.0  # seconds that a table is read as it was opened, if the log names nothing new
CANDIDATES: Final = 100  # that each index is asked for, at least
PER_RESULT: Final = 4  # candidates for each wanted result
QUERY_WORDS: Final = 32  # distinct words of a query that are looked up
USUAL: Final = (
    0.5  # of the most that BM25 gives a word however often it is said, what it gives in the best chunk, about
)
NAMES: Final = 500  # of segments in one statement that deletes
FRAGMENTS: Final = 32  # files of a table, one for each put, before they are made one
GROWN: Final = 1 / 32  # of the rows; until then, new ones are compared with a query one by one
VECTORS: Final = 50_000  # rows from which vectors have an index: 50,000 are compared one by one in 0.1 s
KEPT: Final = timedelta(hours=1)  # that old versions of a table stay for whoever reads them; far longer than FRESH
INDEXES: Final = {
    "source": BTree(),
    # Words are split as for the embedded index, for any language; LanceDB is to take them as they are.
    "words": FTS(
        base_tokenizer="whitespace",
        max_token_length=None,
        lower_case=False,
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
    ),
}
SCHEMA: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("number", pa.uint32(), nullable=False),
        pa.field("start", pa.uint32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("words", pa.string(), nullable=False),
    ]
)
FAILURES: Final = (RuntimeError, OSError, ValueError)  # what LanceDB raises when a store or a file does not answer


@dataclass(frozen=True, slots=True)
class Access:
    """Where the tables are, what LanceDB needs to get there, and until when that holds (Unix time)."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class _Opened:
    """A table as a search reads it. `segments` are those that were in the log when it was opened."""

    table: AsyncTable
    segments: frozenset[str]
    until: float


class LanceIndex:
    """core.ports.VectorIndex. `memory` is what LanceDB may keep of its indexes, in bytes."""

    def __init__(self, locate: Callable[[], Awaitable[Access]], memory: int) -> None:
        self._locate = locate
        self._session = lancedb.Session(index_cache_size_bytes=memory, metadata_cache_size_bytes=memory // 8)
        self._tables: OrderedDict[str, _Opened] = OrderedDict()
        self.merging: Merging | None = None

    # -- writing ---------------------------------------------------------------------------------------------------

    async def put(self, store: str, source: str, chunks: Sequence[Chunk], vectors: Floats, model: str) -> int:
        """One commit of the table adds all rows, whoever else writes. Only a source that is there is deleted first: it
        is not part of the store yet, since the log takes each source once."""
        rows = await asyncio.to_thread(_rows, source, chunks, vectors, model)
        with _failures():
            table = await self._ready(store, rows.schema.field(len(SCHEMA)))
            if await table.count_rows(_among([source])):
                await table.delete(_among([source]))
            await table.add(rows)
        return int(rows.nbytes)

    async def drop(self, store: str, names: Iterable[str]) -> None:
        with _failures():
            table = await self._open(store)
            left = iter(names)
            while table and (some := list(islice(left, NAMES))):
                await table.delete(_among(some))

    async def delete(self, store: str, names: Iterable[str]) -> None:
        self._tables.pop(store, None)
        with _failures():
            db, name = await self._connect(store)
            await db.drop_table(name, ignore_missing=True)

    async def tidy(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Once enough was put: drop what is nobody's, make few files of many, and bring the indexes up. Who does so at
        the same time as others gives up, and the next one does it."""
        try:
            table = await self._open(store)
            if table is None or not await _due(table):
                return
            # The rows first, then the log: what is put after the look is in neither.
            there = set((await table.query().select(["source"]).to_arrow())["source"].unique().to_pylist())
            await self.drop(store, there - set(await known()))
            table = await self._open(store)
            if table is None:
                return
            indexed = {name for index in await table.list_indices() for name in index.columns}
            for name in (await table.schema()).names[len(SCHEMA) :]:
                if name not in indexed and await table.count_rows(f"{name} IS NOT NULL") >= VECTORS:
                    await table.create_index(name, config=IvfSq(distance_type="cosine", sample_rate=64))
            await table.optimize(cleanup_older_than=KEPT)
            self._tables.pop(store, None)
        except FAILURES as error:
            log.info("the index of vector store %s is not in shape yet: %s", store, error)

    async def _ready(self, store: str, vectors: Any) -> AsyncTable:
        """The table, with a column for these vectors and the indexes that a search relies on, whoever died making it.
        Two who make the same at once: one of them is refused, and finds it there."""
        table = await self._open(store)
        if table is None:
            db, name = await self._connect(store)
            with contextlib.suppress(*FAILURES):
                await db.create_table(name, schema=SCHEMA)
            table = await db.open_table(name)
        missing = INDEXES.keys() - {name for index in await table.list_indices() for name in index.columns}
        for name in missing:
            with contextlib.suppress(*FAILURES):
                await table.create_index(name, config=INDEXES[name], replace=False)
        if vectors.name not in (await table.schema()).names:
            with contextlib.suppress(*FAILURES):
                await table.add_columns([vectors])
        await table.checkout_latest()
        return table

    # -- reading ---------------------------------------------------------------------------------------------------

    async def search(
        self,
        store: str,
        segments: Collection[str],
        queries: Sequence[Query],
        eligible: Collection[str],
        limit: int,
        *,
        weights: Weights = HYBRID,
        threshold: float = 0.0,
    ) -> list[Passage]:
        if not eligible:
            return []
        with _failures():
            table = await self._current(store, segments)
            if table is None:
                return []
            hidden = set(segments).difference(eligible)
            while True:
                where = _among(eligible) if len(eligible) < len(hidden) else _among(hidden, "NOT IN")
                found = [await _found(table, query, where, limit, weights) for query in queries]
                # Rows that the log does not name (any more) are hidden, too, as soon as they turn up.
                strangers = {source for scores in found for source, _ in scores}.difference(eligible)
                if not strangers:
                    break
                hidden |= strangers
            best: dict[tuple[str, int], float] = {}
            for scores in found:
                for chunk, score in scores.items():
                    best[chunk] = max(score, best.get(chunk, 0.0))
            kept = [(chunk, score) for chunk, score in best.items() if score >= max(threshold, LEAST)]
            kept.sort(key=lambda each: (-each[1], each[0]))
            texts = await _texts(table, [chunk for chunk, _ in kept[:limit]])
        return [Passage(*chunk, score, texts[chunk]) for chunk, score in kept[:limit]]

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        with _failures():
            table = await self._open(store)
            if table is None:
                return []
            rows = await table.query().where(_among([source])).select(["number", "start", "text"]).to_arrow()
        found = {row["number"]: (row["start"], row["text"]) for row in rows.to_pylist()}
        return [found[number] for number in sorted(found)]

    async def _current(self, store: str, segments: Collection[str]) -> AsyncTable | None:
        """The table with all these segments in it: the log names a segment when it is there."""
        held = self._tables.get(store)
        if held is None or time.time() > held.until or not held.segments.issuperset(segments):
            access_until = (await self._locate()).until
            table = await self._open(store)
            if table is None:
                return None
            held = _Opened(table, frozenset(segments), min(time.time() + FRESH, access_until))
            self._tables[store] = held
            if len(self._tables) > TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(store)
        return held.table

    async def _connect(self, store: str) -> tuple[AsyncConnection, str]:
        """The tables of its project, and the name of its own."""
        project, _, name = store.partition("/")
        access = await self._locate()
        options = dict(access.options)
        return await lancedb.connect_async(
            f"{access.uri}/{project}", storage_options=options, session=self._session
        ), name

    async def _open(self, store: str) -> AsyncTable | None:
        """As it is now. None if there is no such table."""
        db, name = await self._connect(store)
        try:
            return await db.open_table(name)
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            return None


async def _due(table: AsyncTable) -> bool:
    """LanceDB writes much of a table anew. So that this costs a chunk the same in a store of any size, the store has to
    have grown by a share."""
    fragments, stats = (await table.stats())["fragment_stats"]["num_fragments"], await table.index_stats("words_idx")
    return fragments >= FRAGMENTS and stats is not None and stats.num_unindexed_rows >= GROWN * stats.num_indexed_rows


# --- one query ----------------------------------------------------------------------------------------------------

Scores = dict[tuple[str, int], float]  # by source and number


async def _found(table: AsyncTable, query: Query, where: str, limit: int, weights: Weights) -> Scores:
    """The scores of the candidates: the weighted mean of
    * the cosine of the chunk's vector and the query's, or 0 if that is negative, and
    * its BM25 score as a share of what it could be at most, estimated: LanceDB does not tell in how many chunks a word
      is, but what the word gets in the chunk that it fits best.
    """
    distinct = list(islice(dict.fromkeys(words(query.text)), QUERY_WORDS))
    vector = np.zeros(0) if query.vector is None else query.vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    by_vector, by_words = weights.vector, weights.words
    if not (length and distinct):
        by_vector, by_words = float(length > 0), float(len(distinct) > 0)
    if by_vector + by_words == 0:
        return {}
    share = by_words / (by_vector + by_words)
    distinct = distinct if share else []
    number, column = max(CANDIDATES, PER_RESULT * limit), _column(query.model, len(vector))
    if share == 1 or column not in (await table.schema()).names:  # of another model: only words are comparable
        column = ""
    near, said, most = await asyncio.gather(
        _near(table, vector / (length or 1), number, where, column),
        _said(table, distinct, number, where, column),
        _most(table, distinct),
    )
    if distinct and (unheard := [row for row in near.ids if row not in said.scores]):
        among = f"_rowid IN ({', '.join(map(str, unheard))})"
        said.scores |= (await _Rows.of(_saying(table, distinct, len(unheard)), among, "")).scores
    found: Scores = {}
    for rows in (near, said):
        cosines = np.maximum((rows.vectors * (vector / (length or 1))).sum(axis=1), 0) if column else rows.zeros
        for row, chunk, cosine in zip(rows.ids, rows.chunks, cosines.tolist(), strict=True):
            heard = min(1.0, USUAL * said.scores.get(row, 0.0) / most) if most else 0.0
            found[chunk] = (1 - share) * min(1.0, cosine) + share * heard
    return found


@dataclass(slots=True)
class _Rows:
    """Candidates: their row ids, sources with numbers, and vectors; and by row id, their BM25 scores."""

    ids: list[int] = field(default_factory=list)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    vectors: Floats | NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def zeros(self) -> NDArray[np.float64]:
        return np.zeros(len(self.ids))

    @classmethod
    async def of(cls, query: Any, where: str, column: str) -> _Rows:
        """The answer to a query; vectors only if their column is named."""
        scored = isinstance(query, AsyncFTSQuery)
        wanted = ["source", "number", *([column] if column else []), "_score" if scored else "_distance"]
        asked = query.where(where) if where else query
        rows = await asked.with_row_id().select(wanted).to_arrow()
        ids = rows["_rowid"].to_pylist()
        return cls(
            ids,
            list(zip(rows["source"].to_pylist(), rows["number"].to_pylist(), strict=True)),
            _matrix(rows[column]) if column else np.zeros((len(ids), 1)),
            dict(zip(ids, rows["_score"].to_pylist(), strict=True)) if scored else {},
        )


async def _near(table: AsyncTable, vector: NDArray[np.float64], number: int, where: str, column: str) -> _Rows:
    if not column:
        return _Rows()
    nearest = table.query().nearest_to(vector).column(column).distance_type("cosine").limit(number)
    return await _Rows.of(nearest, where, column)


async def _said(table: AsyncTable, terms: Sequence[str], number: int, where: str, column: str) -> _Rows:
    return await _Rows.of(_saying(table, terms, number), where, column) if terms else _Rows()


async def _most(table: AsyncTable, terms: Sequence[str]) -> float:
    """The sum of what each word gets in the chunk that it fits best: of those that are indexed, as soon as some are,
    since all others would be read for each word."""
    if not terms:
        return 0.0
    stats = await table.index_stats("words_idx")
    asked = [_saying(table, [word], 1).select(["_score"]) for word in terms]
    if stats and stats.num_indexed_rows:
        asked = [each.fast_search() for each in asked]
    tops = await asyncio.gather(*(each.to_arrow() for each in asked))
    return float(sum(top["_score"][0].as_py() for top in tops if len(top)))


def _saying(table: AsyncTable, terms: Sequence[str], number: int) -> AsyncFTSQuery:
    """The chunks that have the most to do with these words."""
    return table.query().nearest_to_text(MatchQuery(" ".join(terms), "words")).limit(number)


async def _texts(table: AsyncTable, chunks: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
    if not chunks:
        return {}
    where = " OR ".join(f"({_among([source])} AND number = {number})" for source, number in chunks)
    rows = await table.query().where(where).select(["source", "number", "text"]).to_arrow()
    return {(row["source"], row["number"]): row["text"] for row in rows.to_pylist()}


# --- rows ---------------------------------------------------------------------------------------------------------


def _rows(source: str, chunks: Sequence[Chunk], vectors: Floats, model: str) -> Any:
    if vectors.ndim != 2 or len(vectors) != len(chunks) or not np.isfinite(vectors).all():
        raise ValueError(f"{len(chunks)} chunks need as many vectors of finite numbers, not {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)
    # A text that says nothing to the model has no vector: it is near to nothing.
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(unit.ravel()), vectors.shape[1], mask=pa.array(norms[:, 0] == 0)
    )
    texts = [chunk.text.encode(errors="replace").decode() for chunk in chunks]
    columns = [
        pa.array([source] * len(chunks)),
        pa.array(range(len(chunks)), pa.uint32()),
        pa.array([chunk.start for chunk in chunks], pa.uint32()),
        pa.array(texts),
        pa.array([" ".join(words(text)) for text in texts]),
        column,
    ]
    named = pa.field(_column(model, vectors.shape[1]), column.type)
    return pa.table(columns, pa.schema([*SCHEMA, named]))


def _column(model: str, dimensions: int) -> str:
    """Vectors of two models, or of two lengths, are two columns: they cannot be compared."""
    return f"vector_{blake2b(f'{model} {dimensions}'.encode(), digest_size=8).hexdigest()}"


def _matrix(column: Any) -> Floats:
    """A row for each vector, 0 for one that there is not."""
    there = column.is_valid().to_numpy()
    rows = np.zeros((len(column), column.type.list_size), np.float32)
    rows[there] = pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size)
    return rows


def _among(names: Iterable[str], operator: str = "IN") -> str:
    """A condition on the source; empty if it excludes nothing."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
    return f"source {operator} ({quoted})" if quoted else ""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise StorageUnavailable(f"LanceDB does not answer: {str(error).splitlines()[0][:300]}") from error
