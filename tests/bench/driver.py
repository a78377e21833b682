"""The load driver: what clients of the API do, over loopback and aiohttp, with the time that each thing took.

Overhead is what a run takes beyond the model's own time, as its client sees it: with the wait for the next poll.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

Json = dict[str, Any]
HEADERS = {"OpenAI-Beta": "assistants=v2", "Content-Type": "application/json"}
ENDED = {"completed", "failed", "cancelled", "expired", "incomplete", "requires_action"}
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOLS = [{"type": "function", "function": {"name": "lookup", "description": "look up", "parameters": PARAMETERS}}]


@dataclass(slots=True)
class Load:
    """What a number of workers did in a while. Times are in seconds."""

    times: list[float] = field(default_factory=list)
    wall: float = 0.0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def p50(self) -> float:
        """In milliseconds."""
        return self.quantile(0.5) * 1000

    @property
    def p95(self) -> float:
        """In milliseconds."""
        return self.quantile(0.95) * 1000

    @property
    def p99(self) -> float:
        """In milliseconds."""
        return self.quantile(0.99) * 1000

    @property
    def rate(self) -> float:
        """Of completed acts a second."""
        return len(self.times) / self.wall


async def load(workers: int, number: int, act: Callable[[], Awaitable[float]]) -> Load:
    """Do it so many times, by so many at once. What `act` returns is its time. An error ends it all."""
    done, left = Load(), number

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            done.times.append(await act())

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    done.wall = time.perf_counter() - begun
    return done


async def timed(act: Awaitable[Any]) -> float:
    begun = time.perf_counter()
    await act
    return time.perf_counter() - begun


class Model:
    """The fake provider's controls."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self.url = session, url
        self.delay = self.length = 0.0  # seconds before the first word, and to the last

    async def set(self, delay_ms: float, tokens: int = 20, itl_ms: float = 0) -> None:
        self.delay = delay_ms / 1000
        self.length = self.delay + (tokens - 1) * itl_ms / 1000
        body = {"delay_ms": delay_ms, "tokens": tokens, "itl_ms": itl_ms}
        async with self._session.post(f"{self.url}/config", json=body) as response:
            response.raise_for_status()

    async def arrivals(self) -> dict[str, float]:
        async with self._session.get(f"{self.url}/arrivals") as response:
            return dict(await response.json())


