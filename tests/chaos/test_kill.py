"""P1 to P6 and P9 with real processes: kill -9 while clients talk, stream, cancel and answer tool calls.

`make chaos` does the same for longer. KILL_SEED=7 chooses other moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from assistants_service.core.ports.models import Deltas, Prompt, Reply
from azurite import Azurite
from chaos import NAMES, Point, strike, talk_and_kill
from real_processes import BETA, Mortal, Reality, Visitor, reality
from scenarios import ask, listen
from scripted_models import ByName
from service_process import Process
from source_paths import python_path

SEED = int(os.environ.get("KILL_SEED", "1"))


async def test_p9_no_kill_of_the_single_process_loses_work(tmp_path: Path) -> None:
    await talk_and_kill(f"sqlite:///{tmp_path}/a.db", 3, SEED, "serve")


async def test_p9_no_kill_of_api_or_worker_loses_work_on_sqlite(tmp_path: Path) -> None:
    await talk_and_kill(f"sqlite:///{tmp_path}/a.db", 4, SEED, "api", "worker")


async def test_p9_no_kill_at_a_storage_request_loses_work_on_azure(azurite: Azurite) -> None:
    """A run that is in the log and not in its document; a call that the stream does not show yet; half an answer."""
    points = [
        Point("plain", "api", "after", 12),
        Point("streamed_parallel_tools", "worker", "before", 12),
        Point("streamed_parallel_tools", "worker", "after", 20),
    ]
    async with reality(azurite.account(), *NAMES, kind=Mortal) as world:
        for point in points:
            assert await strike(world, point)
        await world.check()


# --- SIGTERM --------------------------------------------------------------------------------------------------------


class HangsOnce(ByName):
    """The first call never ends."""

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        if not self.calls:
            self.calls[prompt.model] += 1
            await asyncio.sleep(3600)
        return await super().reply(prompt, deltas)


@contextlib.asynccontextmanager
async def one_run(*names: str, stream: bool, **options: Any) -> AsyncIterator[tuple[Reality, Visitor, Any]]:
    """A client whose run is in the middle of a model call of two seconds, and its wait for the run's end."""
    with tempfile.TemporaryDirectory() as folder:
        async with reality(f"sqlite:///{folder}/a.db", *names, **options) as world:
            one = world.visitor(SEED)
            await one.open_thread()
            running = asyncio.create_task((listen if stream else ask)(one, "slow"))
            while not world.models.calls:
                await asyncio.sleep(0.02)
            yield world, one, running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_p9_sigterm_lets_runs_in_flight_finish(stream: bool) -> None:
    async with one_run("api", "worker", stream=stream) as (world, one, running):
        assert await asyncio.to_thread(world.processes["worker"].terminate) == 0
        assert (await one.look(one.runs[0])).status == "completed"
        assert world.models.calls.total() == 1
        await running
        await world.check()


async def test_p9_the_single_process_drains_and_stops() -> None:
    """Meanwhile it answers, and says that it is not ready for more."""
    async with one_run("serve", stream=True) as (world, _, running):

        async def health(probe: str) -> int:
            async with world.session.get(f"http://127.0.0.1:{world.ports['serve']}/health/{probe}") as response:
                return response.status

        assert (await health("live"), await health("ready")) == (200, 200)
        ending = asyncio.create_task(asyncio.to_thread(world.processes["serve"].terminate))
        while (ready := await health("ready")) == 200:
            await asyncio.sleep(0.01)
        assert (ready, await health("live")) == (503, 200)
        assert await ending == 0
        await world.start("serve")
        await running
        await world.check()
        assert world.models.calls.total() == 1


async def test_p9_what_the_grace_cuts_off_is_taken_over_at_once() -> None:
    """Far sooner than the item of a dead worker comes back."""
    settings = {"SHUTDOWN_GRACE": "0.2", "WORKER_VISIBILITY_TIMEOUT": "120"}
    async with one_run("api", "worker", stream=True, models=HangsOnce(), **settings) as (world, _, running):
        await world.start("worker two")
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(world.processes["worker"].terminate) == 0
            await running
        await world.check()
        assert world.models.calls.total() == 2


async def test_p9_no_action_ends_a_process_nor_keeps_it_from_its_end(tmp_path: Path) -> None:
    environment = {
        "STORAGE": f"sqlite:///{tmp_path}/a.db",
        "ACTIONS": "misbehaving_actions",
        "ACTION_TIMEOUT": "0.5",
        "SHUTDOWN_GRACE": "0.1",
        "PYTHONPATH": python_path(),
    }
    names = ("quits", "quits_plainly", "swallows", "sinks")
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    process = await asyncio.to_thread(Process, "serve", environment)
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession(process.url, headers=BETA) as session:
            said = {"messages": [{"role": "user", "content": " ".join(names)}]}
            async with session.post("/v1/assistants", json={"model": "offline", "tools": tools}) as response:
                body = {"assistant_id": (await response.json())["id"], "thread": said, "stream": True}
            async with session.post("/v1/threads/runs", json=body) as response:
                heard = await response.text()
        assert "event: thread.run.completed" in heard
        for output in ("SystemExit: 3", "SystemExit: 4", "swallows did not respond", "sinks did not respond"):
            assert output in heard
        assert await asyncio.to_thread(process.terminate) == 0
    finally:
        process.kill()
    assert any("action swallows does not return: 1 calls of project default hang" in line for line in process.log)
    assert "the process ends although some actions have not returned" in process.log[-1]
