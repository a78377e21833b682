"""Vector stores over HTTP: stores, files and batches, their counts and their ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistants_service.composition import worker_of
from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.embeddings import TextRole
from assistants_service.core.ports.extraction import Chunk, Chunking
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.search import Weights
from assistants_service.core.search.words import FORMAT, WHOLE
from assistants_service.core.threads.decide import Wait
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import StoreState
from assistants_service.core.work_items import MaintainStore, PurgeStore, from_body, to_body
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
from assistants_service.worker.chores import Chores
from assistants_service.worker.ingestion import CLAIMS, INTERNAL_ERROR, IngestionJob
from assistants_service.worker.poison import PoisonItem
from assistants_service.worker.store_work import ABANDONED
from assistants_service.worker.work_queue import WorkQueue
from inprocess_service import InProcess, ManualClock, in_process
from multipart_forms import upload
from scripted_ingestion import Bag, PlainText

Json = Any


async def files(service: InProcess, count: int) -> list[str]:
    return [(await upload(service.api, b"Words of file %d." % number))["id"] for number in range(count)]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 1e16, -1e300])
async def test_a_number_is_no_attribute_where_json_numbers_are_not_exact(number: float) -> None:
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores")
        body = {"file_id": "file-1", "attributes": {"n": number}}
        error = await service.api.refused("POST", f"/vector_stores/{store['id']}/files", body)
        assert error["param"] == "attributes.n"
        assert f"{2**53}, but got {number} instead" in error["message"]


async def test_a_store_without_files_is_completed_at_once() -> None:
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"name": "Things", "metadata": {"a": "b"}})
        assert store["id"].startswith("vs_")
        assert (store["status"], store["file_counts"]["total"], store["usage_bytes"]) == ("completed", 0, 0)
        assert await service.api.get(f"/vector_stores/{store['id']}") == store
        listed = await service.api.get("/vector_stores")
        assert listed["data"] == [store]
        assert (await service.api.delete(f"/vector_stores/{store['id']}"))["deleted"]
        await service.api.refused("GET", f"/vector_stores/{store['id']}", status=404)
        assert (await service.api.get("/vector_stores"))["data"] == []


async def test_files_are_attached_listed_changed_and_detached() -> None:
    async with in_process(worker=False) as service:
        one, two, three = await files(service, 3)
        store = await service.api.post("/vector_stores", {"file_ids": [one]})
        path = f"/vector_stores/{store['id']}"
        assert store["file_counts"] == {"in_progress": 1, "completed": 0, "failed": 0, "cancelled": 0, "total": 1}
        attached = await service.api.post(
            f"{path}/files", {"file_id": two, "attributes": {"n": 2, "b": True, "s": "x"}}
        )
        assert (attached["status"], attached["attributes"]) == ("in_progress", {"n": 2, "b": True, "s": "x"})
        assert await service.api.get(f"{path}/files/{two}") == attached
        sizes = {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}
        chunking = {"type": "static", "static": sizes}
        small = await service.api.post(f"{path}/files", {"file_id": three, "chunking_strategy": chunking})
        assert small["chunking_strategy"] == chunking
        page = await service.api.get(f"{path}/files?limit=2")
        assert ([file["id"] for file in page["data"]], page["has_more"]) == ([three, two], True)
        page = await service.api.get(f"{path}/files?limit=2&after={two}")
        assert [file["id"] for file in page["data"]] == [one]
        assert (await service.api.get(f"{path}/files?filter=completed"))["data"] == []
        changed = await service.api.post(f"{path}/files/{two}", {"attributes": {"n": 3.5}})
        assert changed["attributes"] == {"n": 3.5}
        assert await service.api.get(f"{path}/files/{two}") == changed
        await service.api.delete(f"{path}/files/{two}")
        await service.api.refused("GET", f"{path}/files/{two}", status=404)
        await service.api.refused("DELETE", f"{path}/files/{two}", status=404)
        assert (await service.api.get(path))["file_counts"]["total"] == 2
        assert (await service.api.get(f"/files/{two}"))["id"] == two, "the file itself stays"
        again = await service.api.post(f"{path}/files", {"file_id": two})
        assert (again["attributes"], again["status"]) == ({}, "in_progress")
        assert await service.api.get(f"{path}/files/{two}") == again
        for unknown in ("", "done"):
            refused = await service.api.refused("GET", f"{path}/files?filter={unknown}")
            assert refused["param"] == "filter"
        page = await service.api.get(f"{path}/files")
        assert [file["id"] for file in page["data"]] == [two, three, one]


async def test_a_batch_is_counted_and_cancelled() -> None:
    async with in_process(worker=False) as service:
        one, two, three = await files(service, 3)
        store = await service.api.post("/vector_stores", {"file_ids": [one]})
        path = f"/vector_stores/{store['id']}"
        batch = await service.api.post(f"{path}/file_batches", {"file_ids": [one, two, two], "attributes": {"a": "b"}})
        assert (batch["object"], batch["status"]) == ("vector_store.file_batch", "in_progress")
        assert batch["file_counts"] == {"in_progress": 2, "completed": 0, "failed": 0, "cancelled": 0, "total": 2}
        assert await service.api.get(f"{path}/file_batches/{batch['id']}") == batch
        each = {"files": [{"file_id": three, "attributes": {"own": 1}}]}
        other = await service.api.post(f"{path}/file_batches", each)
        page = await service.api.get(f"{path}/file_batches/{other['id']}/files")
        assert [(file["id"], file["attributes"]) for file in page["data"]] == [(three, {"own": 1})]
        cancelled = await service.api.post(f"{path}/file_batches/{batch['id']}/cancel")
        assert (cancelled["status"], cancelled["file_counts"]["cancelled"]) == ("cancelled", 2)
        assert await service.api.get(f"{path}/file_batches/{batch['id']}") == cancelled
        assert await service.api.post(f"{path}/file_batches/{batch['id']}/cancel") == cancelled
        counts = (await service.api.get(path))["file_counts"]
        assert counts == {"in_progress": 1, "completed": 0, "failed": 0, "cancelled": 2, "total": 3}
        await service.api.delete(f"{path}/files/{three}")
        gone = await service.api.get(f"{path}/file_batches/{other['id']}")
        assert (gone["status"], gone["file_counts"]["cancelled"]) == ("completed", 1)


# --- ingestion and search ---------------------------------------------------------------------------------------------


async def test_files_are_ingested_and_found() -> None:
    async with in_process() as service:
        cats = (await upload(service.api, b"Cats sleep all day.\nThey eat fish.\n", "cats.txt"))["id"]
        dogs = (await upload(service.api, b"Dogs bark at night.\nThey eat bones.\n", "dogs.md"))["id"]
        broken = (await upload(service.api, b"?", "broken.pdf"))["id"]
        store = await service.api.post("/vector_stores", {"file_ids": [cats, broken]})
        path = f"/vector_stores/{store['id']}"
        await service.api.post(f"{path}/files", {"file_id": dogs, "attributes": {"legs": 4}})
        done = await service.ingested(store)
        assert done["status"] == "completed"
        assert done["file_counts"] == {"in_progress": 0, "completed": 2, "failed": 1, "cancelled": 0, "total": 3}
        shown = await service.api.get(f"{path}/files/{cats}")
        other = await service.api.get(f"{path}/files/{dogs}")
        assert done["usage_bytes"] == shown["usage_bytes"] + other["usage_bytes"] > 0
        failed = await service.api.get(f"{path}/files/{broken}")
        assert failed["last_error"] == {"code": "invalid_file", "message": "The file is broken."}
        found = await service.api.post(f"{path}/search", {"query": "Who eats bones?", "max_num_results": 2})
        assert found["search_query"] == ["Who eats bones?"]
        best = found["data"][0]
        assert (best["file_id"], best["filename"], best["attributes"]) == (dogs, "dogs.md", {"legs": 4})
        assert best["content"] == [{"type": "text", "text": "They eat bones.\n"}]
        assert 0 < best["score"] <= 1
        filters = {"type": "ne", "key": "legs", "value": 4}
        found = await service.api.post(f"{path}/search", {"query": ["bones", "fish"], "filters": filters})
        assert {each["file_id"] for each in found["data"]} == {cats}
        content = await service.api.get(f"{path}/files/{dogs}/content")
        assert "".join(part["text"] for part in content["data"]) == "Dogs bark at night.\nThey eat bones.\n"
        assert (await service.api.get(f"{path}/files/{broken}/content"))["data"] == []
        await service.api.delete(f"{path}/files/{dogs}")
        found = await service.api.post(f"{path}/search", {"query": "bones"})
        assert dogs not in {each["file_id"] for each in found["data"]}


async def test_a_file_that_is_deleted_leaves_all_stores_that_hold_it() -> None:
    async with in_process() as service:
        one, two = await files(service, 2)
        stores = [await service.api.post("/vector_stores", {"file_ids": [one, two]}) for _ in range(2)]
        for store in stores:
            await service.ingested(store)
        listeners = [service.stores.listen("default", store["id"]) for store in stores]
        await service.api.delete(f"/files/{one}")
        for store, listener in zip(stores, listeners, strict=True):
            assert await listener.wait(60)
            now = await service.api.get(f"/vector_stores/{store['id']}")
            assert now["file_counts"]["total"] == 1
            await service.api.refused("GET", f"/vector_stores/{store['id']}/files/{one}", status=404)


async def test_what_failed_or_was_cancelled_is_tried_again_when_it_is_attached_again() -> None:
    async with in_process(embeddings=(bag := Bag())) as service:
        bag.fails = True
        (one,) = await files(service, 1)
        store = await service.api.post("/vector_stores", {"file_ids": [one]})
        path = f"/vector_stores/{store['id']}"
        assert (await service.ingested(store))["file_counts"]["failed"] == 1
        error = (await service.api.get(f"{path}/files/{one}"))["last_error"]
        assert error == {"code": "server_error", "message": "The provider does not answer."}
        bag.fails = False
        batch = await service.api.post(f"{path}/file_batches", {"file_ids": [one]})
        assert (await service.api.get(f"{path}/files/{one}"))["status"] in ("in_progress", "completed")
        assert (await service.ingested(store))["file_counts"]["completed"] == 1
        assert (await service.api.get(f"{path}/file_batches/{batch['id']}"))["status"] == "completed"
        found = await service.api.post(f"{path}/search", {"query": "words"})
        assert [each["file_id"] for each in found["data"]] == [one]
        bag.fails = True  # searches go on, by words alone
        assert (await service.api.post(f"{path}/search", {"query": "words"}))["data"]
        assert (await service.api.post(f"{path}/search", {"query": "nothing alike"}))["data"] == []


async def test_a_search_that_is_refused_costs_no_embeddings() -> None:
    class Paid(Bag):
        calls = 0

        async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> Any:
            self.calls += 1
            return await super().embed(texts)

    async with in_process(embeddings=(paid := Paid())) as service:
        await service.api.refused("POST", "/vector_stores/vs_unknown/search", {"query": "words"}, status=404)
        assert not paid.calls
        store = await service.api.post("/vector_stores", {})
        await service.api.post(f"/vector_stores/{store['id']}/search", {"query": "words"})
        assert paid.calls == 1


async def test_a_defect_fails_the_file_and_not_its_neighbours() -> None:
    async with in_process() as service:
        crash = (await upload(service.api, b"?", "crash.txt"))["id"]
        store = await service.api.post("/vector_stores", {"file_ids": [crash, *await files(service, 5)]})
        done = await service.ingested(store)
        assert (done["file_counts"]["failed"], done["file_counts"]["completed"]) == (1, 5)
        failed = await service.api.get(f"/vector_stores/{store['id']}/files/{crash}")
        assert failed["last_error"]["code"] == "server_error"


class Deadly(PlainText):
    """A process that reads a file whose name says so dies of it."""

    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        if filename.startswith("deadly"):
            raise asyncio.CancelledError
        return await super().chunks(project, path, filename, chunking)


class ByProject(PlainText):
    """Notes for which project it reads which file."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        self.read.append((project, filename))
        return await super().chunks(project, path, filename, chunking)


