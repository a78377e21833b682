"""The index that comes with the service: segments are blobs of the storage engine, searched in the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from assistants_service.core.names import SEGMENTS
from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.ports.search import Merging, Passage, Query, SegmentGone, Weight, Weights
from assistants_service.core.ports.storage import ContentGone, Contents
from assistants_service.core.search import merge_policy, segment
from assistants_service.core.search.ranking import HYBRID
from assistants_service.core.search.segment_cache import SegmentCache

MEMORY: Final = 512 * 1024**2  # bytes
NAMES: Final = 1000  # that are listed at once


class EmbeddedIndex:
    """ports.search.VectorIndex, and what merges its segments. `memory` is what the cache keeps, in bytes."""

    def __init__(self, contents: Contents, memory: int = MEMORY) -> None:
        self._contents = contents
        self._cache = SegmentCache(contents, SEGMENTS, memory)
        self.merging: Merging | None = self

    async def put(self, store: str, source: str, chunks: Sequence[Chunk], vectors: segment.Floats, model: str) -> int:
        cut = [segment.Chunk(chunk.text, chunk.start) for chunk in chunks]
        return await self._put(store, source, await asyncio.to_thread(segment.build, source, cut, vectors, model))

    async def drop(self, store: str, names: Iterable[str]) -> None:
        for name in names:
            await self._contents.discard(SEGMENTS, _blob(store, name))

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
        """Raises DamagedSegment, too."""
        blobs = [_blob(store, name) for name in segments]
        return await self._cache.search(store, blobs, queries, eligible, limit, weights=weights, threshold=threshold)

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        blob = await self._read(store, name)
        return [(chunk.start, chunk.text) for of, chunk in segment.passages(blob) if of == source] if blob else []

    async def delete(self, store: str, names: Iterable[str]) -> None:
        self._cache.forget(store)
        await self.drop(store, {*names, *await self._names(store)})

    async def tidy(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Drop what a worker wrote after another one had taken over and removed it, if it died before it could remove
        that itself. All else is led by the log, and merging by its segments."""
        # The blobs first, then the log: what is written after the look is in neither.
        if there := await self._names(store):
            await self.drop(store, there - set(await known()))

    def plan(self, segments: Sequence[Weight]) -> Sequence[str]:
        return merge_policy.plan(segments)

    async def merge(self, store: str, names: Sequence[str], live: Collection[str], into: str) -> int | None:
        blobs = [await self._read(store, name) for name in names]
        if not all(blobs):
            raise SegmentGone(f"of {len(blobs)} segments that were to be merged, one is not there")
        merged = await asyncio.to_thread(segment.merge, blobs, live)
        return await self._put(store, into, merged) if merged else None

    async def _put(self, store: str, name: str, blob: bytes) -> int:
        part = await self._contents.stage(SEGMENTS, _blob(store, name), "whole", _once(blob))
        await self._contents.commit(SEGMENTS, _blob(store, name), [part])
        return len(blob)

    async def _names(self, store: str) -> set[str]:
        """Of the segments that are there, or staged."""
        folder, found = _blob(store, ""), list[str]()
        more = True
        while more:
            after = found[-1] if found else None
            page = await self._contents.list_names(SEGMENTS, after=after, limit=NAMES, prefix=folder)
            found += page
            more = len(page) == NAMES
        return {name.removeprefix(folder) for name in found}

    async def _read(self, store: str, name: str) -> bytes:
        """Nothing if there is no such segment, or if it was removed while it came."""
        try:
            return b"".join([piece async for piece in self._contents.download(SEGMENTS, _blob(store, name))])
        except ContentGone:
            return b""


def _blob(store: str, name: str) -> str:
    return f"{store}/{name}"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
