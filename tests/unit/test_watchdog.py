"""What holds the event loop is told."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from assistants_service.worker import watchdog
from assistants_service.worker.actions import Actions


async def test_an_action_that_holds_the_event_loop_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "BLOCKED", 0.05)
    monkeypatch.setattr(watchdog, "LOOK", 0.01)

    async def lookup() -> str:
        until = time.monotonic() + 20
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
        return "found"

    with watchdog.watch():
        assert await Actions({"lookup": lookup}).call("p", "lookup", "{}") == "found"
        async with asyncio.timeout(20):
            while "runs again, after" not in caplog.text:
                await asyncio.sleep(0.01)
    told, again = caplog.records[:2]
    assert (told.levelno, again.levelno) == (logging.ERROR, logging.WARNING)
    assert "action lookup of project p, at test_watchdog.py:" in told.getMessage()
    assert " lookup < action_tasks.py:" in told.getMessage()


async def test_a_watchdog_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK", 0.01)
    before = set(threading.enumerate())
    with watchdog.watch():
        (watch,) = set(threading.enumerate()) - before
    watch.join(20)
    assert not watch.is_alive()
