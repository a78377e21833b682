"""P1 to P6 and P9 with real processes: kill -9 at random moments while clients talk, stream and answer tool calls.

KILLS=50 kills fifty times instead of a few; KILL_SEED=7 chooses other moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from azurite import Azurite
from service import Process
from upstreams import WEATHER, Upstream, choice, chunk, fragment, function, serving

Json = Any
KILLS = int(os.environ.get("KILLS", "0"))  # 0: each test's own number
SEED = int(os.environ.get("KILL_SEED", "1"))
CLIENTS = 4
HIDE = 2  # seconds until a dead worker's runs are taken over
PATIENCE = 90.0
BETA = {"OpenAI-Beta": "assistants=v2"}
ENDED = ("completed", "failed", "cancelled", "expired", "incomplete")
WORDS = "One two three four five six seven."


# --- a slow model ---------------------------------------------------------------------------------------------------


class SlowModel:
    """Takes its time, in the middle of which a kill is to fall. Asks for the weather where that is in the question."""

    def __init__(self, seed: int, pace: float = 0.02) -> None:
        """`pace` is in seconds for a word, of calls that begin from now on."""
        self._chance, self.pace = random.Random(seed), pace
        self.calls = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        body = await request.json()
        last = body["messages"][-1]
        wants_tool = last["role"] == "user" and "weather" in last["content"]
        pace = self.pace
        await asyncio.sleep(self._chance.uniform(1, 5) * pace)
        return await self._streamed(request, wants_tool, pace) if body.get("stream") else self._whole(wants_tool)

    def _whole(self, wants_tool: bool) -> web.Response:
        call = function("get_weather", '{"city":"Oslo"}', f"call_{self.calls}")
        return web.json_response(choice(tool_calls=[call]) if wants_tool else choice(content=WORDS))

    async def _streamed(self, request: web.Request, wants_tool: bool, pace: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if wants_tool:
            pieces = [chunk(tool_calls=[fragment(0, f"call_{self.calls}", "get_weather", '{"city":')])]
            pieces.append(chunk(tool_calls=[fragment(0, None, None, '"Oslo"}')]))
        else:
            pieces = [chunk(content=word) for word in WORDS.replace(" ", " |").split("|")]
        with contextlib.suppress(ConnectionError):
            for piece in [*pieces, chunk(finish="stop")]:
                await asyncio.sleep(pace)
                await response.write(f"data: {json.dumps(piece)}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
        return response


# --- processes that die ---------------------------------------------------------------------------------------------


class Fleet:
    """Processes over one store, by command. They come back where they were."""

    def __init__(self, storage: str, upstream: Upstream, **env: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.env = {
            "STORAGE": storage,
            "PORT": str(self.port),
            "OPENAI_BASE_URL": upstream.url,
            "OPENAI_API_KEY": "sk-test",
            "WORKER_HIDE_SECONDS": str(HIDE),
            **env,
        }
        self.processes: dict[str, Process] = {}

    async def start(self, *commands: str) -> None:
        for command in commands:
            self.processes[command] = await asyncio.to_thread(Process, command.partition(" ")[0], self.env)

    async def kill(self, command: str) -> None:
        self.processes[command].kill()
        await self.start(command)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()


@contextlib.asynccontextmanager
async def fleet(storage: str, model: SlowModel, *commands: str, **env: str) -> AsyncIterator[Fleet]:
    async with serving() as upstream:
        upstream.script = [model.answer]
        one = Fleet(storage, upstream, **env)
        try:
            await one.start(*commands)
            yield one
        finally:
            one.end()


# --- clients --------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """An answer that says no."""


@dataclass
class Client:
    """Talks without rest. It knows what it was told; where it got no answer, it looks before it asks again."""

    url: str
    session: aiohttp.ClientSession
    chance: random.Random
    assistant: str = ""
    thread: str = ""
    texts: list[str] = field(default_factory=list)  # of the messages that are there
    runs: list[str] = field(default_factory=list)
    streams: dict[str, bytes] = field(default_factory=dict)  # what was heard of a run
    running: asyncio.Task[None] | None = None

    async def send(self, method: str, path: str, body: Json = None) -> Json:
        """One try. Raises aiohttp.ClientError without an answer."""
        async with self.session.request(method, self.url + path, json=body) as response:
            found = await response.json()
            if response.status >= 500:
                raise aiohttp.ClientPayloadError(str(found))
            if response.status >= 400:
                raise Refused(found["error"]["message"])
            return found

    async def get(self, path: str) -> Json:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                return await self.send("GET", path)
            await asyncio.sleep(0.05)

    async def surely(self, path: str, body: Json, there: Any) -> Json:
        """POST; after a silence only if `there()` does not find what it was to make."""
        while True:
            try:
                return await self.send("POST", path, body)
            except aiohttp.ClientError:
                if found := await there():
                    return found

    async def begin(self) -> None:
        """An assistant or thread that nobody was told of harms nobody."""
        tools = [{"type": "function", "function": WEATHER}]

        async def no() -> None:
            return None

        self.assistant = (await self.surely("/assistants", {"model": "m", "tools": tools}, no))["id"]
        self.thread = (await self.surely("/threads", {}, no))["id"]

    async def say(self, text: str) -> None:
        path = f"/threads/{self.thread}/messages"

        async def there() -> Json:
            page = await self.get(f"{path}?limit=1&order=desc")
            found = page["data"][0] if page["data"] else None
            return found if found and text_of(found) == text else None

        await self.surely(path, {"role": "user", "content": text}, there)
        self.texts.append(text)

    async def run(self, *, stream: bool) -> None:
        path, mark = f"/threads/{self.thread}/runs", str(len(self.runs))
        body = {"assistant_id": self.assistant, "metadata": {"mark": mark}, "stream": stream}

        async def there() -> Json:
            page = await self.get(f"{path}?limit=1&order=desc")
            found = page["data"][0] if page["data"] else None
            return found if found and found["metadata"] == {"mark": mark} else None

        if stream:
            with contextlib.suppress(aiohttp.ClientError):
                await self.listen("POST", path, body)
            run = await there() or await self.surely(path, body | {"stream": False}, there)
        else:
            run = await self.surely(path, body, there)
        self.runs.append(run["id"])
        await self.see_through(f"{path}/{run['id']}")

    async def see_through(self, path: str) -> None:
        """Until the run has ended; its calls are answered."""
        while (run := await self.get(path))["status"] not in ENDED:
            if run["status"] == "requires_action":
                calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
                outputs = [{"tool_call_id": call["id"], "output": "sunny"} for call in calls]
                with contextlib.suppress(aiohttp.ClientError, Refused):  # looked at again above
                    await self.send("POST", f"{path}/submit_tool_outputs", {"tool_outputs": outputs})
            if run["id"] in self.streams:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with asyncio.timeout(self.chance.uniform(0.1, 1)):  # a reader that comes and goes
                        await self.listen("GET", f"{path}/events")
            await asyncio.sleep(0.03)
        if run["id"] in self.streams:
            while not self.heard_the_end(run["id"]):
                with contextlib.suppress(aiohttp.ClientError):
                    await self.listen("GET", f"{path}/events")

    async def listen(self, method: str, path: str, body: Json = None) -> None:
        """Gather a run's events, from where this client stopped hearing."""
        run_id = path.split("/")[4] if method == "GET" else ""
        headers = {"Last-Event-ID": last_id(self.streams[run_id])} if self.streams.get(run_id) else {}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            if response.status != 200:
                raise aiohttp.ClientPayloadError(await response.text())
            piece = b""
            async for line in response.content:
                piece += line
                if line == b"\n":
                    if piece.startswith(b"id: "):
                        if not run_id:
                            run_id = json.loads(piece.partition(b"data: ")[2])["id"]
                        self.streams[run_id] = self.streams.get(run_id, b"") + piece
                    piece = b""

    def heard_the_end(self, run_id: str) -> bool:
        return any(f"event: thread.run.{status}\n".encode() in self.streams[run_id] for status in ENDED)

    async def check(self) -> None:
        """P2, P3, P4 as this client sees them."""
        runs = (await self.get(f"/threads/{self.thread}/runs?limit=100&order=asc"))["data"]
        assert [run["id"] for run in runs] == self.runs
        assert [run["status"] for run in runs] == ["completed"] * len(runs), [run["last_error"] for run in runs]
        messages = await self.messages()
        assert [text_of(m) for m in messages if m["role"] == "user"] == self.texts
        answers = [m for m in messages if m["role"] == "assistant"]
        assert [m["run_id"] for m in answers] == self.runs, "one answer a run"
        assert {text_of(m) for m in answers} == {WORDS}
        for run_id, heard in self.streams.items():
            async with self.session.get(f"{self.url}/threads/{self.thread}/runs/{run_id}/events") as response:
                whole = await response.read()
            assert whole == heard + b"event: done\ndata: [DONE]\n\n", "each event once, in order"

    async def messages(self) -> list[Json]:
        found: list[Json] = []
        after = ""
        while True:
            page = await self.get(f"/threads/{self.thread}/messages?limit=100&order=asc{after}")
            found += page["data"]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"


