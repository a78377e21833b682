"""The store of vector_search.py in LanceDB. One process fills it, and another one searches it, with nothing in memory
but what a search leaves there."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from typing import Final

import numpy as np

from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.ports.search import Query, VectorIndex
from assistants_service.core.search.ranking import HYBRID, VECTOR, WORDS
from assistants_service.infra.settings import Settings
from assistants_service.infra.wiring import SystemClock, index_of, storage_of
from helper import resident_mb
from stand import Figure, Stand

DIMENSIONS, MODEL, STORE = 256, "bench", "bench/vs_1"
FILES, PER_FILE = 10, 20
SEARCHES: Final = 15

Figures = dict[str, tuple[float, str]]  # value and unit


async def lance_search(
    stand: Stand, engine: str, texts: Callable[[int, int], list[str]], question: str
) -> AsyncIterator[Figure]:
    """`texts` makes the chunks of a file of its number and size."""
    size = 1000 if stand.quick else 10_000
    storage, total = stand.storage(engine), f"LanceDB, {FILES * size:,} chunks"
    for work in (_fill, *(_ask for _ in range(1 if stand.quick else 3))):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            given = (storage, size, texts, question)
            figures = await asyncio.wrap_future(process.submit(_run, work, *given))
        for name, (value, unit) in figures.items():
            yield Figure(engine, f"{total}: {name}", value, unit)


Work = Callable[[VectorIndex, int, Callable[[int, int], list[str]], str], Awaitable[Figures]]


def _run(work: Work, storage: str, size: int, texts: Callable[[int, int], list[str]], question: str) -> Figures:
    async def running() -> Figures:
        async with _opened(storage) as index:
            return await work(index, size, texts, question)

    return asyncio.run(running())


@asynccontextmanager
async def _opened(where: str) -> AsyncIterator[VectorIndex]:
    settings = Settings(storage=where, search_index="lancedb")
    storage = storage_of(settings, SystemClock())
    await storage.open()
    yield index_of(settings, storage)
    await storage.close()


async def _fill(index: VectorIndex, size: int, texts: Callable[[int, int], list[str]], question: str) -> Figures:
    took, small = 0.0, FILES - 1
    # The last file comes as many: as soon as there are enough of them, the table is brought into shape.
    files = [(seed, size) for seed in range(small)] + [(small + place, size // 50) for place in range(50)]
    for seed, number in files:
        took += await _put(index, seed, texts(seed, number))
    begun = time.perf_counter()
    await index.tidy(STORE, _all)
    shaping = time.perf_counter() - begun
    return {
        "put them all": (took, "s"),
        "bring the table into shape": (shaping, "s"),
        "memory of the process that did so": (resident_mb(os.getpid()), "MB"),
    }


async def _ask(index: VectorIndex, size: int, texts: Callable[[int, int], list[str]], question: str) -> Figures:
    resting, sources = resident_mb(os.getpid()), list(await _all())

    async def search(seed: int, eligible: list[str], weights: object = HYBRID) -> float:
        vector = np.random.default_rng(10**6 + seed).standard_normal(DIMENSIONS, np.float32)
        begun, queries = time.perf_counter(), [Query(question, vector, MODEL)]
        assert await index.search(STORE, sources, queries, eligible, 10, weights=weights)  # type: ignore[arg-type]
        return (time.perf_counter() - begun) * 1000

    async def usual(eligible: list[str], weights: object = HYBRID) -> tuple[float, str]:
        return statistics.median([await search(seed, eligible, weights) for seed in range(SEARCHES)]), "ms"

    cold = await search(0, sources)
    figures: Figures = {
        "search, cold": (cold, "ms"),
        "search, and read 10 texts": await usual(sources),
        "search by vectors alone": await usual(sources, VECTOR),
        "search by words alone": await usual(sources, WORDS),
        "search in half of the files": await usual(sources[::2]),
        "growth of the process": (resident_mb(os.getpid()) - resting, "MB"),
    }
    added = [await _put(index, 10**6 + place, texts(10**6 + place, PER_FILE)) for place in range(3)]
    figures[f"add a file of {PER_FILE} chunks"] = statistics.median(added) * 1000, "ms"
    await index.drop(STORE, [f"file-{10**6 + place}.1" for place in range(3)])
    return figures


async def _put(index: VectorIndex, seed: int, texts: list[str]) -> float:
    """Seconds."""
    chunks = [Chunk(text, 0, 0) for text in texts]
    vectors = np.random.default_rng(seed).standard_normal((len(texts), DIMENSIONS), np.float32)
    begun = time.perf_counter()
    await index.put(STORE, f"file-{seed}.1", chunks, vectors, MODEL)
    return time.perf_counter() - begun


async def _all() -> list[str]:
    return [f"file-{seed}.1" for seed in range(FILES - 1 + 50)]
