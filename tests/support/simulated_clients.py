"""Clients of a simulated service, over HTTP. What they ask and hear is kept for promise_checks.py."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from assistants_service.core import names
from assistants_service.core.protocol.runs.resources import TERMINAL, Run
from assistants_service.core.threads import sse
from http_transports import Connection, Cut, request_bytes
from scripted_models import ASSISTANT
from simulated_service import KEYS, PATIENCE, World

_ID = re.compile(r"(?:asst|thread|msg|run|step)_[a-z0-9]+")
_CREATED = re.compile(rb"event: thread\.run\.created\ndata: ([^\n]*)\n\n")
_ERROR = re.compile(rb"event: error\ndata: [^\n]*\n\n")


class Unanswered(Exception):
    """The client got no answer, or that the store is unavailable: it cannot know what became of its request."""


class Refused(Exception):
    """A 4xx: nothing was done."""


@dataclass
class Exchange:
    """One request as its client saw it. A request that is sent again is another exchange, with the same `mark`: a word
    that it alone puts into what it writes.

    `until` is when the client heard (never: infinity); `status` is 0 if it did not. A stream has `heard` instead of
    `raw`, and `after`, if a Last-Event-ID was sent. `wrong`: the client knew that it must be refused.
    """

    project: str
    what: str  # as in "create message"
    method: str
    path: str
    body: Any
    mark: str
    since: float
    key: str | None = None
    after: str | None = None
    wrong: bool = False
    until: float = float("inf")
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""
    heard: bytes | None = None
    connection: Connection | None = None  # of a stream

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + ("" if self.body is None else f" {json.dumps(self.body)}")

    @cached_property
    def answer(self) -> Any:
        return json.loads(self.raw)

    @cached_property
    def ids(self) -> list[str]:
        """Those in the path: of the thread, and of what is below it."""
        return _ID.findall(self.path)

    @property
    def thread(self) -> str:
        """The thread that it is about; empty if there is none, or none was heard of."""
        if self.ids or not self.ok or not self.path.startswith("/v1/threads"):
            return self.ids[0] if self.ids else ""
        return self.run.thread_id if self.what == "create thread and run" else str(self.answer["id"])

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500

    @property
    def may_be_repeated(self) -> bool:
        """What the SDKs look at."""
        return self.headers.get("x-should-retry") != "false"

    @property
    def run(self) -> Run:
        """The run that was created or changed. Of a stream, it is told first."""
        if self.heard is None:
            return msgspec.json.decode(self.raw, type=Run)
        created = _CREATED.search(self.heard)
        assert created, self.heard
        return msgspec.json.decode(created[1], type=Run)


@dataclass
class Ear:
    """A client's hearing of a run's stream, over all its connections."""

    thread: str
    run: str
    exchange: Exchange | None = None  # of the connection that is open
    last_id: str | None = None
    last: str = ""  # name of the last event
    pause: bytes = b""  # the run at its last pause
    pauses: int = 0  # heard, and of these those that the client did something about
    minded: int = 0

    def listen(self, exchange: Exchange) -> None:
        """Go on with this one."""
        self.close()
        if exchange.what.startswith("create"):  # from the beginning
            self.last_id, self.last, self.pauses, self.minded = None, "", 0, 0
        self.exchange = exchange
        self._take_in(exchange.heard or b"")

    async def hear(self) -> None:
        """The next events. Raises Cut."""
        assert self.exchange and self.exchange.connection and self.exchange.heard is not None
        piece = await self.exchange.connection.piece()
        self.exchange.heard += piece
        self._take_in(piece)

    def _take_in(self, piece: bytes) -> None:
        for offset, version, name, payload in sse.parse(piece):  # the server writes whole events at once
            self.last_id, self.last = f"{offset}.{version}", name
            if name == sse.PAUSE:
                self.pause, self.pauses = payload, self.pauses + 1
        if _ERROR.search(piece):
            self.last = "error"

    def close(self) -> None:
        if self.exchange and self.exchange.connection:
            self.exchange.connection.close()
        self.exchange = None

    @property
    def over(self) -> bool:
        return self.last == "error" or self.last in sse.ENDINGS


@dataclass
class Client:
    """One program. With `retries` it sends again what got no answer, as the SDKs do (twice). Unless it is `stubborn`,
    it heeds an answer that tells it not to."""

    world: World
    retries: int = 0
    name: str = "client"
    key: str = "key"
    stubborn: bool = True
    patience: float = float("inf")  # seconds that it waits for an answer
    pause: float = 0.5  # seconds before it sends a request again
    look_every: float = 0.25  # seconds between looks at a run
    thread: str = ""
    messages: list[str] = field(default_factory=list)  # ids of those that were acknowledged
    runs: list[Run] = field(default_factory=list)  # that were acknowledged
    gone: bool = False  # the thread: its deletion was asked for
    ears: dict[str, Ear] = field(default_factory=dict)  # by run

    @property
    def project(self) -> str:
        return KEYS[self.key]

    async def ask(
        self, what: str, method: str, path: str, body: Any = None, *, mark: str = "", **options: Any
    ) -> Exchange:
        """The answer, or the beginning of a stream. Raises Unanswered or Refused."""
        mark = mark or self.world.new_mark()
        exchange: Exchange | None = None
        for _ in range(self.retries + 1):
            if exchange:
                await asyncio.sleep(self.pause)
                if found := await self.already_done(exchange):
                    return found
            exchange = await self._send(what, method, path, body, mark, **options)
            if exchange.status in (200, 304):
                return exchange
            if exchange.refused:
                raise Refused(exchange.answer["error"]["message"])
            if not (exchange.may_be_repeated or self.stubborn):
                break
        raise Unanswered

    async def already_done(self, unanswered: Exchange) -> Exchange | None:
        """What a look says was done, before the client asks again."""
        return None

    async def _send(
        self, what: str, method: str, path: str, body: Any, mark: str, *, known: str | None = None, **options: Any
    ) -> Exchange:
        world, process = self.world, await self.world.api()
        exchange = Exchange(self.project, what, method, f"/v1{path}", body, mark, world.now(), **options)
        world.exchanges.append(exchange)
        world.trace.note(f"{self.name} asks {process.name}: {exchange}")
        headers = {"Host": "127.0.0.1", "OpenAI-Beta": "assistants=v2", "Authorization": f"Bearer {self.key}"}
        optional = {"Idempotency-Key": exchange.key, "Last-Event-ID": exchange.after, "If-None-Match": known}
        headers |= {name: value for name, value in optional.items() if value is not None}
        connection = process.connect(request_bytes(method, exchange.path, headers, body))
        try:
            async with asyncio.timeout(self.patience if self.patience < PATIENCE else None):
                await self._await_answer(exchange, connection)
        except (Cut, TimeoutError):
            connection.close()
        world.trace.note(f"{self.name} hears: {exchange.status} {exchange.raw.decode()}")
        world.counts[f"asked: {exchange.what}"] += 1
        world.counts[f"answered: {exchange.status or 'not at all'}"] += 1
        return exchange

    async def _await_answer(self, exchange: Exchange, connection: Connection) -> None:
        status, headers = await connection.head()
        if headers.get("content-type", "").startswith("text/event-stream"):
            exchange.heard, exchange.connection = b"", connection
            while exchange.what.startswith("create") and not _CREATED.search(exchange.heard):
                exchange.heard += await connection.piece()
        else:
            raw = await connection.body(int(headers.get("content-length", 0)))
            if self.world.loses_an_answer():
                raise Cut
            exchange.raw = raw
        exchange.status, exchange.headers = status, headers
        exchange.until = self.world.now()

    # -- requests --------------------------------------------------------------------------------------------------

    async def open_thread(self) -> str:
        mark = self.world.new_mark()
        body = {"metadata": {"mark": mark}}
        self.thread = (await self.ask("create thread", "POST", "/threads", body, mark=mark)).answer["id"]
        return self.thread

    async def say(self, **options: Any) -> str:
        """The message's id."""
        mark, at = self.world.new_mark(), f"/threads/{self.thread}/messages"
        body = {"role": "user", "content": f"Hello {mark}"}
        self.messages.append((await self.ask("create message", "POST", at, body, mark=mark, **options)).answer["id"])
        return self.messages[-1]

    async def run(self, script: str, *, stream: bool = False, **options: Any) -> Run:
        """The run. A client that sends again and hears that there is one already, looks which."""
        mark, at = self.world.new_mark(), f"/threads/{self.thread}/runs"
        body = {"assistant_id": ASSISTANT.id, "model": f"{script}/{mark}", "stream": stream}
        try:
            exchange = await self.ask("create run", "POST", at, body, mark=mark, **options)
            run = exchange.run
            if exchange.heard is not None:
                self.ear(run).listen(exchange)
        except Refused as refusal:
            if not self.retries or "already has an active run" not in str(refusal):
                raise
            found = (await self.ask("list runs", "GET", f"{at}?order=asc&limit=100")).answer["data"]
            mine = [each for each in found if each["model"] == body["model"]]
            if not mine:
                raise
            run = msgspec.convert(mine[0], type=Run)
        self.runs.append(run)
        return run

    async def run_in_new_thread(self, script: str, *, stream: bool = False, **options: Any) -> Run:
        mark = self.world.new_mark()
        body = {
            "assistant_id": ASSISTANT.id,
            "model": f"{script}/{mark}",
            "stream": stream,
            "thread": {"messages": [{"role": "user", "content": f"Hello {mark}"}]},
        }
        exchange = await self.ask("create thread and run", "POST", "/threads/runs", body, mark=mark, **options)
        run = exchange.run
        self.thread = run.thread_id
        if stream:
            self.ear(run).listen(exchange)
        self.runs.append(run)
        return run

    async def submit(self, run: Run, *, stream: bool = False) -> None:
        """Answer every call that the run asks for. If it is sent again it is refused: the first one counted."""
        now = await self.look(run)
        assert now.required_action
        mark = self.world.new_mark()
        outputs = [
            {"tool_call_id": call.id, "output": f"sunny {mark}"}
            for call in now.required_action.submit_tool_outputs.tool_calls
        ]
        at, body = f"/threads/{run.thread_id}/runs/{run.id}", {"tool_outputs": outputs, "stream": stream}
        try:
            exchange = await self.ask("submit outputs", "POST", f"{at}/submit_tool_outputs", body, mark=mark)
        except Refused:
            if not self.retries:
                raise
        else:
            if stream:
                self.ear(run).listen(exchange)

    async def cancel(self, run: Run) -> None:
        """A run that ended before is refused: that is an answer too."""
        try:
            await self.ask("cancel run", "POST", f"/threads/{run.thread_id}/runs/{run.id}/cancel")
        except Refused:
            pass

    async def modify(self, *ids: str) -> None:
        """Metadata of a thread, or of what `ids` name in it."""
        mark, path = self.world.new_mark(), names_in_path(self.thread, *ids)
        await self.ask("modify", "POST", path, {"metadata": {"mark": mark}}, mark=mark)

    async def delete_message(self, message: str) -> None:
        try:
            await self.ask("delete message", "DELETE", f"/threads/{self.thread}/messages/{message}")
        except Refused:
            if not self.retries:  # else: deleted before
                raise

    async def delete(self) -> None:
        self.gone = True
        try:
            await self.ask("delete thread", "DELETE", f"/threads/{self.thread}")
        except Refused:
            if not self.retries:
                raise

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def look(self, run: Run) -> Run:
        """The run as its document shows it; asked often, so not by way of a process."""
        found = await self.world.store.get(names.RUNS, names.document(self.project, run.thread_id, run.id))
        return msgspec.json.decode(found.body, type=Run) if found else run

    async def until(self, run: Run, *statuses: str, beyond: Run | None = None) -> Run:
        """The run in one of these states or at its end; `beyond` asks for other outputs."""
        async with asyncio.timeout(PATIENCE):
            while True:
                now = await self.look(run)
                old = beyond is not None and now.required_action == beyond.required_action
                if now.status in TERMINAL or (now.status in statuses and not old):
                    return now
                await asyncio.sleep(self.look_every)

    def ear(self, run: Run) -> Ear:
        return self.ears.setdefault(run.id, Ear(run.thread_id, run.id))

    async def follow(self, run: Run) -> str:
        """Hear the stream until it pauses or ends, across every disconnection. The last event's name."""
        ear = self.ear(run)
        async with asyncio.timeout(PATIENCE):
            while not (ear.over or ear.pauses > ear.minded):
                try:
                    if ear.exchange is None:
                        await self.watch(ear)
                    async with asyncio.timeout(self.attention()):
                        await ear.hear()
                except (Cut, Unanswered, TimeoutError):
                    ear.close()
                    await asyncio.sleep(0.1)
        ear.close()
        ear.minded = ear.pauses
        return ear.last

    def attention(self) -> float | None:
        """Seconds that it waits for the next event before it breaks off."""
        return None

    async def watch(self, ear: Ear) -> None:
        """Listen from where the ear was. Raises Unanswered or Refused."""
        path = f"/threads/{ear.thread}/runs/{ear.run}/events"
        ear.listen(await self.ask("watch", "GET", path, after=ear.last_id))


def names_in_path(thread: str, *ids: str) -> str:
    """As in /threads/thread_1/runs/run_1/steps/step_1."""
    nouns = {"msg": "messages", "run": "runs", "step": "steps"}
    return "/".join([f"/threads/{thread}", *(f"{nouns[each.partition('_')[0]]}/{each}" for each in ids)])
