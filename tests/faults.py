"""Storage that misbehaves on cue: at the n-th call the process dies, or the store does not answer.

Every process of a simulation reaches the one store through a `Faulty` of its own; all of them count into one `Plan`.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from core.ports import Delivery, Document, Mark, Project, Storage, StorageUnavailable, Stored, Tail, nothing

T = TypeVar("T")
LATENCY = 0.0005  # seconds to the store, and back


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
    quiet: bool = False  # it found nothing, or only read: the calls after it find the store as it did


@dataclass
class Plan:
    """What goes wrong, and when. `choose` tells for each call, by its number (from 1) and name."""

    choose: Callable[[int, str], How | None] = lambda number, name: None
    calls: list[Call] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    over: bool = False
    stall: float = 30.0  # seconds that a stalled call takes

    def next(self, call: Call) -> How | None:
        if self.over:
            return None
        self.calls.append(call)
        how = self.choose(len(self.calls), call.name)
        if how:
            self.hits.append(f"{how.value}: call {len(self.calls)}, {call.name} of {call.process}")
        return how

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
    """What a store may do, and now and then does: answer slowly, so that a doorbell rings long before its commit;
    deliver an item twice, late, or again while somebody works on it."""

    random: random.Random
    twice: float = 0.0  # probabilities
    late: float = 0.0
    again: float = 0.0
    slow: float = 0.0

    def pause(self) -> float:
        return self.random.uniform(0, 3) if self.random.random() < self.slow else LATENCY

    def copies(self) -> int:
        return 2 if self.random.random() < self.twice else 1

    def delay(self, delay: float) -> float:
        return delay + (self.random.uniform(0, 5) if self.random.random() < self.late else 0)

    def hide(self, hide: float) -> float:
        return self.random.uniform(0, 0.5) if self.random.random() < self.again else hide


class Faulty(Storage):
    """One process's way to the store. `apart`: the documents of a commit are left to its writer, as on Azure."""

    def __init__(
        self,
        store: Storage,
        plan: Plan,
        process: str,
        died: Callable[[], None],
        *,
        apart: bool,
        mischief: Mischief | None = None,
    ) -> None:
        self._store, self._plan, self._process, self._died = store, plan, process, died
        self._apart, self._mischief = apart, mischief or Mischief(random.Random(0))
        self.alive = True

    async def _call(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        await self._travel(self._mischief.pause())
        call = Call(self._process, name)
        how = self._plan.next(call)
        if how is How.CRASH_BEFORE:
            self._die()
        if how is How.STALLED:
            await self._travel(self._plan.stall)
        if how is How.REFUSED:
            raise StorageUnavailable(how.value)
        try:
            result = await make()
        finally:
            if how is How.CRASH_AFTER:
                self._die()
        call.quiet = name in ("get", "read", "receive", "page") and not _found(result)
        if how is How.LOST:
            raise StorageUnavailable(how.value)
        await self._travel()
        return result

    async def _travel(self, seconds: float = LATENCY) -> None:
        if not self.alive:
            raise Crash
        await asyncio.sleep(seconds)
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
        return await self._call("get", lambda: self._store.get(container, name))

    async def create(self, container: str, name: str, body: bytes) -> str:
        return await self._call("create", lambda: self._store.create(container, name, body))

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        return await self._call("replace", lambda: self._store.replace(container, name, body, etag))

    async def remove(self, container: str, name: str) -> bool:
        return await self._call("remove", lambda: self._store.remove(container, name))

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        return await self._call(
            "page", lambda: self._store.page(container, prefix, after=after, limit=limit, newest_first=newest_first)
        )

    async def advance(self, document: Document) -> None:
        await self._call(f"advance {document.container}", lambda: self._store.advance(document))

    async def sweep(self, container: str, prefix: str) -> None:
        await self._call(f"sweep {container}", lambda: self._store.sweep(container, prefix))

    # -- logs ------------------------------------------------------------------------------------------------------

    async def start(
        self, container: str, name: str, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        return await self._written("start", container, project, lambda p: self._store.start(container, name, block, p))

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        return await self._written(
            "append", container, project, lambda p: self._store.append(container, name, mark, block, p)
        )

    async def _written(
        self,
        verb: str,
        container: str,
        project: Project,
        write: Callable[[Project], Awaitable[tuple[Mark, Sequence[Document]]]],
    ) -> tuple[Mark, Sequence[Document]]:
        left: list[Document] = []

        def put_aside() -> Sequence[Document]:
            left.extend(project())
            return ()

        chosen = put_aside if self._apart else project
        mark, rest = await self._call(f"{verb} {container}", lambda: write(chosen))
        return mark, [*rest, *left]

    async def read(self, container: str, name: str, since: Mark | None) -> Tail | None:
        return await self._call("read", lambda: self._store.read(container, name, since))

    async def roll(self, container: str, name: str, mark: Mark) -> Mark:
        return await self._call("roll", lambda: self._store.roll(container, name, mark))

    async def weigh(self, container: str, prefix: str) -> int:
        return await self._call("weigh", lambda: self._store.weigh(container, prefix))

    async def drop(self, container: str, name: str) -> None:
        await self._call(f"drop {container}", lambda: self._store.drop(container, name))

    # -- queue -----------------------------------------------------------------------------------------------------

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        async def send() -> None:
            for _ in range(self._mischief.copies()):
                await self._store.send(body, delay=self._mischief.delay(delay))

        await self._call("send", send)

    async def receive(self, limit: int, *, hide: float) -> list[Delivery]:
        return await self._call("receive", lambda: self._store.receive(limit, hide=self._mischief.hide(hide)))

    async def extend(self, delivery: Delivery, *, hide: float) -> Delivery:
        return await self._call("extend", lambda: self._store.extend(delivery, hide=self._mischief.hide(hide)))

    async def delete(self, delivery: Delivery) -> None:
        await self._call("delete", lambda: self._store.delete(delivery))

    async def bury(self, delivery: Delivery, reason: str) -> None:
        await self._call("bury", lambda: self._store.bury(delivery, reason))


def _found(result: Any) -> bool:
    return bool(result.data) if isinstance(result, Tail) else bool(result)
