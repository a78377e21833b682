"""What is measured, and the limit that each figure has to keep. A scenario yields each figure once per repetition."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import azure_cost
from big_files import files
from driver import HEADERS, Client, Load, load, pick_ups, runs, streams, timed
from helper import cpu_seconds, resident_mb
from neighbours import neighbours
from search_quality import search_quality
from service_process import COMMAND
from stand import AZURITE, SEPARATE, SQLITE, Figure, Limit, Stand, at_least, at_most
from vector_search import vector_search

T, R = TypeVar("T"), TypeVar("R")
Scenario = Callable[[Stand, str], AsyncIterator[Figure]]
FLOOR = Path(__file__).resolve().parent / "floor.py"
# How often clients poll, by how many there are. The model's time is no multiple of it where one client alone waits, so
# that the wait for the next poll is neither hidden nor always the same.
POLL = {1: 0.003, 2: 0.005, 4: 0.01, 8: 0.02, 16: 0.03, 32: 0.05, 64: 0.1}
MODEL_MS = 97


async def crud(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    number = stand.few(2000) if engine != AZURITE else stand.few(200)
    least = {"create a message": at_least(1000), "get a thread": at_least(4000)} if engine == SQLITE else {}
    async with stand.service(engine) as one, stand.floor() as bare:
        floor = Client(stand.session, bare.url)
        async for _ in stand.turns():
            above = await crud_rates(one.client, number)
            below = await crud_rates(floor, number) if engine == SQLITE else {}
            for name, rate in above.items():
                yield Figure(engine, f"{name}, 32 clients", rate, "/s", below.get(name), least.get(name))


async def crud_rates(client: Client, number: int) -> dict[str, float]:
    threads = [await client.asking() for _ in range(64)]
    turn = iter(range(10**9))

    def some_thread() -> str:
        return threads[next(turn) % len(threads)]

    acts: dict[str, Callable[[], Awaitable[Any]]] = {
        "create an assistant": lambda: client.call("POST", "/assistants", {"model": "fake", "instructions": "Be."}),
        "create a thread": client.thread,
        "create a message": lambda: client.message(some_thread()),
        "get a thread": lambda: client.call("GET", f"/threads/{some_thread()}"),
        "list 20 messages": lambda: client.call("GET", f"/threads/{some_thread()}/messages?limit=20"),
    }
    return {name: (await load(32, number, lambda act=act: timed(act()))).rate for name, act in acts.items()}


async def run(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    limits: dict[str, Limit] = {}
    if engine == SQLITE:
        limits = {"1 p50": at_most(10), "32 p50": at_most(100), "32 rate": at_least(150)}
    levels = list(POLL) if engine == SQLITE and not stand.quick else [1, 8, 32]
    async with stand.service(engine) as one, stand.floor() as bare:
        async for _ in stand.turns():
            for clients in levels:
                number = stand.few(max(40, clients * (4 if engine == AZURITE else 16)))
                above, cost = await run_level(stand, one.client, one.pids, clients, number)
                below, least = None, None
                if engine != AZURITE:
                    below, least = await run_level(stand, Client(stand.session, bare.url), [bare.pid], clients, number)
                many = f"{clients} client{'s' if clients > 1 else ''}"
                beyond, rate = limits.get(f"{clients} p50"), limits.get(f"{clients} rate")
                yield Figure(engine, f"run, {many}: overhead p50", above.p50, "ms", below and below.p50, beyond)
                yield Figure(engine, f"run, {many}: overhead p99", above.p99, "ms", below and below.p99)
                yield Figure(engine, f"run, {many}: completed", above.rate, "/s", below and below.rate, rate)
                yield Figure(engine, f"run, {many}: CPU a run", cost, "ms", least)


async def run_level(stand: Stand, client: Client, pids: list[int], clients: int, number: int) -> tuple[Load, float]:
    """The load, and the milliseconds of CPU that the server spent on a run, its thread, message and polls."""
    await stand.model.set(MODEL_MS if clients == 1 else 100)
    before = cpu_seconds(*pids)
    done = await runs(client, stand.model, clients, number, poll=POLL[clients])
    return done, (cpu_seconds(*pids) - before) * 1000 / number


async def tool(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    number, limit = stand.few(40), at_most(25) if engine == SQLITE else None
    async with stand.service(engine) as one, stand.floor() as bare:
        await stand.model.set(MODEL_MS)
        async for _ in stand.turns():
            above = await runs(one.client, stand.model, 1, number, poll=POLL[1], tools=True)
            below = None
            if engine != AZURITE:
                bare_client = Client(stand.session, bare.url)
                below = (await runs(bare_client, stand.model, 1, number, poll=POLL[1], tools=True)).p50
            yield Figure(engine, "tool run, 1 client: overhead p50", above.p50, "ms", below, limit)


async def stream(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    async with stand.service(engine) as one, stand.floor() as bare:
        async for _ in stand.turns():
            for clients in (1, 32):
                number = stand.few(max(20, clients * 4))
                await stand.model.set(100, tokens=50, itl_ms=10)
                first, whole = await streams(one.client, stand.model, clients, number)
                bare_first, bare_whole = await streams(Client(stand.session, bare.url), stand.model, clients, number)
                many, limit = f"{clients} client{'s' if clients > 1 else ''}", None
                if engine == SQLITE and clients == 1:
                    limit = at_most(10)
                yield Figure(engine, f"stream, {many}: first token p50", first.p50, "ms", bare_first.p50, limit)
                yield Figure(engine, f"stream, {many}: first token p99", first.p99, "ms", bare_first.p99)
                yield Figure(engine, f"stream, {many}: whole p50", whole.p50, "ms", bare_whole.p50)


async def azure(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    """Runs on Azurite against the bare storage calls that one of them makes."""
    operations = await azure_cost.operations_of_a_run(stand.account())
    async with stand.service(engine) as one, azure_cost.Bare(stand.account()) as bare:
        yield Figure(engine, "storage operations of a run", operations.total(), "", limit=at_most(14))
        for kind, times in sorted(operations.items()):
            yield Figure(engine, f"of these {kind}", times, "")
        async for _ in stand.turns():
            await bare.seconds(operations)
            floor = statistics.median([await bare.seconds(operations) for _ in range(20)]) * 1000
            await stand.model.set(MODEL_MS)
            above = (await runs(one.client, stand.model, 1, stand.few(40), poll=POLL[1])).p50
            await stand.model.set(100, tokens=50, itl_ms=10)
            first = (await streams(one.client, stand.model, 1, stand.few(20)))[0].p50
            yield Figure(engine, "run, 1 client: overhead p50", above, "ms", floor)
            yield Figure(engine, "overhead of a run, in floors", above / floor, "x", 1, at_most(3))
            yield Figure(engine, "first token p50", first, "ms", floor, at_most(3 * floor + 100))


async def long(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    sizes = [10, 1000] if stand.quick else [10, 100, 1000, 10_000]
    rounds = 20 if engine == AZURITE else stand.few(100)
    async with stand.service(engine) as one:
        threads = {size: await one.client.filled(size) for size in sizes}
        await stand.model.set(0)
        async for _ in stand.turns():
            took: dict[str, dict[int, float]] = {}
            for name, act in (("list 20", list_twenty), ("start a run", start_a_run)):
                # By turns, so that a noisy machine is noisy to all.
                rows = [[await act(one.client, thread) for thread in threads.values()] for _ in range(rounds)]
                columns = zip(*rows, strict=True)
                took[name] = {size: statistics.median(times) for size, times in zip(sizes, columns, strict=True)}
                for size, seconds in took[name].items():
                    yield Figure(engine, f"{name} at {size:,} messages", seconds * 1000)
                flat = max(took[name].values()) / min(took[name].values())
                yield Figure(engine, f"{name}: longest to shortest thread", flat, "x", limit=at_most(1.5))
        one.processes[0].terminate()
        if engine != SQLITE:
            one.processes[1].terminate()
        async for _ in stand.turns():
            for name, act in (("list 20", list_twenty), ("start a run", start_a_run)):
                async with stand.service(engine, one.storage) as fresh:
                    await act(fresh.client, threads[10])
                    cold = await act(fresh.client, threads[sizes[-1]])
                    warm = statistics.median([await act(fresh.client, threads[sizes[-1]]) for _ in range(20)])
                where = f"{name}, first touch of {sizes[-1]:,} messages"
                yield Figure(engine, where, cold * 1000, "ms", warm * 1000)
                yield Figure(engine, f"{where}, to warm", cold / warm, "x", limit=at_most(20))


async def list_twenty(client: Client, thread: str) -> float:
    return await timed(client.call("GET", f"/threads/{thread}/messages?limit=20"))


async def start_a_run(client: Client, thread: str) -> float:
    """The time of the POST. The run sees few messages, and is waited for outside of the figure."""
    await client.assistant()
    begun = time.perf_counter()
    started = await client.start(thread, truncation_strategy={"type": "last_messages", "last_messages": 5})
    taken = time.perf_counter() - begun
    await client.ended(started, 0.002)
    return taken


async def many(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    """Every operation, on a store with few objects and on one with many, by turns."""
    few, lots = 10, 1000 if stand.quick else 10_000
    async with stand.service(engine) as small, stand.service(engine) as large:
        stores = []
        for one, size in ((small, few), (large, lots)):
            ids: dict[str, list[str]] = {"assistants": [], "threads": []}

            async def make(client: Client = one.client, ids: dict[str, list[str]] = ids) -> float:
                ids["threads"].append(await client.asking())
                body = {"model": "fake", "name": "one of many"}
                ids["assistants"].append((await client.call("POST", "/assistants", body))["id"])
                return 0

            await load(16, size, make)
            stores.append((one.client, ids))
        await stand.model.set(0)
        async for repetition in stand.turns():
            rounds = [[await every_operation(*store, turn + repetition * 7) for store in stores] for turn in range(40)]
            ratios: dict[str, float] = {}
            for name in rounds[0][0]:
                medians = [statistics.median(turn[column][name] for turn in rounds) for column in (0, 1)]
                ratios[name] = medians[1] / medians[0]
                yield Figure(engine, f"{name}, {lots:,} to {few} objects", ratios[name], "x", limit=at_most(1.3))


async def every_operation(client: Client, ids: dict[str, list[str]], turn: int) -> dict[str, float]:
    """The seconds of each."""
    took: dict[str, float] = {}

    async def act(name: str, method: str, path: str, body: Any = None) -> Any:
        begun = time.perf_counter()
        said = await client.call(method, path, body)
        took[name] = time.perf_counter() - begun
        return said

    old_assistant = f"/assistants/{ids['assistants'][turn * 31 % len(ids['assistants'])]}"
    old_thread = f"/threads/{ids['threads'][turn * 31 % len(ids['threads'])]}"
    named, said = {"metadata": {"turn": str(turn)}}, {"role": "user", "content": "hello"}
    made = await act("create an assistant", "POST", "/assistants", {"model": "fake"})
    await act("get an assistant", "GET", old_assistant)
    await act("update an assistant", "POST", old_assistant, named)
    await act("list assistants", "GET", "/assistants?limit=20")
    thread = f"/threads/{(await act('create a thread', 'POST', '/threads', {}))['id']}"
    await act("get a thread", "GET", old_thread)
    await act("update a thread", "POST", old_thread, named)
    await act("create a message", "POST", f"{old_thread}/messages", said)
    new = await act("create a message in a new thread", "POST", f"{thread}/messages", said)
    message = f"{thread}/messages/{new['id']}"
    await act("get a message", "GET", message)
    await act("update a message", "POST", message, named)
    await act("list messages", "GET", f"{old_thread}/messages?limit=20")
    run = await act("create a run", "POST", f"{thread}/runs", {"assistant_id": made["id"]})
    await client.ended(run, 0.003)
    run_path = f"{thread}/runs/{run['id']}"
    await act("get a run", "GET", run_path)
    await act("update a run", "POST", run_path, named)
    await act("list runs", "GET", f"{thread}/runs")
    steps = (await act("list steps", "GET", f"{run_path}/steps"))["data"]
    await act("get a step", "GET", f"{run_path}/steps/{steps[0]['id']}")
    await act("delete a message", "DELETE", message)
    await act("delete a thread", "DELETE", thread)
    await act("delete an assistant", "DELETE", f"/assistants/{made['id']}")
    return took


async def in_flight(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    number = 1000
    async for _ in stand.turns(2):
        async with stand.service(engine) as one:
            threads = [await one.client.asking() for _ in range(number)]
            await stand.model.set(10_000)
            begun = time.perf_counter()
            started = await each(32, threads, one.client.start)
            asked = time.perf_counter() - begun
            await asyncio.sleep(max(0.0, 9 - asked))
            held = resident_mb(one.pids[-1])
            ends = await each(64, started, partial(one.client.ended, poll=0.05))
            took = time.perf_counter() - begun
        if {run["status"] for run in ends} != {"completed"}:
            raise RuntimeError("a run did not complete")
        yield Figure(engine, f"{number:,} runs in flight: all asked for after", asked, "s")
        limit = at_most(14)
        yield Figure(engine, f"{number:,} runs in flight, a model of 10 s: all done after", took, "s", 10, limit)
        yield Figure(engine, f"{number:,} runs in flight: memory of the worker's process", held, "MB")


async def each(workers: int, things: Sequence[T], act: Callable[[T], Awaitable[R]]) -> list[R]:
    """Do it to all, so many at once."""
    left, done = iter(things), []

    async def one() -> float:
        done.append(await act(next(left)))
        return 0

    await load(workers, len(things), one)
    return done


async def idle(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    seconds = 5 if stand.quick else 15
    if engine == AZURITE:
        async for _ in stand.turns():
            a_day = await azure_cost.idle_operations_a_day(stand.account(), seconds)
            yield Figure(engine, "storage operations of an idle worker a day", a_day, "", limit=at_most(200_000))
        return
    small = {"cpu": at_most(1), "memory": at_most(120)} if engine == SQLITE else {}
    async with stand.service(engine) as one:
        await asyncio.sleep(3)
        async for _ in stand.turns():
            before = cpu_seconds(*one.pids)
            await asyncio.sleep(seconds)
            share = (cpu_seconds(*one.pids) - before) / seconds * 100
            yield Figure(engine, "idle: CPU of a core", share, "%", limit=small.get("cpu"))
            yield Figure(engine, "idle: memory", resident_mb(*one.pids), "MB", limit=small.get("memory"))


async def pick_up(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    """From the client's request to the call of the model: what the API does before is in it."""
    together = engine == SQLITE
    async with stand.service(engine) as one:
        await stand.model.set(20)
        async for _ in stand.turns():
            busy = await pick_ups(one.client, stand.model, stand.few(60), pause=0)
            late = await pick_ups(one.client, stand.model, 4, pause=3)
            limit = at_most(20 if together else 60)
            yield Figure(engine, "picked up while runs keep coming", statistics.median(busy) * 1000, limit=limit)
            limit = at_most(20 if together else 600)
            yield Figure(engine, "picked up after 3 s of idleness, longest", max(late) * 1000, limit=limit)


