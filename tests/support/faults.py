"""Storage that misbehaves on cue: at the n-th call the process dies, or the store does not answer.

Every process of a simulation reaches the one store through a `Faulty` of its own; all of them count into one `Plan`.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from assistants_service.core.ports.contents import StagedPart
from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.logs import Mark, Project, Tail, no_documents
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Storage, StorageUnavailable

T = TypeVar("T")
LATENCY = 0.0005  # seconds to the store, and back
SLOW = 1.0  # seconds of a call from which on it counts as a trouble


class Crash(BaseException):
    """The process is dead. Nothing that it still does reaches the store."""


class How(enum.Enum):
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    REFUSED = "unavailable, nothing done"
    LOST = "unavailable, yet done"
    STALLED = "done late"


@dataclass
class Call:
    process: str
    name: str
    about: str = ""  # the name in the store
    block: bytes = b""  # what it appends
    since: float = 0.0
    quiet: bool = False  # it found nothing, or only read: the calls after it find the store as it did


@dataclass
class Plan:
    """What goes wrong, and when. `choose` tells for each call, by its number (from 1) and name.

    `hits` are the faults by name. `troubles` are the times from and to which something was wrong, whatever it was.
    """

    choose: Callable[[int, str], How | None] = lambda number, name: None
    calls: list[Call] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    troubles: list[tuple[float, float]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    over: bool = False
    stall: float = 30.0  # seconds that a stalled call takes

    def next(self, call: Call) -> How | None:
        if self.over:
            return None
        self.calls.append(call)
        how = self.choose(len(self.calls), call.name)
        if how:
            self.hits.append(f"{how.value}: call {len(self.calls)}, {call.name} of {call.process}")
            self.trouble(how.value, self.stall if how is How.STALLED else 0)
        return how

    def trouble(self, what: str, seconds: float = 0) -> None:
        """Something is wrong from now on for so long."""
        now = asyncio.get_running_loop().time()
        self.counts[f"fault: {what}"] += 1
        self.troubles.append((now, now + seconds))

    @classmethod
    def at(cls, number: int, how: How) -> Plan:
        return cls(lambda count, _: how if count == number else None)

    def end(self) -> None:
        """Nothing goes wrong from here on, and nothing is counted."""
        self.over = True

    def points(self, how: How) -> list[int]:
        """The numbers of the calls worth failing: of quiet calls in a row, one of each kind and process; and those not
        twice, since it is all the same whether they failed before or after."""
        chosen: list[int] = []
        seen: set[tuple[str, str]] = set()
        for number, call in enumerate(self.calls, 1):
            if not call.quiet:
                seen.clear()
            elif (call.process, call.name) in seen or how in (How.CRASH_AFTER, How.LOST):
                continue
            else:
                seen.add((call.process, call.name))
            chosen.append(number)
        return chosen


@dataclass
class Mischief:
    """What a store now and then does: it answers slowly, so that a work item is delivered long before its commit; it
    delivers an item twice, late, before its time, or again while a worker has it."""

    random: random.Random
    twice: float = 0.0  # probabilities
    late: float = 0.0
    early: float = 0.0
    again: float = 0.0
    slow: float = 0.0
    lag: float = 0.0
    latency: float = 0.0  # seconds of an ordinary way to the store, at most; 0: LATENCY
    counts: Counter[str] = field(default_factory=Counter)

    def end(self) -> None:
        self.twice = self.late = self.early = self.again = self.slow = self.lag = 0.0

    def way(self) -> float:
        return self.random.uniform(0, self.latency) if self.latency else LATENCY

    def pause(self, *, rang: bool = False) -> float:
        """`rang`: the process has sent a work item, whose commit this may be."""
        if rang and self._now("commits long after their items", self.lag):
            return self.random.uniform(0, 3)
        return self.random.uniform(0, 3) if self._now("slow calls", self.slow) else self.way()

    def copies(self) -> int:
        return 2 if self._now("items sent twice", self.twice) else 1

    def delay(self, delay: float) -> float:
        if self._now("items delivered late", self.late):
            return delay + self.random.uniform(0, 5)
        if delay and self._now("items delivered early", self.early):
            return delay * self.random.random()
        return delay

    def visibility_timeout(self, visibility_timeout: float) -> float:
        return (
            self.random.uniform(0, 0.5)
            if visibility_timeout and self._now("items shown again", self.again)
            else visibility_timeout
        )

    def _now(self, what: str, probability: float) -> bool:
        hit = probability > 0 and self.random.random() < probability
        self.counts[f"queue: {what}"] += hit
        return hit


def unheeded(*_: Any) -> None:
    """For a simulation that need not hear of it."""


@dataclass
class Ears:
    """What a simulation wants to hear of a process's storage: each call, and what goes wrong with it; each that the
    store has executed; that the queue has changed. `something` returns when there is something to receive."""

    called: Callable[[Call, str], None] = unheeded
    done: Callable[[Call], None] = unheeded
    queued: Callable[[], None] = unheeded
    something: Callable[[], Awaitable[None]] | None = None


class Faulty(Storage):
    """One process's way to the store. `apart`: the documents of a commit are left to its writer, as on Azure.

    `cut_until` and `still_until` are times: until then it does not reach the store, or stands still.
    """

    def __init__(
        self,
        store: Storage,
        plan: Plan,
        process: str,
        died: Callable[[], None],
        *,
        apart: bool,
        mischief: Mischief | None = None,
        ears: Ears | None = None,
    ) -> None:
        self._store, self._plan, self._process, self._died = store, plan, process, died
        self._isolation, self._mischief, self._ears = apart, mischief or Mischief(random.Random(0)), ears or Ears()
        self.alive = True
        self.cut_until = self.still_until = 0.0
        self.under_way = 0  # calls, but for looks at the queue
        self._rang = False  # it has sent a work item, and committed nothing since

    async def _call(self, name: str, make: Callable[[], Awaitable[T]], about: str = "", block: bytes = b"") -> T:
        if not self.alive:
            raise Crash
        self.under_way += name != "receive"
        try:
            return await self._play(Call(self._process, name, about, block, asyncio.get_running_loop().time()), make)
        finally:
            self.under_way -= name != "receive"

    async def _play(self, call: Call, make: Callable[[], Awaitable[T]]) -> T:
        pause = self._mischief.pause(rang=self._rang and call.block != b"")
        self._rang = call.name == "send" or (self._rang and call.block == b"")
        if pause > SLOW:
            self._plan.trouble("slow", pause)
        await self._travel(pause)
        how = self._plan.next(call) or self._cut()
        self._ears.called(call, how.value if how else "")
        if how is How.CRASH_BEFORE:
            self._die()
        if how is How.STALLED:
            await self._travel(self._plan.stall)
        if how is How.REFUSED:
            raise StorageUnavailable(how.value)
        try:
            result = await make()
            self._ears.done(call)
        finally:
            if how is How.CRASH_AFTER:
                self._die()
        call.quiet = call.name in ("get", "read", "receive", "page") and not _found(result)
        if how is How.LOST:
            raise StorageUnavailable(how.value)
        await self._travel(self._mischief.way())
        return result

    def _cut(self) -> How | None:
        return How.REFUSED if self.cut_until > asyncio.get_running_loop().time() else None

    async def _travel(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        still = self.still_until - asyncio.get_running_loop().time()
        if still > 0:
            await asyncio.sleep(still)
        if not self.alive:
            raise Crash

    def _die(self) -> None:
        self.alive = False
        self._died()
        raise Crash

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def ping(self) -> None:
        await self._call("ping", self._store.ping)

    # -- documents -------------------------------------------------------------------------------------------------

    async def get(self, container: str, name: str) -> Stored | None:
        return await self._call("get", lambda: self._store.get(container, name), f"{container}/{name}")

    async def create(self, container: str, name: str, body: bytes) -> str:
        return await self._call("create", lambda: self._store.create(container, name, body), f"{container}/{name}")

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        return await self._call("replace", lambda: self._store.replace(container, name, body, etag), name)

    async def remove(self, container: str, name: str) -> bool:
        return await self._call("remove", lambda: self._store.remove(container, name), f"{container}/{name}")

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        return await self._call(
            "page", lambda: self._store.page(container, prefix, after=after, limit=limit, newest_first=newest_first)
        )

    async def write_if_newer(self, document: Document) -> None:
        await self._call(
            f"write_if_newer {document.container}", lambda: self._store.write_if_newer(document), document.name
        )

    async def remove_tombstones(self, container: str, prefix: str) -> None:
        await self._call(f"remove_tombstones {container}", lambda: self._store.remove_tombstones(container, prefix))

    # -- logs ------------------------------------------------------------------------------------------------------

    async def start(
        self, container: str, name: str, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        return await self._written(
            "start", container, name, block, project, lambda p: self._store.start(container, name, block, p)
        )

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        return await self._written(
            "append", container, name, block, project, lambda p: self._store.append(container, name, mark, block, p)
        )

    async def _written(
        self,
        verb: str,
        container: str,
        name: str,
        block: bytes,
        project: Project,
        write: Callable[[Project], Awaitable[tuple[Mark, Sequence[Document]]]],
    ) -> tuple[Mark, Sequence[Document]]:
        left: list[Document] = []

        def put_aside() -> Sequence[Document]:
            left.extend(project())
            return ()

        chosen = put_aside if self._isolation else project
        mark, rest = await self._call(f"{verb} {container}", lambda: write(chosen), name, block)
        return mark, [*rest, *left]

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        read = self._store.read
        return await self._call("read", lambda: read(container, name, since, limit=limit), f"{container}/{name}")

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        return await self._call("roll_over", lambda: self._store.roll_over(container, name, mark), name)

    async def logs(self, container: str) -> Sequence[str]:
        return await self._call(f"logs {container}", lambda: self._store.logs(container))

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        list_names = self._store.list_names
        return await self._call(
            f"names {container}", lambda: list_names(container, after=after, limit=limit, prefix=prefix), prefix
        )

    async def weigh(self, container: str, prefix: str) -> int:
        return await self._call("weigh", lambda: self._store.weigh(container, prefix))

    async def drop(self, container: str, name: str) -> None:
        await self._call(f"drop {container}", lambda: self._store.drop(container, name), name)

    # -- contents --------------------------------------------------------------------------------------------------

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> StagedPart:
        return await self._call("stage", lambda: self._store.stage(container, name, part, self._living(chunks)), name)

    async def _living(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A process may die between two chunks, too."""
        async for chunk in chunks:
            await self._call("stage a chunk", _nothing)
            yield chunk

    async def staged(self, container: str, name: str) -> Sequence[StagedPart]:
        return await self._call("staged", lambda: self._store.staged(container, name), name)

    async def commit(self, container: str, name: str, parts: Sequence[StagedPart]) -> None:
        await self._call("commit", lambda: self._store.commit(container, name, parts), name)

    async def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        async for piece in self._store.download(container, name, offset=offset, length=length):
            await self._call("download", _nothing)
            yield piece

    async def discard(self, container: str, name: str) -> None:
        await self._call("discard", lambda: self._store.discard(container, name), name)

    # -- queue -----------------------------------------------------------------------------------------------------

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        async def send() -> None:
            for _ in range(self._mischief.copies()):
                await self._store.send(body, delay=self._mischief.delay(delay))
            self._ears.queued()

        await self._call("send", send, body.decode())

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        if self._ears.something:  # looks that would find nothing are skipped
            await self._ears.something()
        return await self._call(
            "receive",
            lambda: self._store.receive(
                limit, visibility_timeout=self._mischief.visibility_timeout(visibility_timeout)
            ),
        )

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        async def extend() -> Delivery:
            extended = await self._store.extend(
                delivery, visibility_timeout=self._mischief.visibility_timeout(visibility_timeout)
            )
            self._ears.queued()
            return extended

        return await self._call("extend", extend, delivery.id)

    async def delete(self, delivery: Delivery) -> None:
        await self._call("delete", lambda: self._store.delete(delivery), delivery.id)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._call("dead_letter", lambda: self._store.dead_letter(delivery, reason))


async def _nothing() -> None: ...


def _found(result: Any) -> bool:
    return bool(result.data) if isinstance(result, Tail) else bool(result)
