"""The whole service inside the test's own process: API and worker over SQLite in memory, with a model that follows a
script. Every response and every stream event that a test gets has passed the OpenAPI document.

    async with in_process(says("Hi", gate, " there.")) as service:
        run = await service.start_run()
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from assistants_service.api import connection_limits
from assistants_service.composition import api_of, searcher_of, stores_of, threads_of, worker_of
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.ports.extraction import Extraction
from assistants_service.core.ports.models import Deltas, ModelError, ModelInfo, Prompt, Reply, Thought, Tokens, ToolCall
from assistants_service.core.ports.sandbox import Sandbox
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.protocol.runs.resources import TERMINAL
from assistants_service.core.vector_stores.search import Search, Searcher
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.wiring import SystemClock, storage_of, tokens_of
from assistants_service.parts import Parts, stored_bytes_of
from openapi_checks import check_event, check_response
from scripted_ingestion import Bag, PlainText
from scripted_models import BareModels

Json = Any
T = TypeVar("T")
PATIENCE = 60.0  # seconds that a test may take: a wait for what never comes is told so
SETTLED = (*sorted(TERMINAL), "requires_action")
BETA = {"OpenAI-Beta": "assistants=v2"}
NOTHING: Any = object()
LARGE = 1024 * 1024  # bytes that aiohttp does not want to send in one piece
LONGEST = 32 * LARGE  # bytes of a line of a stream: a message is one line


# --- a clock and a notifier in the test's hands --------------------------------------------------------------------


@dataclass
class ManualClock:
    """Time stands still until a test moves it (InProcess.advance)."""

    time: float = 1_800_000_000.0

    def now(self) -> float:
        return self.time


class LoudNotifier(Notifier):
    def notify_all(self) -> None:
        """Let all waiting tasks look again."""
        for topic in list(self._listeners):
            self.notify(topic)


# --- a model that follows a script ----------------------------------------------------------------------------------

Act = Callable[[Prompt, Deltas | None], Awaitable[Reply]]


class Gate:
    """A place in a script where the model waits for the test."""

    def __init__(self) -> None:
        self.reached, self._open = asyncio.Event(), asyncio.Event()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


class ScriptedModels(BareModels):
    """ports.models.Models. Each call gets the next act of the script; the last act is repeated. `prompts` is what the
    model was asked."""

    def __init__(self, script: Sequence[Act]) -> None:
        self.script = list(script) or [says("Hello there.")]
        self.prompts: list[Prompt] = []
        self.models: list[ModelInfo] = [ModelInfo("gpt-4o", 1_700_000_000, "acme")]

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        self.prompts.append(prompt)
        act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await act(prompt, deltas)

    async def list(self) -> Sequence[ModelInfo]:
        return self.models


async def _speak(pieces: Sequence[str | Gate], deltas: Deltas | None) -> str:
    for piece in pieces:
        if isinstance(piece, Gate):
            await piece.pass_through()
        elif deltas:
            deltas.text(piece)
            await asyncio.sleep(0)
    return "".join(piece for piece in pieces if isinstance(piece, str))


def says(*pieces: str | Gate, finish: str = "stop", refusal: str = "", tokens: Tokens = Tokens(10, 5)) -> Act:  # noqa: B008
    """The model says the pieces, one after the other, and waits at gates."""

    async def act(_: Prompt, deltas: Deltas | None) -> Reply:
        text = await _speak(pieces, deltas)
        if refusal and deltas:
            deltas.refusal(refusal)
        return Reply(text, refusal, (), finish, tokens)

    return act


def calls(
    *asked: ToolCall,
    first: Sequence[str | Gate] = (),
    tokens: Tokens = Tokens(10, 5),  # noqa: B008
    thought: Thought | None = None,
) -> Act:
    """The model says `first`, then calls functions."""

    async def act(_: Prompt, deltas: Deltas | None) -> Reply:
        text = await _speak(first, deltas)
        for call in asked:
            if deltas:
                middle = len(call.arguments) // 2
                index = deltas.call(call.id, call.name, call.arguments[:middle])
                deltas.extend(index, call.arguments[middle:])
        return Reply(text, "", asked, "tool_calls", tokens, thought)

    return act


def fails(code: str, message: str, *pieces: str | Gate) -> Act:
    """The provider fails, after the pieces."""

    async def act(_: Prompt, deltas: Deltas | None) -> Reply:
        await _speak(pieces, deltas)
        raise ModelError(code, message)

    return act


# --- a client that checks whatever it gets --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def body(self) -> Json:
        return json.loads(self.raw)

    @property
    def error(self) -> Json:
        return self.body["error"]


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: Json
    id: str


@dataclass
class Stream:
    """A stream of server-sent events. `raw` is what came so far, `heard` its events, `comments` its heartbeats."""

    response: aiohttp.ClientResponse
    raw: bytes = b""
    heard: list[Event] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    async def until(self, name: str) -> Event:
        """The next event of this name."""
        async for event in self:
            if event.name == name:
                return event
        raise AssertionError(f"the stream ended without {name}: {self.names}")

    async def rest(self) -> list[Event]:
        """All events, until the service ends the stream."""
        async for _ in self:
            pass
        return self.heard

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.heard]

    async def __aiter__(self) -> AsyncIterator[Event]:
        while frame := await self._frame():
            event = self._event(frame)
            if event:
                self.heard.append(event)
                yield event

    async def comment(self) -> str:
        """The next heartbeat."""
        while frame := await self._frame():
            event = self._event(frame)
            if event is None:
                return self.comments[-1]
            self.heard.append(event)
        raise AssertionError("the stream ended without a heartbeat")

    async def _frame(self) -> bytes:
        frame = b""
        while line := await self.response.content.readline(max_line_length=LONGEST):
            self.raw += line
            if line == b"\n" or line.startswith(b":"):
                return frame or line
            frame += line
        assert not frame, f"torn frame: {frame!r}"
        return b""

    def _event(self, frame: bytes) -> Event | None:
        lines = frame.decode().removesuffix("\n").split("\n")
        if all(line.startswith(":") for line in lines):
            self.comments += lines
            return None
        fields = dict(line.split(": ", 1) for line in lines)
        check_event(fields["event"], fields["data"])
        data = fields["data"] if fields["event"] == "done" else json.loads(fields["data"])
        return Event(fields["event"], data, fields.get("id", ""))


class Api:
    """A client of one key. Paths are those after /v1; `send` takes whole ones."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, key: str | None = None) -> None:
        self._session, self._url = session, url
        self._headers = {**BETA, **({"Authorization": f"Bearer {key}"} if key else {})}

    async def send(
        self,
        method: str,
        path: str,
        body: Json = NOTHING,
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Any request: `path` is sent as it is, `data` instead of a JSON `body`; a header of None is left out."""
        if body is not NOTHING:
            data = json.dumps(body).encode()
        payload = io.BytesIO(data) if isinstance(data, bytes) and len(data) > LARGE else data
        async with self._session.request(
            method, self._target(path), data=payload, headers=self._with(headers), allow_redirects=False
        ) as response:
            return _checked(method, path, Answer(response.status, response.headers, await response.read()))

    async def send_in_pieces(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str | None], chance: random.Random
    ) -> Answer:
        """The same over a connection of its own, cut at random places, and its body in chunks or with its length."""
        fields = {"Host": f"{self._url.host}:{self._url.port}", "Connection": "close", **self._with(headers)}
        body, chunked = data or b"", data is not None and chance.random() < 0.5
        if chunked:
            chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(chance, body) if piece]
            body, fields["Transfer-Encoding"] = b"".join([*chunks, b"0\r\n\r\n"]), "chunked"
        elif data is not None:
            fields["Content-Length"] = str(len(body))
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())])
        reader, writer = await asyncio.open_connection(self._url.host, self._url.port)
        try:
            for piece in _pieces(chance, head.encode() + b"\r\n\r\n" + body):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # the server has read it
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        first, _, raw = answer.partition(b"\r\n\r\n")
        status, *lines = first.decode().split("\r\n")
        told = CIMultiDict[str](line.split(": ", 1) for line in lines)  # type: ignore[misc]
        return _checked(method, path, Answer(int(status.split(" ")[1]), CIMultiDictProxy(told), raw))

    async def get(self, path: str) -> Json:
        return await self._done("GET", path)

    async def post(self, path: str, body: Json = NOTHING) -> Json:
        return await self._done("POST", path, body)

    async def delete(self, path: str) -> Json:
        return await self._done("DELETE", path)

    async def refused(self, method: str, path: str, body: Json = NOTHING, *, status: int = 400) -> Json:
        """The error object of a request that is refused with this status."""
        answer = await self.send(method, f"/v1{path}", body)
        assert answer.status == status, answer.raw
        return answer.error

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, body: Json = NOTHING, *, after: str | None = None, key: str | None = None
    ) -> AsyncIterator[Stream]:
        """A stream; `after` is the Last-Event-ID, `key` the Idempotency-Key."""
        data = None if body is NOTHING else json.dumps(body).encode()
        headers = self._with({"Last-Event-ID": after, "Idempotency-Key": key})
        async with self._session.request(method, self._target(f"/v1{path}"), data=data, headers=headers) as response:
            assert response.status == 200, await response.read()
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["x-request-id"].startswith("req_")
            yield Stream(response)

    async def _done(self, method: str, path: str, body: Json = NOTHING) -> Json:
        answer = await self.send(method, f"/v1{path}", body)
        assert answer.status == 200, f"{method} {path}: {answer.raw!r}"
        return answer.body

    def _target(self, path: str) -> URL:
        return URL(str(self._url).rstrip("/") + path, encoded=True)

    def _with(self, headers: Mapping[str, str | None] | None) -> dict[str, str]:
        merged = {**self._headers, "Content-Type": "application/json", **(headers or {})}
        return {name: value for name, value in merged.items() if value is not None}


def _checked(method: str, path: str, answer: Answer) -> Answer:
    assert answer.headers.get("x-request-id", "").startswith("req_"), f"{method} {path}: no request id"
    if method not in ("HEAD", "OPTIONS") or answer.status >= 400:
        check_response(method, path, answer.status, answer.raw, answer.headers.get("Content-Type", ""))
    return answer


def _pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """`data` in two to six pieces."""
    cuts = sorted(chance.choices(range(len(data) + 1), k=chance.randint(1, 5)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# --- the service ----------------------------------------------------------------------------------------------------


class InProcess:
    """A running service. `api` is a client without a key; `worker` False at the start leaves runs queued."""

    def __init__(
        self,
        parts: Parts,
        server: TestServer,
        session: aiohttp.ClientSession,
        threads: Any,
        stores: Any,
        searcher: Searcher,
        search: Search | None = None,
    ) -> None:
        self.searcher, self.search = searcher, search or searcher
        self.parts, self.threads, self.stores, self._server, self._session = parts, threads, stores, server, session
        self.storage, self.notifier = parts.storage, parts.notifier
        self.api = self.client()
        self._worker: Any = None
        self._working: asyncio.Task[None] | None = None

    @property
    def models(self) -> ScriptedModels:
        models: Any = self.parts.models
        return models

    @property
    def prompts(self) -> list[Prompt]:
        return self.models.prompts

    @property
    def url(self) -> URL:
        return self._server.make_url("/")

    def client(self, key: str | None = None) -> Api:
        return Api(self._session, self.url, key)

    async def raw(self, *lines: bytes) -> tuple[int, Json]:
        """Status and body of a request whose lines no HTTP client would send."""
        reader, writer = await asyncio.open_connection(self.url.host, self.url.port)
        writer.write(b"\r\n".join([*lines, b"Host: localhost", b"Connection: close", b"", b""]))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split(b" ", 2)[1]), json.loads(body)

    @property
    def context(self) -> Any:
        """What the worker works with."""
        return self._worker._context

    def start_worker(self) -> None:
        self._worker = worker_of(self.parts, self.threads, self.stores, self.search)
        self._working = asyncio.create_task(self._worker.run())

    async def stop_worker(self, grace: float = 0) -> None:
        """`grace` in seconds: what is in flight may end."""
        if self._worker:
            await self._worker.stop(grace)
            await self._working
            self._worker = None

    def take_turns(self) -> None:
        """Let every call of the store take a moment from here on, as over a network: others come in between."""
        for name in ("get", "create", "replace", "start", "append", "read"):
            setattr(self.storage, name, _after_others(getattr(self.storage, name)))

    def advance(self, seconds: float) -> None:
        """Move the manual clock, and let all waiting tasks look at it."""
        clock: Any = self.parts.clock
        clock.time += seconds
        self.notifier.notify_all()  # type: ignore[attr-defined]

    async def assistant(self, **fields: Json) -> str:
        body = {"model": "gpt-4o", **fields}
        return str((await self.api.post("/assistants", body))["id"])

    async def thread(self, *texts: str, **fields: Json) -> str:
        """A thread with these messages of its user."""
        messages = [{"role": "user", "content": text} for text in texts]
        return str((await self.api.post("/threads", {"messages": messages, **fields}))["id"])

    async def start_run(self, thread: str | None = None, assistant: str | None = None, **fields: Json) -> Json:
        """A new run; on a new thread where a user said hello, if none is given."""
        thread = thread or await self.thread("Hello")
        body = {"assistant_id": assistant or await self.assistant(), **fields}
        return await self.api.post(f"/threads/{thread}/runs", body)

    async def finished(self, thread: str | None = None, assistant: str | None = None, **fields: Json) -> Json:
        """A new run, when it has ended or asks its client."""
        return await self.until(await self.start_run(thread, assistant, **fields))

    async def until(self, run: Json, *statuses: str, project: str = "default") -> Json:
        """The run when it has one of these statuses (by default: when a poller stops). Waits on commits."""
        while True:
            listener = self.threads.listen(project, run["thread_id"])
            try:
                run_state = (await self.threads.load(project, run["thread_id"])).state.runs.get(run["id"])
                if run_state.run.status in (statuses or SETTLED):
                    return await self.api.get(path_of(run)) if project == "default" else None
                assert await listener.wait(60), f"run is {run_state.run.status}, and nothing happens"
            finally:
                listener.close()

    async def in_progress(self, run: Json, *before: str) -> Any:
        """What the log tells to be in the making, once that is another step than those before. Nothing waits for the
        worker's next look at the log: it is made to look."""
        while True:
            run_state = (await self.threads.load("default", run["thread_id"])).state.runs.get(run["id"])
            if run_state.in_progress and run_state.in_progress.step.id not in before:
                return run_state.in_progress
            self.notifier.notify_all()  # type: ignore[attr-defined]
            await asyncio.sleep(0.002)

    async def ingested(self, store: Json, project: str = "default") -> Json:
        """The vector store when none of its files is in progress. Waits on commits."""
        while True:
            listener = self.stores.listen(project, store["id"])
            try:
                state = (await self.stores.load(project, store["id"])).state
                if not state.waiting:
                    return await self.api.get(f"/vector_stores/{store['id']}") if project == "default" else None
                assert await listener.wait(60), f"{list(state.waiting)} wait, and nothing happens"
            finally:
                listener.close()

    async def answered(self, run: Json, **outputs: str) -> Json:
        """Submit outputs by call id, and wait for what the run does next."""
        given = [{"tool_call_id": call, "output": output} for call, output in outputs.items()]
        submitted = await self.api.post(f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": given})
        assert submitted["required_action"] is None
        return await self.until(submitted)

    async def said(self, thread: str) -> list[str]:
        """The texts of a thread's messages, oldest first."""
        page = await self.api.get(f"/threads/{thread}/messages?order=asc&limit=100")
        return ["".join(part["text"]["value"] for part in message["content"]) for message in page["data"]]

    async def steps(self, run: Json) -> list[Json]:
        """The steps of a run, oldest first."""
        return list((await self.api.get(f"{path_of(run)}/steps?order=asc&limit=100"))["data"])


def _after_others(call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    async def later(*given: Any) -> T:
        await asyncio.sleep(0.005)
        return await call(*given)

    return later


def path_of(run: Json) -> str:
    return f"/threads/{run['thread_id']}/runs/{run['id']}"


def filled(node: Json, ids: dict[str, str]) -> Json:
    """The text or body with ids in the place of {thread}, {run}, ..."""
    if isinstance(node, dict):
        return {key: filled(value, ids) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [filled(item, ids) for item in node]
    if isinstance(node, str) and "{" in node:
        for name, value in ids.items():
            node = node.replace("{" + name + "}", value)
    return node


@contextlib.asynccontextmanager
async def in_process(
    *script: Act,
    clock: Clock | None = None,
    ids: Ids | None = None,
    models: Any = None,
    worker: bool = True,
    extraction: Extraction | None = None,
    embeddings: Embeddings | None = None,
    telemetry: Telemetry = SILENCE,
    search: Search | None = None,
    sandbox: Sandbox | None = None,
    **settings: Any,
) -> AsyncIterator[InProcess]:
    """The service with a model that follows `script` (or with `models`), and these settings. Unless others are given,
    files are read and embedded by the tests' own rules (scripted_ingestion.py). `search` is what runs search with,
    `sandbox` what executes their code: nothing does, unless one is given."""
    extraction, embeddings = extraction or PlainText(), embeddings or Bag()
    given = read_settings({"storage": "sqlite://:memory:", "stream_flush_ms": 1, **settings})
    clock, models = clock or SystemClock(), models or ScriptedModels(script)
    storage = storage_of(given, clock)
    tokens = tokens_of(given, clock)
    shared = ids or Ids(clock), LoudNotifier(), storage, models, extraction, embeddings
    stored = stored_bytes_of(given, storage, clock)
    parts = Parts(given, clock, *shared, tokens, telemetry, sandbox, stored)
    threads, stores = threads_of(parts), stores_of(parts)
    searcher = searcher_of(parts, stores)
    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        await storage.open()
        stack.push_async_callback(storage.close)
        if tokens:
            stack.push_async_callback(tokens.close)
        server = TestServer(api_of(parts, threads, stores, searcher))
        await server.start_server(**connection_limits.SERVER)
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        service = InProcess(parts, server, session, threads, stores, searcher, search)
        stack.push_async_callback(service.stop_worker)
        if worker:
            service.start_worker()
        yield service
