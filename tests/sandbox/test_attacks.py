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
from assistants_service.infra.sandbox.limits import MIB
from attacks import LOST, PRELUDE, REFUSED, UNFELT, X86_ONLY
from sandboxes import bare_sandbox, needs_landlock
from targets import SECRET, Targets, targets

pytestmark = needs_landlock
# What the kernel, or Python on its behalf, says of what is not allowed, or is not there for the attacker.
REFUSAL = re.compile(
    r"^(PermissionError|OSError|FileNotFoundError|socket\.gaierror|urllib\.error\.URLError|ValueError: not allowed)"
)


class Attacker:
    """A session that is attacked from, and another one beside it. A session that is lost is replaced."""

    def __init__(self, runner: asyncio.Runner, attacked: Targets) -> None:
        self._runner, self._targets = runner, attacked
        self._sandbox = bare_sandbox(seconds=10, grace=1, memory=256 * MIB, file=16 * MIB, folder=64 * MIB)
        self._session: LocalInterpreter | None = None
        self.other = runner.run(self._other())

    def attempt(self, code: str) -> CellResult | InterpreterLost:
        return self._runner.run(self._attempt(code))

    def state(self) -> dict[str, object]:
        known = {self._targets.victim.pid, *self._runner.run(self._interpreters())}
        children = {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
        return {**self._targets.state(), "other session": self.other.read_text(), "strangers": children - known}

    def close(self) -> None:
        self._runner.run(self._sandbox.close())

    async def _interpreters(self) -> set[int]:
        spare = [await self._sandbox._spare] if self._sandbox._spare else []
        return {each._process.pid for each in (*self._sandbox._live, *spare)}

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
        given = {**self._targets.names(), "SESSIONS": str(self._session._folder.parent), "OTHER": str(self.other)}
        told = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        assert (await self._session.run(f"{PRELUDE}\n{told}")).error is None
        return self._session

    async def _attempt(self, code: str) -> CellResult | InterpreterLost:
        session = await self._begin()
        try:
            return await session.run(code)
        except InterpreterLost as lost:
            return lost


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
ALL = os.environ.get("SANDBOX") == "all"
QUICK = (
    "end its process",
    "crash",
    "forge a frame",
    "forge a result that names a file elsewhere",
    "forge a result of another call",
    "start threads without end",
    "use the calls of 32 bits",
)
LOSING = {**LOST, **(X86_ONLY if platform.machine() == "x86_64" else {})}


@pytest.mark.parametrize("attack", LOSING if ALL else [name for name in LOSING if name in QUICK])
def test_the_attack_ends_its_own_interpreter(attacker: Attacker, attack: str) -> None:
    code, reason = LOSING[attack]
    result = attacker.attempt(code)
    assert isinstance(result, InterpreterLost), result
    assert reason in result.reason
