"""A sandbox without walls, for tests: cells are executed in the test's own process, on files in memory.

A cell is Python. It has `write(path, text)`, `read(path)`, `remove(path)` and `show(data)` instead of what would touch
the machine; what it prints, its last expression and its traceback come back as they would from a real one.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from assistants_service.core.ports.models import ToolCall
from assistants_service.core.ports.sandbox import CellResult, ChangedFile, InterpreterLost, SandboxBusy

PNG = b"\x89PNG\r\n\x1a\n"
CODE = {"type": "code_interpreter"}


def python(code: str, call_id: str = "call_p", name: str = "python") -> ToolCall:
    return ToolCall(call_id, name, json.dumps({"code": code}))


@dataclass(eq=False)
class FakeInterpreter:
    sandbox: FakeSandbox
    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)  # what was put there before cells
    closed: bool = False

    @property
    def alive(self) -> bool:
        return not self.closed

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        self._check()
        self.files[path] = b"".join([piece async for piece in content])
        self.written.append(path)

    async def run(self, code: str) -> CellResult:
        self._check()
        self.sandbox.executed.append(code)
        if self.sandbox.before:
            await self.sandbox.before(code)
        if self.sandbox.lost:
            reason, self.sandbox.lost = self.sandbox.lost, ""
            await self.close()
            raise InterpreterLost(reason, self.sandbox.printed)
        before, images, printed = dict(self.files), list[bytes](), io.StringIO()
        names = {"write": self._put, "read": self._get, "remove": self.files.pop, "show": images.append}
        with contextlib.redirect_stdout(printed):
            value, error = _execute(code, {**names, "__name__": "__main__"}, self.variables)
        changed = [
            ChangedFile(path, len(data)) for path, data in sorted(self.files.items()) if before.get(path) != data
        ]
        removed = tuple(sorted(set(before) - set(self.files)))
        return CellResult(printed.getvalue(), value, error, tuple(images), tuple(changed), removed, self.sandbox.notes)

    async def read(self, path: str) -> AsyncIterator[bytes]:
        self._check()
        if path not in self.files:
            raise ValueError("there is no such file any more")
        yield self.files[path]

    async def close(self) -> None:
        self.closed = True
        if self in self.sandbox.live:
            self.sandbox.live.remove(self)

    def _check(self) -> None:
        if self.closed:
            raise InterpreterLost("it was closed")

    def _put(self, path: str, text: str | bytes) -> None:
        self.files[path] = text.encode() if isinstance(text, str) else text

    def _get(self, path: str) -> str:
        return self.files[path].decode()


@dataclass
class FakeSandbox:
    """ports.sandbox.Sandbox. `executed` are all cells, `live` the interpreters that there are; `before` is awaited
    before each cell. The next cell loses its interpreter if `lost` says why, having printed `printed`. `busy`: how many
    starts are refused."""

    before: Callable[[str], Awaitable[None]] | None = None
    off: str = ""
    lost: str = ""
    printed: str = ""
    busy: int = 0
    notes: tuple[str, ...] = ()
    executed: list[str] = field(default_factory=list)
    live: list[FakeInterpreter] = field(default_factory=list)
    started: list[FakeInterpreter] = field(default_factory=list)

    async def unavailable_reason(self) -> str:
        return self.off

    async def warm(self) -> None:
        """There is nothing to get ready."""

    async def start(self, session: str) -> FakeInterpreter:
        if self.busy:
            self.busy -= 1
            raise SandboxBusy
        interpreter = FakeInterpreter(self, session)
        self.live.append(interpreter)
        self.started.append(interpreter)
        return interpreter

    async def close(self) -> None:
        for interpreter in list(self.live):
            await interpreter.close()


def _execute(code: str, names: dict[str, Any], variables: dict[str, Any]) -> tuple[str | None, str | None]:
    """The repr of the last expression, and the traceback."""
    scope = {**names, **variables}
    value: Any = None
    try:
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<cell>", "exec"), scope)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
    except Exception as error:
        return None, "".join(traceback.format_exception_only(error)).rstrip("\n")
    finally:
        variables.update({name: thing for name, thing in scope.items() if name not in names and name != "__builtins__"})
    return None if value is None else repr(value), None
