"""The test stand: the service as users run it, a fake model and the floors, and what a measurement is."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from azurite import Azurite
from driver import Client, Model, runs
from helper import Helper, wait_idle, wait_quiet
from service_process import Process

SQLITE, SEPARATE, AZURITE = "sqlite", "sqlite, separate", "azurite, separate"


def number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Limit:
    bound: float
    least: bool = False  # the figure must be at least this, rather than at most

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    def verdict(self, value: float) -> str:
        return "ok" if self.holds(value) else "BELOW" if self.least else "ABOVE"

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {number(self.bound)}"


def at_most(bound: float) -> Limit:
    return Limit(bound)


def at_least(bound: float) -> Limit:
    return Limit(bound, least=True)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of one repetition."""

    engine: str
    name: str
    value: float
    unit: str = "ms"
    floor: float | None = None
    limit: Limit | None = None


@dataclass(slots=True)
class Service:
    """A running service, warm."""

    engine: str
    storage: str
    processes: list[Process]  # the API first
    client: Client

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]


class Stand:
    """The test stand: what every scenario needs, and how often it measures."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path, stack: contextlib.ExitStack, quick: bool) -> None:
        self.session, self.folder, self.quick = session, folder, quick
        self.patience = 0.0 if quick else 20.0  # seconds to wait for other programs to pause
        stack.callback(self.stop_azurite)
        fake = Helper("fake_model.py")
        stack.callback(fake.stop)
        self.model = Model(session, fake.url)
        self._azurite: Azurite | None = None
        self._stores = 0

    async def turns(self, number: int = 3) -> AsyncIterator[int]:
        """The repetitions (one if it has to be quick): each begins in a quiet moment, if one comes soon."""
        for turn in range(1 if self.quick else number):
            await asyncio.to_thread(wait_quiet, self.patience)
            yield turn

    def few(self, full: int) -> int:
        return max(10, full // 4) if self.quick else full

    def account(self) -> str:
        if self._azurite is None:
            self._azurite = Azurite()
        return self._azurite.account()

    def stop_azurite(self) -> None:
        """The next account is that of a fresh one: it slows down, and may even stall, with every blob it holds."""
        if self._azurite:
            self._azurite.stop()
            self._azurite = None

    def storage(self, engine: str) -> str:
        """A fresh store."""
        self._stores += 1
        return self.account() if engine == AZURITE else f"sqlite:///{self.folder}/{self._stores}.db"

    def settings(self, storage: str) -> dict[str, str]:
        return {"STORAGE": storage, "OPENAI_BASE_URL": f"{self.model.url}/v1", "OPENAI_API_KEY": "bench"}

    @contextlib.asynccontextmanager
    async def service(self, engine: str, storage: str = "", key: str = "", **more: str) -> AsyncIterator[Service]:
        """`key` is that of its client, `more` are further settings."""
        storage = storage or self.storage(engine)
        with contextlib.ExitStack() as stack:
            processes = []
            for command in ("serve",) if engine == SQLITE else ("api", "worker"):
                processes.append(Process(command, {**self.settings(storage), **more}))
                stack.callback(processes[-1].kill)
            one = Service(engine, storage, processes, Client(self.session, processes[0].url, key))
            try:
                await self._warm(one)
                yield one
            except BaseException:
                print(*(line for process in processes for line in process.log[-30:]), sep="", file=sys.stderr)
                raise

    async def _warm(self, one: Service) -> None:
        await self.model.set(0)
        await runs(one.client, self.model, 1, 5, poll=0.003)  # the first call of a process is slow
        await runs(one.client, self.model, 8, self.few(100), poll=0.01)
        await asyncio.to_thread(wait_idle, *one.pids)

    @contextlib.asynccontextmanager
    async def floor(self) -> AsyncIterator[Helper]:
        helper = Helper("floor.py", str(self.folder / f"floor{time.monotonic_ns()}.db"), self.model.url)
        try:
            await self.model.set(0)
            await runs(Client(self.session, helper.url), self.model, 8, self.few(100), poll=0.01)
            yield helper
        finally:
            helper.stop()
