"""A run that executes code, in processes of the service that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from inprocess_service import BETA
from scripted_upstreams import Answer, Upstream, chunk, events, fragment, serving
from service_process import Process

Json = Any
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
PATIENCE = 60.0  # seconds


def executes(call_id: str, code: str) -> Answer:
    asked = fragment(0, call_id, "python", json.dumps({"code": code}))
    return events(chunk(tool_calls=[asked]), chunk("tool_calls"), USAGE)


def says(text: str) -> Answer:
    return events(chunk(content=text), chunk("stop"), USAGE)


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, before = {child for child, parent in parents.items() if parent == pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


async def until(holds: Callable[[], Any]) -> Any:
    """What it returns when that is true."""
    async with asyncio.timeout(PATIENCE):
        while not (found := holds()):
            await asyncio.sleep(0.02)
        return found


@dataclass
class Coding:
    """One thread. Interpreters have their folders in `folder`."""

    folder: Path
    upstream: Upstream
    session: aiohttp.ClientSession
    processes: dict[str, Process] = field(default_factory=dict)

    async def start(self, command: str) -> None:
        """Begin it, anew if it was killed."""
        settings = {
            "STORAGE": f"sqlite:///{self.folder}/code.db",
            "OPENAI_BASE_URL": self.upstream.url,
            "OPENAI_API_KEY": "sk-scripted",
            "WORKER_VISIBILITY_TIMEOUT": "1",
            "CODE_INTERPRETER": "local",
            "TMPDIR": str(self.folder),
        }
        self.processes[command] = await asyncio.to_thread(Process, command, settings)

    async def ask(self, method: str, path: str, body: Json = None) -> Json:
        return json.loads(await self.read(method, path, body))

    async def read(self, method: str, path: str, body: Json = None) -> bytes:
        async with self.session.request(method, f"{self.processes['api'].url}/v1{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def begin(self) -> tuple[str, str]:
        """The paths of a thread and its run."""
        assistant = await self.ask("POST", "/assistants", {"model": "m", "tools": [{"type": "code_interpreter"}]})
        thread = await self.ask("POST", "/threads", {"messages": [{"role": "user", "content": "Write."}]})
        at = f"/threads/{thread['id']}"
        run = await self.ask("POST", f"{at}/runs", {"assistant_id": assistant["id"]})
        return at, f"{at}/runs/{run['id']}"

    async def completed(self, run: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while (status := (await self.ask("GET", run))["status"]) != "completed":
                assert status in ("queued", "in_progress")
                await asyncio.sleep(0.05)

    async def writes(self, name: str, content: str) -> Path:
        """The file of an interpreter, as soon as a cell has written this."""
        files = self.folder.glob

        def written() -> list[Path]:
            return [file for file in files(f"assistants-code-*/*/data/{name}") if file.read_text() == content]

        return (await until(written))[0]

    async def kill_worker(self) -> set[int]:
        """The processes that it has started, and those have, which live at that time."""
        left = descendants(self.processes["worker"].pid)
        await asyncio.to_thread(self.processes["worker"].kill)
        return left


@contextlib.asynccontextmanager
async def coding(folder: Path, *script: Answer) -> AsyncIterator[Coding]:
    async with serving() as upstream, aiohttp.ClientSession(headers=BETA) as session:
        upstream.script = [*script]
        world = Coding(folder, upstream, session)
        try:
            await world.start("api")
            await world.start("worker")
            yield world
        finally:
            for process in world.processes.values():
                if process.alive:
                    await asyncio.to_thread(process.kill)
