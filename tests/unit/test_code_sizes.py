"""Files and functions are short enough to be read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 50
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> Iterator[Path]:
    for part in ("app", "core", "worker", "infra"):
        yield from (REPOSITORY / part / "assistants_service").rglob("*.py")


def test_no_file_has_over_400_lines() -> None:
    sizes = {str(module.relative_to(REPOSITORY)): len(module.read_text().splitlines()) for module in modules()}
    assert len(sizes) > 300
    assert {name: lines for name, lines in sizes.items() if lines > FILE_LINES} == {}


def test_no_function_has_over_50_lines() -> None:
    """From `def` to the end, with the functions inside."""
    sizes = {
        f"{module.relative_to(REPOSITORY)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, Function)
    }
    assert len(sizes) > 2000
    assert {name: lines for name, lines in sizes.items() if lines > FUNCTION_LINES} == {}
