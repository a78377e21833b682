"""Put together what azd deploys: `python tools/package.py api` makes dist/api for App Service, `worker` makes
dist/worker for Azure Functions. Both install requirements.txt over there: it is uv.lock in pip's format.

Called by azure.yaml; needs Python and uv, and nothing of the project installed. ACTIONS, if set, names a module of
actions, which goes along.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ["core", "app", "worker", "infra"]  # each has a part of one package
PACKAGE = "assistants_service"
FUNCTIONS = [
    "worker/host.json",
    "worker/function_app.py",
]  # the Functions host looks for them at the root of the package


def package(part: str, to: Path) -> None:
    """Raises SystemExit with one line that says what is missing."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    actions = os.environ.get("ACTIONS", "").partition(".")[0]
    top = [actions if (ROOT / actions).is_dir() else f"{actions}.py"] if actions else []
    for name in [f"{folder}/{PACKAGE}" for folder in CODE] + top + (FUNCTIONS if part == "worker" else []):
        source = ROOT / name
        if not source.exists():
            raise SystemExit(f"{name} is missing: nothing to deploy for the {part}.")
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, to / source.name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, to / source.name)
    export = ["export", "--frozen", "--no-dev", "--no-emit-project"]
    export += ["--group", "functions"] if part == "worker" else []
    export += ["--no-header", "--no-annotate", "--quiet", "--output-file", str(to / "requirements.txt")]
    subprocess.run([_uv(), *export], cwd=ROOT, check=True)  # noqa: S603


def _uv() -> str:
    installed = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "uv"
    uv = shutil.which("uv") or shutil.which(installed)
    if uv is None:
        raise SystemExit("uv is missing: install it (pip install uv), or run `make install` first.")
    return uv


if __name__ == "__main__":
    if sys.argv[1:] not in (["api"], ["worker"]):
        raise SystemExit("usage: python tools/package.py api|worker")
    package(sys.argv[1], ROOT / "dist" / sys.argv[1])
