"""A kind of contract for import-linter: no module imports itself by way of others.

Imports for type checkers alone (TYPE_CHECKING) count as well, and those within functions: a reader has to follow them.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.application.contract_utils import AlertLevel, remove_ignored_imports_and_report


class NoCircles(Contract):
    """`ignore_imports` are those that close a circle and are allowed. One that does not exist is an error."""

    type_name = "no_circles"

    ignore_imports = fields.SetField(subfield=fields.ImportExpressionField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        removed = remove_ignored_imports_and_report(
            graph=graph, ignore_imports=self.ignore_imports, unmatched_alerting=AlertLevel.ERROR
        )
        imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        circle: list[str] = []
        try:
            TopologicalSorter(imported).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))
        return ContractCheck(
            kept=not circle,
            warnings=list(removed.warnings),
            ignored_import_count=removed.ignored_import_count,
            metadata={"circle": circle},
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error("These modules import one another, each the next one:")
        for module in check.metadata["circle"]:
            output.print_error(f"- {module}")
