"""What an interpreter may use. A few of these are settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024**2
# Loaded before the first cell, since that takes seconds. What is not installed is an ImportError of the cell.
LIBRARIES: Final = ("numpy", "pandas", "matplotlib.pyplot", "openpyxl", "PIL.Image")


@dataclass(frozen=True, slots=True)
class InterpreterLimits:
    """Sizes are in bytes, times in seconds. `grace` is the time between SIGINT and SIGKILL. `kept` bounds the changed
    files of one call, `folder` and `entries` all that an interpreter has on disk."""

    interpreters: int = 4
    seconds: float = 60
    grace: float = 2
    start: float = 60
    memory: int = 2048 * MIB
    file: int = 100 * MIB
    folder: int = 1024 * MIB
    entries: int = 2000
    kept: int = 100 * MIB
    logs: int = 64 * 1024
    images: int = 20
    threads: int = 128


def format_size(size: int) -> str:
    """1 GiB, 100 MiB, 64 KiB."""
    for unit, bytes_of in (("GiB", 1024**3), ("MiB", MIB), ("KiB", 1024)):
        if size >= bytes_of:
            return f"{size / bytes_of:g} {unit}"
    return f"{size} bytes"
