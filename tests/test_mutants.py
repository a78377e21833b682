"""The list of mutants fits the source: `make mutants` can try each of them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest

from code_anchors import tokens_of
from mutants import LIST, MUTANTS, PAGE, ROOT, Mutant, path_of, written


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.without)
def test_a_mutant_has_its_place_in_the_source_and_a_test_that_is_there(mutant: Mutant) -> None:
    compile(mutant.mutated(mutant.source()), mutant.file, "exec")
    file, _, test = mutant.test.partition("::")
    name = test.partition("[")[0]
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path_of(file)).read_text(), re.MULTILINE), (
        f"no test {mutant.test}"
    )


BY_FILE = {file: [mutant for mutant in MUTANTS if mutant.file == file] for file in LIST}
DEFINED: dict[str, tuple[Callable[[ast.AST], str | None], tuple[str, ...]]] = {
    "a local variable": (
        lambda node: node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else None,
        ("variable",),
    ),
    "a parameter": (
        lambda node: node.arg if isinstance(node, ast.arg) else None,
        ("variable", "keyword argument"),
    ),
    "a function": (
        lambda node: node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None,
        ("variable", "attribute"),
    ),
}


@pytest.mark.parametrize("kind", DEFINED)
@pytest.mark.parametrize("file", list(BY_FILE)[::6])  # all of them take most of a minute
def test_renaming_breaks_no_mutant(file: str, kind: str) -> None:
    """Of each kind, the name that most mutants of the file have."""
    name_of, kinds = DEFINED[kind]
    source = (ROOT / file).read_text()
    defined = {name_of(node) for node in ast.walk(ast.parse(source))}
    named = {mutant: {each.text for each in tokens_of(mutant.old)} & defined for mutant in BY_FILE[file]}
    for name, _ in Counter(chain.from_iterable(map(sorted, named.values()))).most_common(1):
        edited = renamed(source, name, kinds)
        for mutant in [mutant for mutant in named if name in named[mutant]][:4]:
            found = renamed(mutant.mutated(edited), name, kinds)  # what only `new` names is another matter
            assert plain(found) == plain(renamed(mutant.mutated(source), name, kinds)), (mutant.without, name)
            compile(found, file, "exec")


def renamed(source: str, name: str, kinds: Sequence[str]) -> str:
    for token in reversed(tokens_of(source)):
        if token.text == name and token.kind in kinds:
            source = f"{source[: token.start]}another_{name}{source[token.end :]}"
    return source


def plain(source: str) -> list[str]:
    return [token.text for token in tokens_of(source)]


def test_no_mutant_names_what_is_not_there(tmp_path: Path) -> None:
    """It would die of that, and not of what it takes away."""
    for number, mutant in enumerate(MUTANTS):
        (tmp_path / f"{number}.py").write_text(f"# without {mutant.without}\n{mutant.mutated(mutant.source())}")
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--no-cache", "--select", "F821,F823"]
    done = subprocess.run([*ruff, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(mutant.without for mutant in MUTANTS).items() if count > 1] == []


def test_the_reliability_page_lists_the_mutants_as_they_are() -> None:
    text = PAGE.read_text()
    assert text == written(text), "run `make docs`"
