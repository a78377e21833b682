"""P9 with real processes: kill -9 of the worker, and of the API, while a batch of files is ingested. Files are read by
the processes that read them for users, and embedded by the built-in model.

`make test` takes few files and kills; STORE_FILES=200 STORE_KILLS=25 takes more.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import aiohttp
from azurite import Azurite
from reality import Reality, reality
from test_stores_crash import check_store, folded, text_of

from core import names

Json = Any
FILES, KILLS = int(os.environ.get("STORE_FILES", "10")), int(os.environ.get("STORE_KILLS", "2"))
SEED = int(os.environ.get("KILL_SEED", "1"))
PATIENCE = 60.0 + FILES  # seconds


async def asked(world: Reality, method: str, path: str, **body: Any) -> Json:
    """The answer, as soon as there is one: what is sent here may be sent twice."""
    while True:
        port = world.ports["api" if "api" in world.ports else "serve"]
        try:
            async with world.session.request(method, f"http://127.0.0.1:{port}/v1{path}", **body) as response:
                if response.status < 500:
                    assert response.status == 200, await response.text()
                    return await response.json()
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)


async def uploaded(world: Reality, filename: str) -> str:
    while True:
        form = aiohttp.FormData({"purpose": "assistants"})
        form.add_field("file", text_of(filename).encode(), filename=filename)
        port = world.ports["api" if "api" in world.ports else "serve"]
        async with world.session.post(f"http://127.0.0.1:{port}/v1/files", data=form) as response:
            return str((await response.json())["id"])


async def killed_meanwhile(world: Reality, *victims: str) -> None:
    chance = random.Random(SEED)
    async with asyncio.timeout(PATIENCE):
        ids = [await uploaded(world, f"{number}.txt") for number in range(FILES)]
        store = await asked(world, "POST", "/vector_stores", json={"name": "Things"})
        path = f"/vector_stores/{store['id']}"
        batch = await asked(world, "POST", f"{path}/file_batches", json={"file_ids": ids})
        batch_path = f"{path}/file_batches/{batch['id']}"
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            await world.kill(chance.choice(victims))
        while (now := await asked(world, "GET", batch_path))["status"] == "in_progress":
            await asyncio.sleep(0.05)
        assert now["status"] == "completed"
        assert now["file_counts"] == {"in_progress": 0, "completed": FILES, "failed": 0, "cancelled": 0, "total": FILES}
        found = await asked(world, "POST", f"{path}/search", json={"query": "line 1", "max_num_results": 50})
        assert len(found["data"]) == min(FILES, 50)
        while (state := await folded(world, store["id"])).loose:  # the worker tidies up after the last file
            await asyncio.sleep(0.05)
        await check_store(world, state, lambda text: [text])
        assert await blobs(world, store["id"]) == set(state.segments)


async def blobs(world: Any, store_id: str) -> set[str]:
    """Names of segments that are there, of all that were ever begun."""
    state = await folded(world, store_id)
    tried = {f"{held.id}.{attempt}" for held in state.files for attempt in range(state.attempt + 1)}
    tried |= {f"merged.{attempt}" for attempt in range(state.attempt + 1)}

    async def there(name: str) -> bool:
        place = names.document("default", store_id, name)
        return bool([piece async for piece in world.store.download(names.SEGMENTS, place, length=1)])

    found = await asyncio.gather(*map(there, tried))
    return {name for name, is_there in zip(tried, found, strict=True) if is_there}


async def test_p9_a_batch_of_files_survives_kills_on_sqlite(tmp_path: Path) -> None:
    async with reality(f"sqlite:///{tmp_path}/a.db", "api", "worker") as world:
        await killed_meanwhile(world, "api", "worker", "worker")


async def test_p9_a_batch_of_files_survives_kills_on_azure(azurite: Azurite) -> None:
    async with reality(azurite.account(), "api", "worker", "worker two") as world:
        await killed_meanwhile(world, "worker", "worker two")
