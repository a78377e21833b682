"""The simulation's world with real processes: the service by its command, which dies by kill -9 and comes back, over a
store that outlives it; its model and its clients over HTTP.

What clients do (scenarios.py) and what must hold then (promise_checks.py) is the same as in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

import promise_checks
from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import Deltas, Prompt, ToolCall, Turn
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.infra.azure.calls import call
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.wiring import SystemClock, storage_of
from commit_history import Past
from crashing_service import ORDERED, REQUEST
from http_transports import Socket
from scripted_models import ASSISTANT, ByName
from scripted_upstreams import choice, chunk, fragment, function, serving
from service_process import Process
from simulated_clients import Client, Exchange, names_in_path
from simulated_service import PROJECT, Trace
from source_paths import python_path

Json = Any
HERE = Path(__file__).parent
BETA = {"OpenAI-Beta": "assistants=v2"}
VISIBILITY_TIMEOUT = 2  # seconds until a dead worker's runs are taken over
LOOK_AGAIN = 0.05  # seconds
SETTLED = 60.0
STARTS = asyncio.Semaphore(2)  # processes that start at once, of all worlds: each takes a second of a core

# --- the model ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asked_over_http(models: ByName) -> AsyncIterator[str]:
    """The URL of a provider that answers as the simulation's model does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = Prompt(body["model"], None, tuple(turn_of(message) for message in body["messages"]))
        if body.get("stream"):
            return await streamed(request, prompt)
        reply = await models.reply(prompt, None)
        calls = [function(call.name, call.arguments, call.id) for call in reply.calls]
        return web.json_response(choice(content=reply.text or None, **({"tool_calls": calls} if calls else {})))

    async def streamed(request: web.Request, prompt: Prompt) -> web.StreamResponse:
        response, pieces = web.StreamResponse(headers={"Content-Type": "text/event-stream"}), Pieces()
        await response.prepare(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(models.reply(prompt, pieces)).add_done_callback(lambda _: pieces.queue.put_nowait(None))
            while piece := await pieces.queue.get():
                await response.write(f"data: {json.dumps(piece)}\n\n".encode())
        await response.write(f"data: {json.dumps(chunk(finish='stop'))}\n\ndata: [DONE]\n\n".encode())
        return response

    async with serving() as upstream:
        upstream.script = [answer]
        yield upstream.url


def turn_of(message: Json) -> Turn:
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return Turn(message["role"], calls=calls)


class Pieces(Deltas):
    """Deltas on their way to the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[Json | None] = asyncio.Queue()

    def text(self, value: str) -> None:
        self.queue.put_nowait(chunk(content=value))

    def refusal(self, value: str) -> None:
        self.queue.put_nowait(chunk(refusal=value))

    def call(self, call_id: str, name: str, arguments: str = "") -> int:
        index = super().call(call_id, name)
        self.queue.put_nowait(chunk(tool_calls=[fragment(index, call_id, name, arguments)]))
        return index

    def extend(self, index: int, arguments: str) -> None:
        self.queue.put_nowait(chunk(tool_calls=[fragment(index, None, None, arguments)]))


# --- processes that die ---------------------------------------------------------------------------------------------


class Mortal(Process):
    """A process that kills itself by order: see tests/support/crashing_service.py."""

    program: ClassVar[list[str]] = [sys.executable, str(HERE / "crashing_service.py")]
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
    `worker`, `worker two`, `serve`. They come back where they were. `store` is for looking into it."""

    storage: str
    models: ByName
    model_url: str
    kind: type[Process] = Process
    settings: dict[str, str] = field(default_factory=dict)
    epoch: ClassVar[float] = 0.0  # its time is Unix time
    troubles: ClassVar[tuple[()]] = ()  # none excuses a late run
    overtaken: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self.store = storage_of(read_settings({"storage": self.storage}), self.clock)
        self.threads = ThreadRepository(self.store, self.clock, Ids(self.clock), Notifier())
        self.processes: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self.kills = 0
        self.logs_of_the_dead: list[str] = []
        self.visitors: list[Visitor] = []
        self.exchanges: list[Exchange] = []
        self.streams: dict[str, bytes] = {}  # as they are when it is checked
        self.counts: Counter[str] = Counter()
        self.trace = Trace()
        self._marks = 0
        self.session = aiohttp.ClientSession(headers=BETA, connector=aiohttp.TCPConnector(limit=0))

    async def open(self) -> None:
        await self.store.open()
        with contextlib.suppress(Conflict):
            await self.store.create(names.ASSISTANTS, names.document(PROJECT, ASSISTANT.id), encode(ASSISTANT))

    async def api(self) -> Server:
        """Any of the processes that serve the API, dead or alive."""
        name = random.choice(self._serving())
        return Server(name, self.ports[name], self.threads)

    def _serving(self) -> list[str]:
        return [name for name in self.ports if not name.startswith("worker")]

    def new_mark(self) -> str:
        """A word that nothing else in this world has."""
        self._marks += 1
        return f"m{self._marks}m"

    def loses_an_answer(self) -> bool:
        return False

    def now(self) -> float:
        return self.clock.now()

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
                "WORKER_VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
                "ACTIONS": "lookup_action",
                "PYTHONPATH": python_path(),
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
        name = chance.choice(self._serving())
        return f"http://127.0.0.1:{self.ports[name]}/v1"

    async def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        for visitor in self.visitors:
            for ear in visitor.ears.values():
                ear.close()
        await self.session.close()
        await self.store.close()

    def visitor(self, seed: float, **habits: Any) -> Visitor:
        """A new client."""
        self.visitors.append(Visitor(self, chance=random.Random(seed), **habits))
        return self.visitors[-1]

    # -- what is left ----------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Every promise to every visitor. Raises AssertionError.

        What the last ones to die left undone may be done up to SETTLED seconds later."""
        end = time.monotonic() + SETTLED
        while True:
            try:
                await self._check()
                break
            except AssertionError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.1)
        assert not await self.queued("work-buried")
        logged = [*self.logs_of_the_dead, *(line for process in self.processes.values() for line in process.log)]
        faults = [line for line in logged if " ERROR " in line or "Traceback" in line]
        assert not faults, faults

    async def _check(self) -> None:
        pasts: promise_checks.Pasts = {}
        self.streams = {}
        for visitor in self.visitors:
            past = await promise_checks.past_in(self.store, visitor.thread)
            if past.commits:
                pasts[names.document(PROJECT, visitor.thread)] = past
                await self._read_streams(past)
            elif visitor.gone:
                await promise_checks.nothing_is_left(self, visitor.thread)
        gone = {visitor.thread for visitor in self.visitors if visitor.gone}
        purged = {thread for thread in gone if names.document(PROJECT, thread) not in pasts}
        exchanges = [each for each in self.exchanges if each.thread not in purged]
        await promise_checks.keeps_its_promises(self, pasts, exchanges)
        for visitor in self.visitors:
            await visitor.check_lists()

    async def _read_streams(self, past: Past) -> None:
        for run_state in past.state.runs:
            name = names.document(PROJECT, past.thread_id, run_state.id)
            if tail := await self.store.read(names.STREAMS, name, None):
                self.streams[name] = tail.data

    async def at_rest(self) -> None:
        """Until no work item is left, be it one that waits for the expiry of a run that ended long ago."""
        while await self.queued("work"):
            await asyncio.sleep(0.5)

    async def story(self, visitor: Visitor) -> str:
        """What happened to a thread, to find out why."""
        past = await promise_checks.past_in(self.store, visitor.thread)
        return "\n".join(
            f"{commit.at:.3f} {[type(event).__name__ for event in commit.events]}" for commit in past.commits
        )

    async def logs(self) -> list[tuple[str, str]]:
        """Container and name of each."""
        if isinstance(self.store, SqliteStorage):
            return self.store._sql.execute("SELECT container, name FROM logs").fetchall()
        blobs = await self._blobs(names.THREADS, names.STREAMS)
        return [(container, name) for container, name in blobs if container == names.STREAMS or ".log" in name]

    async def documents(self) -> list[tuple[str, str]]:
        """Likewise, with tombstones."""
        if isinstance(self.store, SqliteStorage):
            return self.store._sql.execute("SELECT container, name FROM documents").fetchall()
        blobs = await self._blobs(names.THREADS, names.MESSAGES, names.RUNS, names.STEPS)
        return [(container, name) for container, name in blobs if ".log" not in name]

    async def contents(self, container: str) -> list[str]:
        """The names of those that are committed."""
        if isinstance(self.store, SqliteStorage):
            rows = self.store._sql.execute("SELECT name FROM contents WHERE container=?", (container,))
            return [name for (name,) in rows]
        return [name for _, name in await self._blobs(container)]

    async def _blobs(self, *containers: str) -> list[tuple[str, str]]:
        async def listed() -> list[tuple[str, str]]:
            clients = [self.store._service.get_container_client(container) for container in containers]  # type: ignore[attr-defined]
            return [(client.container_name, name) for client in clients async for name in client.list_blob_names()]

        return await call(listed)

    async def queued(self, queue: str) -> int:
        if isinstance(self.store, SqliteStorage):
            return self.store._sql.execute("SELECT count(*) FROM queue WHERE name=?", (queue,)).fetchone()[0]
        client = self.store._work if queue == "work" else self.store._dead_letters  # type: ignore[attr-defined]
        return (await call(client.get_queue_properties)).approximate_message_count

    async def peeked(self, queue: str) -> list[str]:
        """What the first messages of a queue hold. Raises StorageUnavailable if there is no such queue."""
        messages = await call(lambda: self.store._queues.get_queue_client(queue).peek_messages(max_messages=9))  # type: ignore[attr-defined]
        return [message.content for message in messages]


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
            await world.open()
            yield world
        finally:
            await world.end()


# --- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A process that serves the API, and a repository that shows what it would show."""

    name: str
    port: int
    threads: ThreadRepository

    def connect(self, request: bytes) -> Socket:
        return Socket(self.port, request)


@dataclass
class Visitor(Client):
    """A client that asks until it is answered: after a silence again, under its Idempotency-Key (`keyed`), or only if
    what it asked for is not there. With `restless` it breaks off streams by itself now and then."""

    retries: int = sys.maxsize
    pause: float = LOOK_AGAIN
    look_every: float = LOOK_AGAIN
    chance: random.Random = field(default_factory=random.Random)
    keyed: bool = True
    restless: bool = False

    async def ask(
        self, what: str, method: str, path: str, body: Json = None, *, mark: str = "", **options: Any
    ) -> Exchange:
        if self.keyed and what.startswith("create"):
            options["key"] = mark
        return await super().ask(what, method, path, body, mark=mark, **options)

    async def already_done(self, unanswered: Exchange) -> Exchange | None:
        """A thread that no client was told of does no harm; a message or a run is the newest one, if it is there."""
        if unanswered.key or unanswered.what not in ("create message", "create run"):
            return None
        found = (await self.get(f"{unanswered.path.removeprefix('/v1')}?limit=1&order=desc"))["data"]
        if not found or unanswered.mark not in json.dumps(found):
            return None
        return replace(unanswered, status=200, raw=json.dumps(found[0]).encode())

    async def get(self, path: str) -> Json:
        return (await self.ask("get", "GET", path)).answer

    async def look(self, run: Run) -> Run:
        return (await self.ask("get", "GET", names_in_path(run.thread_id, run.id))).run

    def attention(self) -> float | None:
        return self.chance.uniform(0.1, 1) if self.restless else None

    # -- afterwards ------------------------------------------------------------------------------------------------

    async def check_lists(self) -> None:
        """What the API lists is what this client was told, each once and in that order."""
        if self.gone or not self.thread:
            return
        runs = await self._all(f"/threads/{self.thread}/runs")
        assert [each["id"] for each in runs] == [run.id for run in self.runs], "P1, P3: runs"
        messages = await self._all(f"/threads/{self.thread}/messages")
        assert [each["id"] for each in messages if each["role"] == "user"] == self.messages, "P1, P3: messages"

    async def _all(self, path: str) -> list[Json]:
        found: list[Json] = []
        page: Json = {"has_more": True, "last_id": None}
        while page["has_more"]:
            after = f"&after={page['last_id']}" if found else ""
            page = await self.get(f"{path}?limit=100&order=asc{after}")
            found += page["data"]
        return found
