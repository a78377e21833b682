"""Sandboxes for tests: without libraries, so that an interpreter starts in a moment.

LANDLOCK=1 has interpreters know the first version of Landlock alone, as on Linux 5.13.
"""

from __future__ import annotations

import os

import pytest

from assistants_service.infra.sandbox import landlock, server_process
from assistants_service.infra.sandbox.limits import InterpreterLimits
from assistants_service.infra.sandbox.local import LocalSandbox

if version := os.environ.get("LANDLOCK"):
    older = f"import assistants_service.infra.sandbox.landlock as landlock; landlock.NEWEST = {int(version)}; "
    server_process._PROGRAM = server_process._PROGRAM.replace("from ", older + "from ", 1)


def _confines() -> bool:
    try:
        return landlock.version() > 0
    except OSError:
        return False


needs_landlock = pytest.mark.skipif(not _confines(), reason="this system has no Landlock")


def bare_sandbox(**limits: float) -> LocalSandbox:
    return LocalSandbox(InterpreterLimits(**limits), libraries=())
