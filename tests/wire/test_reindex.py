"""`assistants reindex`: what was indexed otherwise is found again, and no moment shows that it is read anew."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from assistants_service import command, reindex_command
from assistants_service.core import names
from assistants_service.core.resume import Resumption
from assistants_service.core.search.words import FORMAT, WHOLE
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold import StoreState
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.worker.ingestion import IngestionJob
from inprocess_service import InProcess, in_process
from multipart_forms import upload
from scripted_ingestion import Bag, PlainText

VECTORS = {"ranking_options": {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex_command, "LOOK_EVERY", 0.01)


async def filled(service: InProcess, *texts: str) -> str:
    file_ids = [(await upload(service.api, text.encode(), f"{text}.txt"))["id"] for text in texts]
    store = await service.api.post("/vector_stores", {"file_ids": file_ids})
    while (await service.api.get(f"/vector_stores/{store['id']}"))["status"] != "completed":
        await asyncio.sleep(0.01)
    return str(store["id"])


async def reindex(service: InProcess, *stores: str, all: bool = False, project: str | None = None) -> list[str]:
    """What the command says."""
    said: list[str] = []
    arguments = argparse.Namespace(stores=list(stores), all=all, project=project)
    await reindex_command.reindex(service.parts, arguments, said.append)
    return said


async def found(service: InProcess, store_id: str, text: str, **options: Any) -> list[str]:
    answer = await service.api.post(f"/vector_stores/{store_id}/search", {"query": text, **options})
    return [each["content"][0]["text"] for each in answer["data"]]


async def state_of(service: InProcess, store_id: str) -> StoreState:
    return (await service.stores.load("default", store_id)).state


async def blobs(service: InProcess) -> set[str]:
    return set(await service.storage.list_names(names.SEGMENTS, after=None, limit=100))


async def test_files_of_another_embedding_model_are_found_by_their_vectors_again() -> None:
    async with in_process(embeddings=(bag := Bag())) as service:
        store_id = await filled(service, "the tide", "the moon")
        bag.model = "another"
        assert await found(service, store_id, "tide", **VECTORS) == []
        assert await found(service, store_id, "tide") == ["the tide"]
        before = await service.api.get(f"/vector_stores/{store_id}")
        said = await reindex(service)
        assert said[0] == "2 files of 1 vector stores are to be read again."
        assert said[-1] == "2 of 2 files are done, 1 of 1 vector stores."
        assert await found(service, store_id, "tide", **VECTORS) == ["the tide"]
        after = await service.api.get(f"/vector_stores/{store_id}")
        assert (after["status"], after["file_counts"]) == ("completed", before["file_counts"])
        listed = (await service.api.get(f"/vector_stores/{store_id}/files"))["data"]
        assert sum(file["usage_bytes"] for file in listed) == after["usage_bytes"] > 0
        state = await state_of(service, store_id)
        assert state.source_segments.keys() == {file.source for file in state.files}  # nothing of what it had before
        assert await reindex(service) == ["Nothing to do: the index of every file is up to date."]


class Held(PlainText):
    """Reads nothing before the test lets it."""

    def __init__(self) -> None:
        self.may, self.reading = asyncio.Event(), asyncio.Event()
        self.may.set()

    async def chunks(self, *given: Any) -> Any:
        self.reading.set()
        await self.may.wait()
        return await super().chunks(*given)


async def test_what_is_there_is_found_while_it_is_read_again() -> None:
    async with in_process(extraction=(reader := Held()), embeddings=(bag := Bag())) as service:
        store_id = await filled(service, "the tide", "the moon")
        bag.model = "another"
        reader.may.clear()
        reader.reading.clear()
        reindexing = asyncio.create_task(reindex(service))
        await reader.reading.wait()
        store = await service.api.get(f"/vector_stores/{store_id}")
        assert (store["status"], store["file_counts"]["completed"]) == ("completed", 2)
        assert await found(service, store_id, "tide") == ["the tide"]
        moon = next(file.id for file in (await state_of(service, store_id)).files if file.filename == "the moon.txt")
        await service.api.delete(f"/vector_stores/{store_id}/files/{moon}")
        reader.may.set()
        await reindexing
        assert await found(service, store_id, "tide", **VECTORS) == ["the tide"]
        assert not (await state_of(service, store_id)).reindexing


async def lose(service: InProcess, store_id: str) -> None:
    """As if LanceDB had held it."""
    for blob in await blobs(service):
        if f"/{store_id}/" in blob:
            await service.storage.discard(names.SEGMENTS, blob)


async def unmerged(_: IngestionJob) -> None: ...


async def test_a_store_whose_segments_are_not_there_is_told_and_put_right(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process() as service:
        with monkeypatch.context() as lance:
            lance.setattr("assistants_service.worker.ingestion.merge", unmerged)
            store_id = await filled(service, *(f"the tide {number}" for number in range(9)))
            await service.stop_worker(10)
        service.start_worker()
        other = await filled(service, "the tide at night")
        await lose(service, store_id)
        service.searcher.stores.index._cache.forget(f"default/{store_id}")
        with caplog.at_level(logging.ERROR):
            assert await found(service, store_id, "tide") == []
            assert caplog.text.count(f"run `assistants reindex {store_id}`") == 1
        # What comes is found, the rest is told no more, and no merge is in the way.
        file = await upload(service.api, b"the tide of today", "today.txt")
        await service.api.post(f"/vector_stores/{store_id}/files", {"file_id": file["id"]})
        while (await service.api.get(f"/vector_stores/{store_id}"))["status"] != "completed":
            await asyncio.sleep(0.01)
        assert await found(service, store_id, "tide") == ["the tide of today"]
        await service.stop_worker(10)
        assert f"{store_id} cannot be merged" in caplog.text
        service.start_worker()
        said = await reindex(service)
        assert said[0] == "9 files of 1 vector stores are to be read again."
        assert len(await found(service, store_id, "tide", max_num_results=50)) == 10
        assert await found(service, other, "tide") == ["the tide at night"]
        assert "failed of" not in caplog.text, "a work item failed"


async def test_words_of_an_older_format_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process() as service:
        with monkeypatch.context() as older:
            for module in ("worker.ingestion", "core.search.merge_policy"):
                older.setattr(f"assistants_service.{module}.FORMAT", WHOLE)
            store_id = await filled(service, "the tide")
            await service.stop_worker(10)
        service.start_worker()
        assert [segment.format for segment in (await state_of(service, store_id)).segments.values()] == [WHOLE]
        await reindex(service)
        assert [segment.format for segment in (await state_of(service, store_id)).segments.values()] == [FORMAT]


async def test_a_file_that_cannot_be_read_again_stays_as_it_was_and_is_told() -> None:
    async with in_process(embeddings=(bag := Bag())) as service:
        store_id = await filled(service, "the tide")
        bag.model = "another"

        said: list[str] = []
        embed = bag.embed

        async def once(texts: Any, kind: Any = "passage") -> Any:
            """The command's one vector."""
            vectors = await embed(texts, kind)
            bag.fails = True
            return vectors

        bag.embed = once  # type: ignore[method-assign]

        with pytest.raises(ConfigurationError, match="1 files could not be read again"):
            arguments = argparse.Namespace(stores=[store_id], all=False, project="default")
            await reindex_command.reindex(service.parts, arguments, said.append)
        (file,) = (await service.api.get(f"/vector_stores/{store_id}/files"))["data"]
        assert f"{file['id']} of {store_id} is unchanged: The provider does not answer." in said
        assert (file["status"], file["last_error"]) == ("completed", None)
        assert await found(service, store_id, "tide") == ["the tide"]
        with pytest.raises(ConfigurationError, match="EMBEDDING_MODEL does not work at present"):
            await reindex(service)
        bag.embed, bag.fails = embed, False  # type: ignore[method-assign]
        await reindex(service)
        assert await found(service, store_id, "tide", **VECTORS) == ["the tide"]


