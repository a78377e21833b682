"""The service as users run it: processes of the command `assistants`, over a store of the test's choice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

COMMAND = str(Path(sys.executable).parent / "assistants")
LISTENING = re.compile(r"API at (http://[\d.:]+)/v1")
START_TIMEOUT = 120.0  # seconds, of what takes one where nothing else wants the processors


class Process:
    """One process of the service. What it logs is kept in `log`; `url` is that of its API (without /v1)."""

    program: ClassVar[list[str]] = [COMMAND]
    stdin: ClassVar[int] = subprocess.DEVNULL

    def __init__(self, command: str, env: dict[str, str]) -> None:
        clean = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "STORAGE")}
        self.log: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [*self.program, command],
            env={**clean, "PORT": "0", "CODE_INTERPRETER": "off", **env},  # which is tried at each start of a worker
            stdin=self.stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_TIMEOUT) or self._process.poll() is not None:
            code = self._process.poll()
            self.kill()
            raise RuntimeError(f"assistants {command} did not start (exit code {code}): {''.join(self.log)}")

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.log.append(line)
            if found := LISTENING.search(line):
                self.url = found[1]
            if found or "worker ready" in line:
                self._ready.set()
        self._ready.set()

    @property
    def pid(self) -> int:
        return self._process.pid

    def forget_peak(self) -> None:
        """What `peak_mb` tells begins here. Linux only."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The most memory that the process had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """As kill -9: no drain, no goodbye."""
        self._process.kill()
        self._wait()

    def terminate(self, timeout: float = 40) -> int:
        """SIGTERM: drains. The exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._wait(timeout)

    def _wait(self, timeout: float = 40) -> int:
        code = self._process.wait(timeout)
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe:
                pipe.close()
        return code


@contextlib.contextmanager
def service(storage: str, *, separate: bool = False, **env: str) -> Iterator[Process]:
    """The running API: with its worker in one process, or with a worker process of its own (`separate`)."""
    settings = {"STORAGE": storage, **env}
    with contextlib.ExitStack() as stack:
        if separate:
            worker = Process("worker", settings)
            stack.callback(worker.kill)
        api = Process("api" if separate else "serve", settings)
        stack.callback(api.kill)
        yield api


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url) as response:
        return response.status, response.read()


def wait_until(holds: object, timeout: float = 30.0, every: float = 0.02) -> None:
    """For what only another process knows: look until `holds()` is true."""
    end = time.monotonic() + timeout
    while not holds():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError("it did not come to hold in time")
        time.sleep(every)
