"""The index of vector stores: segments are blobs of the storage engine, searched in the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from assistants_service.core.names import SEGMENTS
from assistants_service.core.ports.contents import Contents
from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.ports.search import Passage, Query, SegmentGone, Weight, Weights
from assistants_service.core.ports.storage import ContentGone
from assistants_service.core.search import merge_policy, segment, segment_writer
from assistants_service.core.search.ranking import HYBRID
from assistants_service.core.search.segment_cache import SegmentCache

MEMORY: Final = 512 * 1024**2  # bytes
NAMES: Final = 1000  # listed per request


class EmbeddedIndex:
    """Stores and searches the chunks of vector stores. `store` is `project/store`; `memory` is the cache's limit in
    bytes.

    A store's log names its *segments*: an ingested file is one, named by its source, until a merge combines several. A
    segment that the log does not name yet, or any more, is not part of the store: it is never found, and is dropped by
    name. All methods raise StorageUnavailable.
    """

    def __init__(self, contents: Contents, memory: int = MEMORY) -> None:
        self._contents = contents
        self._cache = SegmentCache(contents, SEGMENTS, memory)

    async def put(self, store: str, source: str, chunks: Sequence[Chunk], vectors: segment.Floats, model: str) -> int:
        """Write the segment of one file: its chunks, and a vector for each, made by `model`. Returns its size in bytes.

        It is stored whole or not at all. `source` names file and attempt, so the same source has the same chunks, and
        writing it twice stores it once. Raises Conflict if it was dropped in the meantime.
        """
        cut = [segment.IndexedChunk(chunk.text, chunk.start) for chunk in chunks]
        return await self._put(
            store, source, await asyncio.to_thread(segment_writer.build, source, cut, vectors, model)
        )

    async def drop(self, store: str, names: Iterable[str]) -> None:
        """Remove segments. Idempotent."""
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
        """The `limit` chunks of the `eligible` sources in these segments that match one of the queries best, the best
        first, ties ordered by source and number. `segments` are all current segments of the store.

        A score is in 0..1 and independent of other results. Chunks below `threshold` are left out, and those that have
        nothing in common with a query. Raises SegmentGone and DamagedSegment.
        """
        blobs = [_blob(store, name) for name in segments]
        return await self._cache.search(store, blobs, queries, eligible, limit, weights=weights, threshold=threshold)

    async def missing(self, store: str, names: Collection[str]) -> set[str]:
        """Returns those of the segments that do not exist."""
        return set(names) - await self._names(store)

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        """The chunks of a source in a segment, in order, each with its offset in the file's text; empty if there is no
        such segment."""
        blob = await self._read(store, name)
        return [(chunk.start, chunk.text) for of, chunk in segment.passages(blob) if of == source] if blob else []

    async def delete(self, store: str, names: Iterable[str]) -> None:
        """Remove the store: the segments that its log names, and any others. Idempotent."""
        self._cache.forget(store)
        await self.drop(store, {*names, *await self._names(store)})

    async def remove_orphaned(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Remove orphaned segments after work on the store: those that a worker wrote after another had taken over and
        removed them, and that it could not remove because it died. `known` returns the names that the log contains at
        that moment: a segment that existed before and is not among them belongs to no source."""
        # List the blobs first, then read the log: a segment that is written in between is not in the list.
        if there := await self._names(store):
            await self.drop(store, there - set(await known()))

    def plan(self, segments: Sequence[Weight]) -> Sequence[str]:
        """The names of the segments that should be merged next; none if no merge is due."""
        return merge_policy.plan(segments)

    async def merge(self, store: str, names: Sequence[str], live: Collection[str], into: str) -> int | None:
        """Write the `live` sources of these segments as `into`. Returns its size in bytes, None if there are none.

        Raises SegmentGone, and Conflict if `into` was dropped in the meantime."""
        blobs = [await self._read(store, name) for name in names]
        if not all(blobs):
            raise SegmentGone(f"one of {len(blobs)} segments to be merged does not exist")
        merged = await asyncio.to_thread(segment_writer.merge, blobs, live)
        return await self._put(store, into, merged) if merged else None

    async def _put(self, store: str, name: str, blob: bytes) -> int:
        part = await self._contents.stage(SEGMENTS, _blob(store, name), "whole", _once(blob))
        await self._contents.commit(SEGMENTS, _blob(store, name), [part])
        return len(blob)

    async def _names(self, store: str) -> set[str]:
        """The names of existing and staged segments."""
        folder, found = _blob(store, ""), list[str]()
        more = True
        while more:
            after = found[-1] if found else None
            page = await self._contents.list_names(SEGMENTS, after=after, limit=NAMES, prefix=folder)
            found += page
            more = len(page) == NAMES
        return {name.removeprefix(folder) for name in found}

    async def _read(self, store: str, name: str) -> bytes:
        """Empty if there is no such segment, or if it was removed while it was read."""
        try:
            return b"".join([piece async for piece in self._contents.download(SEGMENTS, _blob(store, name))])
        except ContentGone:
            return b""


def _blob(store: str, name: str) -> str:
    return f"{store}/{name}"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
