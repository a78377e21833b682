"""One name has one meaning: a reader who meets a class by its name need not ask which one."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = [REPOSITORY / part / "assistants_service" for part in ("app", "core", "worker", "infra")]


def test_no_public_class_name_is_defined_twice() -> None:
    defined: defaultdict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for module in package.rglob("*.py"):
            for node in ast.parse(module.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    defined[node.name].append(str(module.relative_to(REPOSITORY)))
    assert len(defined) > 300
    assert {name: modules for name, modules in defined.items() if len(modules) > 1} == {}
