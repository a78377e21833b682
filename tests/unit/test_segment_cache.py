"""The cache of segments: what it reads, what it keeps, and what it says of damaged blobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from assistants_service.core.ports.search import Query
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.search.merge_policy import FACTOR
from assistants_service.core.search.ranking import search
from assistants_service.core.search.segment import DamagedSegment, IndexedChunk, decode
from assistants_service.core.search.segment_cache import FIRST, INLINE_CHUNKS, SegmentCache, SegmentGone
from assistants_service.core.search.segment_writer import build, merge
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.wiring import SystemClock
from inprocess_service import InProcess, in_process
from multipart_forms import upload

CONTAINER, PLENTY = "segments", 10**9


class Watched:
    """A store's contents, and what was read of them. `gate` holds readings up."""

    def __init__(self, storage: SqliteStorage) -> None:
        self.storage, self.read = storage, list[tuple[str, int, int | None]]()
        self.gate, self.broken = asyncio.Event(), False
        self.gate.set()

    async def put(self, name: str, blob: bytes) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield blob

        await self.storage.commit(CONTAINER, name, [await self.storage.stage(CONTAINER, name, "part", pieces())])

    async def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        self.read.append((name, offset, length))
        await self.gate.wait()
        if self.broken:
            raise StorageUnavailable("broken")
        async for piece in self.storage.download(container, name, offset=offset, length=length):
            yield piece

    def names(self) -> list[str]:
        """Whose index was read, since this was asked last."""
        found = [name for name, offset, _ in self.read if offset == 0]
        self.read.clear()
        return found


@pytest.fixture
async def contents() -> AsyncIterator[Watched]:
    storage = SqliteStorage(":memory:", SystemClock())
    await storage.open()
    yield Watched(storage)
    await storage.close()


def blob(source: str, *texts: str, dimensions: int = 8) -> bytes:
    vectors = np.ones((len(texts), dimensions), np.float32)
    return build(source, [IndexedChunk(text, 0) for text in texts], vectors, "model")


async def found(cache: SegmentCache, store: str, *names: str, word: str = "tide") -> list[tuple[str, str]]:
    eligible = [f"{name}.1" for name in names]
    return [(hit.source, hit.text) for hit in await cache.search(store, names, [Query(word)], eligible, 10)]


async def test_a_search_reads_only_what_the_store_gained(contents: Watched) -> None:
    for name in ("a", "b", "c"):
        await contents.put(name, blob(f"{name}.1", f"the tide of {name}", "nothing"))
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    assert await found(cache, "s", "a", "b") == [("a.1", "the tide of a"), ("b.1", "the tide of b")]
    assert sorted(contents.names()) == ["a", "b"]
    assert len(await found(cache, "s", "a", "b")) == 2
    assert contents.names() == []
    assert len(await found(cache, "s", "a", "b", "c")) == 3
    assert contents.names() == ["c"]
    assert await found(cache, "s", "c") == [("c.1", "the tide of c")]
    [left] = [segment.memory for segment in await cache.open("s", ["c"])]
    assert cache.memory == left


async def test_a_merge_is_one_read(contents: Watched) -> None:
    parts = [blob(f"{name}.1", f"tide {name}") for name in "ab"]
    for name, part in zip("ab", parts, strict=True):
        await contents.put(name, part)
    await contents.put("m", merge(parts, {"a.1", "b.1"}) or b"")
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    before = await found(cache, "s", "a", "b")
    contents.read.clear()
    after = [(hit.source, hit.text) for hit in await cache.search("s", ["m"], [Query("tide")], {"a.1", "b.1"}, 10)]
    assert after == before
    assert contents.names() == ["m"]


async def test_two_searches_at_once_read_a_store_once(contents: Watched) -> None:
    await contents.put("a", blob("a.1", "tide"))
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    contents.gate.clear()
    both = [asyncio.ensure_future(found(cache, "s", "a")) for _ in range(2)]
    while not contents.read:
        await asyncio.sleep(0)
    contents.gate.set()
    assert await asyncio.gather(*both) == [[("a.1", "tide")]] * 2
    assert contents.names() == ["a"]


