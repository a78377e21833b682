"""The service in virtual time: processes that die and come back over one store, a model by script, and a client.

A process is what `assistants serve`, `api` or `worker` is, with everything between the HTTP layer and the storage
engine as it is served: app.service, core.desk, core.ledger, worker.main. When it dies, its memory is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from faults import Crash, Faulty, Mischief, Plan
from lookup import lookup
from shelved import Bag, PlainText
from virtual import VirtualClock

from app import streaming
from app.service import Service
from core import events as e
from core import frames, names
from core.bell import Bell
from core.commands import Scribe
from core.errors import ApiError
from core.fold import ThreadState
from core.ids import Ids
from core.ports import Deltas, ModelError, ModelInfo, Prompt, Reply, StorageUnavailable, Tokens, ToolCall
from core.requests import CreateMessage, CreateRun, CreateThread, CreateThreadAndRun, SubmitToolOutputs
from core.resources import TERMINAL, Assistant, FunctionDefinition, FunctionTool, Run
from core.stores.ledger import Stores
from core.stores.search import Searcher
from core.threads import Threads
from infra.sqlite_store import SqliteStorage
from worker.actions import Actions
from worker.advance import Kit
from worker.main import Worker

T = TypeVar("T")

PROJECT = "default"
LIFETIME = 75  # seconds of a run
TOMBSTONES = 60  # seconds that they stay; longer than a stalled call takes
RESTART = 0.2  # seconds from a process's death to its next life
PATIENCE = 900.0  # seconds after which everything must have come to rest
PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Unanswered(Exception):
    """The client got no answer, or that the store is unavailable: it cannot know what became of its request."""


# --- the model ------------------------------------------------------------------------------------------------------


CLIENTS_TOOL = FunctionTool(function=FunctionDefinition(name="get_weather"))
OWN_TOOL = FunctionTool(function=FunctionDefinition(name="lookup"))
ASSISTANT = Assistant(
    id="asst_1", created_at=0, model="plain", instructions="Be brief.", tools=(CLIENTS_TOOL, OWN_TOOL)
)


@dataclass
class ByName:
    """A model whose name is its script: `tools/3` asks for the client's tool, then answers. The number tells runs
    apart. Every call is counted, and every answer is unlike the others."""

    calls: Counter[str] = field(default_factory=Counter)

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        self.calls[prompt.model] += 1
        script, count = prompt.model.partition("/")[0], self.calls.total()
        said = Said(deltas, f"c{count}")
        if script == "fails":
            await said.text("Let me")
            raise ModelError("rate_limit_exceeded", "Too much.")
        if script in ("long", "hangs"):
            await said.text("Let me think")
            await asyncio.sleep(60 if script == "long" else 3600)
        if prompt.turns[-1].role == "tool":
            return await said.text(f"Answer {count} is ready.")
        match script:
            case "tools":
                return await said.calls("get_weather", "get_weather")
            case "own":
                return await said.calls("lookup")
            case "mixed":
                return await said.calls("get_weather", "lookup")
            case "says":
                await said.text(f"Question {count} for you.")
                return await said.calls("get_weather")
        return await said.text(f"Answer {count} is here." + (" It goes on." * 5 if script == "slow" else ""))

    async def list(self) -> list[ModelInfo]:
        return []

    async def close(self) -> None: ...


@dataclass
class Said:
    """A reply while it is made: 0.1 s a word or an argument."""

    deltas: Deltas | None
    prefix: str
    so_far: str = ""

    async def text(self, text: str) -> Reply:
        for word in text.split(" "):
            await asyncio.sleep(0.1)
            piece = f" {word}" if self.so_far else word
            self.so_far += piece
            if self.deltas:
                self.deltas.text(piece)
        return Reply(text=self.so_far, tokens=Tokens(prompt=5, completion=2))

    async def calls(self, *tools: str) -> Reply:
        made = []
        for index, name in enumerate(tools):
            call_id, arguments = f"call_{self.prefix}_{index}", f'{{"word":"w{index}"}}'
            for start in (0, 6):
                await asyncio.sleep(0.1)
                if self.deltas:
                    first = start == 0
                    piece = arguments[start : start + 6] if first else arguments[start:]
                    self.deltas.call(index, call_id if first else "", name if first else "", piece)
            made.append(ToolCall(call_id, name, arguments))
        return Reply(text=self.so_far, calls=tuple(made), finish="tool_calls", tokens=Tokens(prompt=5, completion=2))


# --- processes ------------------------------------------------------------------------------------------------------


class Process:
    """One life of a process. `kill` ends it as kill -9 does: its tasks are gone, and its way to the store is cut."""

    def __init__(self, world: World, name: str, roles: str) -> None:
        self.world, self.name, self.roles = world, name, roles
        self.tasks: set[asyncio.Task[Any]] = set()
        self.storage = Faulty(world.store, world.plan, name, self.kill, apart=world.apart, mischief=world.mischief)
        clock, self.bell = world.clock, Bell()
        ids = Ids(clock, random.Random(world.random.getrandbits(64)))
        self.ledger = Threads(self.storage, clock, ids, self.bell, roll_after=world.roll_after)
        self.stores = Stores(self.storage, clock, ids, self.bell, roll_after=world.roll_after)
        searcher = Searcher(self.stores, Bag(), clock)
        self.service = Service(
            self.storage, self.ledger, self.stores, searcher, world.models, clock, ids, self.bell, LIFETIME
        )
        actions = Actions({"lookup": lookup})
        self.kit = Kit(
            *(self.storage, self.ledger, self.stores, world.models, actions, PlainText(), Bag(), clock, ids, self.bell),
            tombstones=TOMBSTONES,
        )
        if "worker" in roles:
            self.spawn(self._work(Worker(self.kit)))

    async def _work(self, worker: Worker) -> None:
        await asyncio.sleep(max(0.0, self.world.worker_from - asyncio.get_running_loop().time()))
        await worker.run()

    @property
    def alive(self) -> bool:
        return self.storage.alive

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def kill(self) -> None:
        if self in self.world.processes:
            self.storage.alive = False
            for task in list(self.tasks):
                task.cancel()
            self.world.down(self)


@dataclass
class World:
    """`layout` names the processes, each with its roles. `apart`: documents follow their commit, as on Azure; else they
    are one transaction with it, as on SQLite."""

    plan: Plan = field(default_factory=Plan)
    layout: tuple[str, ...] = ("api+worker",)
    apart: bool = True
    roll_after: int = 10_000
    worker_from: float = 0.0  # seconds after the beginning
    mischief: Mischief | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock, self.models = VirtualClock(), ByName()
        self.store = SqliteStorage(":memory:", self.clock)
        self.processes: list[Process] = []
        self.errors: list[str] = []  # what went wrong and should not
        self.lives = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_task)
        loop.set_exception_handler(self._unheard)
        await self.store.open()
        self.start()
        with self._overheard():
            try:
                yield self
            finally:
                self.end()
                await asyncio.sleep(0)
                await self.store.close()

    def start(self) -> None:
        for roles in self.layout:
            self._up(roles)

    def _up(self, roles: str) -> None:
        self.lives += 1
        self.processes.append(Process(self, f"{roles} {self.lives}", roles))

    def down(self, process: Process) -> None:
        self.processes.remove(process)
        asyncio.get_running_loop().call_later(RESTART, self._up, process.roles)

    def end(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.storage.alive = False
            for task in list(process.tasks):
                task.cancel()

    async def api(self) -> Process:
        """A process that serves the API, as soon as there is one."""
        while not (serving := [process for process in self.processes if "api" in process.roles]):
            await asyncio.sleep(RESTART)
        return self.random.choice(serving)

    async def at_rest(self) -> None:
        """Until the queue is empty. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while self.queued():
                await asyncio.sleep(0.5)

    async def logs(self) -> list[tuple[str, str]]:
        """Container and name of each."""
        return self.store._sql.execute("SELECT container, name FROM logs").fetchall()

    def queued(self, queue: str = "work") -> int:
        return int(self.store._sql.execute("SELECT count(*) FROM queue WHERE name=?", (queue,)).fetchone()[0])

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        fault = context.get("exception")
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        if not isinstance(fault, Crash | asyncio.CancelledError | StorageUnavailable):
            self.errors.append(f"{context.get('message')}: {fault!r}")

    @contextlib.contextmanager
    def _overheard(self) -> Iterator[None]:
        """What a worker logs and survives is an error all the same, unless the store's silence was the cause."""
        errors, root = self.errors, logging.getLogger()

        class Ear(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                fault = record.exc_info[1] if record.exc_info else None
                if fault is not None and not isinstance(fault, StorageUnavailable):
                    errors.append(f"{record.getMessage()}: {fault!r}")

        ear, others = Ear(logging.WARNING), root.handlers
        root.handlers = [ear]
        try:
            yield
        finally:
            root.handlers = others


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Tasks belong to the process that began them."""
    task = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    process = context.get(PROCESS) if context is not None else PROCESS.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
        if not process.alive:
            task.cancel()
    return task


# --- a client -------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Remembers what it was told. With `retries` it sends again what got no answer, as the SDKs do (twice)."""

    world: World
    retries: int = 0
    thread: str = ""
    sent: list[str] = field(default_factory=list)  # texts of messages in the order of the requests, each sending
    told: list[tuple[str, str]] = field(default_factory=list)  # (id, text) of acknowledged messages
    runs: list[Run] = field(default_factory=list)  # acknowledged
    ordered: int = 0  # runs asked for
    deleted: bool | None = False  # None: asked for, never answered
    heard: dict[str, bytes] = field(default_factory=dict)  # run -> what its stream said

    async def ask(self, request: Callable[[Process], Coroutine[Any, Any, T]]) -> T:
        """Raises Unanswered, or the ApiError of a refusal."""
        for _ in range(self.retries):
            with contextlib.suppress(Unanswered):
                return await self._once(request)
            await asyncio.sleep(0.5)
        return await self._once(request)

    async def _once(self, request: Callable[[Process], Coroutine[Any, Any, T]]) -> T:
        process = await self.world.api()
        task = process.spawn(request(process))
        await asyncio.wait((task,))
        if not process.alive:
            raise Unanswered
        try:
            return task.result()
        except StorageUnavailable:
            raise Unanswered from None

    # -- requests --------------------------------------------------------------------------------------------------

    async def open_thread(self) -> None:
        async def create(process: Process) -> str:
            thread_id, scribe = process.service.ids.new("thread"), process.service.scribe()
            await process.ledger.start(PROJECT, thread_id, scribe.create_thread(CreateThread(), thread_id))
            return thread_id

        self.thread = await self.ask(create)

    async def say(self, text: str) -> None:
        body = CreateMessage(role="user", content=text)

        async def create(process: Process) -> Any:
            self.sent.append(text)
            scribe, message_id = process.service.scribe(), process.service.ids.new("msg")
            return await process.ledger.command(
                PROJECT, self.thread, lambda state: scribe.create_message(state, body, message_id)
            )

        self.told.append(((await self.ask(create))[-1].object.id, text))

    async def run(self, script: str, *, stream: bool = False) -> Run:
        """The run. Whoever retries and hears that there is one already, looks which."""
        asked: list[str] = []

        async def create(process: Process) -> Run:
            asked.append(self._model(script))
            body = CreateRun(assistant_id=ASSISTANT.id, model=asked[-1], stream=stream)
            return await process.service.desk.create_run(
                PROJECT, self.thread, process.service.ids.new("run"), body, ASSISTANT
            )

        try:
            run = await self.ask(create)
        except ApiError as refusal:
            assert self.retries and "already has an active run" in refusal.message
            held = await self.ask(lambda process: process.ledger.read(PROJECT, self.thread))
            run = next(each.run for each in held.runs if each.run.model in asked)
        self.runs.append(run)
        return run

    async def run_in_new_thread(self, script: str, text: str) -> Run:
        async def create(process: Process) -> Run:
            self.sent.append(text)
            fields = {"assistant_id": ASSISTANT.id, "model": self._model(script), "stream": True}
            thread = {"messages": [{"role": "user", "content": text}]}
            body = CreateThreadAndRun.model_validate({**fields, "thread": thread})
            return await process.service.desk.create_thread_and_run(
                PROJECT, process.service.ids.new("thread"), process.service.ids.new("run"), body, ASSISTANT
            )

        run = await self.ask(create)
        self.thread = run.thread_id
        self.runs.append(run)
        return run

    def _model(self, script: str) -> str:
        self.ordered += 1
        return f"{script}/{self.ordered}"

    async def submit(self, run: Run, *, stream: bool = False) -> None:
        """Answer every call that the run asks for. A repeated submission is refused: the first one counted."""
        now = await self.look(run)
        assert now.required_action
        outputs = [
            {"tool_call_id": call.id, "output": f"sunny at {call.id}"}
            for call in now.required_action.submit_tool_outputs.tool_calls
        ]
        body = SubmitToolOutputs.model_validate({"tool_outputs": outputs, "stream": stream})
        with contextlib.suppress(*([ApiError] if self.retries else [])):
            await self.ask(lambda p: p.service.desk.submit_tool_outputs(PROJECT, self.thread, run.id, body))

    async def cancel(self, run: Run) -> None:
        """A run that ended before is refused: that is an answer too."""
        with contextlib.suppress(ApiError):
            await self.ask(lambda p: p.service.desk.cancel_run(PROJECT, self.thread, run.id))

    async def change(self, decide: Callable[[Scribe, ThreadState], list[e.Event]]) -> None:
        """A command of the thread that no worker hears of: metadata, deletions."""

        async def command(process: Process) -> None:
            scribe = process.service.scribe()
            await process.ledger.command(PROJECT, self.thread, lambda state: decide(scribe, state))

        with contextlib.suppress(*([ApiError] if self.retries else [])):  # deleted before
            await self.ask(command)

    async def delete(self) -> None:
        self.deleted = None
        with contextlib.suppress(*([ApiError] if self.retries else [])):  # gone already
            await self.ask(lambda p: p.service.desk.delete_thread(PROJECT, self.thread))
        self.deleted = True

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def look(self, run: Run) -> Run:
        """The run as its document shows it; asked often, so not by way of a process."""
        found = await self.world.store.get(names.RUNS, names.document(PROJECT, run.thread_id, run.id))
        return msgspec.json.decode(found.body, type=Run) if found else run

    async def until(self, run: Run, *statuses: str) -> Run:
        async with asyncio.timeout(PATIENCE):
            while (now := await self.look(run)).status not in {*statuses, *TERMINAL}:
                await asyncio.sleep(0.25)
        return now

    async def follow(self, run: Run) -> str:
        """Hear the stream until it pauses or ends, across every disconnection. The last event's name."""
        before = len(self.heard.setdefault(run.id, b""))
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(Unanswered):
                    await self._once(lambda process: self._listen(process, run))
                last = self._last_event(run)
                if last == "error" or last in frames.ENDINGS:
                    return last
                if last == frames.PAUSE and len(self.heard[run.id]) > before:
                    return last
                await asyncio.sleep(0.1)

    async def _listen(self, process: Process, run: Run) -> None:
        """As the route that goes on after Last-Event-ID does."""
        service, heard = process.service, self.heard[run.id]
        source = streaming.stored(service, PROJECT, run.thread_id, run.id)
        known = [f"{offset}.{version}" for offset, version, _, _ in frames.parse(heard)]
        offset = await streaming.start_offset(source, known[-1] if known else None)
        topics = [f"{names.STREAMS}/{names.document(PROJECT, run.thread_id, run.id)}"]
        async with contextlib.aclosing(streaming.follow(service, source, topics, offset, to_the_end=False)) as chunks:
            async for chunk in chunks:
                if chunk not in (frames.DONE, streaming.HEARTBEAT):
                    self.heard[run.id] += chunk

    def _last_event(self, run: Run) -> str:
        if self.heard[run.id].rpartition(b"event: ")[2].startswith(b"error"):
            return "error"
        events = list(frames.parse(self.heard[run.id]))
        return events[-1][2] if events else ""
