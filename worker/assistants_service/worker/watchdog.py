"""Logs what blocks the event loop, and with it the whole process. Nothing could interrupt it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

log = logging.getLogger(__name__)
BLOCKED: Final = 5.0  # seconds until it is logged
LOOK: Final = 1.0  # seconds between two checks
FRAMES: Final = 6  # of the stack, the innermost


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Watches the running event loop from a thread, until the end of the block."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    watch = threading.Thread(target=_watch, args=(loop, threading.get_ident(), stop), name="watchdog", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()


def _watch(loop: asyncio.AbstractEventLoop, ident: int, stop: threading.Event) -> None:
    while not stop.wait(LOOK):
        answered, begun = threading.Event(), time.monotonic()
        try:
            loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # the loop is closed
            return
        if answered.wait(BLOCKED):
            continue
        log.error(
            "the event loop has been blocked for %g s, and all its tasks: %s",
            BLOCKED,
            _blocking_task(loop, ident),
        )
        while not answered.wait(LOOK):
            if stop.is_set():
                return
        log.warning("the event loop runs again, after %.0f s", time.monotonic() - begun)


def _blocking_task(loop: asyncio.AbstractEventLoop, ident: int) -> str:
    """The task that blocks the loop, and where: no content."""
    task, frame = asyncio.current_task(loop), sys._current_frames().get(ident)
    return f"{task.get_name() if task else 'no task'}, at {' < '.join(_places(frame))}"


def _places(frame: FrameType | None) -> Iterator[str]:
    for _ in range(FRAMES):
        if frame is None:
            return
        yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
