"""The process that interpreters are forked from: they have nothing in common but its code, and end with it."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from assistants_service.core.ids import Ids
from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy
from assistants_service.core.tools.code_interpreter.interpreters import Interpreters
from assistants_service.infra.sandbox import fork_server, fork_servers, self_test, server_process
from assistants_service.infra.sandbox.limits import InterpreterLimits
from assistants_service.infra.sandbox.local import LocalSandbox
from assistants_service.infra.sandbox.server_process import ForkServer
from assistants_service.infra.sandbox.watch import excess
from inprocess_service import ManualClock
from sandboxes import bare_sandbox, needs_landlock

pytestmark = [needs_landlock, pytest.mark.asyncio(loop_scope="module")]
ALL = os.environ.get("SANDBOX") == "all"
BUSY = "while True: pass"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[LocalSandbox]:
    made = bare_sandbox()
    yield made
    async with asyncio.timeout(30):
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(shared: LocalSandbox) -> AsyncIterator[LocalSandbox]:
    """Without interpreters, and perhaps without a fork server: the test before may have ended it."""
    yield shared
    for each in list(shared._live):
        await each.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def server_of(sandbox: LocalSandbox) -> ForkServer:
    assert await sandbox.unavailable_reason() == ""
    return await sandbox._servers.get()


def adopt_orphans(wanted: bool) -> None:
    assert ctypes.CDLL(None).prctl(36, int(wanted), 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER


def gone(*pids: int) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_interpreters_get_different_random_numbers(sandbox: LocalSandbox) -> None:
    code = (
        "import random, secrets, tempfile, uuid\nrandom.random(), secrets.token_hex(8), uuid.uuid4(), tempfile.mktemp()"
    )
    values = [(await (await sandbox.start(name)).run(code)).value for name in "ab"]
    one, other = (str(value).strip("()").split(", ") for value in values)
    assert len(one) == 4
    assert not set(one) & set(other)


async def test_what_an_interpreter_changes_is_its_own(sandbox: LocalSandbox) -> None:
    change = (
        "import ctypes, json, os, tempfile\njson.planted = 1\nos.environ['PLANTED'] = '1'\n"
        "shared = json.__doc__\nctypes.memset(id(shared) + 64, 65, 4)\nshared[:40]"
    )
    one, other = await sandbox.start("one"), await sandbox.start("other")
    changed = (await one.run(change)).value
    look = "import json, os\nhasattr(json, 'planted'), 'PLANTED' in os.environ, json.__doc__[:40]"
    for session in (other, await sandbox.start("later")):
        value = (await session.run(look)).value
        assert value
        assert value.startswith("(False, False, ")
        assert changed
        assert changed not in value


async def test_all_interpreters_end_with_the_fork_server_and_another_one_takes_its_place(
    sandbox: LocalSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the worker is the first process of a container, which adopts orphans and must wait for them."""
    adopt_orphans(True)
    idle, busy = await sandbox.start("idle"), await sandbox.start("busy")
    running = asyncio.ensure_future(busy.run(f"print('so far')\n{BUSY}"))
    await asyncio.sleep(0.05)
    first = await sandbox._servers.get()
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(InterpreterLost) as lost:
        await running
    assert "was killed" in lost.value.reason
    await until(lambda: not idle.alive)
    await idle.close()
    await until(lambda: gone(idle._process.pid, busy._process.pid))
    adopt_orphans(False)
    await until(lambda: first.ended)
    assert (await (await sandbox.start("next")).run("1")).value == "1"
    assert (await sandbox._servers.get()).pid != first.pid
    assert "has ended; another one is started" in caplog.text