async def test_a_file_is_read_for_its_own_project() -> None:
    """A process that has read a file of one project must not read one of another."""
    reader = ByProject()
    async with in_process(extraction=reader, api_keys="a:ka,b:kb") as service:
        for project in ("a", "b"):
            client = service.client(f"k{project}")
            file = await upload(client, b"Words.", f"{project}.txt")
            await service.ingested(await client.post("/vector_stores", {"file_ids": [file["id"]]}), project=project)
    assert reader.read == [("a", "a.txt"), ("b", "b.txt")]


@pytest.mark.parametrize("same", [True, False], ids=["its item comes again", "its item is gone"])
async def test_a_file_that_kills_workers_fails_at_last_and_takes_no_other_with_it(same: bool) -> None:
    clock = ManualClock()
    async with in_process(worker=False, extraction=Deadly(), clock=clock) as service:
        deadly = (await upload(service.api, b"?", "deadly.txt"))["id"]
        store = await service.api.post("/vector_stores", {"file_ids": [deadly, *await files(service, 6)]})
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)
        for delivery in range(1, 20):
            with contextlib.suppress(asyncio.CancelledError):
                await IngestionJob(context, item, "1" if same else str(delivery), delivery if same else 1).run()
            clock.time += 0 if same else ABANDONED + 1
        state = (await service.stores.load("default", store["id"])).state
        assert not state.waiting
        assert not state.orphaned
        assert [file_state.id for file_state in state.files if file_state.file.status == "failed"] == [deadly]
        assert state.files[deadly].claims == CLAIMS
        assert max(file_state.claims for file_state in state.files if file_state.id != deadly) <= 2


