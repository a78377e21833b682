"""The table of resources: one that lacks a part, or a place, fails at import."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any

import pytest

from assistants_service.api import main
from assistants_service.core import names, resources
from assistants_service.infra.azure.blob_names import LISTED

ROWS = [
    node
    for node in ast.walk(ast.parse(inspect.getsource(resources)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Resource"
]
NAMES = [name for name, value in vars(resources).items() if isinstance(value, resources.Resource)]
PARTS = ("noun", "prefix", "param", "container")


def imported(module: ModuleType, source: str | ast.Module | None = None) -> dict[str, Any]:
    """What the module holds when it is imported anew, or another source in its place."""
    found: dict[str, Any] = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(source or inspect.getsource(module), str(module.__file__), "exec"), found)
    return found


def without(row: int, part: str) -> ast.Module:
    """The table's source, without this part of a resource."""
    tree = ast.parse(inspect.getsource(resources))
    call = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node) == ast.unparse(ROWS[row])
    )
    if part in PARTS:
        call.args = [value for name, value in zip(PARTS, call.args, strict=True) if name != part]
    else:
        call.keywords = [each for each in call.keywords if each.arg != part]
    return tree


class Without(ast.NodeTransformer):
    """Removes a name from the table RESOURCES, and the resource itself if `whole`."""

    def __init__(self, name: str, whole: bool) -> None:
        self.name, self.whole = name, whole

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign | None:
        target = ast.unparse(node.target)
        if target == "RESOURCES" and isinstance(node.value, ast.Tuple):
            node.value.elts = [each for each in node.value.elts if ast.unparse(each) != self.name]
        return None if self.whole and target == self.name else node


def test_the_table_is_imported_as_it_is() -> None:
    assert len(imported(resources)["RESOURCES"]) == len(ROWS) == len(resources.RESOURCES)


@pytest.mark.parametrize("part", [*PARTS, "listed"])
@pytest.mark.parametrize("row", range(len(ROWS)))
def test_a_resource_without_a_part_fails_at_import(row: int, part: str) -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        imported(resources, without(row, part))


@pytest.mark.parametrize(("whole", "said"), [(False, "^RESOURCES lacks"), (True, "are of no resource")])
@pytest.mark.parametrize("name", NAMES)
def test_a_resource_that_is_not_in_the_table_fails_at_import(name: str, whole: bool, said: str) -> None:
    tree = Without(name, whole).visit(ast.parse(inspect.getsource(resources)))
    with pytest.raises(TypeError, match=said):
        imported(resources, tree)


def test_a_container_that_is_not_there_fails_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "CONTAINERS", tuple(each for each in names.CONTAINERS if each != names.UPLOADS))
    with pytest.raises(TypeError, match=r"^upload: there is no container 'uploads'"):
        imported(resources)


def test_a_list_that_no_backup_holds_fails_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "TRUTH", tuple(each for each in names.TRUTH if each != names.VECTOR_STORES))
    with pytest.raises(TypeError, match=r"^vector store: it is listed, so 'vector-stores' belongs to names\.TRUTH"):
        imported(resources)


def test_documents_without_a_resource_fail_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "CONTAINERS", (*names.CONTAINERS, "pins"))
    with pytest.raises(TypeError, match=r"^documents of {'pins'} are of no resource"):
        imported(resources)


def test_a_route_with_an_id_of_no_resource_fails_at_import() -> None:
    source = inspect.getsource(main)
    other = source.replace('"/messages/{message_id}"', '"/messages/{note_id}"')
    assert other != source
    with pytest.raises(
        TypeError, match=r"^/v1/threads/{thread_id}/messages/{note_id}: {'note_id'} belong to no resource"
    ):
        imported(main, other)


def test_containers_that_are_listed_have_names_in_reverse_order_on_azure() -> None:
    """What is listed is read newest first, which Azure cannot do by names as they are."""
    assert {resource.container for resource in resources.RESOURCES if resource.listed} == LISTED
