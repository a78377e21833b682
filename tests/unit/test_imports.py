"""What import-linter cannot watch, because it is no package: the worker's entry for Azure Functions. And the kind of
contract that this project adds to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from grimp import ImportGraph

from import_circles import NoCircles

ENTRY = Path(__file__).parents[2] / "worker" / "function_app.py"
ALLOWED = (
    "__future__",
    "typing",
    "azure.functions",
    "assistants_service.hosted",
    "assistants_service.core.names",
    "assistants_service.core.ports",
)


def imported(source: str) -> Iterator[str]:
    """The modules and names that it imports, anywhere in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{each.name}" for each in node.names)


def forbidden(source: str) -> list[str]:
    return [name for name in imported(source) if not f"{name}.".startswith(tuple(f"{each}." for each in ALLOWED))]


def test_the_entry_for_azure_functions_imports_only_what_it_needs() -> None:
    assert forbidden(ENTRY.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import openai",
        "import azure.storage.queue",
        "from azure import storage",
        "from assistants_service.infra import azure",
        "from assistants_service.core import threads",
        "from . import settings",
    ],
)
def test_other_imports_are_found(line: str) -> None:
    assert len(forbidden(f"{ENTRY.read_text()}\n\ndef late() -> None:\n    {line}\n")) == 1


@pytest.mark.parametrize(("last", "circle"), [("a", {"a", "b", "c"}), ("d", set())])
def test_a_circle_of_modules_is_found(last: str, circle: set[str]) -> None:
    graph = ImportGraph()
    for importer, module in [("a", "b"), ("b", "c"), ("c", last), ("e", "a")]:
        graph.add_import(importer=importer, imported=module)
    check = NoCircles("no circles", {}, {}).check(graph, verbose=False)
    assert check.kept == (not circle)
    assert {*check.metadata["circle"]} == circle