async def start(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    async for _ in stand.turns(9):
        settings = stand.settings(stand.storage(engine))
        above = first_answer([COMMAND, "serve"], {**settings, "PORT": str(free_port())})
        folder, port = tempfile.mkdtemp(dir=stand.folder), str(free_port())
        bare = [sys.executable, str(FLOOR), f"{folder}/floor.db", stand.model.url, port]
        below = first_answer(bare, {"PORT": port})
        yield Figure(engine, "start: first answer after", above, "s", below, at_most(1.5))


def first_answer(command: list[str], settings: dict[str, str]) -> float:
    """Seconds from the command to the answer of its first request."""
    begun, nowhere = time.perf_counter(), subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **settings}, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    try:
        while process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", int(settings["PORT"]), timeout=5)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("POST", "/v1/threads", b"{}", HEADERS)
                if connection.getresponse().status == 200:
                    return time.perf_counter() - begun
            time.sleep(0.005)
        raise RuntimeError(f"{command[0]} ended with {process.returncode} before it answered")
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


ALL = (SQLITE, SEPARATE, AZURITE)
SCENARIOS: dict[str, tuple[Scenario, tuple[str, ...]]] = {
    "start": (start, (SQLITE,)),
    "idle": (idle, ALL),
    "crud": (crud, ALL),
    "run": (run, ALL),
    "azure": (azure, (AZURITE,)),
    "tool": (tool, ALL),
    "stream": (stream, ALL),
    "pick-up": (pick_up, ALL),
    "in-flight": (in_flight, (SQLITE, SEPARATE)),
    "long": (long, (SQLITE, AZURITE)),
    "many": (many, (SQLITE,)),
    "neighbours": (neighbours, (SQLITE, AZURITE)),
    "files": (files, (SQLITE, AZURITE)),
    "search": (vector_search, (SQLITE, AZURITE)),
    "quality": (search_quality, (SQLITE,)),
}
QUICK = {
    "start": (SQLITE,),
    "crud": (SQLITE,),
    "run": (SQLITE,),
    "tool": (SQLITE,),
    "stream": (SQLITE,),
    "pick-up": (SQLITE, SEPARATE),
    "azure": (AZURITE,),
}
