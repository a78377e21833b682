"""Actions that a worker must bear (ACTIONS=misbehaving_actions)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from assistants_service import action


@action
async def quits() -> str:
    sys.exit(3)


@action
def quits_plainly() -> str:
    sys.exit(4)


@action
async def swallows() -> str:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@action
async def sinks() -> str:
    """Sleep in a thread, which the event loop would wait for at its end."""
    await asyncio.to_thread(time.sleep, 3600)
    return "late"