async def test_stores_and_projects_are_chosen() -> None:
    async with in_process() as service:
        one, two = await filled(service, "the tide"), await filled(service, "the moon")
        with pytest.raises(ConfigurationError, match="No vector store has the id vs_none"):
            await reindex(service, one, "vs_none")
        with pytest.raises(ConfigurationError, match=one):
            await reindex(service, one, project="another")
        before = {store: list((await state_of(service, store)).segments) for store in (one, two)}
        await reindex(service, one, all=True)
        after = {store: list((await state_of(service, store)).segments) for store in (one, two)}
        assert after[one] != before[one]
        assert after[two] == before[two]
        assert await found(service, one, "tide") == ["the tide"]


async def test_without_a_worker_it_is_told_and_goes_on_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex_command, "STANDSTILL", 0.05)
    async with in_process(embeddings=(bag := Bag())) as service:
        store_id = await filled(service, "the tide")
        await service.stop_worker()
        bag.model = "another"
        said: list[str] = []
        arguments = argparse.Namespace(stores=[], all=False, project=None)
        stopped = asyncio.create_task(reindex_command.reindex(service.parts, arguments, said.append))
        while not any("is a worker running" in line for line in said):
            await asyncio.sleep(0.01)
        stopped.cancel()
        await asyncio.wait([stopped])
        again = asyncio.create_task(reindex(service))  # nothing is asked for twice
        service.start_worker()
        assert (await again)[0] == "1 files of 1 vector stores are to be read again."
        assert await found(service, store_id, "tide", **VECTORS) == ["the tide"]


async def test_what_was_to_be_read_again_goes_on_where_the_queue_is_lost() -> None:
    async with in_process(embeddings=(bag := Bag())) as service:
        store_id = await filled(service, "the tide")
        await service.stop_worker()
        bag.model = "another"
        command = asyncio.create_task(reindex(service))
        while not (state := await state_of(service, store_id)).reindexing:
            await asyncio.sleep(0.01)
        claim = e.FileClaimed(file_id=next(iter(state.reindexing)), attempt=state.attempt + 1, item="lost/1")
        await service.stores.commit("default", store_id, lambda _: [claim])
        service.storage._sql.execute("DELETE FROM queue")  # type: ignore[attr-defined]
        await Resumption(service.storage, service.threads, service.stores, service.parts.clock).run()
        service.start_worker()
        await command
        assert await found(service, store_id, "tide", **VECTORS) == ["the tide"]


def test_an_event_of_a_file_that_is_read_again_names_it_alone() -> None:
    """What is stored: the names of kind and field."""
    assert e.FilesReindexing.__struct_config__.tag == "vector_store.files.reindexing"
    assert e.FilesReindexing.__struct_fields__ == ("file_ids",)


async def test_a_store_that_ends_with_the_command_is_refused(tmp_path: Path) -> None:
    arguments = argparse.Namespace(stores=[], all=False, project=None)
    with pytest.raises(ConfigurationError, match="lost when the process ends"):
        await command.reindex(Settings(storage="sqlite://:memory:"), arguments)
    with pytest.raises(ConfigurationError, match="there is no file"):
        await command.reindex(Settings(storage=f"sqlite:///{tmp_path}/none.db"), arguments)
