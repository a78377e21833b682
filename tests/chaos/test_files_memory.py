"""A file passes through the service in a memory that does not depend on its size, on both engines; and while it passes,
others are served. `make bench` does the same with 512 MB."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from azurite import Azurite
from large_transfers import connected, receive, send
from service_process import Process, service

SIZES, GROWTH = {"sqlite": 96, "azurite": 64}, 40  # MiB


def answers_of(process: Process, stop: threading.Event) -> list[float]:
    """Seconds of small writes, one after the other, until `stop`."""
    taken = []
    with connected(process.url) as connection:
        while not stop.wait(0.02):
            begun = time.perf_counter()
            connection.request(
                "POST", "/v1/threads", b"{}", {"OpenAI-Beta": "assistants=v2", "Content-Type": "application/json"}
            )
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)
            taken.append(time.perf_counter() - begun)
    return taken


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process in /proc")
@pytest.mark.parametrize("engine", ["sqlite", "azurite"])
def test_a_file_takes_a_memory_that_does_not_depend_on_its_size(engine: str, azurite: Azurite, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/store.db" if engine == "sqlite" else azurite.account()
    with service(storage) as process:
        receive(process.url, send(process.url, 1), 1)  # warm
        process.forget_peak()
        before = process.peak_mb()
        stop, others = threading.Event(), list[float]()
        asking = threading.Thread(target=lambda: others.extend(answers_of(process, stop)))
        asking.start()
        begun = time.perf_counter()
        try:
            receive(process.url, send(process.url, SIZES[engine]), SIZES[engine])
        finally:
            took = time.perf_counter() - begun
            stop.set()
            asking.join()
        assert process.peak_mb() - before < GROWTH
        assert len(others) > 5
        if engine == "sqlite":  # the emulator itself does one thing at a time
            assert max(others) < took / 2, "a small request waited for a large one"
