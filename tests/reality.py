"""The simulation's world with real processes: the service by its command, which dies by kill -9 and comes back, over a
store that outlives it; its model and its clients over HTTP.

What clients do (tests/scenarios.py) and what must hold then (tests/promises.py) is the same as in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import msgspec
import promises
from aiohttp import web
from mortal import ORDERED, REQUEST
from service import Process
from simulation import ByName, Unanswered
from upstreams import choice, chunk, fragment, function, serving

from core import frames, names
from core.bell import Bell
from core.ids import Ids
from core.ports import Prompt, Turn
from core.resources import TERMINAL, Run
from core.threads import Threads
from infra.settings import read_settings
from infra.sqlite_store import SqliteStorage
from infra.wiring import SystemClock, storage_of

Json = Any
HERE = Path(__file__).parent
BETA = {"OpenAI-Beta": "assistants=v2"}
HIDE = 2  # seconds until a dead worker's runs are taken over
LOOK_AGAIN = 0.05  # seconds
SETTLED = 20.0
STARTS = asyncio.Semaphore(2)  # processes that start at once, of all worlds: each takes a second of a core
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "lookup")]


class Refused(Exception):
    """An answer that says no."""


# --- the model ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asked_over_http(models: ByName) -> AsyncIterator[str]:
    """The URL of a provider that answers as the simulation's model does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = Prompt(body["model"], None, tuple(Turn(message["role"]) for message in body["messages"]))
        if body.get("stream"):
            return await streamed(request, prompt)
        reply = await models.reply(prompt, None)
        calls = [function(call.name, call.arguments, call.id) for call in reply.calls]
        return web.json_response(choice(content=reply.text or None, **({"tool_calls": calls} if calls else {})))

    async def streamed(request: web.Request, prompt: Prompt) -> web.StreamResponse:
        response, pieces = web.StreamResponse(headers={"Content-Type": "text/event-stream"}), Pieces()
        await response.prepare(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(models.reply(prompt, pieces)).add_done_callback(lambda _: pieces.put_nowait(None))
            while piece := await pieces.get():
                await response.write(f"data: {json.dumps(piece)}\n\n".encode())
        await response.write(f"data: {json.dumps(chunk(finish='stop'))}\n\ndata: [DONE]\n\n".encode())
        return response

    async with serving() as upstream:
        upstream.script = [answer]
        yield upstream.url


class Pieces(asyncio.Queue[Json]):
    """core.ports.Deltas, on their way to the wire."""

    def text(self, value: str) -> None:
        self.put_nowait(chunk(content=value))

    def refusal(self, value: str) -> None:
        self.put_nowait(chunk(refusal=value))

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        self.put_nowait(chunk(tool_calls=[fragment(index, call_id or None, name or None, arguments)]))


# --- processes that die ---------------------------------------------------------------------------------------------


class Mortal(Process):
    """A process that kills itself by order: see tests/mortal.py."""

    program: ClassVar[list[str]] = [sys.executable, str(HERE / "mortal.py")]
    stdin: ClassVar[int] = subprocess.PIPE

    async def order(self, at: int = 0, when: str = "never") -> None:
        """To die at its `at`-th request from now on, `before` or `after` it."""
        taken = self.log.count(f"{ORDERED}\n")
        assert self._process.stdin
        self._process.stdin.write(f"{at} {when}\n")
        self._process.stdin.flush()
        while self.log.count(f"{ORDERED}\n") == taken:
            assert self.alive, "it died before"
            await asyncio.sleep(0.005)

    @property
    def requests(self) -> list[str]:
        """Those since the last order."""
        begin = len(self.log) - self.log[::-1].index(f"{ORDERED}\n")
        return [line.removeprefix(REQUEST).strip() for line in self.log[begin:] if line.startswith(REQUEST)]


@dataclass
class Reality:
    """A store and the processes over it, by name: the command, and a second word where there are several: `api`,
    `worker`, `worker two`, `serve`. They come back where they were. `store` and `ledger` are for looking into it."""

    storage: str
    models: ByName
    model_url: str
    kind: type[Process] = Process
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self.store = storage_of(read_settings({"storage": self.storage}), self.clock)
        self.ledger = Threads(self.store, self.clock, Ids(self.clock), Bell())
        self.processes: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self.kills = 0
        self.logs_of_the_dead: list[str] = []
        self.visitors: list[Visitor] = []
        self.session = aiohttp.ClientSession(headers=BETA, connector=aiohttp.TCPConnector(limit=0))

    async def api(self) -> Reality:
        """Whose ledger shows what the service would show."""
        return self

    # -- processes -------------------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        async def begin(name: str) -> None:
            command = name.partition(" ")[0]
            env = {
                "STORAGE": self.storage,
                "PORT": str(self.ports.setdefault(name, free_port())),
                "OPENAI_BASE_URL": self.model_url,
                "OPENAI_API_KEY": "sk-test",
                "MODEL_RETRIES": "0",  # P6 counts calls
                "WORKER_HIDE_SECONDS": str(HIDE),
                "ACTIONS": "lookup",
                "PYTHONPATH": str(HERE),
                **self.settings,
            }
            async with STARTS:
                self.processes[name] = await asyncio.to_thread(self.kind, command, env)

        await asyncio.gather(*map(begin, names))

    async def kill(self, name: str) -> None:
        """kill -9, and begin anew."""
        await asyncio.to_thread(self.processes[name].kill)
        await self._again(name)

    async def revive(self, name: str) -> None:
        """Wait until it dies, and begin anew."""
        while self.processes[name].alive:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self.processes[name].kill)
        await self._again(name)

    async def _again(self, name: str) -> None:
        self.kills += 1
        self.logs_of_the_dead += self.processes[name].log
        await self.start(name)

    def url(self, chance: random.Random) -> str:
        """That of any of the processes that serve the API."""
        name = chance.choice([name for name in self.ports if not name.startswith("worker")])
        return f"http://127.0.0.1:{self.ports[name]}/v1"

    async def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        for visitor in self.visitors:
            visitor.leave()
        await self.session.close()
        await self.store.close()

    async def visitor(self, seed: float, **habits: Any) -> Visitor:
        """A new client, with an assistant of its own."""
        one = Visitor(self, self.session, random.Random(seed), **habits)
        self.visitors.append(one)
        await one.begin()
        return one

    # -- what is left ----------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Every promise to every visitor. Raises AssertionError.

        What the last ones to die left undone may be done up to SETTLED seconds later."""
        end = time.monotonic() + SETTLED
        for visitor in self.visitors:
            while True:
                try:
                    await promises.check_thread(self, visitor)
                    await visitor.check_lists()
                    break
                except AssertionError as error:
                    if time.monotonic() > end:
                        error.add_note(await self.story(visitor))
                        raise
                await asyncio.sleep(0.1)
        assert not await self.queued("work-poison")
        logged = [*self.logs_of_the_dead, *(line for process in self.processes.values() for line in process.log)]
        faults = [line for line in logged if " ERROR " in line or "Traceback" in line]
        assert not faults, faults

    async def at_rest(self) -> None:
        """Until no work item is left, be it one that waits for the expiry of a run that ended long ago."""
        while await self.queued("work"):
            await asyncio.sleep(0.5)

    async def story(self, visitor: Visitor) -> str:
        """What happened to a thread, for whoever has to find out why."""
        past = await promises.history(self, visitor.thread)
        return "\n".join(
            f"{commit.at:.3f} {[type(event).__name__ for event in commit.events]}" for commit in past.commits
        )

    async def logs(self) -> list[tuple[str, str]]:
        """Container and name of each."""
        if isinstance(self.store, SqliteStorage):
            return self.store._sql.execute("SELECT container, name FROM logs").fetchall()
        found = []
        for container in (names.THREADS, names.STREAMS):
            blobs = self.store._service.get_container_client(container).list_blob_names()
            found += [(container, name) async for name in blobs if container == names.STREAMS or ".log" in name]
        return found

    async def queued(self, queue: str) -> int:
        if isinstance(self.store, SqliteStorage):
            return self.store._sql.execute("SELECT count(*) FROM queue WHERE name=?", (queue,)).fetchone()[0]
        client = self.store._work if queue == "work" else self.store._poison
        return (await client.get_queue_properties()).approximate_message_count


def free_port() -> int:
    """One that no outgoing connection takes while its process is dead."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def reality(
    storage: str, *names: str, kind: type[Process] = Process, models: ByName | None = None, **settings: str
) -> AsyncIterator[Reality]:
    models = models or ByName()
    async with asked_over_http(models) as url:
        world = Reality(storage, models, url, kind, settings)
        try:
            await world.start(*names)
            await world.store.open()
            yield world
        finally:
            await world.end()


