"""Checks that a test fails if a condition, a fence or a step of a commit order is removed: `make mutants`, or
`python tests/mutants.py [WORD ...] [--jobs N] [--docs]`.

Each mutant (listed in mutants.toml) removes one of these from a copy of the project, and its test must fail. If a
mutant survives, the exit code is 1: either a test is missing, or the removed code is not needed. Before that, every
name that a mutant has is renamed in its source, and the mutant must still find its place. WORDs select the mutants that
have one of them in their name, file or test. `--docs` writes the list into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
from code_anchors import replaced
from mutant_renames import DEFINED, renames
from npm import npm_install
from source_paths import python_path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- mutants -->", "<!-- end -->"
PATIENCE = 120.0  # seconds for the test of one mutant
NOT_COPIED = shutil.ignore_patterns(".*", "node_modules", "data", "dist")
AZURITE = Path("tests") / "support" / "azurite"
# A mutant that dies of one of these was not understood by its author: it shows nothing. A simulation quotes errors.
NONSENSE = re.compile(r"^(?:Name|UnboundLocal|Import|ModuleNotFound|Syntax|Type)Error\b|\b(?:Name|Type)Error\(")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """The project without one thing: in `file`, `new` takes the place of `old` (code_anchors.py finds it), in the
    function `within` where there are others like it. `breaks` is the promise or the race that then is open, and `test`
    must fail: the base name of its file, and its name.
    """

    file: str
    without: str
    breaks: str
    old: str
    new: str
    test: str
    within: str = ""

    def source(self) -> str:
        return (ROOT / self.file).read_text()

    def mutated(self, source: str) -> str:
        """The source without the thing. Raises ValueError if the list does not fit it any more."""
        try:
            return replaced(source, self.old, self.new, self.within)
        except ValueError as error:
            raise ValueError(f"{self.file}, without {self.without}: {error}") from None

    def has(self, words: Sequence[str]) -> bool:
        return not words or any(word in f"{self.without} {self.file} {self.test}" for word in words)


LIST = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
MUTANTS = [Mutant(file=file, **fields) for file, entries in LIST.items() for fields in entries]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`said` is what the test failed with; or, of a mutant that was not killed, what happened instead."""

    killed: bool
    said: str
    seconds: float


def path_of(test: str) -> str:
    """A test's path from the root of the project: base names are unique."""
    name = test.partition("::")[0]
    (file,) = (ROOT / "tests").glob(f"*/{name}")
    return test.replace(name, file.relative_to(ROOT).as_posix(), 1)


def in_copy(tests: Iterable[str], mutant: Mutant | None = None, *options: str) -> Outcome:
    """Run tests in a copy of the project, mutated or not. It is `killed` if one of them fails by what it checks."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        (copy / AZURITE / "node_modules").symlink_to(ROOT / AZURITE / "node_modules")
        if mutant:
            (copy / mutant.file).write_text(mutant.mutated(mutant.source()))
        report = Path(folder) / "report.xml"
        arguments = [*options, f"--junitxml={report}", *map(path_of, tests)]
        killed, said = _verdict(report, *_pytest(copy, arguments, PATIENCE if mutant else None))
    return Outcome(killed, said, time.monotonic() - began)


def _pytest(copy: Path, arguments: Sequence[str], patience: float | None) -> tuple[int | None, str]:
    """Exit code (None: it took too long) and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    # PYTHONPATH comes before the installed project, in processes of tests too; SWEEP crashes at every call.
    environment = {**os.environ, "PYTHONPATH": python_path(copy), "SWEEP": "100"}
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that its tests have started
        return None, process.communicate()[0]
    return process.returncode, output


def _verdict(report: Path, code: int | None, output: str) -> tuple[bool, str]:
    if code == 0:
        return False, "no test failed"
    if code is None:
        return False, f"no verdict within {PATIENCE:g} s"
    if code != 1:
        return False, f"pytest ended with {code}: {output[-2000:]}"
    cases = [(case, fault) for case in ElementTree.parse(report).iter("testcase") for fault in case]
    failures = [(case, fault) for case, fault in cases if fault.tag == "failure"]
    if not failures:
        return False, f"an error, but no failed test: {output[-2000:]}"
    case, fault = failures[0]
    text = f"{fault.get('message', '')}\n{fault.text or ''}"
    if NONSENSE.search(text):
        return False, f"the mutant makes no sense: {text[-2000:]}"
    return True, f"{case.get('name')}: {fault.get('message', '').splitlines()[0][:120]}"


def tried(mutants: Sequence[Mutant], jobs: int) -> dict[str, Outcome]:
    """Each mutant's outcome, by what it is without."""
    outcomes: dict[str, Outcome] = {}
    pool = ThreadPoolExecutor(jobs)
    try:
        tasks = {pool.submit(in_copy, [mutant.test], mutant): mutant for mutant in mutants}
        for task in as_completed(tasks):
            name, outcome = tasks[task].without, task.result()
            outcomes[name] = outcome
            verdict = f"{'killed' if outcome.killed else 'SURVIVED'} {outcome.seconds:5.1f} s"
            print(f"{len(outcomes):3d} {verdict}  without {name}\n      {outcome.said}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def rename_faults(mutants: Sequence[Mutant]) -> Iterator[str]:
    """Renames every name in the source that a mutant has, one at a time: the mutant must still find its place."""
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        source = (ROOT / file).read_text()
        having = [mutant for mutant in mutants if mutant.file == file]
        for rename in chain.from_iterable(renames(source, having, kind) for kind in DEFINED):
            yield from (f"{file}: {fault}" for fault in rename.faults(source))


def table(mutants: Iterable[Mutant]) -> str:
    rows = ["| removed | from | consequence | test that fails |", "|---|---|---|---|"]
    for mutant in mutants:
        test = mutant.test.partition("::")[2]
        rows.append(f"| {mutant.without} | `{mutant.file}` | {mutant.breaks} | `{test}` |")
    return "\n".join(rows)


def written(text: str) -> str:
    """docs/reliability.md with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(MUTANTS)}\n{END}{after}"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("words", nargs="*", metavar="WORD")
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--docs", action="store_true")
    given = arguments.parse_args()
    if given.docs:
        PAGE.write_text(written(PAGE.read_text()))
        return 0
    chosen = [mutant for mutant in MUTANTS if mutant.has(given.words)]
    for mutant in chosen:
        mutant.mutated(mutant.source())  # to fail now, if it does not fit
    if faults := list(rename_faults(chosen)):
        print("After a rename, these mutants do not fit: note them down with more of the code around them.")
        print(*faults, sep="\n")
        return 1
    npm_install(ROOT / AZURITE)  # once, and not in every copy
    began = time.monotonic()
    selected = dict.fromkeys(mutant.test for mutant in chosen)
    print(f"{len(chosen)} mutants. First their {len(selected)} tests, with nothing taken out ...", flush=True)
    whole = in_copy(selected, None, "-n", str(given.jobs))
    if whole.said != "no test failed":
        print(f"These have to pass: {whole.said}")
        return 1
    outcomes = tried(chosen, given.jobs)
    survivors = [mutant for mutant in chosen if not outcomes[mutant.without].killed]
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} killed in {time.monotonic() - began:.0f} s")
    for mutant in survivors:
        print(f"SURVIVED: {mutant.without} ({mutant.file}): {mutant.breaks}\n    {outcomes[mutant.without].said}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