async def test_what_was_searched_least_recently_goes(contents: Watched) -> None:
    for name in "abc":
        await contents.put(name, blob(f"{name}.1", "tide", dimensions=10_000))
    one = decode("a", blob("a.1", "tide", dimensions=10_000)).memory
    cache = SegmentCache(contents, CONTAINER, 2 * one)
    for name in "abac":
        await found(cache, f"store {name}", name)
        assert cache.memory <= 2 * one
    contents.names()
    assert len(await found(cache, "store a", "a")) == len(await found(cache, "store c", "c")) == 1
    assert contents.names() == []
    await found(cache, "store b", "b")
    assert contents.names() == ["b"]


async def test_a_store_beyond_the_limit_is_kept_alone(contents: Watched) -> None:
    await contents.put("small", blob("small.1", "tide"))
    await contents.put("large", blob("large.1", *["tide"] * 20, dimensions=10_000))
    cache = SegmentCache(contents, CONTAINER, 1000)
    await found(cache, "1", "small")
    assert len(await found(cache, "2", "large")) == 10
    contents.names()
    assert len(await found(cache, "2", "large")) == 10
    assert contents.names() == []
    assert len(await found(cache, "1", "small")) == 1
    assert contents.names() == ["small"]
    assert cache.memory == (await cache.open("1", ["small"]))[0].memory