async def test_a_delivery_that_was_overtaken_takes_nothing_up_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the later one has ended, its item is gone: no worker would take over should the earlier one die."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {})
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)

        async def state() -> StoreState:
            return (await service.stores.load("default", store["id"])).state

        async def unmerged(_: IngestionJob) -> None: ...

        await IngestionJob(context, item, "1", 2).run()
        with monkeypatch.context() as patch:
            patch.setattr("assistants_service.worker.ingestion.merge", unmerged)
            for number, file_id in enumerate(await files(service, 10)):
                await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": file_id})
                await IngestionJob(context, item, f"other {number}").run()
        (late,) = await files(service, 1)
        await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": late})
        before = await state()
        await IngestionJob(context, item, "1", 1).run()
        after = await state()
        assert (after.files[late].claims, after.attempt, len(after.segments)) == (0, before.attempt, 10)
        await IngestionJob(context, item, "another").run()
        after = await state()
        assert not after.waiting and not after.orphaned and len(after.segments) < 10


async def test_the_item_for_the_files_of_a_dead_worker_waits_for_their_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker may answer it before the commit: it would find the files claimed, and no item would come again."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 3)})
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        stores = VectorStoreRepository(
            context.storage, context.clock, Ids(context.clock), Notifier()
        )  # another process's
        item, at_once = MaintainStore(project="default", store_id=store["id"], sent_at=0), []

        async def state() -> StoreState:
            return (await service.stores.load("default", store["id"])).state

        async def answered_at_once(body: bytes, *, delay: float = 0) -> None:
            again = from_body(body)
            assert isinstance(again, MaintainStore)
            at_once.append(
                (again, await IngestionJob(replace(context, stores=stores), again, f"item {len(at_once)}").run())
            )

        claims = [
            e.FileClaimed(file_id=file_id, attempt=n, item="1/1") for n, file_id in enumerate((await state()).waiting)
        ]
        await service.stores.commit("default", store["id"], lambda _: claims)  # and then its worker dies
        with monkeypatch.context() as patch:
            patch.setattr(service.parts.storage, "send", answered_at_once)
            await IngestionJob(context, item, "1", 2).run()
        ((again, outcome),) = at_once
        assert isinstance(outcome, Wait)
        await IngestionJob(context, again, "item 1").run()
        assert not (await state()).waiting


