"""Cells: Python that is executed as in a notebook, one after another in the same namespace."""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import re
import signal
import sys
import traceback
import types
from dataclasses import dataclass
from typing import Any, Final

from assistants_service.infra.sandbox.data_folder import DATA
from assistants_service.infra.sandbox.figures import Figures

MOST_TEXT: Final = 64 * 1024  # characters of a value, and of a traceback
_PATH: Final = re.compile(rf"{DATA}(?![\w.-])")
_PATH_BYTES: Final = re.compile(_PATH.pattern.encode())


@dataclass(frozen=True)
class CellOutcome:
    value: str | None = None
    error: str | None = None


class Cells:
    """`data` is where /mnt/data is; if that is elsewhere, literals of cells are replaced. SIGINT ends a cell, and
    nothing else."""

    def __init__(self, figures: Figures, data: str) -> None:
        self._figures, self._data = figures, data
        self._count, self._armed = 0, False
        main = types.ModuleType("__main__")  # which pickle and dataclasses look up
        sys.modules["__main__"] = main
        self._namespace = main.__dict__
        self._namespace["display"] = figures.display

    def execute(self, code: str) -> CellOutcome:
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._armed = True
            try:
                outcome = CellOutcome(value=self._evaluate(code))
            except BaseException as error:
                outcome = CellOutcome(error=shortened(_error_text(error)))
            self._figures.show_open()
            self._armed = False
        except (
            BaseException
        ) as error:  # of a traceback or a figure that is no better than the cell; or SIGINT meanwhile
            self._armed = False
            outcome = CellOutcome(error=f"{type(error).__name__}: {error}"[:MOST_TEXT])
        return outcome

    def _interrupt(self, *_: object) -> None:
        if self._armed:
            raise KeyboardInterrupt

    def _evaluate(self, code: str) -> str | None:
        self._count += 1
        name = f"<cell {self._count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for tracebacks
        tree = ast.parse(code, name)
        if self._data != DATA:
            tree = _Literals(self._data).visit(tree)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr):
            self._run(tree, name, "exec")
            return None
        tree.body.pop()
        self._run(tree, name, "exec")
        value = self._run(ast.Expression(last.value), name, "eval")
        if value is None or self._figures.show(value):
            return None
        self._namespace["_"] = value
        return shortened(repr(value))

    def _run(self, tree: ast.Module | ast.Expression, name: str, mode: str) -> Any:
        compiled = compile(tree, name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        value = eval(compiled, self._namespace)  # noqa: S307 # which is what this process is for
        return asyncio.run(value) if compiled.co_flags & inspect.CO_COROUTINE else value


class _Literals(ast.NodeTransformer):
    def __init__(self, data: str) -> None:
        self._data = data

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        value = node.value
        if isinstance(value, str) and DATA in value:
            node.value = _PATH.sub(lambda _: self._data, value)
        elif isinstance(value, bytes) and DATA.encode() in value:
            node.value = _PATH_BYTES.sub(lambda _: self._data.encode(), value)
        return node


def shortened(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters are left out ...\n{text[-half:]}"


def _error_text(error: BaseException) -> str:
    frames = error.__traceback__
    while frames and not frames.tb_frame.f_code.co_filename.startswith("<cell "):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