async def test_an_index_longer_than_the_first_read_is_read_in_two(contents: Watched) -> None:
    large = blob("large.1", *["tide"] * 100, dimensions=FIRST // 100)
    await contents.put("large", large)
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    await cache.open("s", ["large"])
    assert [offset for _, offset, _ in contents.read] == [0, FIRST]
    assert sum(length or 0 for _, _, length in contents.read) < len(large)  # not the texts


async def test_a_large_store_is_searched_by_several_threads_with_the_same_result(contents: Watched) -> None:
    blobs = {name: blob(f"{name}.1", *[f"tide {number % 7}" for number in range(INLINE_CHUNKS)]) for name in "abc"}
    for name, data in blobs.items():
        await contents.put(name, data)
    everything = {f"{name}.1" for name in blobs}
    query = Query("tide 3", np.ones(8, np.float32), "model")
    hits = await SegmentCache(contents, CONTAINER, PLENTY).search("s", list(blobs), [query], everything, 50)
    alone = search([decode(name, data) for name, data in blobs.items()], [query], everything, 50)
    assert [(hit.source, hit.number, hit.score) for hit in hits] == [(h.source, h.number, h.score) for h in alone]
    assert {hit.text for hit in hits} == {"tide 3"}


async def test_a_forgotten_store_is_read_again(contents: Watched) -> None:
    await contents.put("a", blob("a.1", "tide"))
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    await found(cache, "s", "a")
    cache.forget("s")
    assert cache.memory == 0
    contents.names()
    await found(cache, "s", "a")
    assert contents.names() == ["a"]


async def test_a_segment_that_is_gone_and_one_that_is_damaged_say_so(contents: Watched) -> None:
    good = blob("good.1", "tide")
    await contents.put("good", good)
    await contents.put("cut", good[: len(good) // 2])
    await contents.put("textless", good[:-2])
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    with pytest.raises(SegmentGone, match="segment nowhere does not exist"):
        await found(cache, "s", "good", "nowhere")
    with pytest.raises(DamagedSegment, match="segment cut is damaged: "):
        await found(cache, "s", "good", "cut")
    with pytest.raises(DamagedSegment, match="segment textless is damaged: "):
        await cache.search("t", ["textless"], [Query("tide")], {"good.1"}, 10)
    contents.broken = True
    with pytest.raises(StorageUnavailable):
        await found(cache, "u", "good")
    contents.broken = False
    assert len(await found(cache, "u", "good")) == 1  # what failed left nothing behind
    assert len(await found(cache, "s", "good")) == 1


async def test_a_search_that_is_given_up_leaves_the_store_to_the_next(contents: Watched) -> None:
    await contents.put("a", blob("a.1", "tide"))
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    contents.gate.clear()
    search = asyncio.ensure_future(found(cache, "s", "a"))
    while not contents.read:
        await asyncio.sleep(0)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    contents.gate.set()
    assert len(await found(cache, "s", "a")) == 1


# --- merges under a search -------------------------------------------------------------------------------------------


def goes_under_the_reader(storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The next segment that is read goes when the reader knows that it is there, and has none of it yet: another
    process's doing, or that of a task that comes in between. The names of what went so."""
    read, gone = storage._chunk, list[str]()

    def chunk(container: str, name: str, part: str, number: int) -> bytes:
        if container == CONTAINER and not gone:
            for table in ("contents", "chunks"):
                storage._sql.execute(f"DELETE FROM {table} WHERE container=? AND name=?", (container, name))
            gone.append(name)
        return read(container, name, part, number)

    monkeypatch.setattr(storage, "_chunk", chunk)
    return gone


@pytest.mark.parametrize("when", ["between_reads", "within_one"])
async def test_a_segment_that_goes_while_it_is_read_is_gone_and_not_damaged(
    when: str, contents: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contents.put("large", blob("large.1", *["tide"] * 100, dimensions=FIRST // 100))
    cache = SegmentCache(contents, CONTAINER, PLENTY)
    if when == "within_one":
        goes_under_the_reader(contents.storage, monkeypatch)
    else:
        first = contents.download

        async def download(container: str, name: str, **where: int) -> AsyncIterator[bytes]:
            async for piece in first(container, name, **where):
                yield piece
            if not where["offset"]:
                await contents.storage.discard(container, name)

        monkeypatch.setattr(contents, "download", download)
    with pytest.raises(SegmentGone, match="segment large no longer exists"):
        await found(cache, "s", "large")
    assert cache.memory == 0


@dataclass
class Merged:
    """A service with a vector store of as many files as a merge takes, but one. The next segment that is read is merged
    before its first byte comes, and removed after it was found. `gone` are the names of those."""

    service: InProcess
    store: str
    files: list[str]
    gone: list[str]


@pytest.fixture
async def merged(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Merged]:
    async with in_process() as service:
        files = [(await upload(service.api, b"the tide", f"{n}.txt"))["id"] for n in range(FACTOR)]
        store = (await service.api.post("/vector_stores", {"file_ids": files[1:]}))["id"]
        await service.ingested({"id": store})
        storage, index = service.storage, service.stores.index
        download, drop = storage.download, index.drop
        made = Merged(service, store, files, [])

        async def later(_: str, names: Iterable[str]) -> None:
            """As if its worker paused before it removes what was merged."""

        async def merge() -> None:
            monkeypatch.setattr(index, "drop", later)
            await service.api.post(f"/vector_stores/{store}/files", {"file_id": files[0]})
            while len((await service.stores.load("default", store)).state.segments) != 1:
                await asyncio.sleep(0.001)
            monkeypatch.setattr(index, "drop", drop)
            made.gone = goes_under_the_reader(storage, monkeypatch)

        async def met(container: str, name: str, **where: int) -> AsyncIterator[bytes]:
            if container == CONTAINER and not begun:
                begun.append(name)
                await merge()
            async for piece in download(container, name, **where):
                yield piece

        begun = list[str]()
        monkeypatch.setattr(storage, "download", met)
        yield made


async def test_a_search_that_meets_the_removal_of_merged_segments_looks_at_the_log_again(merged: Merged) -> None:
    answer = await merged.service.api.post(f"/vector_stores/{merged.store}/search", {"query": "tide"})
    assert merged.gone
    assert sorted(each["file_id"] for each in answer["data"]) == sorted(merged.files)


async def test_the_text_of_a_file_whose_segment_is_merged_meanwhile_is_read_from_the_new_one(merged: Merged) -> None:
    answer = await merged.service.api.get(f"/vector_stores/{merged.store}/files/{merged.files[1]}/content")
    assert merged.gone
    assert [each["text"] for each in answer["data"]] == ["the tide"]
