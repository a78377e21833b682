"""A kind of contract for import-linter: no module imports itself by way of others.

Imports for type checkers alone (TYPE_CHECKING) count as well, and those within functions: a reader has to follow them.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class NoCircles(Contract):
    type_name = "no_circles"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        circle: list[str] = []
        try:
            TopologicalSorter(imported).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))
        return ContractCheck(kept=not circle, metadata={"circle": circle})

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error("These modules import one another, each the next one:")
        for module in check.metadata["circle"]:
            output.print_error(f"- {module}")
