"""A vector store of 100,000 chunks: a search beside the bare product, its memory, a cold start, and what one more file
costs there and in an empty store. In this process, over the storage engine, as no API is needed for it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from threadpoolctl import threadpool_limits

from assistants_service.core import names
from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.ports.storage import Storage
from assistants_service.core.search.ranking import HYBRID, VECTOR, WORDS, Spread, search
from assistants_service.core.search.segment import Floats, IndexedChunk, Segment
from assistants_service.core.search.segment_cache import SegmentCache
from assistants_service.core.search.segment_writer import build
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import SystemClock, storage_of
from helper import resident_mb
from stand import Figure, Stand, at_most

DIMENSIONS, MODEL = 256, "bench"
SEGMENTS, PER_FILE = 10, 20  # of the store; chunks of the one more file
LENGTH, VOCABULARY = 500, 200_000  # words of a chunk of 800 tokens; the nth most common has a share of 1/n
BEYOND = 3.0  # times the bare product, at most


def word(rank: int) -> str:
    """The commonest words are short; of the others, four have a beginning in common, as forms of a word have."""
    return f"w{rank}" if rank < 100 else f"{rank // 4:05}{'aeio'[rank % 4]}"


QUESTION = " ".join(map(word, (1, 6, 14, 40, 90, 100, 800, 1500, 1600, 2000, 8000)))  # "what did the ..."


def vectors(number: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((number, DIMENSIONS), np.float32)


def texts(seed: int, number: int) -> list[str]:
    """The chunks of a file."""
    shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    drawn = np.random.default_rng(seed).random((number, LENGTH)) * shares[-1]
    ranks = np.searchsorted(shares, drawn) + 1
    return [" ".join(map(word, row)) for row in ranks.tolist()]


def file(seed: int, number: int) -> bytes:
    """The segment of a file of so many chunks."""
    chunks = [IndexedChunk(text, 0) for text in texts(seed, number)]
    return build(source(seed), chunks, vectors(number, seed), MODEL)


def source(seed: int) -> str:
    return f"file-{seed}.1"


class Store:
    """A vector store on a storage engine, as far as a search goes."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._segments: list[str] = []
        self._sources: set[str] = set()

    async def add(self, seed: int, blob: bytes) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield blob

        name = f"bench/{self._name}/{source(seed)}"
        await self._storage.commit(
            names.CONTENTS, name, [await self._storage.stage(names.CONTENTS, name, "part", pieces())]
        )
        self._segments.append(name)
        self._sources.add(source(seed))

    def alone(self) -> list[Store]:
        """Its large segments, as if each were a store."""
        stores = []
        for place in range(SEGMENTS):
            store = Store(self._storage, f"{self._name} {place}")
            store._segments, store._sources = [self._segments[place]], {source(place)}
            stores.append(store)
        return stores

    async def open(self, cache: SegmentCache) -> list[Segment]:
        return await cache.open(self._name, self._segments)

    async def find(self, cache: SegmentCache, query: Query) -> None:
        assert await cache.search(self._name, self._segments, [query], self._sources, 10)

    def search(self, segments: list[Segment], query: Query, spread: Spread, weights: Weights = HYBRID) -> None:
        assert search(segments, [query], self._sources, 10, weights=weights, spread=spread)


