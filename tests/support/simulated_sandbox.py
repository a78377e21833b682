"""A sandbox for simulations: interpreters in memory that know what was executed in them, and which files it found.

A cell has one operation a line: `put PATH TEXT` writes a file, `add PATH TEXT` writes to its end, `drop PATH` removes
it, `show TEXT` shows an image, `wait SECONDS` takes time, and `fail now` raises an exception. Each execution prints its
number, so the log tells which of the executions of a call counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from assistants_service.core.ports.sandbox import CellResult, ChangedFile, InterpreterLost, SandboxBusy

Files = dict[str, bytes]


@dataclass
class Executed:
    """`before` are the numbers of the executions in the same interpreter before this one; `found` and `left` are the
    files when it began and when it ended, without an end as far as it came."""

    number: int
    before: tuple[int, ...]
    found: Files
    left: Files = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)

    @property
    def changed(self) -> Files:
        return {path: data for path, data in self.left.items() if self.found.get(path) != data}

    @property
    def removed(self) -> set[str]:
        return self.found.keys() - self.left.keys()


@dataclass
class Executions:
    """Of all sandboxes of a simulation. `calm` says that nothing goes wrong any more."""

    chance: random.Random
    calm: Callable[[], bool]
    happened: Callable[[str], None]
    losing: float = 0.0  # probabilities
    busy: float = 0.0
    done: list[Executed] = field(default_factory=list)

    def strikes(self, what: str, probability: float) -> bool:
        hit = not self.calm() and self.chance.random() < probability
        if hit:
            self.happened(what)
        return hit


@dataclass(eq=False)
class SimulatedInterpreter:
    all: Executions
    files: Files = field(default_factory=dict)
    executed: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def alive(self) -> bool:
        return not self.closed

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        self._check()
        self.files[path] = b"".join([piece async for piece in content])

    async def run(self, code: str) -> CellResult:
        self._check()
        execution = Executed(len(self.all.done), tuple(self.executed), dict(self.files))
        self.all.done.append(execution)
        self.executed.append(execution.number)
        error = None
        for line in code.splitlines():
            await asyncio.sleep(0.1 * self.all.chance.random())
            self._check()
            if self.all.strikes("interpreters lost", self.all.losing):
                await self.close()
                raise InterpreterLost("was killed")
            if line == "fail now":
                error = "ValueError: it failed"
                break
            await self._do(execution, *line.split(" ", 2))
        execution.left = dict(self.files)
        changed = tuple(ChangedFile(path, len(data)) for path, data in sorted(execution.changed.items()))
        logs, removed = f"execution {execution.number}\n", tuple(sorted(execution.removed))
        return CellResult(logs, None, error, tuple(execution.images), changed, removed)

    async def _do(self, execution: Executed, verb: str, name: str, text: str = "") -> None:
        match verb:
            case "put":
                self.files[name] = text.encode()
            case "add":
                self.files[name] = self.files.get(name, b"") + text.encode()
            case "drop":
                self.files.pop(name, None)
            case "show":
                execution.images.append(f"image {name} {execution.number}".encode())
            case "wait":
                await asyncio.sleep(float(name))

    async def read(self, path: str) -> AsyncIterator[bytes]:
        self._check()
        data = self.files[path]
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            await asyncio.sleep(0.001)
            self._check()
            yield piece

    async def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.closed:
            raise InterpreterLost("was closed")


@dataclass
class SimulatedSandbox:
    """ports.sandbox.Sandbox, of one process."""

    all: Executions

    async def unavailable_reason(self) -> str:
        return ""

    async def warm(self) -> None: ...

    async def start(self, session: str) -> SimulatedInterpreter:
        if self.all.strikes("interpreters refused", self.all.busy):
            raise SandboxBusy
        await asyncio.sleep(0.01)
        return SimulatedInterpreter(self.all)

    async def close(self) -> None: ...
