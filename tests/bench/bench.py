"""Measures how fast the service is: `make bench`, or
`python tests/bench/bench.py [--quick] [--only NAME] [--engine NAME] [--docs]`.

Starts the service as users run it, a fake model, and a floor (a bare minimum of code) for each engine, drives them
alternately, and prints medians of three repetitions: each figure beside its floor, measured in the same session, and
its limit. If a figure exceeds its limit, the exit code is 1. `--docs` writes table and curves into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import aiohttp
import uvloop

import plot
from helper import machine_seconds
from measurements import ALL, QUICK, SCENARIOS
from stand import Figure, Limit, Stand, number

BEGIN, END = "<!-- one run -->", "<!-- end of the run -->"
QUIET = 0.15  # of a core, used by others: more disturbs what is measured
DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure over all repetitions."""

    scenario: str
    engine: str
    name: str
    unit: str
    values: list[float]
    floors: list[float]
    limit: Limit | None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def floor(self) -> float | None:
        return statistics.median(self.floors) if self.floors else None

    @property
    def ok(self) -> bool:
        return self.limit is None or self.limit.holds(self.value)

    def cells(self) -> list[str]:
        spread = f"{number(min(self.values))} to {number(max(self.values))}" if len(self.values) > 1 else ""
        unit = f" {self.unit}" if self.unit else ""
        limit, verdict = (str(self.limit), self.limit.verdict(self.value)) if self.limit else ("", "")
        return [self.engine, self.name, number(self.value) + unit, spread, number(self.floor), limit, verdict]


def rows_of(scenario: str, figures: list[Figure]) -> list[Row]:
    grouped: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        grouped.setdefault((figure.engine, figure.name), []).append(figure)
    return [
        Row(
            *(scenario, engine, name, group[0].unit),
            [figure.value for figure in group],
            [figure.floor for figure in group if figure.floor is not None],
            _middle([figure.limit for figure in group if figure.limit]),
        )
        for (engine, name), group in grouped.items()
    ]


def _middle(limits: list[Limit]) -> Limit | None:
    """A limit that follows from the floor moves with it."""
    return sorted(limits, key=lambda limit: limit.bound)[len(limits) // 2] if limits else None


def table(rows: list[Row]) -> str:
    head = ["engine", "figure", "median", "from to", "floor", "limit", ""]
    lines = [head, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


# --- the command --------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the main scenarios once, for a rough result")
    parser.add_argument("--only", choices=list(SCENARIOS), action="append", help="this scenario; may be repeated")
    parser.add_argument("--engine", choices=ALL, action="append", help="this engine; may be repeated")
    parser.add_argument("--docs", action="store_true", help="write the table and the curves into docs")
    parser.add_argument("--out", type=Path, help="a file for all values, as JSON")
    return parser.parse_args()


async def measure(given: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows, and the scenarios that failed."""
    rows: list[Row] = []
    failed: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            stand = Stand(session, folder, stack, given.quick)
            for name, engine in chosen(given):
                print(f"{name}: {engine} ...", file=sys.stderr, flush=True)
                figures: list[Figure] = []
                try:
                    async for figure in SCENARIOS[name][0](stand, engine):
                        figures.append(figure)
                except Exception:  # the other scenarios are worth measuring all the same
                    traceback.print_exc()
                    failed.append(f"{name}: {engine}")
                stand.stop_azurite()
                rows += rows_of(name, figures)
    return rows, failed


def chosen(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Scenarios and engines."""
    names = given.only or tuple(QUICK if given.quick else SCENARIOS)
    engines = {name: QUICK.get(name, SCENARIOS[name][1]) if given.quick else SCENARIOS[name][1] for name in names}
    return [(name, engine) for name in names for engine in engines[name] if engine in (given.engine or ALL)]


def cpu_of_others() -> float:
    """Seconds of processor time that this machine spent so far, but not on this benchmark."""
    return machine_seconds() - sum(os.times()[:4])


def main() -> None:
    given = arguments()
    begun, others = time.monotonic(), cpu_of_others()
    rows, failed = uvloop.run(measure(given))
    took = time.monotonic() - begun
    share = (cpu_of_others() - others) / took
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    busy = f"Other programs kept {share:.0%} of a core busy{': do not trust this run' * (share > QUIET)}."
    report = f"{table(rows)}\n\n{machine}, {date.today()}, {took:.0f} s. {busy}"
    print(report)
    if given.out:
        given.out.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if given.docs:
        plot.write(DOCS / "performance", {(row.engine, row.name): (row.value, row.floor) for row in rows})
        page = (DOCS / "performance.md").read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        (DOCS / "performance.md").write_text(f"{before}{BEGIN}\n{report}\n{END}{after}")
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    sys.exit(bool(failed) or not all(row.ok for row in rows))


if __name__ == "__main__":
    main()
