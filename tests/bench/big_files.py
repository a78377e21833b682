"""A file of 512 MB up and down: how fast, in how much memory, and how long others wait meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable

from driver import Client, timed
from helper import cpu_seconds, resident_mb
from large_transfers import receive, send
from stand import Figure, Stand, at_most

MEMORY = 100  # MB that a file may take, whatever its size


async def files(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    size = 64 if stand.quick else 512
    async with stand.service(engine) as one:
        api = one.processes[0]
        resting, file_id = resident_mb(api.pid), ""
        async for _ in stand.turns():
            for way in ("up", "down"):
                api.forget_peak()
                begun, cpu = time.perf_counter(), cpu_seconds(api.pid)
                act = (send, api.url, size) if way == "up" else (receive, api.url, file_id, size)
                file_id, waited = await meanwhile(one.client, asyncio.to_thread(*act))
                took, spent = time.perf_counter() - begun, cpu_seconds(api.pid) - cpu
                grown = api.peak_mb() - resting
                yield Figure(engine, f"{size} MB {way}", size / took, "MB/s")
                yield Figure(engine, f"{size} MB {way}: CPU of the API", spent, "s")
                yield Figure(engine, f"{size} MB {way}: memory beyond the idle one", grown, "MB", limit=at_most(MEMORY))
                yield Figure(engine, f"create a thread meanwhile ({way}), 95th percentile", waited)
            await one.client.call("DELETE", f"/files/{file_id}")


async def meanwhile(client: Client, transfer: Awaitable[str]) -> tuple[str, float]:
    """What the transfer gives; and the milliseconds that 95 of 100 small writes took at most, one after the other."""
    transferring, waits = asyncio.ensure_future(transfer), []
    while not transferring.done() or len(waits) < 2:
        waits.append(await timed(client.call("POST", "/threads", {})))
        await asyncio.sleep(0.01)
    return await transferring, statistics.quantiles(waits, n=20)[-1] * 1000
