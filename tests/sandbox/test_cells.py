"""What the processes of interpreters do. What cells do is in tests/contract/test_sandbox_contract.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy
from assistants_service.infra.sandbox import interpreter
from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.local import LocalSandbox
from sandboxes import bare_sandbox, needs_landlock

pytestmark = [needs_landlock, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[LocalSandbox]:
    made = bare_sandbox(interpreters=3)
    yield made
    async with asyncio.timeout(30):
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox: LocalSandbox) -> AsyncIterator[LocalInterpreter]:
    made = await sandbox.start("session")
    yield made
    await made.close()


async def test_this_machine_confines_interpreters(sandbox: LocalSandbox) -> None:
    assert await sandbox.unavailable_reason() == ""


async def test_what_a_cell_printed_is_told_if_its_files_cannot_be_read_any_more(sandbox: LocalSandbox) -> None:
    session = await sandbox.start("session")
    await session.run("print('written')\nopen('/mnt/data/a', 'w').close()")
    os.kill(session._process.pid, signal.SIGKILL)
    with pytest.raises(InterpreterLost) as lost:
        await anext(session.read("a"))
    assert lost.value.logs == "written\n"


async def test_files_take_no_longer_than_they_may_in_total(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "_TRANSFER", 0.5)
    session = await sandbox.start("session")
    await session.run(
        "import gc, time\nservice = next(each for each in gc.get_objects() if type(each).__name__ == '_Service')\n"
        "def drip(path):\n    while True:\n        time.sleep(0.1)\n        service._answer(b'd', b'x')\n"
        "service._read = drip"
    )
    with pytest.raises(InterpreterLost, match="too long"):
        async with asyncio.timeout(30):
            async for _ in session.read("a"):
                pass


async def test_an_idle_interpreter_that_died_is_known_to_be_dead(sandbox: LocalSandbox) -> None:
    session = await sandbox.start("session")
    await session.run("1")
    assert session.alive
    os.kill(session._process.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while session.alive:
            await asyncio.sleep(0.01)
    await session.close()


async def test_a_call_that_is_cancelled_ends_its_interpreter(sandbox: LocalSandbox) -> None:
    session = await sandbox.start("session")
    running = asyncio.create_task(session.run("while True:\n    pass"))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await session.close()
    assert not Path(f"/proc/{session._process.pid}").exists()
    assert not session._folder.exists()
    with pytest.raises(InterpreterLost, match="closed"):
        await session.run("1")


async def test_between_calls_nothing_is_executed(session: LocalInterpreter) -> None:
    code = (
        "import threading\nn = 0\ndef count():\n    global n\n    while True:\n        n += 1\n"
        "threading.Thread(target=count, daemon=True).start()"
    )
    await session.run(code)
    async with asyncio.timeout(10):
        while Path(f"/proc/{session._process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.01)
    assert int((await session.run("n")).value or 0) > 0


async def test_what_cannot_be_started_in_advance_is_started_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = bare_sandbox()
    assert await sandbox.unavailable_reason() == ""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        await sandbox.warm()
        async with asyncio.timeout(10):
            while "cannot start the process that interpreters are forked from" not in caplog.text:
                await asyncio.sleep(0.01)
        with pytest.raises(SandboxBusy):
            await sandbox.start("session")
    assert (await (await sandbox.start("session")).run("1")).value == "1"
    await sandbox.close()


async def test_nothing_is_left_when_the_sandbox_closes() -> None:
    sandbox = bare_sandbox()
    session = await sandbox.start("session")
    server = await sandbox._servers.get()
    await sandbox.close()
    for pid in (session._process.pid, server.pid):
        assert not Path(f"/proc/{pid}").exists()
    assert not sandbox._workspace.root.exists()
