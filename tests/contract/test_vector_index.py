"""What the index of vector stores must do, on both storage engines."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import sample_documents
from assistants_service.core.ports.extraction import Chunk, Chunking
from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.ports.storage import Storage
from assistants_service.core.search.embedded import EmbeddedIndex
from assistants_service.core.search.ranking import HYBRID, VECTOR, WORDS
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
from assistants_service.infra.extraction.pool import ReaderPool
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import SystemClock, index_of, storage_of
from index_filler import STORE, put
from scripted_ingestion import Bag
from source_paths import python_path

OTHER = "default/vs_2"
HERE = Path(__file__).parent


@dataclass
class Indexed:
    """An index, and the segments that the log of each store would name."""

    settings: Settings
    storage: Storage
    index: EmbeddedIndex
    logged: dict[str, list[str]] = field(default_factory=lambda: {STORE: [], OTHER: []})

    async def put(self, source: str, *texts: str, store: str = STORE, model: str = Bag.model) -> int:
        size = await put(self.index, store, source, texts, model)
        self.logged[store].append(source)
        return size

    async def drop(self, *sources: str, store: str = STORE) -> None:
        self.logged[store] = [source for source in self.logged[store] if source not in sources]
        await self.index.drop(store, sources)

    async def search(
        self,
        text: str,
        limit: int = 10,
        *,
        store: str = STORE,
        weights: Weights = HYBRID,
        eligible: Iterable[str] | None = None,
        threshold: float = 0.0,
    ) -> list[tuple[str, int, str]]:
        """Source, number and text of each result. Their order and their scores are checked."""
        queries = [Query(text, (await Bag().embed([text]))[0], Bag.model)]
        segments = self.logged[store]
        allowed = set(segments if eligible is None else eligible)
        found = await self.index.search(store, segments, queries, allowed, limit, weights=weights, threshold=threshold)
        assert found == sorted(found, key=lambda each: (-each.score, each.source, each.number))
        assert all(max(threshold, 0) <= each.score <= 1 for each in found)
        assert len({(each.source, each.number) for each in found}) == len(found)
        return [(each.source, each.number, each.text) for each in found]

    async def sources(self, text: str, limit: int = 10, **options: object) -> list[str]:
        return [source for source, _, _ in await self.search(text, limit, **options)]  # type: ignore[arg-type]


@pytest.fixture(params=["SQLite", "Azurite"])
async def indexed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Indexed]:
    where = f"sqlite:///{tmp_path}/store.db" if request.param == "SQLite" else request.getfixturevalue("azure_account")
    settings = read_settings({"storage": where})
    storage = storage_of(settings, SystemClock())
    await storage.open()
    yield Indexed(settings, storage, index_of(settings, storage))
    await storage.close()


@pytest.mark.parametrize("weights", [HYBRID, VECTOR, WORDS], ids=["hybrid", "vector", "words"])
async def test_what_fits_best_comes_first(indexed: Indexed, weights: Weights) -> None:
    await indexed.put("file-a.1", "The tide comes twice a day.", "Gulls eat what it leaves.")
    await indexed.put("file-b.2", "The moon makes the tide.", "A tide table lists times.")
    assert (await indexed.search("moon and tide", weights=weights))[0] == ("file-b.2", 0, "The moon makes the tide.")
    assert (await indexed.search("gulls", weights=weights)) == [("file-a.1", 1, "Gulls eat what it leaves.")]
    assert await indexed.search("locomotive", weights=weights) == []


async def test_words_are_found_in_any_language(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "Der Große Brand zerstörte die Stadt.", "東京の天気は晴れです。", "Ελλάδα")
    assert (await indexed.search("GROSSE", weights=WORDS))[0][1] == 0
    assert (await indexed.search("天気", weights=WORDS))[0][1] == 1
    assert (await indexed.search("ελλαδα", weights=WORDS))[0][1] == 2


async def test_words_are_found_in_their_other_forms(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "Alle Versicherungen zahlen.", "Das Wetter bleibt schön.")
    await indexed.put("file-b.2", "Eine Versicherung zahlt.")
    assert await indexed.sources("Wer versichert?", weights=WORDS) == ["file-a.1", "file-b.2"]
    assert (await indexed.sources("Versicherungen", weights=WORDS))[0] == "file-a.1"  # the word itself counts more
    assert await indexed.sources("Versand", weights=WORDS) == []


async def test_files_without_vectors_are_found_by_their_words(indexed: Indexed) -> None:
    """Such files are from a platform without the built-in model. Files with vectors may be added later."""
    chunks = [Chunk(text, 0, 2) for text in ("the tide", "a train")]
    await indexed.index.put(STORE, "file-a.1", chunks, np.zeros((2, 0), np.float32), Bag.model)
    indexed.logged[STORE].append("file-a.1")
    queries = [Query("tides", np.zeros(0, np.float32), Bag.model), Query("tide")]
    for query in queries[1:]:
        found = await indexed.index.search(STORE, ["file-a.1"], [query], {"file-a.1"}, 5, weights=HYBRID)
        assert [(each.number, each.score > 0.3) for each in found] == [(0, True)]
    await indexed.put("file-b.2", "the moon", "the tide", "a ship")
    assert (await indexed.search("the tide"))[0] == ("file-b.2", 1, "the tide")
    assert ("file-a.1", 0, "the tide") in (await indexed.search("the tide"))[:3]
    assert await indexed.search("the tide", weights=VECTOR, eligible=["file-a.1"]) == []
    assert await indexed.search("train") == [("file-a.1", 1, "a train")]


async def test_chunks_of_one_score_are_in_the_order_of_source_and_number(indexed: Indexed) -> None:
    for source in ("file-b.1", "file-a.2"):
        await indexed.put(source, "the tide", "something else", "the tide")
    expected = [("file-a.2", 0), ("file-a.2", 2), ("file-b.1", 0), ("file-b.1", 2)]
    for limit in (10, 3):
        for _ in range(3):
            found = await indexed.search("the tide", limit)
            assert [(source, number) for source, number, _ in found] == expected[:limit]


async def test_what_is_not_eligible_takes_no_place(indexed: Indexed) -> None:
    for number in range(12):
        await indexed.put(f"file-{number:02}.1", *(f"tide {'tide ' * number}" for _ in range(20)))
    assert await indexed.sources("tide", 2, eligible=["file-03.1"]) == ["file-03.1"] * 2
    others = {f"file-{number:02}.1" for number in range(11)}
    assert set(await indexed.sources("tide", 50, eligible=others)) <= others
    assert len(await indexed.sources("tide", 50, eligible=others)) == 50
    assert await indexed.sources("tide", eligible=[]) == []


async def test_limit_and_threshold(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "tide", "tide and moon and much else besides", "moon")
    assert len(await indexed.search("tide moon", 1)) == 1
    assert len(await indexed.search("tide moon", 3)) == 3
    assert len(await indexed.search("tide moon", 3, threshold=1.0)) == 0
    assert await indexed.search("tide", threshold=0.9, weights=VECTOR) == [("file-a.1", 0, "tide")]


async def test_a_segment_that_is_put_again_is_there_once(indexed: Indexed) -> None:
    first = await indexed.put("file-a.1", "the tide", "the moon")
    assert await put(indexed.index, STORE, "file-a.1", ["the tide", "the moon"]) == first
    assert await indexed.sources("tide moon") == ["file-a.1"] * 2
    assert [text for _, text in await indexed.index.read(STORE, "file-a.1", "file-a.1")] == ["the tide", "the moon"]


async def test_what_the_log_does_not_name_is_never_found(indexed: Indexed) -> None:
    """A segment is stored but not yet, or never, in the log; or it was removed from the log and is not yet deleted."""
    await indexed.put("file-a.1", "the tide")
    for number in range(5):
        await put(indexed.index, STORE, f"file-b.{number}", ["the tide"] * 50)
    assert await indexed.search("the tide") == [("file-a.1", 0, "the tide")]
    await indexed.put("file-b.9", "the tide")
    assert await indexed.sources("the tide") == ["file-a.1", "file-b.9"]


async def test_what_is_dropped_is_gone_and_nothing_else(indexed: Indexed) -> None:
    for store in (STORE, OTHER):
        await indexed.put("file-a.1", "the tide", store=store)
        await indexed.put("file-b.1", "the tide", store=store)
    assert await indexed.sources("tide") == ["file-a.1", "file-b.1"]
    await indexed.drop("file-a.1", "file-x.1")
    await indexed.drop("file-a.1")
    assert await indexed.sources("tide") == ["file-b.1"]
    assert not await indexed.index.read(STORE, "file-a.1", "file-a.1")
    assert await indexed.sources("tide", store=OTHER) == ["file-a.1", "file-b.1"]
    await indexed.index.drop("default/vs_none", ["file-a.1"])


async def test_a_store_that_is_deleted_is_gone_and_no_other(indexed: Indexed) -> None:
    for store in (STORE, OTHER):
        await indexed.put("file-a.1", "the tide", store=store)
    for _ in range(2):
        await indexed.index.delete(STORE, ["file-a.1"])
    assert not await indexed.index.read(STORE, "file-a.1", "file-a.1")
    indexed.logged[STORE].clear()
    assert await indexed.search("tide") == []
    assert await indexed.sources("tide", store=OTHER) == ["file-a.1"]
    await indexed.put("file-b.1", "another tide")  # by a delayed worker
    assert await indexed.sources("tide") == ["file-b.1"]


async def test_vectors_of_another_model_are_not_compared(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "the tide", model="other")
    await indexed.put("file-b.2", "the tide", "a locomotive")
    assert await indexed.sources("the tide", weights=VECTOR) == ["file-b.2"]
    assert await indexed.sources("the tide") == ["file-b.2", "file-a.1"]
    queries = [Query("tide")]
    found = await indexed.index.search(STORE, indexed.logged[STORE], queries, {"file-a.1"}, 5, weights=HYBRID)
    assert [each.source for each in found] == ["file-a.1"]


async def test_odd_texts_and_vectors(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "", "!?", "half a \udc00 letter", "O'Hara's 'tide'")
    assert (await indexed.search("O'Hara"))[0][1] == 3
    assert (await indexed.search("letter"))[0][2] == "half a ? letter"
    assert await indexed.search("?!") == []
    with pytest.raises(ValueError, match="as many vectors"):
        await indexed.index.put(STORE, "file-b.1", [Chunk("x", 0, 1)], np.zeros((2, 8), np.float32), "bag")


async def test_a_search_by_several_queries_finds_what_fits_one(indexed: Indexed) -> None:
    await indexed.put("file-a.1", "the tide", "the moon", "a train")
    queries = [Query(text, (await Bag().embed([text]))[0], Bag.model) for text in ("tide", "moon")]
    found = await indexed.index.search(STORE, ["file-a.1"], queries, {"file-a.1"}, 5, weights=HYBRID)
    assert {each.number for each in found} == {0, 1}


async def test_a_search_sees_what_another_process_has_just_logged(indexed: Indexed) -> None:
    other = index_of(indexed.settings, indexed.storage)
    for number in range(5):
        await put(other, STORE, f"file-{number}.1", [f"tide {number}"])
        indexed.logged[STORE].append(f"file-{number}.1")
        assert len(await indexed.search("tide")) == number + 1


async def test_the_passage_that_answers_a_question_is_among_the_first_five(tmp_path: Path) -> None:
    settings = read_settings({"storage": "sqlite://:memory:"})
    storage, readers, model = storage_of(settings, SystemClock()), ReaderPool(processes=1), OfflineEmbeddings()
    await storage.open()
    index = index_of(settings, storage)
    files = {f"file-{place:03}.1": path for place, path in enumerate(sample_documents.build(tmp_path))}
    for source, path in files.items():
        chunks = await readers.chunks("p", path, path.name, Chunking())
        vectors = await model.embed([chunk.text for chunk in chunks])
        await index.put(STORE, source, chunks, vectors, model.model)
    asked, found = sample_documents.questions(), Counter[str]()
    for question in asked:
        queries = [Query(question.question, (await model.embed([question.question]))[0], model.model)]
        for how, weights in {"hybrid": HYBRID, "vector": VECTOR, "words": WORDS}.items():
            passages = await index.search(STORE, list(files), queries, files.keys(), 5, weights=weights)
            hit = any(sample_documents.answers(question, files[each.source].name, each.text) for each in passages)
            found[how] += hit
    print(dict(found), "of", len(asked))
    assert found["hybrid"] >= 0.9 * len(asked)
    assert found["hybrid"] >= max(found["vector"], found["words"])
    await readers.close()
    await model.close()
    await storage.close()


# --- shape ------------------------------------------------------------------------------------------------------------


async def known(indexed: Indexed) -> list[str]:
    return indexed.logged[STORE]


async def test_an_index_that_is_tidied_finds_the_same(indexed: Indexed) -> None:
    reader = index_of(indexed.settings, indexed.storage)
    for number in range(20):
        await indexed.put(f"file-{number:02}.1", *(f"tide {number} {place} {'moon ' * place}" for place in range(20)))
    await indexed.drop("file-07.1")
    before = [await indexed.search(text) for text in ("tide 3", "moon", "tide 7 9")]
    pinned = await reader.search(STORE, await known(indexed), [Query("moon")], {"file-11.1"}, 5, weights=WORDS)
    await indexed.index.remove_orphaned(STORE, lambda: known(indexed))
    indexed.index = index_of(indexed.settings, indexed.storage)  # with an empty cache
    assert [await indexed.search(text) for text in ("tide 3", "moon", "tide 7 9")] == before
    # A process that has already opened the store can continue.
    again = await reader.search(STORE, await known(indexed), [Query("moon")], {"file-11.1"}, 5, weights=WORDS)
    assert again == pinned


async def test_tidying_spares_what_is_put_meanwhile(indexed: Indexed) -> None:
    for number in range(4):
        await indexed.put(f"file-{number}.1", "the tide")

    async def looking() -> list[str]:
        names = list(indexed.logged[STORE])
        await indexed.put("file-late.9", "the tide")  # claimed and stored after the log was read
        return names

    await indexed.index.remove_orphaned(STORE, looking)
    assert "file-late.9" in await indexed.sources("tide")


async def test_what_no_source_owns_is_dropped_when_tidied_or_deleted(indexed: Indexed) -> None:
    """A worker that had lost its claim stored it after its successor had deleted it, and died."""

    async def left() -> list[int]:
        return [n for n in range(4) if await indexed.index.read(STORE, f"file-{n}.1", f"file-{n}.1")]

    for number in range(4):
        await indexed.put(f"file-{number}.1", "the tide")
    indexed.logged[STORE] = ["file-0.1", "file-1.1"]
    await indexed.index.remove_orphaned(STORE, lambda: known(indexed))
    assert await left() == [0, 1]
    await indexed.index.delete(STORE, ["file-0.1"])
    assert await left() == []


# --- processes --------------------------------------------------------------------------------------------------------


async def filling(indexed: Indexed, first: int) -> asyncio.subprocess.Process:
    """Start a process that stores files of 20 chunks and prints the name of each, until its input ends."""
    settings = indexed.settings.storage
    return await asyncio.create_subprocess_exec(
        *(sys.executable, HERE / "index_filler.py", settings, str(first)),
        env={"PYTHONPATH": python_path()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


def tell(writers: Iterable[asyncio.subprocess.Process], files: int) -> None:
    """Make each process store this number of further files, without waiting for it."""
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"\n" * files)


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode().strip()


async def test_processes_that_write_at_once_and_are_killed_leave_whole_files(indexed: Indexed) -> None:
    """Meanwhile, this process removes orphaned segments."""

    async def claimed() -> list[str]:
        return [f"file-{number}.1" for number in range(10_000)]

    writers = [await filling(indexed, 1000), await filling(indexed, 5000)]
    acknowledged: list[str] = []
    try:
        for _ in range(6):
            tell(writers, 2)
            acknowledged += [await said(writer) for writer in writers]
            await indexed.put(f"file-{len(acknowledged)}.1", "a train")
            await indexed.index.remove_orphaned(STORE, claimed)
        tell(writers, 100)
        acknowledged += [await said(writer) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    for writer in writers:
        assert writer.stdout
        acknowledged += (await writer.stdout.read()).decode().split()
        await writer.wait()
    whole = [f"tide {{}} {place}" for place in range(20)]
    for source in acknowledged:
        number = source.removeprefix("file-").removesuffix(".1")
        read = await indexed.index.read(STORE, source, source)
        assert [text for _, text in read] == [text.format(number) for text in whole]
    for first in (1000, 5000):  # the file that was being stored when the process was killed: complete or absent
        number = 1 + max(int(source[5:-2]) for source in acknowledged if source < f"file-{first + 4000}")
        assert len(await indexed.index.read(STORE, f"file-{number}.1", f"file-{number}.1")) in (0, 20)
        await put(indexed.index, STORE, f"file-{number}.1", [f"tide {number} {place}" for place in range(20)])
        acknowledged.append(f"file-{number}.1")
    indexed.logged[STORE] += acknowledged
    found = await indexed.search("tide 1000 5000", 50)
    assert len(found) == 50
    assert {source for source, _, _ in found} <= set(acknowledged)
    assert (await indexed.search("tide 5003 7"))[0] == ("file-5003.1", 7, "tide 5003 7")
