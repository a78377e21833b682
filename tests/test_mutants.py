"""The list of mutants fits the source: `make mutants` can try each of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mutant_renames import DEFINED, renames
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


@pytest.mark.parametrize("kind", DEFINED)
@pytest.mark.parametrize("file", list(BY_FILE)[::6])
def test_renaming_breaks_no_mutant(file: str, kind: str) -> None:
    """A sample: the name that most mutants of the file have. `make mutants` tries all names, which takes a minute."""
    source = (ROOT / file).read_text()
    for rename in renames(source, BY_FILE[file], kind)[:1]:
        assert list(rename.faults(source)) == []


def test_a_rename_that_breaks_a_mutant_is_found() -> None:
    mutant = Mutant(file="", without="", breaks="", old="return old_name(a)", new="return a", test="")
    source = "def old_name(a):\n    return a\ndef now(a):\n    return new_name(a)\n"
    (rename,) = renames(source, [mutant], "a parameter")
    assert [fault.partition(":")[0] for fault in rename.faults(source)] == ["a renamed"]


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
