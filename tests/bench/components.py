"""Where the time goes: `python tests/bench/components.py`, with py-spy on the PATH (`uv tool install py-spy`).

Samples the one-process service on SQLite while 32 clients run, and splits the CPU of a run by component: a sample
counts for the innermost frame that belongs to one. The collector's pauses are in whatever they interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import aiohttp
import uvloop

from driver import runs
from helper import cpu_seconds
from stand import SQLITE, Stand

RUNS, CLIENTS, POLL = 6000, 32, 0.05
OTHER = "event loop, tasks"
COMPONENTS = {  # the first that matches a frame, by its file
    "SQLite statements": r"infra/sqlite/",
    "openai SDK and httpx": r"openai/|httpx2/|httpcore2|anyio|http/cookiejar|infra/models/(upstream|chat|providers)",
    "aiohttp, calling the model": r"aiohttp/(client|connector|cookiejar)",
    "pydantic": r"pydantic",
    "middlewares": r"api/middleware",
    "routing": r"web_urldispatcher",
    "aiohttp, answering": r"aiohttp/",
    "handlers": r"/api/",
    "events, fold, documents": r"/core/",
    "worker": r"/worker/",
    OTHER: r"uvloop|asyncio|serving\.py",
}
CALLING = re.compile(r"aiohttp/client|httpx_aiohttp")


def component(frames: list[str]) -> str | None:
    """Of a stack, innermost frame last. None for a thread that only waits for work."""
    if "threading.py" in frames[0] and not any("infra/sqlite/" in frame for frame in frames):
        return None
    if "threading.py" in frames[0]:
        return "checkpoints, in a thread"
    for frame in reversed(frames):
        for name, pattern in COMPONENTS.items():
            if re.search(pattern, frame):
                inner = name == "aiohttp, answering" and any(CALLING.search(outer) for outer in frames)
                return "aiohttp, calling the model" if inner else name
    return OTHER


def shares(samples: str) -> Counter[str]:
    """Samples by component, from py-spy's raw format: frames, outermost first, and a number."""
    found: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, number = line.rpartition(" ")
        if name := component(stack.split(";")):
            found[name] += int(number)
    return found


async def sampled(stand: Stand, file: Path) -> tuple[float, float]:
    """Milliseconds of CPU a run, and runs a second. Sampling slows both down by a few per cent."""
    async with stand.service(SQLITE) as one:
        await stand.model.set(100)
        # Nonblocking: it reads without stopping the process, and drops the stacks that changed meanwhile.
        sampling = ["py-spy", "record", "--nonblocking", "--rate", "100", "--duration", "600", "--format", "raw"]
        command = [*sampling, "--output", str(file), "--pid", str(one.pids[0])]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await asyncio.sleep(1)
        before = cpu_seconds(*one.pids)
        done = await runs(one.client, stand.model, CLIENTS, RUNS, poll=POLL)
        spent = cpu_seconds(*one.pids) - before
        spy.send_signal(signal.SIGINT)
        await asyncio.to_thread(spy.wait)
    return spent * 1000 / RUNS, done.rate


async def measure() -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            stand = Stand(session, folder, stack, quick=True)
            cost, rate = await sampled(stand, folder / "samples")
            found = shares((folder / "samples").read_text())
    print(
        f"{cost:.2f} ms of CPU a run, {rate:.0f} runs a second\n\n| component | ms a run | share |\n| --- | --- | --- |"
    )
    for name, number in found.most_common():
        print(f"| {name} | {cost * number / found.total():.2f} | {number / found.total():.0%} |")


if __name__ == "__main__":
    uvloop.run(measure())