def text_of(message: Json) -> str:
    return "".join(part["text"]["value"] for part in message["content"])


def last_id(heard: bytes) -> str:
    return heard.rpartition(b"id: ")[2].partition(b"\n")[0].decode()


async def talk(client: Client, stop: asyncio.Event) -> None:
    """Until it is told to stop; then once more, undisturbed: the thread takes the next message."""
    await client.begin()
    last = False
    while not last:
        last = stop.is_set()
        await client.say(f"{client.chance.choice(('Hello', 'How is the weather'))}, {len(client.texts)}?")
        await client.run(stream=client.chance.random() < 0.5)


async def talk_and_kill(storage: str, kills: int, *commands: str) -> None:
    kills, chance = KILLS or kills, random.Random(SEED)
    model = SlowModel(SEED)
    async with fleet(storage, model, *commands) as one, aiohttp.ClientSession(headers=BETA) as session:
        clients = [Client(one.url, session, random.Random(chance.random())) for _ in range(CLIENTS)]
        stop = asyncio.Event()
        async with asyncio.timeout(PATIENCE + 5 * kills), asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(talk(client, stop))
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.1, 0.8))
                await one.kill(chance.choice(commands))
            stop.set()
        for client in clients:
            await client.check()
        turns = sum(len(client.runs) for client in clients) + sum("weather" in t for c in clients for t in c.texts)
        # P6: each kill costs at most the calls that were under way.
        assert turns <= model.calls <= turns + kills * CLIENTS


