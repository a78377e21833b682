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
from itertools import islice
from typing import Any, Final

import lancedb
import pyarrow as pa
from lancedb.db import AsyncConnection
from lancedb.index import FTS, BTree, IvfSq
from lancedb.table import AsyncTable

from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.ports.search import Merging, Passage, Query, Weights
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.search.ranking import HYBRID, LEAST
from assistants_service.core.search.segment import Floats
from assistants_service.core.search.words import FORMAT
from assistants_service.infra.search.lance_query import (
    Opened,
    coverage_of,
    format_of,
    found_by,
    texts_of,
    vector_columns,
)
from assistants_service.infra.search.lance_rows import BEGINNINGS, SCHEMA, among, beginnings_of, rows_of

log = logging.getLogger(__name__)

TABLES: Final = 256  # kept open
FRESH: Final = 60.0  # seconds that a table is read as it was opened, if the log names nothing new
NAMES: Final = 500  # of segments in one statement that deletes
FRAGMENTS: Final = 32  # files of a table, one for each put, before they are made one
GROWN: Final = 1 / 32  # of the rows; until then, new ones are compared with a query one by one
VECTORS: Final = 50_000  # rows from which vectors have an index: 50,000 are compared one by one in 0.1 s
KEPT: Final = timedelta(hours=1)  # that old versions of a table stay for their readers; far longer than FRESH
# Words are split as for the embedded index, for any language; LanceDB is to take them as they are.
TAKEN: Final = FTS(
    base_tokenizer="whitespace",
    max_token_length=None,
    lower_case=False,
    stem=False,
    remove_stop_words=False,
    ascii_folding=False,
)
INDEXES: Final = {"source": BTree(), "words": TAKEN, "beginnings": TAKEN}
RENEWED: Final = 1000  # rows that get their beginnings in one commit
FAILURES: Final = (RuntimeError, OSError, ValueError)  # what LanceDB raises when a store or a file does not answer


