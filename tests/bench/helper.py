"""Servers that a benchmark needs beside the service, as processes: how they tell where they are, and what they use."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import uvloop
from aiohttp import web

TICK, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Helper:
    """A script of this folder that ends by `serve`. `url` is where it listens."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, Path(__file__).parent / script, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{script} did not start")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def serve(app: web.Application, port: int = 0) -> None:
    """On loopback until killed, on a free port unless one is given."""

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()

    uvloop.run(run())


def cpu_seconds(*pids: int) -> float:
    """Processor time of these processes so far."""
    return sum(sum(map(int, _stat(pid)[11:13])) for pid in pids) / TICK


def resident_mb(*pids: int) -> float:
    return sum(int(_stat(pid)[21]) for pid in pids) * PAGE / 2**20


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def wait_idle(*pids: int, below: float = 0.05, timeout: float = 20.0) -> None:
    """Until these processes use less than this share of a core: whatever they do after their start is done."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        before = cpu_seconds(*pids)
        time.sleep(0.5)
        if cpu_seconds(*pids) - before <= below * 0.5:
            return


def machine_seconds() -> float:
    """Processor time that the whole machine spent so far."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / TICK


def wait_quiet(patience: float, below: float = 0.2) -> None:
    """Until no program uses more than this share of a core. To be called while the benchmark itself does nothing."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = machine_seconds()
        time.sleep(1)
        if machine_seconds() - before <= below:
            return