async def test_a_file_of_a_dead_worker_that_is_taken_out_at_last_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 3)})
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)

        async def state() -> StoreState:
            return (await service.stores.load("default", store["id"])).state

        ids, hand_on = list((await state()).waiting), IngestionJob._hand_on
        claims = [e.FileClaimed(file_id=file_id, attempt=n, item="1/1") for n, file_id in enumerate(ids)]
        await service.stores.commit("default", store["id"], lambda _: claims)  # and then its worker dies

        async def taken_out_first(self: IngestionJob) -> None:
            await service.api.delete(f"/vector_stores/{store['id']}/files/{ids[-1]}")
            await hand_on(self)

        monkeypatch.setattr(IngestionJob, "_hand_on", taken_out_first)
        await IngestionJob(context, item, "1", 2).run()
        await IngestionJob(context, item, "2").run()
        assert not (await state()).waiting
        assert not (await state()).orphaned


async def test_what_an_overtaken_worker_did_last_is_shown_though_it_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claims count until the later delivery's end, which projected at its beginning."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 3)})
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        item, path = MaintainStore(project="default", store_id=store["id"], sent_at=0), f"/vector_stores/{store['id']}"
        first, *others = (await service.stores.load("default", store["id"])).state.waiting
        claims = [e.FileClaimed(file_id=first, attempt=1, item="1/1")]
        await service.stores.commit("default", store["id"], lambda _: claims)
        assert (await service.api.get(f"{path}/files/{first}"))["status"] == "in_progress"  # it has a document now
        work = IngestionJob._work

        async def ended_meanwhile(self: IngestionJob) -> None:
            await fails_and_dies(service, store["id"], first)
            await work(self)

        monkeypatch.setattr(IngestionJob, "_work", ended_meanwhile)
        await IngestionJob(context, item, "1", 2).run()
        shown = [(await service.api.get(f"{path}/files/{each}"))["status"] for each in (first, *others)]
        assert shown == ["failed", "completed", "completed"]