async def vector_search(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    size = 1000 if stand.quick else 10_000
    total = f"{SEGMENTS * size:,} chunks"
    with (
        ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as makers,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        blobs = [makers.submit(file, seed, size) for seed in range(SEGMENTS)]
        storage = storage_of(Settings(storage=stand.storage(engine)), SystemClock())
        await storage.open()
        try:
            large, seeds = Store(storage, "large"), iter(range(SEGMENTS, 10**9))
            for seed, blob in enumerate(blobs):
                await large.add(seed, await asyncio.wrap_future(blob))
            async for turn in stand.turns():
                resting, cache = resident_mb(os.getpid()), SegmentCache(storage, names.CONTENTS, 2**40)
                begun = time.perf_counter()
                segments = await large.open(cache)
                yield Figure(engine, f"{total}, cold: open", (time.perf_counter() - begun) * 1000)
                yield Figure(engine, f"{total}: memory of the segment cache", cache.memory / 2**20, "MB")
                if not turn:
                    grown = resident_mb(os.getpid()) - resting
                    yield Figure(engine, f"{total}: growth of the process", grown, "MB")
                query = Query(QUESTION, vectors(1, turn)[0], MODEL)
                for figure in warm(engine, total, large, segments, query, pool.map, limited=not stand.quick):
                    yield figure
                begun = time.perf_counter()
                await large.find(cache, query)
                yield Figure(engine, f"{total}: search, and read 10 texts", (time.perf_counter() - begun) * 1000)

                empty = Store(storage, f"empty {turn}")
                least = await one_more(empty, SegmentCache(storage, names.CONTENTS, 2**40), next(seeds))
                took = await one_more(large, cache, next(seeds))
                what = f"add a file of {PER_FILE} chunks to {total}, and open them"
                yield Figure(engine, what, took, "ms", least, at_most(2 * least))

                del segments, cache
                async for figure in bounded(engine, storage, large.alone()):
                    yield figure
        finally:
            await storage.close()


def warm(
    engine: str, total: str, store: Store, segments: list[Segment], query: Query, spread: Spread, *, limited: bool
) -> Iterator[Figure]:
    """Searches of what is in memory, beside the bare product of the same matrix, at its fastest."""
    product = partial(np.matmul, np.concatenate([segment.vectors for segment in segments]), query.vector)
    with threadpool_limits(os.cpu_count(), user_api="blas"):
        [parallel] = _by_turns(product)
    single, hybrid, by_vectors, by_words = _by_turns(
        product,
        partial(store.search, segments, query, spread),
        partial(store.search, segments, query, spread, weights=VECTOR),
        partial(store.search, segments, query, spread, weights=WORDS),
    )
    bare = min(parallel, single)
    yield Figure(engine, f"{total}: search", hybrid, "ms", bare, at_most(BEYOND * bare) if limited else None)
    yield Figure(engine, f"{total}: search by vectors alone", by_vectors, "ms", bare)
    yield Figure(engine, f"{total}: search by words alone", by_words, "ms", bare)


async def one_more(store: Store, cache: SegmentCache, seed: int) -> float:
    """Milliseconds of one more file: its segment, written and opened in a store that is open already."""
    begun = time.perf_counter()
    await store.add(seed, file(seed, PER_FILE))
    await store.open(cache)
    return (time.perf_counter() - begun) * 1000


async def bounded(engine: str, storage: Storage, stores: list[Store]) -> AsyncIterator[Figure]:
    """Each large segment is a store of its own, of which three have room: they are opened round and round."""
    alone = SegmentCache(storage, names.CONTENTS, 2**40)
    await stores[0].open(alone)
    limit = 3 * alone.memory
    del alone
    cache, resting, kept, grown = SegmentCache(storage, names.CONTENTS, limit), resident_mb(os.getpid()), 0.0, 0.0
    for store in [*stores, *stores]:
        await store.open(cache)
        kept, grown = max(kept, cache.memory / 2**20), max(grown, resident_mb(os.getpid()) - resting)
    yield Figure(
        engine, f"{len(stores)} stores by turns, 3 fit: kept", kept, "MB", limit / 2**20, at_most(limit / 2**20)
    )
    yield Figure(engine, f"{len(stores)} stores by turns, 3 fit: growth of the process", grown, "MB", limit / 2**20)


def _by_turns(*acts: Callable[[], object], number: int = 15) -> list[float]:
    """The median milliseconds of each: what disturbs one disturbs them all."""
    took: list[list[float]] = [[] for _ in acts]
    for _ in range(number):
        for act, times in zip(acts, took, strict=True):
            begun = time.perf_counter()
            act()
            times.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(times) for times in took]
