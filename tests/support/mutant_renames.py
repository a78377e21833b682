"""Renames that the list of mutants must survive: a name in the source changes, and mutants still find their place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from code_anchors import Kind, tokens_of

# Of each kind of name: where a source defines one, and the tokens that have it.
DEFINED: dict[str, tuple[Callable[[ast.AST], str | None], tuple[Kind, ...]]] = {
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


@dataclass(frozen=True, slots=True)
class Rename:
    """A name of the source that some of its mutants have in their `old`."""

    name: str
    kinds: tuple[Kind, ...]
    mutants: Sequence[Any]

    def faults(self, source: str) -> Iterator[str]:
        """What goes wrong with a mutant when the name is another one in the source."""
        edited = self.renamed(source)
        for mutant in self.mutants:
            expected = self.renamed(mutant.mutated(source))
            try:
                found = self.renamed(mutant.mutated(edited))  # what only `new` names is another matter
            except ValueError as error:
                yield f"{self.name} renamed: {error}"
                continue
            if _texts(found) != _texts(expected):
                yield f"{self.name} renamed: {mutant.file}, without {mutant.without}: another place"
            compile(found, mutant.file, "exec")

    def renamed(self, source: str) -> str:
        for token in reversed(tokens_of(source)):
            if token.text == self.name and token.kind in self.kinds:
                source = f"{source[: token.start]}another_{self.name}{source[token.end :]}"
        return source


def _texts(source: str) -> list[str]:
    return [token.text for token in tokens_of(source)]


def renames(source: str, mutants: Sequence[Any], kind: str) -> list[Rename]:
    """Those of a kind, the name that most mutants have first."""
    name_of, kinds = DEFINED[kind]
    defined = {name_of(node) for node in ast.walk(ast.parse(source))}
    named: dict[str, list[Any]] = {}
    for mutant in mutants:
        for name in sorted({each.text for each in tokens_of(mutant.old)} & defined):
            named.setdefault(name, []).append(mutant)
    found = [Rename(name, kinds, having) for name, having in named.items()]
    return sorted(found, key=lambda rename: -len(rename.mutants))
