"""The most recently searched stores: their segments in memory, up to a limit."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from threadpoolctl import threadpool_limits

from assistants_service.core.fanout import fan_out
from assistants_service.core.ports.contents import Contents
from assistants_service.core.ports.search import Passage, Query, SegmentGone, Weights
from assistants_service.core.ports.storage import ContentGone
from assistants_service.core.search.ranking import HYBRID, Hit, search
from assistants_service.core.search.segment import DamagedSegment, Segment, decode, index_size

FIRST: Final = 2**18  # bytes read before the needed number is known: all of a small blob
AT_ONCE: Final = 16  # concurrent reads, of one search and of the whole cache
INLINE_CHUNKS: Final = 2_000  # chunks that are searched on the event loop itself, which takes a millisecond


@dataclass(slots=True)
class _Store:
    segments: dict[str, Segment] = field(default_factory=dict)
    memory: int = 0  # bytes of the segments, including those being read
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)  # what two searches need is read once


@cache
def _one_thread_each() -> None:
    """A search covers several segments in parallel, each in one thread. BLAS would use more threads for each product,
    which wait for each other at its end: on a busy machine, that takes many times as long."""
    threadpool_limits(1, user_api="blas")


class SegmentCache:
    """Keeps up to `limit` bytes of segments; the least recently searched stores are evicted. A larger store is kept
    alone. A running search holds its segments until it is done. A cachetools cache does not fit: a store grows while it
    is cached, and must not be evicted while it is read.

    `container` contains the segments' blobs.
    """

    def __init__(self, contents: Contents, container: str, limit: int) -> None:
        self._contents, self._container, self._limit = contents, container, limit
        _one_thread_each()
        self._pool = ThreadPoolExecutor(os.cpu_count(), "search")
        self._stores: OrderedDict[str, _Store] = OrderedDict()
        self._reads = asyncio.Semaphore(AT_ONCE)

    @property
    def memory(self) -> int:
        """Cached bytes."""
        return sum(store.memory for store in self._stores.values())

    async def search(
        self,
        store: str,
        segments: Sequence[str],
        queries: Sequence[Query],
        eligible: Collection[str],
        limit: int,
        *,
        weights: Weights = HYBRID,
        threshold: float = 0.0,
    ) -> list[Passage]:
        """Like core.search.ranking.search, in `segments` by name, which belong to `store`. Segments in memory are not
        read again.

        Raises DamagedSegment, SegmentGone and StorageUnavailable.
        """
        opened = await self.open(store, segments)
        find = partial(search, opened, queries, eligible, limit, weights=weights, threshold=threshold)
        brief = sum(map(len, opened)) <= INLINE_CHUNKS
        hits = find() if brief else await asyncio.to_thread(find, spread=self._pool.map)
        texts = await fan_out(self._text, hits, AT_ONCE)
        return [Passage(hit.source, hit.number, hit.score, text) for hit, text in zip(hits, texts, strict=True)]

    async def open(self, store: str, segments: Sequence[str]) -> list[Segment]:
        """The segments; those that are not in memory are read. Raises the same as `search`."""
        opened = self._stores.setdefault(store, _Store())
        async with opened.opening:
            self._stores[store] = opened  # it may have been evicted in the meantime
            self._stores.move_to_end(store)
            for name in opened.segments.keys() - set(segments):
                opened.memory -= opened.segments.pop(name).memory
            missing = [name for name in segments if name not in opened.segments]
            # Raise only when all reads have ended: no other search may be reading the same segments.
            await fan_out(partial(self._load, opened), missing, AT_ONCE)
            return [opened.segments[name] for name in segments]

    def forget(self, store: str) -> None:
        """The store was deleted."""
        self._stores.pop(store, None)

    async def _load(self, store: _Store, name: str) -> None:
        async with self._reads:
            data = await self._read(name, 0, FIRST)
            if not data:
                raise SegmentGone(f"segment {name} does not exist")
            reserved = 0
            try:
                while (missing := index_size(data) - len(data)) > 0:
                    self._make_room(store, missing)
                    reserved += missing
                    if not (more := await self._read(name, len(data), missing)):
                        await self._look_for(name)
                        break
                    data += more
                brief = len(data) <= FIRST
                segment = decode(name, data) if brief else await asyncio.to_thread(decode, name, data)
            except DamagedSegment as damage:
                raise DamagedSegment(f"segment {name} is damaged: {damage}") from damage
            finally:
                store.memory -= reserved
        self._make_room(store, segment.memory)
        store.segments[name] = segment

    def _make_room(self, store: _Store, size: int) -> None:
        """Evict other stores before the memory is taken, but none that is being read."""
        store.memory += size
        excess = self.memory - self._limit
        for name, other in list(self._stores.items()):
            if excess <= 0:
                break
            if other is not store and not other.opening.locked():
                excess -= self._stores.pop(name).memory

    async def _text(self, hit: Hit) -> str:
        segment = hit.segment
        offset, length = segment.text(hit.chunk)
        async with self._reads:
            data = await self._read(segment.name, offset, length) if length else bytearray()
            if length and not data:
                await self._look_for(segment.name)
        if len(data) < length:
            raise DamagedSegment(f"segment {segment.name} is damaged: it ends within a text")
        return data.decode(errors="replace")

    async def _read(self, name: str, offset: int, length: int) -> bytearray:
        data = bytearray()
        try:
            async for piece in self._contents.download(self._container, name, offset=offset, length=length):
                data += piece
        except ContentGone as gone:  # a merge removed it during the read
            raise SegmentGone(f"segment {name} no longer exists") from gone
        return data

    async def _look_for(self, name: str) -> None:
        """Called when nothing was read where more is expected. Raises SegmentGone, unless the segment is damaged."""
        if not await self._read(name, 0, 1):
            raise SegmentGone(f"segment {name} no longer exists")