async def test_all_sessions_end_though_the_fork_server_dies_meanwhile(sandbox: LocalSandbox) -> None:
    clock = ManualClock()
    interpreters, ended = Interpreters(sandbox, clock, Ids(clock)), []

    async def call(number: int) -> None:
        try:
            async with interpreters.session("p", str(number), "") as session:
                ended.append((await session.interpreter.run(f"{number} + 1")).value == str(number + 1))
        except InterpreterLost:
            ended.append(False)

    calls = asyncio.gather(*map(call, range(100 if ALL else 20)))
    for executed in (5, 10):
        await until(lambda: len(ended) >= executed)  # noqa: B023
        os.kill((await sandbox._servers.get()).pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        await calls
    assert ended.count(False) <= 2 * InterpreterLimits().interpreters
    await interpreters.close()


async def test_a_start_that_is_cancelled_leaves_no_process(sandbox: LocalSandbox) -> None:
    server = await server_of(sandbox)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    for turns in range(12):
        starting = asyncio.ensure_future(sandbox.start("session"))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        starting.cancel()
        (started,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(started, BaseException):
            await started.close()
    await until(lambda: not children.read_text())
    assert (await (await sandbox.start("session")).run("1")).value == "1"


async def test_a_fork_server_that_does_not_answer_is_replaced(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await server_of(sandbox)
    os.kill(first.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(server_process, "_FORK", 0.05)
        with pytest.raises(SandboxBusy):
            await sandbox.start("session")
    assert (await (await sandbox.start("session")).run("1")).value == "1"
    await until(lambda: gone(first.pid))


async def test_a_fork_server_that_is_not_used_ends(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_servers, "IDLE", 0.05)
    session = await sandbox.start("session")
    first = await sandbox._servers.get()
    await asyncio.sleep(0.2)
    assert session.alive
    await session.close()
    await until(lambda: gone(first.pid))
    assert (await (await sandbox.start("session")).run("1")).value == "1"


LIBRARIES = {
    "careless": (
        "from assistants_service.infra.sandbox import landlock\nlandlock.restrict = lambda **_: None",
        "was able to do what it must not do",
    ),
    "shares": ("import mmap\nkept = mmap.mmap(-1, 4096)", "would share"),
    "threaded": ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
}


def importable(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that the processes of a sandbox may import, and its file."""
    library = folder / "site-packages" / f"{name}.py"
    library.parent.mkdir()
    library.write_text(source)
    folder.chmod(0o755)
    monkeypatch.syspath_prepend(library.parent)
    return library


@pytest.mark.parametrize("name", LIBRARIES if ALL else ["careless", "shares"])
async def test_a_library_that_cannot_be_inherited_is_imported_by_each_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    source, reason = LIBRARIES[name]
    library = importable(f"{name}_library", source, tmp_path, monkeypatch)
    sandbox = LocalSandbox(libraries=[library.stem])
    session = await sandbox.start("session")
    assert (await session.run(f"import sys\n'{library.stem}' in sys.modules")).value == "True"
    (warning,) = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert warning.startswith("each interpreter imports the libraries itself")
    assert reason in warning
    await sandbox.close()


FLAWED_ONCE = """
import os, pathlib, signal
flaw = pathlib.Path(__file__).with_name("flaw")
if flaw.exists():
    flaw.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
importer = os.getpid()
"""


@pytest.mark.parametrize("failure", ["killed", "interrupted"])
async def test_a_start_that_failed_once_is_no_verdict_about_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """The machine was short of memory or time: the next start imports them in advance again."""
    library = importable(f"{failure}_library", FLAWED_ONCE, tmp_path, monkeypatch)
    sandbox = LocalSandbox(libraries=[library.stem])
    assert await sandbox.unavailable_reason() == ""
    with monkeypatch.context() as patch:
        if failure == "killed":
            library.with_name("flaw").touch()
        else:
            patch.setattr(self_test, "_ATTACKS", "raise KeyboardInterrupt")
        with pytest.raises(SandboxBusy):
            await sandbox.start("session")
    session = await sandbox.start("session")
    assert (await session.run(f"import os, {library.stem}\n{library.stem}.importer == os.getpid()")).value == "False"
    await sandbox.close()


@pytest.mark.parametrize(("threads", "reason"), [(1, "temporarily unavailable"), (2, "more than one thread")])
async def test_what_cannot_be_forked_is_told(monkeypatch: pytest.MonkeyPatch, threads: int, reason: str) -> None:
    """To the worker, which may try again; the fork server works on."""

    def fork() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(fork_server, "_threads", lambda: threads)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    life, report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, life, report, Path(os.devnull).open() as file:
        socket.send_fds(ours, [b"/folder"], [file.fileno()] * 3 + [report.fileno()])
        report.close()
        server = fork_server._Server(theirs)
        assert server._request() is None
        assert reason in life.recv(1000).decode()
        assert life.recv(1) == b""


async def test_a_process_that_nothing_waits_for_is_killed_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        monkeypatch.setattr(os, "fork", lambda: process.pid)
        monkeypatch.setattr(fork_server, "_threads", lambda: 1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, report, Path(os.devnull).open() as file:
            socket.send_fds(ours, [b"/folder"], [file.fileno()] * 3 + [report.fileno()])
            life.close()
            before = len([*Path("/proc/self/fd").iterdir()])
            assert fork_server._Server(theirs)._request() is None
            assert len([*Path("/proc/self/fd").iterdir()]) == before
        assert gone(process.pid)


async def test_a_process_that_is_ending_exceeds_no_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Though others than root may not look at its files any more."""

    def refused(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        monkeypatch.setattr(os, "listdir", refused)
        assert excess(ended.pid, str(tmp_path), InterpreterLimits()) == ""
        assert "cannot be watched" in excess(os.getpid(), str(tmp_path), InterpreterLimits())
