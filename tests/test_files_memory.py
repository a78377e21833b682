"""A file passes through the service in a memory that does not depend on its size, on both engines; and while it passes,
others are served. `make bench` does the same with 512 MB."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azurite import Azurite
from forms import TYPE, field, form
from service import Process, service

MIB = 1024 * 1024
SIZES, GROWTH = {"sqlite": 96, "azurite": 32}, 24  # MiB
PIECE = random.Random(7).randbytes(MIB)


def peak(process: Process) -> float:
    """MiB of memory that the process had at most since `forget_peak`."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak(process: Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def connected(process: Process) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection(process.url.removeprefix("http://"), timeout=60))


def send(process: Process, size: int) -> str:
    """Upload so many MiB; the id of the file."""
    head, tail = form(field("purpose", "assistants"), field("file", b"\0", "big")).split(b"\0")

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(size):
            yield PIECE
        yield tail

    length = len(head) + size * MIB + len(tail)
    with connected(process) as connection:
        connection.request("POST", "/v1/files", body(), {**TYPE, "Content-Length": str(length)})
        answer: Any = json.loads(connection.getresponse().read())
    assert answer["bytes"] == size * MIB, answer
    return str(answer["id"])


def receive(process: Process, file_id: str) -> str:
    """Download; the digest of the bytes."""
    digest = hashlib.sha256()
    with connected(process) as connection:
        connection.request("GET", f"/v1/files/{file_id}/content")
        response = connection.getresponse()
        while data := response.read(MIB):
            digest.update(data)
    return digest.hexdigest()


def answers_of(process: Process, stop: threading.Event) -> list[float]:
    """Seconds of small writes, one after the other, until `stop`."""
    taken = []
    with connected(process) as connection:
        while not stop.wait(0.02):
            begun = time.perf_counter()
            connection.request("POST", "/v1/threads", b"{}", {"OpenAI-Beta": "assistants=v2"})
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)
            taken.append(time.perf_counter() - begun)
    return taken


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process in /proc")
@pytest.mark.parametrize("engine", ["sqlite", "azurite"])
def test_a_file_takes_a_memory_that_does_not_depend_on_its_size(engine: str, azurite: Azurite, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/store.db" if engine == "sqlite" else azurite.account()
    with service(storage) as process:
        receive(process, send(process, 1))  # warm
        forget_peak(process)
        before = peak(process)
        stop, others = threading.Event(), list[float]()
        asking = threading.Thread(target=lambda: others.extend(answers_of(process, stop)))
        asking.start()
        file_id = send(process, SIZES[engine])
        found = receive(process, file_id)
        stop.set()
        asking.join()
        assert found == hashlib.sha256(PIECE * SIZES[engine]).hexdigest()
        assert peak(process) - before < GROWTH
        assert len(others) > 5
        if engine == "sqlite":  # the emulator itself does one thing at a time
            assert max(others) < 0.5, "a small request waited for a large one"