@pytest.mark.parametrize("host", [False, True], ids=["worker", "host"])
async def test_what_workers_of_a_poison_item_did_last_is_shown_though_they_died(host: bool) -> None:
    """What a host gives up has another id, so a claim may be another item's, and still counts."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 2)})
        worker = worker_of(service.parts, service.threads, service.stores, service.searcher)
        state = (await service.stores.load("default", store["id"])).state
        paths = {each: f"/vector_stores/{store['id']}/files/{each}" for each in state.waiting}
        claims = [e.FileClaimed(file_id=file_id, attempt=n, item="1/4") for n, file_id in enumerate(paths)]
        await service.stores.commit("default", store["id"], lambda _: claims)
        assert {(await service.api.get(path))["status"] for path in paths.values()} == {"in_progress"}
        await fails_and_dies(service, store["id"], next(iter(paths)))
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)
        if host:
            await worker._handler.give_up(Delivery("99", to_body(item), 1, "0"))
        else:
            await PoisonItem(
                worker._context, WorkQueue(worker._context), item, Delivery("1", to_body(item), 5, "")
            ).end()
        shown = [(await service.api.get(path))["status"] for path in paths.values()]
        assert shown == ["failed", "in_progress" if host else "failed"]


async def fails_and_dies(service: InProcess, store_id: str, file_id: str) -> None:
    """Another process commits that this file has failed, and does not live to project it, as can be on Azure."""
    clock, failed = service.parts.clock, e.FileFailed(file_id=file_id, error=INTERNAL_ERROR)
    stores = VectorStoreRepository(service.parts.storage, clock, Ids(clock), Notifier())
    stores._documents = lambda *_: []  # type: ignore[method-assign]
    await stores.commit("default", store_id, lambda _: [failed])


async def test_a_look_at_a_deleted_store_brings_back_none_of_its_documents() -> None:
    """A process that reads its log for the first time may come after the sweep, and before the log has gone."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 1)})
        path = f"/vector_stores/{store['id']}"
        await service.api.post(f"{path}/file_batches", {"file_ids": await files(service, 1)})
        await service.api.delete(path)
        storage = service.parts.storage
        await service.stores.purge("default", store["id"])
        await storage.remove_tombstones(names.STORE_BATCHES, f"default/{store['id']}/")
        clock = service.parts.clock
        other = VectorStoreRepository(storage, clock, Ids(clock), Notifier())
        assert (await other.load("default", store["id"])).state.deleted
        assert not await storage.page(names.STORE_BATCHES, "default/", after=None, limit=9, newest_first=False)


