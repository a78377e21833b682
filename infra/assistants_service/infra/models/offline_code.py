"""The programs of the offline model: sums, and figures and plots of a CSV file."""

from __future__ import annotations

import re
from typing import Final

from assistants_service.core.ports.models import Function
from assistants_service.infra.models.offline_arguments import takes, words

FOLDER: Final = "/mnt/data/"  # of the user's files, as the function's description says
LINK: Final = f"sandbox:{FOLDER}"
_READ_OF_A_MESSAGE: Final = 1_000  # characters
PLOT: Final = "plot.png"
_PLOTS: Final = frozenset(words("plot plots chart charts graph graphs draw diagram visualize visualise"))
_FIGURES: Final = frozenset(
    words("""compute calculate sum sums total totals average averages mean means minimum maximum statistics analyse
    analyze summarise summarize""")
)
_SUM: Final = re.compile(r"[-+(]*\d[\d\s.,()]*(?:(?:\*\*|[-+*/%^])\s*[-+(]*\d[\d\s.()]*)+")
_DATE: Final = re.compile(r"\d+(?:-\d+)+[\s.,)]*")  # or the number of a telephone
_FILE: Final = re.compile(rf"^- {FOLDER}(.+?\.csv)(?: \(.+\))?$", re.MULTILINE | re.IGNORECASE)
_WRITTEN: Final = re.compile(rf"^- {FOLDER}(.+) \(\d+ bytes\)\]?$", re.MULTILINE)

_READ: Final = """\
import csv
import io

with open({path!r}, "rb") as file:
    data = file.read()
try:
    text = data.decode("utf-8-sig")
except UnicodeDecodeError:  # as older programs write it
    text = data.decode("cp1252", "replace")
rows = list(csv.DictReader(io.StringIO(text, newline="")))

columns = {{}}
for name in rows[0] if rows else ():
    try:
        columns[name] = [float(row[name]) for row in rows]
    except (TypeError, ValueError):
        pass  # not a column of numbers
"""
_STATISTICS: Final = """
print(len(rows), "rows")
for name, values in columns.items():
    print(f"{name}: sum {sum(values):g}, mean {sum(values) / len(values):g}, from {min(values):g} to {max(values):g}")
"""
_DRAW: Final = """
import matplotlib.pyplot as plt

labels = [str(next(iter(row.values()))) for row in rows]
first = next(iter(rows[0])) if rows else ""
for name, values in columns.items():
    if name != first or len(columns) == 1:
        plt.plot(labels, values, marker="o", label=name)
plt.xlabel(first)
plt.legend()
plt.savefig("{folder}{plot}")
plt.show()
"""


def executes(function: Function) -> bool:
    """Whether it executes Python: its description says how to link files that code has written."""
    return LINK in (function.description or "") and takes(function.parameters, "code")


def program(function: Function, asked: str) -> str:
    """What computes or plots what was asked for. Empty, if nothing was."""
    asked = asked[:_READ_OF_A_MESSAGE]
    said, sums = set(words(asked)), [found for found in _SUM.findall(asked) if not _DATE.fullmatch(found)]
    csv = _csv_of(function, asked)
    if csv and said & _PLOTS:
        return _READ.format(path=FOLDER + csv) + _STATISTICS + _DRAW.format(folder=FOLDER, plot=PLOT)
    if csv and said & _FIGURES:
        return _READ.format(path=FOLDER + csv) + _STATISTICS
    return f"print({_python(sums[0])})\n" if sums else ""


def links(output: str) -> str:
    """The links of the files that a program has written."""
    return "".join(f" [{name}]({LINK}{name})" for name in _WRITTEN.findall(output))


def _csv_of(function: Function, asked: str) -> str:
    """The file that is named, or else the first one."""
    files = _FILE.findall(function.description or "")
    return next((name for name in files if name.lower() in asked.lower()), files[0] if files else "")


def _python(expression: str) -> str:
    """Powers are written as in mathematics, and thousands without commas."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression).replace("^", "**")
    text = text.replace(",", " ").strip().rstrip(".")
    surplus = text.count(")") - text.count("(")
    return text + ")" * -surplus if surplus < 0 else "(" * surplus + text
