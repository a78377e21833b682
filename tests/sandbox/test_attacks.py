"""Nothing that a cell does reaches anything outside: the store, other sessions, the service, the machine."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from assistants_service.core.ports.sandbox import CellResult, InterpreterLost
from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.limits import LIBRARIES, MIB, InterpreterLimits
from assistants_service.infra.sandbox.local import LocalSandbox
from attacks import LOST, PRELUDE, REFUSED, UNFELT, X86_ONLY
from sandboxes import needs_landlock
from targets import SECRET, Targets, targets

pytestmark = needs_landlock
ALL = os.environ.get("SANDBOX") == "all"  # all attacks, by interpreters with the libraries
# What the kernel, or Python on its behalf, says of what is not allowed, or is not there for the attacker.
REFUSAL = re.compile(
    r"^(PermissionError|OSError|FileNotFoundError|socket\.gaierror|urllib\.error\.URLError|ValueError: not allowed)"
)


class Attacker:
    """A session that is attacked from, and another one beside it. A session that is lost is replaced."""

    def __init__(self, runner: asyncio.Runner, attacked: Targets) -> None:
        self._runner, self._targets = runner, attacked
        limits = InterpreterLimits(seconds=10, grace=1, memory=256 * MIB, file=16 * MIB, folder=64 * MIB)
        self._sandbox = LocalSandbox(limits, LIBRARIES if ALL else ())
        self._session: LocalInterpreter | None = None
        self.other = runner.run(self._other())

    def attempt(self, code: str) -> CellResult | InterpreterLost:
        return self._runner.run(self._attempt(code))

    def state(self) -> dict[str, object]:
        server = self._runner.run(self._sandbox._servers.get()).pid
        known = {self._targets.victim.pid, server, *(each._process.pid for each in self._sandbox._live)}
        strangers = {*_children(os.getpid()), *_children(server)} - known
        return {
            **self._targets.state(),
            "other session": self.other.read_text(),
            "fork server": (server, _standing(server)),
            "strangers": strangers,
        }

    def close(self) -> None:
        self._runner.run(self._sandbox.close())

    async def _other(self) -> Path:
        session = await self._sandbox.start("other")
        await session.run(f"open('/mnt/data/other.txt', 'w').write({SECRET!r})")
        return session._folder / "data" / "other.txt"

    async def _begin(self) -> LocalInterpreter:
        """With an empty folder, if possible in the session of the last attack."""
        if self._session and self._session.alive:
            try:
                if not (await self._session.run("clean()")).error:
                    return self._session
            except InterpreterLost:
                pass  # what the last attack did to it
            await self._session.close()
        self._session = await self._sandbox.start("attacker")
        given = {
            **self._targets.names(),
            "SESSIONS": str(self._session._folder.parent),
            "OTHER": str(self.other),
            "SERVER": (await self._sandbox._servers.get()).pid,
        }
        told = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        assert (await self._session.run(f"{PRELUDE}\n{told}")).error is None
        return self._session

    async def _attempt(self, code: str) -> CellResult | InterpreterLost:
        session = await self._begin()
        try:
            return await session.run(code)
        except InterpreterLost as lost:
            return lost


def _children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _standing(pid: int) -> tuple[object, ...]:
    """Of a process that waits for requests: what it may use, and that nothing has stopped it."""
    waiting = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt"
    place = Path(f"/proc/{pid}")
    standing = [(place / name).read_text() for name in ("limits", "oom_score_adj")]
    return waiting, os.getpriority(os.PRIO_PROCESS, pid), sorted(os.sched_getaffinity(pid)), *standing


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    folder = Path(tempfile.mkdtemp(prefix="at"))
    with asyncio.Runner() as runner, targets(folder) as attacked:
        made = Attacker(runner, attacked)
        yield made
        made.close()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def unharmed(attacker: Attacker) -> Iterator[None]:
    """Whatever is attempted."""
    before = attacker.state()
    yield
    assert attacker.state() == before
    after = attacker.attempt("open('/mnt/data/after', 'w').write('works')")
    assert isinstance(after, CellResult)
    assert after.error is None


@pytest.mark.parametrize("attack", REFUSED)
def test_the_attack_is_refused(attacker: Attacker, attack: str) -> None:
    result = attacker.attempt(REFUSED[attack])
    assert isinstance(result, CellResult), result
    assert result.error, (result.value, result.logs)
    assert REFUSAL.search(result.error.splitlines()[-1]), result.error
    assert SECRET not in repr(result)


@pytest.mark.parametrize("attack", UNFELT)
def test_the_attack_is_not_felt(attacker: Attacker, attack: str) -> None:
    result = attacker.attempt(UNFELT[attack])
    assert SECRET not in repr(result)


# Those that take a tenth of a second or more are left to `make sandbox`, but for one of a kind.
QUICK = (
    "end its process",
    "crash",
    "forge a frame",
    "forge a result that names a file elsewhere",
    "forge a result of another call",
    "start threads without end",
    "hide files by ending the main thread",
    "use the calls of 32 bits",
)
LOSING = {**LOST, **(X86_ONLY if platform.machine() == "x86_64" else {})}


@pytest.mark.parametrize("attack", LOSING if ALL else [name for name in LOSING if name in QUICK])
def test_the_attack_ends_its_own_interpreter(attacker: Attacker, attack: str) -> None:
    code, reason = LOSING[attack]
    result = attacker.attempt(code)
    assert isinstance(result, InterpreterLost), result
    assert reason in result.reason
