"""The worker's own tool, in the simulation and with real processes (ACTIONS=lookup_action)."""

from __future__ import annotations

import asyncio

from assistants_service import action


@action
async def lookup(word: str) -> str:
    await asyncio.sleep(0.3)
    return f"{word} means {word}"
