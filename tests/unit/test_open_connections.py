"""The check of all tests for connections that they leave open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UNUSED = [part for name in ("schemathesis", "xdist", "asyncio") for part in ("-p", f"no:{name}")]
SUPPORT = Path(__file__).resolve().parent.parent / "support"
TESTS = """
import asyncio, gc
import aiohttp, pytest

KEPT = []  # as reference cycles and tracebacks keep what they know, until it is collected

async def left():
    KEPT.append(aiohttp.ClientSession())

async def closed():
    await aiohttp.ClientSession().close()

def test_leaves_one():
    asyncio.run(left())

def test_fails():
    asyncio.run(left())
    raise ValueError

def test_has_nothing_to_do_with_it():
    asyncio.run(closed())
    KEPT.clear()
    gc.collect()
"""


def test_a_test_that_leaves_a_connection_open_fails_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "open_connections", *UNUSED]
    options = ["-q", "-rfE", "-W", "error", "--rootdir", str(tmp_path), "test_some.py"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    told = [line.partition(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert told == ["FAILED test_some.py::test_fails", "ERROR test_some.py::test_leaves_one"], done.stdout
    assert "1 connectors were left open" in done.stdout
    assert "1 failed, 2 passed, 1 error" in done.stdout
