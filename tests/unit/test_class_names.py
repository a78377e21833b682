"""One name has one meaning: a reader who meets a type by its name need not ask which one."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = [REPOSITORY / part / "assistants_service" for part in ("app", "core", "worker", "infra")]


def types_of(source: str) -> Iterator[str]:
    """The public names of a module's classes, type aliases and NewTypes. One that has its name from the class that it
    is made of (`Commit = log.Commit[Event]`) is no other meaning of it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield node.name
            continue
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, made_of = node.targets[0].id, _base(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            name, made_of = node.target.id, _base(node.value)
        else:
            continue
        if name[0].isupper() and not name.isupper() and name != made_of:  # a constant and a TypeVar are upper case
            yield name


def _base(value: ast.expr) -> str:
    if isinstance(value, ast.Subscript):
        return _base(value.value)
    return ast.unparse(value).rpartition(".")[2]


def test_no_public_name_of_a_type_is_defined_twice() -> None:
    defined: defaultdict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for module in package.rglob("*.py"):
            for name in types_of(module.read_text()):
                defined[name].append(str(module.relative_to(REPOSITORY)))
    assert len(defined) > 400
    assert {name: modules for name, modules in defined.items() if len(modules) > 1} == {}


def test_aliases_and_new_types_count_as_types() -> None:
    source = "class A: ...\nFileId = NewType('FileId', str)\nKey = tuple[str, str]\nDay: TypeAlias = int\n"
    assert list(types_of(source + "Commit = log.Commit[Event]\nMOST = 3\nT = TypeVar('T')\n_Own = int\n")) == [
        "A",
        "FileId",
        "Key",
        "Day",
    ]