@dataclass(frozen=True, slots=True)
class Access:
    """Where the tables are, what LanceDB needs to get there, and until when that holds (Unix time)."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    until: float = math.inf


class LanceIndex:
    """ports.search.VectorIndex. `memory` is what LanceDB may keep of its indexes, in bytes."""

    def __init__(self, locate: Callable[[], Awaitable[Access]], memory: int) -> None:
        self._locate = locate
        self._session = lancedb.Session(index_cache_size_bytes=memory, metadata_cache_size_bytes=memory // 8)
        self._tables: OrderedDict[str, Opened] = OrderedDict()
        self.merging: Merging | None = None

    # -- writing ---------------------------------------------------------------------------------------------------

    async def put(self, store: str, source: str, chunks: Sequence[Chunk], vectors: Floats, model: str) -> int:
        """One commit of the table adds all rows, beside other writers. Only a source that is there is deleted first: it
        is not part of the store yet, since the log takes each source once."""
        rows = await asyncio.to_thread(rows_of, source, chunks, vectors, model)
        with _failures():
            table = await self._ready(store, [field for field in rows.schema if field not in list(SCHEMA)])
            if await table.count_rows(among([source])):
                await table.delete(among([source]))
            await table.add(rows)
        return int(rows.nbytes)

    async def drop(self, store: str, names: Iterable[str]) -> None:
        with _failures():
            table = await self._open(store)
            left = iter(names)
            while table and (some := list(islice(left, NAMES))):
                await table.delete(among(some))

    async def delete(self, store: str, names: Iterable[str]) -> None:
        self._tables.pop(store, None)
        with _failures():
            db, name = await self._connect(store)
            await db.drop_table(name, ignore_missing=True)

    async def tidy(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Once enough was put: drop what no source owns, make few files of many, update the indexes. A worker at it at
        the same time as others gives up, and the next one does it."""
        try:
            table = await self._open(store)
            if table is None or not (await _due(table) or await format_of(table) < FORMAT):
                return
            # The rows first, then the log: what is put after the look is in neither.
            there = set((await table.query().select(["source"]).to_arrow())["source"].unique().to_pylist())
            await self.drop(store, there - set(await known()))
            table = await self._open(store)
            if table is None:
                return
            indexed = {name for index in await table.list_indices() for name in index.columns}
            await _renew(table)
            for name in await vector_columns(table):
                if name not in indexed and await table.count_rows(f"{name} IS NOT NULL") >= VECTORS:
                    await table.create_index(name, config=IvfSq(distance_type="cosine", sample_rate=64))
            await table.optimize(cleanup_older_than=KEPT)
            self._tables.pop(store, None)
        except FAILURES as error:
            log.info("the index of vector store %s is not in shape yet: %s", store, error)

    async def _ready(self, store: str, more: Sequence[Any]) -> AsyncTable:
        """The table, with these columns beside those that all have, and the indexes of a search, whatever process
        died making it. Of two that make the same at once, one is refused, and finds it there."""
        table = await self._open(store)
        if table is None:
            db, name = await self._connect(store)
            with contextlib.suppress(*FAILURES):
                await db.create_table(name, schema=SCHEMA)
            table = await db.open_table(name)
        names = (await table.schema()).names
        for column in more:
            if column.name not in names:
                with contextlib.suppress(*FAILURES):
                    await table.add_columns([column])
        missing = INDEXES.keys() - {name for index in await table.list_indices() for name in index.columns}
        for name in missing:
            with contextlib.suppress(*FAILURES):
                await table.create_index(name, config=INDEXES[name], replace=False)
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
            opened = await self._current(store, segments)
            if opened is None:
                return []
            hidden = set(segments).difference(eligible)
            while True:
                where = among(eligible) if len(eligible) < len(hidden) else among(hidden, "NOT IN")
                found = [await found_by(opened, query, where, limit, weights) for query in queries]
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
            texts = await texts_of(opened.table, [chunk for chunk, _ in kept[:limit]])
        return [Passage(*chunk, score, texts[chunk]) for chunk, score in kept[:limit]]

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        with _failures():
            table = await self._open(store)
            if table is None:
                return []
            rows = await table.query().where(among([source])).select(["number", "start", "text"]).to_arrow()
        found = {row["number"]: (row["start"], row["text"]) for row in rows.to_pylist()}
        return [found[number] for number in sorted(found)]

    async def _current(self, store: str, segments: Collection[str]) -> Opened | None:
        """The table with all these segments in it: the log names a segment when it is there."""
        held = self._tables.get(store)
        if held is None or time.time() > held.until or not held.segments.issuperset(segments):
            access_until = (await self._locate()).until
            table = await self._open(store)
            if table is None:
                return None
            until = min(time.time() + FRESH, access_until)
            held = Opened(table, frozenset(segments), until, await format_of(table), await coverage_of(table))
            self._tables[store] = held
            if len(self._tables) > TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(store)
        return held

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


async def _renew(table: AsyncTable) -> None:
    """Give rows of old their beginnings, some at a time: who dies leaves the rest to the next one."""
    if BEGINNINGS.name not in (await table.schema()).names:
        await table.add_columns([BEGINNINGS])
        await table.create_index(BEGINNINGS.name, config=TAKEN)
    while True:
        old = table.query().where(f"{BEGINNINGS.name} IS NULL").select(["source", "number", "words"]).limit(RENEWED)
        rows = await old.to_arrow()
        if not len(rows):
            return
        anew = pa.array([beginnings_of(said.split()) for said in rows["words"].to_pylist()])
        rows = rows.drop_columns(["words"]).append_column(BEGINNINGS, anew)
        await table.merge_insert(["source", "number"]).when_matched_update_all().execute(rows)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise StorageUnavailable(f"LanceDB does not answer: {str(error).splitlines()[0][:300]}") from error