async def test_a_poison_item_that_was_delivered_often_leaves_no_file_waiting() -> None:
    """Workers that die raise the count of its deliveries beyond that of failures."""
    async with in_process(worker=False) as service:
        store = await service.api.post("/vector_stores", {"file_ids": await files(service, 2)})
        worker = worker_of(service.parts, service.threads, service.stores, service.searcher)
        state = (await service.stores.load("default", store["id"])).state
        claims = [e.FileClaimed(file_id=file_id, attempt=n, item="1/9") for n, file_id in enumerate(state.waiting)]
        await service.stores.commit("default", store["id"], lambda _: claims)
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)
        await PoisonItem(worker._context, WorkQueue(worker._context), item, Delivery("1", to_body(item), 9, "")).end()
        state = (await service.stores.load("default", store["id"])).state
        assert {file_state.file.status for file_state in state.files} == {"failed"}


async def test_the_last_of_a_store_goes_whole_though_its_first_purge_never_came() -> None:
    """The first item's holder died between the second item and the purge, and the second item comes first."""
    async with in_process(worker=False) as service:
        (file_id,) = await files(service, 1)
        store = await service.api.post("/vector_stores", {"file_ids": [file_id]})
        worker = worker_of(service.parts, service.threads, service.stores, service.searcher)
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)
        await IngestionJob(worker._context.ingestion, item, "1").run()
        await service.api.delete(f"/vector_stores/{store['id']}")
        purge = PurgeStore(project="default", store_id=store["id"], sent_at=0, tombstones=True)
        await Chores(worker._context, WorkQueue(worker._context)).do(purge)
        storage = service.parts.storage
        assert await storage.read(names.STORE_LOGS, names.log("default", store["id"]), None) is None
        for container in (names.STORE_FILES, names.FILE_STORES, names.VECTOR_STORES):
            assert not await storage.page(container, "default/", after=None, limit=9, newest_first=False), container
        assert not await storage.weigh(names.SEGMENTS, f"default/{store['id']}/")


async def test_small_segments_are_merged_and_nothing_is_lost() -> None:
    async with in_process() as service:
        ids = await files(service, 30)
        store = await service.api.post("/vector_stores", {"file_ids": ids})
        await service.ingested(store)
        await service.stop_worker(5)
        state = (await service.stores.load("default", store["id"])).state
        assert len(state.segments) < 10
        assert not state.orphaned
        for number, file_id in enumerate(ids):
            body = {"query": f"Words of file {number}.", "max_num_results": 1}
            found = await service.api.post(f"/vector_stores/{store['id']}/search", body)
            assert [each["file_id"] for each in found["data"]] == [file_id]


async def test_a_search_has_the_weights_that_it_brings_or_those_of_the_embedding_model() -> None:
    class Wordy(Bag):
        weights = Weights(vector=0, words=1)

    async def scores(**options: Any) -> list[float]:
        answer = await service.api.post(f"/vector_stores/{store['id']}/search", {"query": "the tide", **options})
        return [each["score"] for each in answer["data"]]

    def balance(vectors: float, words: float) -> Json:
        return {"ranking_options": {"hybrid_search": {"embedding_weight": vectors, "text_weight": words}}}

    async with in_process(embeddings=Wordy()) as service:
        (file_id,) = [(await upload(service.api, b"The tide comes."))["id"]]
        store = await service.api.post("/vector_stores", {"file_ids": [file_id]})
        await service.ingested(store)
        (by_words,), (by_vectors,), (by_both,) = [
            await scores(**balance(*each)) for each in [(0, 1), (1, 0), (0.75, 0.25)]
        ]
        assert by_vectors == pytest.approx((2 / 3) ** 0.5, abs=1e-3)  # two of three words
        assert by_words != pytest.approx(by_vectors, abs=0.05)
        assert by_both == pytest.approx(0.75 * by_vectors + 0.25 * by_words)
        nothing = {"query": "tide", **balance(0, 0)}
        error = await service.api.refused("POST", f"/vector_stores/{store['id']}/search", nothing)
        assert error["param"] == "ranking_options.hybrid_search.text_weight"
        none = {"ranking_options": {"hybrid_search": None}}
        assert await scores() == await scores(**none) == [by_words]


