"""The Azurite emulator for tests: installed with npm on first use, started on free ports, kept in memory.

A fresh server per test module, since its deletes slow down with every blob it holds; within the module each test gets a
storage account of its own, since container names are fixed.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from node import NODE, npm_install

HOME = Path(__file__).parent / "azurite"
KEY = base64.b64encode(b"a key for tests").decode()
ACCOUNTS = 200
# The server ends with its input, thus with the process that started it, however that one dies.
LEASH = 'data:text/javascript,process.stdin.on("end",()=>process.exit()).resume()'
LISTENING = re.compile(rb"Azurite (Blob|Queue|Table) service is successfully listening at http://127\.0\.0\.1:(\d+)")
START_TIMEOUT = 60.0


class Azurite:
    """A running server. `account()` is the connection string of an account that nobody has used yet."""

    def __init__(self) -> None:
        npm_install(HOME)  # 10 s and 245 MB on first use
        self._names = (f"account{number}" for number in itertools.count(1))
        accounts = ";".join(f"account{number}:{KEY}" for number in range(1, ACCOUNTS + 1))
        self._folder = tempfile.TemporaryDirectory(prefix="azurite-")
        self._process = subprocess.Popen(
            [
                *(NODE, "--import", LEASH, HOME / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"),
                *("--inMemoryPersistence", "--silent", "--disableTelemetry"),
                *("--blobPort", "0", "--queuePort", "0", "--tablePort", "0"),
            ],
            cwd=self._folder.name,
            env={**os.environ, "AZURITE_ACCOUNTS": accounts},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self.ports = self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> dict[str, int]:
        """The port of each service, as soon as all three listen."""
        ports: dict[str, int] = {}
        assert self._process.stdout
        alarm = threading.Timer(START_TIMEOUT, self._process.kill)
        alarm.start()
        said = b""
        try:
            while len(ports) < 3:
                line = self._process.stdout.readline()
                if not line:
                    raise RuntimeError(f"Azurite did not start: {said.decode(errors='replace')}")
                said += line
                if found := LISTENING.search(line):
                    ports[found[1].decode().lower()] = int(found[2])
        finally:
            alarm.cancel()
        return ports

    def account(self, blob_port: int | None = None) -> str:
        """A fresh account; `blob_port` is that of a proxy in front of the server."""
        name = next(self._names)
        return (
            f"DefaultEndpointsProtocol=http;AccountName={name};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{blob_port or self.ports['blob']}/{name};"
            f"QueueEndpoint=http://127.0.0.1:{self.ports['queue']}/{name};"
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._folder.cleanup()


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    """A fresh server for the module."""
    server = Azurite()
    yield server
    server.stop()


@pytest.fixture
def azure_account(azurite: Azurite) -> str:
    """The connection string of a fresh account."""
    return azurite.account()
