"""Where the sources are: four folders, each with a part of the package. Processes of tests get them by PYTHONPATH, so
that a copy of the project runs its own, and not what is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("core", "app", "worker", "infra")


def python_path(root: Path = ROOT) -> str:
    return os.pathsep.join(str(root / folder) for folder in ("tests/support", *FOLDERS))