async def test_where_the_built_in_model_is_missing_files_are_found_by_their_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And beside others with vectors, once it is there."""

    def missing(texts: Sequence[str]) -> Any:
        raise ModuleNotFoundError("No module named 'tokenizers'")

    async def added(text: str) -> str:
        file_id: str = (await upload(service.api, text.encode()))["id"]
        await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": file_id})
        shown = await service.ingested(store)
        assert shown["file_counts"]["completed"] == shown["file_counts"]["total"]
        return file_id

    async def found(query: str) -> list[str]:
        answer = await service.api.post(f"/vector_stores/{store['id']}/search", {"query": query})
        return [each["file_id"] for each in answer["data"]]

    model = OfflineEmbeddings()
    async with in_process(embeddings=model) as service:
        store = await service.api.post("/vector_stores", {})
        with monkeypatch.context() as patch:
            patch.setattr("assistants_service.infra.embeddings.offline._offline", missing)
            lodging = await added("Our guests sleep in four lodgings.")
            train = await added("A train leaves at noon.")
            assert await found("Which lodging?") == [lodging]
        said = [each.getMessage() for each in caplog.records if "words alone" in each.getMessage()]
        assert len(said) == 1
        hotel = await added("A hotel with many rooms for the night.")
        assert (await found("hotels"))[0] == hotel
        assert (await found("The train at noon"))[0] == train
        assert (await found("lodging"))[0] == lodging
    await model.close()


async def test_segments_of_an_older_format_are_renewed_when_a_file_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the store is searched as it was: by words, whatever their other forms."""

    async def found() -> list[str]:
        answer = await service.api.post(f"/vector_stores/{store['id']}/search", {"query": "houses"})
        return [each["file_id"] for each in answer["data"]]

    async with in_process(worker=False) as service:
        context = worker_of(service.parts, service.threads, service.stores, service.searcher)._context.ingestion
        texts = [f"The households of street {number}." for number in range(9)]
        late, *ids = [(await upload(service.api, text.encode()))["id"] for text in texts]
        store = await service.api.post("/vector_stores", {"file_ids": ids})
        item = MaintainStore(project="default", store_id=store["id"], sent_at=0)
        with monkeypatch.context() as old:
            old.setattr("assistants_service.core.search.segment_writer.index_terms", list)
            old.setattr("assistants_service.core.search.segment_writer.FORMAT", WHOLE)
            for module in ("ingestion", "merging"):
                old.setattr(f"assistants_service.worker.{module}.FORMAT", WHOLE)
            await IngestionJob(context, item, "1").run()
        state = (await service.stores.load("default", store["id"])).state
        assert [segment_state.format for segment_state in state.segments.values()] == [WHOLE]  # of all that were merged
        assert await found() == []
        await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": late})
        await IngestionJob(context, item, "2").run()
        state = (await service.stores.load("default", store["id"])).state
        assert [segment_state.format for segment_state in state.segments.values()] == [FORMAT, FORMAT]
        assert set(await found()) == {*ids, late}


# --- stores that come with assistants and threads ---------------------------------------------------------------------


