"""P9 with real processes: kill -9 of the worker, and of the API, while a batch of files is ingested. Files are read by
the processes that read them for users, and embedded by the built-in model.

`make test` takes few files and kills; STORE_FILES=200 STORE_KILLS=25 takes more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from assistants_service.core import names
from assistants_service.core.vector_stores.state import StoreState
from azurite import Azurite
from real_processes import Reality, reality
from test_stores_crash import check_store, folded, text_of

Json = Any
FILES, KILLS = int(os.environ.get("STORE_FILES", "10")), int(os.environ.get("STORE_KILLS", "2"))
SEED = int(os.environ.get("KILL_SEED", "1"))
PATIENCE = 60.0 + 4 * FILES  # seconds
TIDY = 60.0  # seconds, for what takes one, or a visibility timeout if a worker dies


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


@dataclass(frozen=True)
class Filled:
    """A store with a batch of `count` files."""

    world: Reality
    store_id: str
    batch_id: str
    count: int

    @classmethod
    async def begin(cls, world: Reality, count: int) -> Filled:
        ids = [await uploaded(world, f"{number}.txt") for number in range(count)]
        store = await asked(world, "POST", "/vector_stores", json={"name": "Things"})
        batch = await asked(world, "POST", f"/vector_stores/{store['id']}/file_batches", json={"file_ids": ids})
        return cls(world, store["id"], batch["id"], count)

    @property
    def path(self) -> str:
        return f"/vector_stores/{self.store_id}"

    async def end(self) -> StoreState:
        """Every file is read, and found; and of what dead workers wrote nothing is left."""
        count, batch_path = self.count, f"{self.path}/file_batches/{self.batch_id}"
        while (now := await asked(self.world, "GET", batch_path))["status"] == "in_progress":
            await asyncio.sleep(0.05)
        assert now["status"] == "completed"
        assert now["file_counts"] == {"in_progress": 0, "completed": count, "failed": 0, "cancelled": 0, "total": count}
        query = {"query": "line 1", "max_num_results": 50}
        found = await asked(self.world, "POST", f"{self.path}/search", json=query)
        assert len({each["file_id"] for each in found["data"]}) == min(count, 50)
        state = await self._tidied()
        await check_store(self.world, state, lambda text: [text])
        return state

    async def _tidied(self) -> StoreState:
        """The worker merges and tidies up after the last file."""
        end = time.monotonic() + TIDY
        while True:
            state = await folded(self.world, self.store_id)
            there = await blobs(self.world, self.store_id)
            if not state.orphaned and there == set(state.segments):
                return state
            if time.monotonic() > end:
                raise AssertionError(
                    f"{self.store_id} is not tidied: loose {state.orphaned}, left {there - set(state.segments)},"
                    f" missing {set(state.segments) - there}"
                )
            await asyncio.sleep(0.05)


async def killed_meanwhile(world: Reality, *victims: str) -> None:
    chance = random.Random(SEED)
    async with asyncio.timeout(PATIENCE):
        filled = await Filled.begin(world, FILES)
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            await world.kill(chance.choice(victims))
        await filled.end()


async def blobs(world: Reality, store_id: str) -> set[str]:
    """Names of segments that are there, as the engine lists them."""
    folder = names.document("default", store_id, "")
    return {name.removeprefix(folder) for name in await world.contents(names.SEGMENTS) if name.startswith(folder)}


async def test_p9_a_batch_of_files_survives_kills_on_sqlite(tmp_path: Path) -> None:
    async with reality(f"sqlite:///{tmp_path}/a.db", "api", "worker") as world:
        await killed_meanwhile(world, "api", "worker", "worker")


async def test_p9_a_batch_of_files_survives_kills_on_azure(azurite: Azurite) -> None:
    async with reality(azurite.account(), "api", "worker", "worker two") as world:
        await killed_meanwhile(world, "worker", "worker two")