# --- clients --------------------------------------------------------------------------------------------------------


@dataclass
class Visitor:
    """simulation.Client over HTTP, and as it remembers what it was told. It asks until it is answered: after a silence
    again, under its Idempotency-Key (`keyed`), or only if what it asked for is not there.

    A stream is read from wherever it breaks off; with `restless`, it breaks off by itself now and then."""

    world: Reality
    session: aiohttp.ClientSession
    chance: random.Random
    keyed: bool = True
    restless: bool = False
    assistant: str = ""
    thread: str = ""
    sent: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    deleted: bool | None = False
    heard: dict[str, bytes] = field(default_factory=dict)
    _open: dict[str, tuple[bytes, aiohttp.ClientResponse]] = field(default_factory=dict)  # by run: streams that began

    async def send(self, method: str, path: str, body: Json = None, key: str | None = None) -> bytes:
        """One try. Raises Unanswered, or Refused."""
        async with self._request(method, path, body, key) as response:
            return await response.read()

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Json = None, key: str | None = None, after: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {**({"Idempotency-Key": key} if key else {}), **({"Last-Event-ID": after} if after else {})}
        url = self.world.url(self.chance) + path
        try:
            response = await self.session.request(method, url, json=body, headers=headers)
            try:
                if response.status >= 400:
                    error = (await response.json())["error"]["message"]
                    raise Unanswered(error) if response.status >= 500 else Refused(error)
                yield response
            finally:
                if not any(response is kept for _, kept in self._open.values()):
                    response.close()
        except (aiohttp.ClientError, OSError) as silence:
            raise Unanswered from silence

    async def surely(
        self, path: str, body: Json, there: Callable[[], Awaitable[bytes | None]], *, stream: bool = False
    ) -> bytes:
        """POST what creates something. What was created, or the first event of its stream."""
        key = secrets.token_hex(8) if self.keyed else None
        while True:
            with contextlib.suppress(Unanswered):
                if stream:
                    return await self._begin_stream(path, body, key)
                return await self.send("POST", path, body, key)
            await asyncio.sleep(LOOK_AGAIN)
            if not self.keyed and (found := await there()):
                return found

    async def newest(self, path: str) -> Json:
        page = json.loads(await self.get(f"{path}?limit=1&order=desc"))
        return page["data"][0] if page["data"] else None

    async def get(self, path: str) -> bytes:
        while True:
            with contextlib.suppress(Unanswered):
                return await self.send("GET", path)
            await asyncio.sleep(LOOK_AGAIN)

    # -- requests --------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        self.assistant = json.loads(await self.surely("/assistants", {"model": "plain", "tools": TOOLS}, nowhere))["id"]

    async def open_thread(self) -> None:
        """One that nobody was told of harms nobody."""
        self.thread = json.loads(await self.surely("/threads", {}, nowhere))["id"]

    async def say(self, text: str) -> None:
        path, text = f"/threads/{self.thread}/messages", f"{text} ({len(self.sent)})"
        self.sent.append(text)

        async def there() -> bytes | None:
            found = await self.newest(path)
            return json.dumps(found).encode() if found and found["content"][0]["text"]["value"] == text else None

        message = json.loads(await self.surely(path, {"role": "user", "content": text}, there))
        self.told.append((message["id"], text))

    async def run(self, script: str, *, stream: bool = False) -> Run:
        path, model = f"/threads/{self.thread}/runs", f"{script}/{secrets.token_hex(6)}"
        body = {"assistant_id": self.assistant, "model": model, "stream": stream}

        async def there() -> bytes | None:
            found = await self.newest(path)
            return json.dumps(found).encode() if found and found["model"] == model else None

        run = msgspec.json.decode(await self.surely(path, body, there, stream=stream), type=Run)
        self.runs.append(run)
        return run

    async def submit(self, run: Run, *, stream: bool = False) -> None:
        """Answer every call that the run asks for. After a silence it looks again."""
        while (now := await self.look(run)).required_action:
            outputs = [
                {"tool_call_id": call.id, "output": f"sunny at {call.id}"}
                for call in now.required_action.submit_tool_outputs.tool_calls
            ]
            path = f"{self._path(run)}/submit_tool_outputs"
            with contextlib.suppress(Unanswered, Refused):
                if stream and run.id in self.heard:
                    await self._begin_stream(path, {"tool_outputs": outputs, "stream": True}, None, run.id)
                else:
                    await self.send("POST", path, {"tool_outputs": outputs})

    async def cancel(self, run: Run) -> None:
        """A run that ended before is refused: that is an answer too."""
        await self._until_answered("POST", f"{self._path(run)}/cancel")

    async def delete(self) -> None:
        self.deleted = None
        await self._until_answered("DELETE", f"/threads/{self.thread}")
        self.deleted = True

    async def _until_answered(self, method: str, path: str) -> None:
        while True:
            with contextlib.suppress(Unanswered):
                with contextlib.suppress(Refused):
                    await self.send(method, path, {})
                return
            await asyncio.sleep(LOOK_AGAIN)

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _path(self, run: Run) -> str:
        return f"/threads/{run.thread_id}/runs/{run.id}"

    async def look(self, run: Run) -> Run:
        return msgspec.json.decode(await self.get(self._path(run)), type=Run)

    async def until(self, run: Run, *statuses: str) -> Run:
        while (now := await self.look(run)).status not in {*statuses, *TERMINAL}:
            await asyncio.sleep(LOOK_AGAIN)
        return now

    async def follow(self, run: Run) -> str:
        """Hear the stream until it pauses or ends, across every disconnection. The last event's name."""
        before = len(self.heard.setdefault(run.id, b""))
        while True:
            events = list(frames.parse(self.heard[run.id]))
            last = events[-1][2] if events else ""
            if last in frames.ENDINGS or (last == frames.PAUSE and len(self.heard[run.id]) > before):
                return last
            try:
                with contextlib.suppress(Unanswered, TimeoutError):
                    async with asyncio.timeout(self.chance.uniform(0.1, 1) if self.restless else None):
                        await self._listen(run, f"{events[-1][0]}.{events[-1][1]}" if events else "")
            except Refused:
                return "error"  # the thread was deleted
            await asyncio.sleep(LOOK_AGAIN)

    async def _listen(self, run: Run, last: str) -> None:
        """On the stream that came with the answer to a request, or as one who goes on after Last-Event-ID."""
        event, begun = self._open.pop(run.id, (b"", None))
        if begun:
            self.heard[run.id] += event
            with contextlib.closing(begun):
                return await self._hear(run, begun)
        async with self._request("GET", f"{self._path(run)}/events", after=last) as response:
            await self._hear(run, response)

    async def _hear(self, run: Run, response: aiohttp.ClientResponse) -> None:
        try:
            while event := await whole_event(response):
                self.heard[run.id] += event
                if f"event: {frames.PAUSE}\n".encode() in event:
                    return
        except (aiohttp.ClientError, OSError) as cut:
            raise Unanswered from cut

    async def _begin_stream(self, path: str, body: Json, key: str | None, run_id: str = "") -> bytes:
        """The first event's payload. The stream is kept if it goes on where this reader is; others he reads anew."""
        async with self._request("POST", path, body, key) as response:
            event = await whole_event(response)
            if not event:
                raise Unanswered
            ((place, _, _, payload),) = frames.parse(event)
            run_id = run_id or json.loads(payload)["id"]
            if place == len(self.heard.get(run_id, b"")):
                self._open[run_id] = event, response
            return payload

    def leave(self) -> None:
        """The streams that nobody followed."""
        for _, response in self._open.values():
            response.close()

    # -- afterwards ------------------------------------------------------------------------------------------------

    async def check_lists(self) -> None:
        """What the API lists is what this client was told, and in that order."""
        if self.deleted is not False:
            return
        runs = [each["id"] for each in await self._all(f"/threads/{self.thread}/runs")]
        assert runs == [run.id for run in self.runs]
        messages = await self._all(f"/threads/{self.thread}/messages")
        mine = [(m["id"], m["content"][0]["text"]["value"]) for m in messages if m["role"] == "user"]
        assert mine == self.told

    async def _all(self, path: str) -> list[Json]:
        found: list[Json] = []
        page: Json = {"has_more": True, "last_id": None}
        while page["has_more"]:
            after = f"&after={page['last_id']}" if found else ""
            page = json.loads(await self.get(f"{path}?limit=100&order=asc{after}"))
            found += page["data"]
        return found


async def nowhere() -> bytes | None:
    """Where nobody could find what he asked for."""
    return None


async def whole_event(response: aiohttp.ClientResponse) -> bytes:
    """The next one that has an id; empty at the end, or after an error."""
    event = b""
    while line := await response.content.readline():
        event += line
        if line == b"\n":
            if event.startswith(b"id: "):
                return event
            event = b""
    return b""