async def test_assistants_and_threads_are_created_with_a_store() -> None:
    async with in_process() as service:
        (one, two) = await files(service, 2)
        wanted = {"file_search": {"vector_stores": [{"file_ids": [one], "metadata": {"a": "b"}}]}}
        made = await service.api.post("/assistants", {"model": "gpt-4o", "tool_resources": wanted})
        (store,) = made["tool_resources"]["file_search"]["vector_store_ids"]
        shown = await service.api.get(f"/vector_stores/{store}")
        assert (shown["metadata"], shown["expires_after"], shown["file_counts"]["total"]) == ({"a": "b"}, None, 1)
        attachment = {"file_id": two, "tools": [{"type": "file_search"}, {"type": "code_interpreter"}]}
        message = {"role": "user", "content": "Look", "attachments": [attachment]}
        thread = await service.api.post("/threads", {"tool_resources": wanted, "messages": [message]})
        (store,) = thread["tool_resources"]["file_search"]["vector_store_ids"]
        assert thread["tool_resources"]["code_interpreter"] == {"file_ids": [two]}
        shown = await service.ingested({"id": store})
        assert shown["expires_after"] == {"anchor": "last_active_at", "days": 7}
        assert shown["file_counts"]["completed"] == 2
        both = {"file_search": {"vector_stores": [{}], "vector_store_ids": [store]}}
        error = await service.api.refused("POST", "/threads", {"tool_resources": both})
        assert error["param"] == "tool_resources.file_search.vector_stores"


async def test_attachments_of_messages_go_to_the_store_of_their_thread() -> None:
    async with in_process() as service:
        one, two, three = await files(service, 3)
        thread = await service.thread()

        async def attach(file_id: str, tool: str = "file_search") -> Json:
            attachment = {"file_id": file_id, "tools": [{"type": tool}]}
            body = {"role": "user", "content": "Look", "attachments": [attachment]}
            return await service.api.post(f"/threads/{thread}/messages", body)

        assert (await attach(one))["attachments"] == [{"file_id": one, "tools": [{"type": "file_search"}]}]
        (store,) = (await service.api.get(f"/threads/{thread}"))["tool_resources"]["file_search"]["vector_store_ids"]
        await attach(two)
        await attach(three, "code_interpreter")
        resources = (await service.api.get(f"/threads/{thread}"))["tool_resources"]
        assert resources == {
            "code_interpreter": {"file_ids": [three]},
            "file_search": {"vector_store_ids": [store]},
        }
        shown = await service.ingested({"id": store})
        assert (shown["file_counts"]["completed"], shown["expires_after"]["days"]) == (2, 7)
        await service.api.delete(f"/vector_stores/{store}")
        await attach(one)
        (other,) = (await service.api.get(f"/threads/{thread}"))["tool_resources"]["file_search"]["vector_store_ids"]
        assert other != store
        run = await service.start_run(
            thread,
            additional_messages=[
                {
                    "role": "user",
                    "content": "And this",
                    "attachments": [{"file_id": two, "tools": [{"type": "file_search"}]}],
                }
            ],
        )
        assert run["tool_resources"]["file_search"] == {"vector_store_ids": [other]}
        assert (await service.ingested({"id": other}))["file_counts"]["completed"] == 2


async def test_a_message_that_is_refused_files_nothing() -> None:
    async with in_process(worker=False) as service:
        (one,) = await files(service, 1)
        run = await service.start_run()
        attachment = {"file_id": one, "tools": [{"type": "file_search"}]}
        body = {"role": "user", "content": "Look", "attachments": [attachment]}
        await service.api.refused("POST", f"/threads/{run['thread_id']}/messages", body)
        assert (await service.api.get("/vector_stores"))["data"] == []
        body["attachments"] = [{**attachment, "file_id": "file-0000"}]
        thread = await service.thread()
        await service.api.refused("POST", f"/threads/{thread}/messages", body, status=404)
        assert (await service.api.get(f"/threads/{thread}/messages"))["data"] == []


async def test_the_same_creation_sent_again_makes_one_store() -> None:
    async with in_process(worker=False) as service:
        (one,) = await files(service, 1)
        wanted = {"file_search": {"vector_stores": [{"file_ids": [one]}]}}
        for path, body in (("/threads", {}), ("/assistants", {"model": "gpt-4o"}), ("/vector_stores", None)):
            given = {"file_ids": [one]} if body is None else {**body, "tool_resources": wanted}
            key = {"Idempotency-Key": path}
            answers = [await service.api.send("POST", f"/v1{path}", given, headers=key) for _ in range(2)]
            assert answers[0].raw == answers[1].raw
        assert len((await service.api.get("/vector_stores"))["data"]) == 3
