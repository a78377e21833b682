"""The service in virtual time: processes that die and come back over one store, and a model by script.

A process is what `assistants serve`, `api` or `worker` is, with everything between the socket and the storage engine as
it is served. When it dies, its memory is gone. What clients ask and hear is in simulated_clients.py, what is
promised to them in promise_checks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import math
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from aiohttp import web, web_app

from assistants_service.api.main import create_app
from assistants_service.api.services import services_over
from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.sandbox import Sandbox
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.protocol.objects import encode
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.tools.code_interpreter.interpreters import MOST
from assistants_service.core.tools.code_interpreter.services import CodeExecution
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Searcher
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.worker.actions import Actions
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.main import POLL_SLOW, Worker
from assistants_service.worker.slots import WAITING
from faults import Call, Crash, Ears, Faulty, Mischief, Plan
from http_transports import Connection
from lookup_action import lookup
from scripted_ingestion import Bag, PlainText
from scripted_models import ASSISTANT, ByName
from scripted_sandbox import FakeSandbox
from scripted_search import FakeSearch, found
from simulated_functions_host import VISIBILITY_TIMEOUT, Host, Receipts
from simulated_sandbox import Executions, SimulatedSandbox
from virtual_time import EPOCH, Task, VirtualClock

T = TypeVar("T")

PROJECT, OTHER_PROJECT = "default", "other"
KEYS = {"key": PROJECT, "other-key": OTHER_PROJECT}
LIFETIME = 75  # seconds of a run
TOMBSTONES = 60.0  # seconds that they stay; longer than a stalled call takes
RESTART = 0.2  # seconds from a process's death to its next life
GRACE = 2.0  # seconds that a process has to finish when it is told to stop
PATIENCE = 900.0  # seconds after which everything must have come to rest
PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
_LOG = re.compile(r"\w+/(?:thread|vs)_[a-z0-9]+")
ACTIONS = Actions({"lookup": lookup})


class Trace:
    """What happened, line by line: `show` gets each, and all of them make a digest."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show, self._hash = show, hashlib.sha256()

    def note(self, line: str) -> None:
        line = f"{asyncio.get_running_loop().time():10.4f} {line}"
        self._hash.update(line.encode())
        if self._show:
            self._show(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


# --- processes ------------------------------------------------------------------------------------------------------


class Process:
    """One life of a process. `kill` ends it as kill -9 does: its tasks are gone, and its way to the store is cut.
    `drain` ends it as SIGTERM does."""

    def __init__(self, world: World, place: int, roles: str, name: str) -> None:
        self.world, self.place, self.roles, self.name = world, place, roles, name
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.connections: dict[Connection, None] = {}
        self.stopping = False
        ears = Ears(world.called, world.done, world.queued_up, self._something_to_do)
        self.storage = Faulty(
            world.store, world.plan, name, self.kill, apart=world.apart, mischief=world.mischief, ears=ears
        )
        clock, self.notifier = world.clocks[place], Notifier()
        ids = Ids(clock, random.Random(world.random.getrandbits(64)))
        self.threads = ThreadRepository(self.storage, clock, ids, self.notifier, rollover_after=world.rollover_after)
        self.stores = VectorStoreRepository(
            self.storage, clock, ids, self.notifier, rollover_after=world.rollover_after
        )
        searcher = Searcher(self.stores, Bag(), clock)
        self.services = services_over(
            *(self.storage, self.threads, self.stores, searcher),
            *(world.models, clock, ids, self.notifier),
            run_lifetime=world.lifetime,
        )
        self.context = WorkerContext(
            *(self.storage, self.threads, self.stores, world.models, ACTIONS),
            *(SlowText(world), Bag(), clock, ids, self.notifier),
            tombstone_seconds=world.tombstones,
            tokenizer=Tiktoken(),
            max_runs=world.concurrency,
            max_waiting=world.waiting,
            searcher=FakeSearch([found("file-1", "a b.txt", 0.5, "w")], lambda: asyncio.sleep(0.3)),
            output_retention=world.kept,
            for_tools={"code_interpreter": CodeExecution(world.sandbox(), world.interpreters)},
        )
        self.worker = Worker(self.context) if "worker" in self.roles else None
        self.host: Host | None = None
        self.runner: web.AppRunner | None = None
        if self.worker:
            self.spawn(self._work(self.worker))
        if "functions" in self.roles:
            self.host = Host(self.storage, Worker(self.context), self.spawn, world.functions_are_late)
            self.spawn(self.host.run())
        if "api" in self.roles:
            self.runner = web.AppRunner(create_app(self.services, keys=KEYS), access_log=None, shutdown_timeout=5)
            self.spawn(self.runner.setup())

    @property
    def request(self) -> RequestContext:
        """Of a client of the first project that asks this process now."""
        return self.services.context(PROJECT)

    async def _work(self, worker: Worker) -> None:
        await asyncio.sleep(max(0.0, self.world.worker_from - asyncio.get_running_loop().time()))
        await worker.run()

    async def _something_to_do(self) -> None:
        """Until a look at the queue would find something, and then until this worker looks."""
        if self.world.restless:
            return
        await self.world.something_in_the_queue(lambda: self.stopping or not self.alive)
        if self.world.mischief and not self.stopping:
            await asyncio.sleep(self.world.random.choice((0.0, POLL_SLOW)) * self.world.random.random())

    @property
    def alive(self) -> bool:
        return self.storage.alive

    @property
    def serving(self) -> bool:
        return self.alive and not self.stopping and self._server is not None

    @property
    def _server(self) -> web.Server[Any] | None:
        return self.runner.server if self.runner else None

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        context = self._context()
        return asyncio.get_running_loop().create_task(work, context=context)

    def connect(self, request: bytes) -> Connection:
        assert self._server is not None
        connection = self._context().run(Connection, self._server, request)
        self.connections[connection] = None
        return connection

    def _context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return context

    def kill(self) -> None:
        if self in self.world.processes:
            self.end()
            self.world.down(self)

    async def drain(self, grace: float = GRACE) -> None:
        self.stopping = True
        self.world.queued_up()
        if self.worker:
            await self.worker.stop(grace)
        if self.host:
            await self.host.stop(grace)
        if self.runner and self._server:
            await self.runner.cleanup()
        self.kill()

    def end(self) -> None:
        self.storage.alive = False
        for task in list(self.tasks):
            task.cancel()
        for connection in self.connections:
            connection.close()


@dataclass(frozen=True)
class SlowText(PlainText):
    """Reading a file takes time, in which its worker may die."""

    world: World

    async def chunks(self, *given: Any) -> Any:
        if self.world.reading:
            await asyncio.sleep(self.world.random.uniform(0, self.world.reading))
        return await super().chunks(*given)


@dataclass(frozen=True)
class Block:
    """What the store took into a log, and when."""

    at: float
    data: bytes


@dataclass
class World:
    """`layout` names the processes, each with its roles. `apart`: documents follow their commit, as on Azure; else they
    are one transaction with it, as on SQLite."""

    plan: Plan = field(default_factory=Plan)
    layout: tuple[str, ...] = ("api+worker",)
    apart: bool = True
    rollover_after: int = 10_000
    lifetime: int = LIFETIME
    tombstones: float = TOMBSTONES
    concurrency: int = 1000  # of each worker
    waiting: int = WAITING
    worker_from: float = 0.0  # seconds after the beginning
    restless: bool = False  # workers look at an empty queue, too: only so it shows who looks how often, and who first
    mischief: Mischief | None = None
    losing: float = 0.0  # probability that a client does not get an answer that was sent
    reading: float = 0.0  # seconds that a worker takes to read a file, at most
    tardy: float = 0.0  # probability that a function begins so late that its host has renewed its hold on the item
    interpreters: int = MOST  # of each worker
    kept: float = 0.0  # seconds that files which tools made outlive their thread
    executions: Executions | None = None  # of code, if it is simulated
    seed: int = 0
    show: Callable[[str], None] | None = None  # each line of what happens
    epoch: ClassVar[float] = EPOCH  # Unix time of its instant 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock, self.models, self.trace = VirtualClock(), ByName(), Trace(self.show)
        self.clocks: list[VirtualClock] = []
        on_azure = self.apart or "functions" in self.layout
        self.store = (Receipts if on_azure else SqliteStorage)(":memory:", self.clock)
        self.processes: list[Process] = []
        self.exchanges: list[Any] = []  # of all clients, as they were sent
        # Every thread's log, and every run's stream, by name, whatever became of them.
        self.threads: dict[str, list[Block]] = {}
        self.streams: dict[str, bytes] = {}
        self.purged: dict[str, float] = {}  # when the log of a thread or a store was removed
        self.overtaken: set[str] = set()  # what was written later than that, but had set out before
        self.counts: Counter[str] = self.plan.counts
        self.errors: list[str] = []  # what went wrong and should not
        self.lives = self._marks = 0
        self._waiting: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_task)
        loop.set_exception_handler(self._unheard)
        await self.store.open()
        for project in KEYS.values():
            await self.store.create(names.ASSISTANTS, names.document(project, ASSISTANT.id), encode(ASSISTANT))
        self.start()
        with self._overheard():
            try:
                yield self
            finally:
                self.end()
                await asyncio.sleep(0)
                await self.store.close()
                web_app._cached_build_middleware.cache_clear()  # it would keep the last hundred worlds

    def sandbox(self) -> Sandbox:
        """Of a new process."""
        if self.executions:
            return SimulatedSandbox(self.executions)
        return FakeSandbox(before=lambda _: asyncio.sleep(0.3))

    def start(self) -> None:
        self.clocks += [VirtualClock() for _ in self.layout[len(self.clocks) :]]
        for place, roles in enumerate(self.layout):
            self._up(place, roles)

    def _up(self, place: int, roles: str) -> None:
        self.lives += 1
        self.processes.append(Process(self, place, roles, f"{roles} {self.lives}"))

    def down(self, process: Process) -> None:
        self.trace.note(f"{process.name} is dead")
        self.processes.remove(process)
        asyncio.get_running_loop().call_later(RESTART, self._up, process.place, process.roles)

    def end(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.end()

    async def api(self) -> Process:
        """A process that serves the API, as soon as there is one."""
        while not (serving := [process for process in self.processes if process.serving]):
            await asyncio.sleep(RESTART)
        return self.random.choice(serving)

    async def at_rest(self) -> None:
        """Until the queue has nothing that is due within minutes from now, and nothing is under way. Raises
        TimeoutError."""
        until = self.clock.now() + PATIENCE
        async with asyncio.timeout(2 * PATIENCE):
            while self.queued(until=until) or any(process.storage.under_way for process in self.processes):
                await asyncio.sleep(2)

    def new_mark(self) -> str:
        """A word that nothing else in this world has."""
        self._marks += 1
        return f"m{self._marks}m"

    def loses_an_answer(self) -> bool:
        """Whether one is lost on its way to its client, now and then."""
        if self.plan.over or self.random.random() >= self.losing:
            return False
        self.plan.trouble("answer lost")
        return True

    def functions_are_late(self) -> float:
        """Seconds by which the next one is."""
        if self.plan.over or not self.tardy or self.random.random() >= self.tardy:
            return 0.0
        seconds = self.random.uniform(0.4, 2) * VISIBILITY_TIMEOUT
        self.plan.trouble("function late", seconds)
        return seconds

    def now(self) -> float:
        """Seconds since it began."""
        return asyncio.get_running_loop().time()

    @property
    def troubles(self) -> list[tuple[float, float]]:
        return self.plan.troubles

    # -- what is stored --------------------------------------------------------------------------------------------

    async def logs(self) -> list[tuple[str, str]]:
        """Container and name of each."""
        return self.store._sql.execute("SELECT container, name FROM logs").fetchall()

    async def documents(self) -> list[tuple[str, str]]:
        """Likewise, with tombstones."""
        return self.store._sql.execute("SELECT container, name FROM documents").fetchall()

    # -- the queue -------------------------------------------------------------------------------------------------

    def queued(self, queue: str = "work", until: float = math.inf) -> int:
        """The items that become visible before then."""
        count = "SELECT count(*) FROM queue WHERE name=? AND visible_at<?"
        return int(self.store._sql.execute(count, (queue, until)).fetchone()[0])

    def queued_up(self) -> None:
        """The queue has changed: its waiters look again."""
        waiting, self._waiting = self._waiting, []
        self.random.shuffle(waiting)  # else it would always be the same worker who looks first
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def something_in_the_queue(self, given_up: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while not given_up():
            at = self.store._sql.execute("SELECT min(visible_at) FROM queue WHERE name='work'").fetchone()[0]
            wait = None if at is None else at - self.clock.now()
            if wait is not None and wait <= 0:
                return
            future = loop.create_future()
            self._waiting.append(future)
            timer = loop.call_later(wait, self.queued_up) if wait is not None else None
            try:
                await future
            finally:
                if timer:
                    timer.cancel()

    # -- what is heard of it ---------------------------------------------------------------------------------------

    def called(self, call: Call, what: str) -> None:
        self.trace.note(f"{call.process}: {call.name} {call.about} {what}")

    def done(self, call: Call) -> None:
        now = self.now()
        match call.name:
            case "start threads" | "append threads":
                self.threads.setdefault(call.about.removesuffix(".log"), []).append(Block(now, call.block))
            case "start streams" | "append streams":
                self.streams[call.about] = self.streams.get(call.about, b"") + call.block
            case "append vector-store-logs":
                released = call.block.count(b"vector_store.file.released")
                self.counts["happened: files of dead workers handed on"] += released
                reindexed = call.block.count(b"vector_store.files.reindexing")
                self.counts["happened: vector stores read again"] += reindexed
            case "drop threads" | "drop vector-store-logs":
                self.purged[call.about.removesuffix(".log")] = now
            case "start streams" | "write_if_newer snapshots":
                self._late(call)
            case (
                "write_if_newer vector-stores"
                | "write_if_newer vector-store-files"
                | "write_if_newer vector-store-batches"
            ):
                self._late(call)

    def _late(self, call: Call) -> None:
        log = _LOG.match(call.about)
        if log and call.since < self.purged.get(log[0], 0):
            self.overtaken.add(call.about)

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        fault = context.get("exception")
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        if not isinstance(fault, Crash | asyncio.CancelledError | StorageUnavailable):
            self.errors.append(f"{context.get('message')}: {fault!r}")

    @contextlib.contextmanager
    def _overheard(self) -> Iterator[None]:
        """What a process logs and survives is an error all the same, unless the store's silence was the cause."""
        errors, root = self.errors, logging.getLogger()

        class Ear(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                fault, process = record.exc_info[1] if record.exc_info else None, PROCESS.get()
                alive = process is None or process.alive
                if alive and fault is not None and not isinstance(fault, StorageUnavailable):
                    errors.append(f"{record.getMessage()}: {fault!r}")

        ear, others = Ear(logging.WARNING), root.handlers
        root.handlers = [ear]
        try:
            yield
        finally:
            root.handlers = others


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Tasks belong to the process that began them."""
    task = Task(work, loop=loop, **options)
    context = options.get("context")
    process = context.get(PROCESS) if context is not None else PROCESS.get()
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
        if not process.alive:
            task.cancel()
    return task
