"""kill -9 of a worker while it executes code, with real processes: the run ends, the call counts once, its files are
whole, and no process of the dead worker stays."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from inprocess_service import BETA
from scripted_upstreams import Answer, chunk, events, fragment, serving
from service_process import Process

Json = Any
FIRST = "open('/mnt/data/a.txt', 'w').write('a')"
# The worker is killed while this sleeps, after it has written.
SECOND = "import time\nopen('/mnt/data/a.txt', 'a').write('b')\nprint('slow')\ntime.sleep(3)"
LINK = "sandbox:/mnt/data/a.txt"
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
PATIENCE = 60.0  # seconds


def called(call_id: str, code: str) -> Answer:
    asked = fragment(0, call_id, "python", json.dumps({"code": code}))
    return events(chunk(tool_calls=[asked]), chunk("tool_calls"), USAGE)


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="code is confined on Linux only")
async def test_a_worker_that_is_killed_during_a_call(tmp_path: Path) -> None:
    async with serving() as upstream, aiohttp.ClientSession(headers=BETA) as session:
        upstream.script = [
            called("call_1", FIRST),
            called("call_2", SECOND),
            events(chunk(content=LINK), chunk("stop"), USAGE),
        ]
        settings = {
            "STORAGE": f"sqlite:///{tmp_path}/code.db",
            "OPENAI_BASE_URL": upstream.url,
            "OPENAI_API_KEY": "sk-scripted",
            "WORKER_VISIBILITY_TIMEOUT": "1",
            "CODE_INTERPRETER": "local",
        }
        api, workers = Process("api", settings), [await asyncio.to_thread(Process, "worker", settings)]

        async def ask(method: str, path: str, body: Json = None) -> Json:
            async with session.request(method, f"{api.url}/v1{path}", json=body) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        try:
            assistant = await ask("POST", "/assistants", {"model": "m", "tools": [{"type": "code_interpreter"}]})
            thread = await ask("POST", "/threads", {"messages": [{"role": "user", "content": "Write."}]})
            at = f"/threads/{thread['id']}"
            run = await ask("POST", f"{at}/runs", {"assistant_id": assistant["id"]})
            async with asyncio.timeout(PATIENCE):
                while len((await ask("GET", f"{at}/runs/{run['id']}/steps"))["data"]) < 2:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            left = children(workers[0].pid)
            assert left, "an interpreter works"
            await asyncio.to_thread(workers[0].kill)
            workers.append(await asyncio.to_thread(Process, "worker", settings))
            async with asyncio.timeout(PATIENCE):
                while (run := await ask("GET", f"{at}/runs/{run['id']}"))["status"] != "completed":
                    assert run["status"] in ("queued", "in_progress")
                    await asyncio.sleep(0.05)
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
            steps = (await ask("GET", f"{at}/runs/{run['id']}/steps?order=asc"))["data"]
            assert [step["status"] for step in steps] == ["completed"] * 3
            first, second = [step["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"] for step in steps[:2]]
            assert (first, second) == ([], [{"type": "logs", "logs": "slow\n"}])
            answer, _ = (await ask("GET", f"{at}/messages"))["data"]
            (linked,) = answer["content"][0]["text"]["annotations"]
            async with session.get(f"{api.url}/v1/files/{linked['file_path']['file_id']}/content") as response:
                assert await response.read() == b"ab", "the call that died has left nothing"
            heard = [turn["content"] for turn in upstream.body["messages"] if turn["role"] == "tool"]
            assert heard[1].startswith("[A new Python process was started")
        finally:
            for process in (api, *workers):
                if process.alive:
                    await asyncio.to_thread(process.kill)
