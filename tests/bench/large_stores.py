"""Vector stores that are larger than the segment cache: python tests/bench/large_stores.py [CHUNKS ...]

Of each size there are two on SQLite, of segments of 10,000 chunks as merges leave them. A process of its own opens and
searches one, with a cache of the default bound; then both are searched by turns, so each puts the other out.
Ten segments differ, and then they come again under other names: what a search reads and computes is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from assistants_service.core import names
from assistants_service.core.ports.search import Query
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.search.embedded import MEMORY
from assistants_service.core.search.segment_cache import SegmentCache
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import SystemClock, storage_of
from helper import resident_mb
from vector_search import MODEL, QUESTION, Store, file, source, vectors

SEGMENT, DISTINCT, SEARCHES, PATIENCE = 10_000, 10, 15, 20


class LargeStore(Store):
    async def fill(self, blobs: list[bytes], number: int) -> None:
        for seed in range(number):
            await self._add(seed, blobs[seed % DISTINCT])

    async def _add(self, seed: int, blob: bytes) -> None:
        for _ in range(PATIENCE):
            with contextlib.suppress(StorageUnavailable):  # a checkpoint of gigabytes locks the file for a while
                return await self.add(seed, blob)
        await self.add(seed, blob)

    def known(self, number: int) -> LargeStore:
        """As filled by another process."""
        self._segments = [f"bench/{self._name}/{source(seed)}" for seed in range(number)]
        self._sources = {source(seed) for seed in range(min(number, DISTINCT))}
        return self


def make(seed: int) -> bytes:
    return file(seed, SEGMENT)


async def timed(store: Store, cache: SegmentCache, query: Query) -> float:
    begun = time.perf_counter()
    await store.find(cache, query)
    return (time.perf_counter() - begun) * 1000


async def measure(folder: str, number: int) -> dict[str, str]:
    storage = storage_of(Settings(storage=folder), SystemClock())
    await storage.open()
    try:
        one, two = (LargeStore(storage, name).known(number) for name in ("one", "two"))
        queries = [Query(QUESTION, vectors(1, seed)[0], MODEL) for seed in range(SEARCHES)]
        resting, cache = resident_mb(os.getpid()), SegmentCache(storage, names.CONTENTS, MEMORY)
        cold = await timed(one, cache, queries[0])
        warm = [await timed(one, cache, query) for query in queries]
        kept, grown = cache.memory / 2**20, resident_mb(os.getpid()) - resting
        turns = [await timed(store, cache, query) for query in queries[:3] for store in (two, one)]
        return {
            "segment cache": f"{kept:,.0f} MB",
            "growth of the process": f"{grown:,.0f} MB",
            "first search": f"{cold:,.0f} ms",
            "search, and read 10 texts": f"{statistics.median(warm):,.0f} ms ({min(warm):,.0f} to {max(warm):,.0f})",
            "two by turns: search": f"{statistics.median(turns):,.0f} ms",
        }
    finally:
        await storage.close()


def run(folder: str, number: int) -> dict[str, str]:
    return asyncio.run(measure(folder, number))


async def fill(folder: str, blobs: list[bytes], number: int) -> None:
    storage = storage_of(Settings(storage=folder), SystemClock())
    await storage.open()
    try:
        for name in ("one", "two"):
            await LargeStore(storage, name).fill(blobs, number)
    finally:
        await storage.close()


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as makers:
        blobs = list(makers.map(make, range(DISTINCT)))
    for chunks in map(int, sys.argv[1:] or ("100000", "300000", "1000000")):
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            storage = f"sqlite:///{folder}/bench.db"
            asyncio.run(fill(storage, blobs, chunks // SEGMENT))
            for name, figure in process.submit(run, storage, chunks // SEGMENT).result().items():
                print(f"| {chunks:,} chunks | {name} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