async def test_p9_no_kill_of_the_single_process_loses_work(tmp_path: Path) -> None:
    await talk_and_kill(f"sqlite:///{tmp_path}/a.db", 5, "serve")


async def test_p9_no_kill_of_api_or_worker_loses_work_on_sqlite(tmp_path: Path) -> None:
    await talk_and_kill(f"sqlite:///{tmp_path}/a.db", 6, "api", "worker")


async def test_p9_no_kill_of_api_or_worker_loses_work_on_azure(azurite: Azurite) -> None:
    await talk_and_kill(azurite.account(), 4, "api", "worker")


# --- SIGTERM --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def one_run(model: SlowModel, *commands: str, stream: bool, **env: str) -> AsyncIterator[tuple[Fleet, Client]]:
    """A client whose run is in the middle of a model call; `client.running` is his waiting for its end."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        one = await stack.enter_async_context(fleet(f"sqlite:///{folder}/a.db", model, *commands, **env))
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=BETA))
        client = Client(one.url, session, random.Random(SEED))
        await client.begin()
        await client.say("Hello?")
        client.running = asyncio.create_task(client.run(stream=stream))
        while not model.calls:
            await asyncio.sleep(0.02)
        yield one, client


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_p9_sigterm_lets_runs_in_flight_finish(stream: bool) -> None:
    model = SlowModel(SEED, pace=0.15)
    async with one_run(model, "api", "worker", stream=stream) as (one, client):
        code = await asyncio.to_thread(one.processes["worker"].terminate)
        page = await client.get(f"/threads/{client.thread}/runs")
        assert (code, page["data"][0]["status"], model.calls) == (0, "completed", 1)
        await client.running
        await client.check()


async def test_p9_the_single_process_drains_and_stops() -> None:
    """Meanwhile it answers, and says that it is not ready for more."""
    model = SlowModel(SEED, pace=0.15)
    async with one_run(model, "serve", stream=True) as (one, client):

        async def health(probe: str) -> int:
            async with client.session.get(one.url.replace("/v1", f"/health/{probe}")) as response:
                return response.status

        assert (await health("live"), await health("ready")) == (200, 200)
        ending = asyncio.create_task(asyncio.to_thread(one.processes["serve"].terminate))
        while (ready := await health("ready")) == 200:
            await asyncio.sleep(0.01)
        assert (ready, await health("live")) == (503, 200)
        assert await ending == 0
        await one.start("serve")
        await client.running
        await client.check()
        assert model.calls == 1


async def test_p9_what_the_grace_cuts_off_is_taken_over_at_once() -> None:
    """Far sooner than the item of a dead worker comes back."""
    model = SlowModel(SEED, pace=5)
    settings = {"SHUTDOWN_GRACE": "0.2", "WORKER_HIDE_SECONDS": "45"}
    async with one_run(model, "api", "worker", stream=True, **settings) as (one, client):
        await one.start("worker two")
        model.pace = 0.02
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(one.processes["worker"].terminate) == 0
            await client.running
        await client.check()
        assert model.calls == 2