class Client:
    """A client of the service at `url`, or of the floor."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str = "") -> None:
        if urlsplit(url).hostname != "127.0.0.1":
            raise ValueError(f"{url}: loopback only")
        self._session, self._url, self._base = session, url, f"{url}/v1"
        self._authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._headers = HEADERS | self._authorization
        self._assistants: dict[bool, str] = {}

    def another(self, key: str) -> Client:
        """A client of the same service, by another key."""
        return Client(self._session, self._url, key)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """What reads is asked again after a 503, as SDKs do."""
        data = msgspec.json.encode(body) if body is not None else None
        for last in (False, False, True):
            async with self._session.request(method, self._base + path, data=data, headers=self._headers) as response:
                said = await response.read()
                if response.status == 200:
                    return msgspec.json.decode(said)
                if last or response.status != 503 or method != "GET":
                    raise RuntimeError(f"{method} {path}: {response.status} {said[:300]!r}")
            await asyncio.sleep(1)
        raise AssertionError

    async def upload(self, filename: str, content: bytes) -> str:
        """The id of the new file."""
        form = aiohttp.FormData({"purpose": "assistants"})
        form.add_field("file", content, filename=filename)
        async with self._session.post(f"{self._base}/files", data=form, headers=self._authorization) as response:
            return str((await response.json())["id"])

    # -- objects ---------------------------------------------------------------------------------------------------

    async def assistant(self, *, tools: bool = False) -> str:
        """The id of one that is there, or is made now."""
        if tools not in self._assistants:
            body = {"model": "fake", "instructions": "Answer briefly.", **({"tools": TOOLS} if tools else {})}
            self._assistants[tools] = (await self.call("POST", "/assistants", body))["id"]
        return self._assistants[tools]

    async def thread(self, messages: Sequence[Json] = ()) -> str:
        return str((await self.call("POST", "/threads", {"messages": messages} if messages else {}))["id"])

    async def message(self, thread: str, text: str = "hello, please answer") -> str:
        said = await self.call("POST", f"/threads/{thread}/messages", {"role": "user", "content": text})
        return str(said["id"])

    async def asking(self, text: str = "hello, please answer") -> str:
        """A thread with a message."""
        thread = await self.thread()
        await self.message(thread, text)
        return thread

    async def filled(self, size: int) -> str:
        """A thread of so many messages, each but the first thousand a commit of its own."""
        texts = [f"message number {number} of a long conversation" for number in range(size)]
        thread = await self.thread([{"role": "user", "content": text} for text in texts[:1000]])
        for text in texts[1000:]:
            await self.message(thread, text)
        return thread

    # -- runs ------------------------------------------------------------------------------------------------------

    async def start(self, thread: str, *, tools: bool = False, **more: Any) -> Json:
        body: Json = {"assistant_id": await self.assistant(tools=tools), **more}
        if tools:
            body["tools"] = TOOLS  # the floor knows no assistants
        return dict(await self.call("POST", f"/threads/{thread}/runs", body))

    async def ended(self, run: Json, poll: float) -> Json:
        """The run as soon as it has ended, or waits for its client."""
        while run["status"] not in ENDED:
            await asyncio.sleep(poll)
            run = await self.call("GET", f"/threads/{run['thread_id']}/runs/{run['id']}")
        return run

    async def complete(self, thread: str, poll: float, *, tools: bool = False, **more: Any) -> None:
        run = await self.ended(await self.start(thread, tools=tools, **more), poll)
        if tools:
            calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            outputs = [{"tool_call_id": call["id"], "output": "42"} for call in calls]
            path = f"/threads/{thread}/runs/{run['id']}/submit_tool_outputs"
            run = await self.ended(await self.call("POST", path, {"tool_outputs": outputs}), poll)
        if run["status"] != "completed":
            raise RuntimeError(f"a run ended {run['status']}: {run.get('last_error')}")

    async def streamed(self, thread: str) -> tuple[float, float]:
        """Seconds to the first delta, and to the end."""
        body = msgspec.json.encode({"assistant_id": await self.assistant(), "stream": True})
        begun, first, ended = time.perf_counter(), 0.0, False
        url = f"{self._base}/threads/{thread}/runs"
        async with self._session.post(url, data=body, headers=self._headers) as response:
            async for line in response.content:
                if not first and line.startswith(b"event: thread.message.delta"):
                    first = time.perf_counter() - begun
                ended = ended or line.startswith(b"event: thread.run.completed")
        if not first or not ended:
            raise RuntimeError("a stream did not end with a completed run")
        return first, time.perf_counter() - begun


# --- loads --------------------------------------------------------------------------------------------------------


async def runs(client: Client, model: Model, workers: int, number: int, *, poll: float, tools: bool = False) -> Load:
    """Each on a thread of its own with one message, made outside of its time but not of the rate."""
    await client.assistant(tools=tools)

    async def act() -> float:
        thread = await client.asking()
        return await timed(client.complete(thread, poll, tools=tools)) - model.delay * (2 if tools else 1)

    return await load(workers, number, act)


async def streams(client: Client, model: Model, workers: int, number: int) -> tuple[Load, Load]:
    """What the first delta, and the whole stream, took beyond the model's time."""
    await client.assistant()
    whole = Load()

    async def act() -> float:
        first, total = await client.streamed(await client.asking())
        whole.times.append(total - model.length)
        return first - model.delay

    first = await load(workers, number, act)
    return first, whole


async def pick_ups(client: Client, model: Model, number: int, *, pause: float) -> list[float]:
    """Seconds from asking for a run to the call of its model, with a pause before each."""
    sent: dict[str, float] = {}
    await model.arrivals()
    for turn in range(number):
        text = f"pick up {turn}"
        thread = await client.asking(text)
        await asyncio.sleep(pause)
        sent[text] = time.monotonic()
        await client.complete(thread, 0.02)
    seen = await model.arrivals()
    return [seen[text] - begun for text, begun in sent.items()]
