"""The clients' own environments, made on first use from lock files: seconds, and nothing of them in the service's.

A lock is renewed with `uv pip compile NAME.in --generate-hashes --universal --python-version 3.11 -o NAME.txt`.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVS = HERE.parent.parent / ".venv-clients"
LOCK = Path(sys.prefix) / "clients.lock"
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"


def python(name: str) -> Path:
    """The interpreter of the environment that tests/clients/NAME.txt describes."""
    with LOCK.open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)  # tests run in several processes, and clients are started in several threads
        return _python(name)


def _python(name: str) -> Path:
    lock, home = HERE / f"{name}.txt", ENVS / name
    found = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp, wanted = home / ".installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted and found.exists()):
        shutil.rmtree(home, ignore_errors=True)
        _run(UV, "venv", "--quiet", "--python", sys.executable, str(home))
        _run(UV, "pip", "install", "--quiet", "--python", str(found), "--require-hashes", "-r", str(lock))
        stamp.write_text(wanted)
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
