"""Vector stores over HTTP: stores, files and batches, their counts and their ends."""

from __future__ import annotations

from typing import Any

from forms import upload
from inprocess import InProcess, in_process

Json = Any


async def files(service: InProcess, count: int) -> list[str]:
    return [(await upload(service.api, b"Words of file %d." % number))["id"] for number in range(count)]


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
