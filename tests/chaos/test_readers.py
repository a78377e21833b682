"""P4, and what readers cost: some break off anywhere and come back to another process, some watch and hear nothing,
some are gone without a word, and some never read at all.

READERS=10 has ten times as many; -s shows the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import virtual_time
from assistants_service.api import connection_limits, streaming
from assistants_service.composition import api_of
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads import sse
from inprocess_service import BETA, PATIENCE, InProcess, in_process, path_of, says
from real_processes import Reality, Visitor, reality
from scripted_models import ByName
from simulated_clients import names_in_path

SCALE = int(os.environ.get("READERS", "1"))
SEED = 1
MB = 1024 * 1024
PAGE = resource.getpagesize()


# --- readers that break off -----------------------------------------------------------------------------------------


class Reader:
    """Reads a run's events, a random number of bytes at a time, each time from another process. Of what it got it keeps
    whole events. One connection in ten it does not close, but leaves as if its network were gone."""

    def __init__(self, world: Reality, run: Run, chance: random.Random, left: list[aiohttp.ClientResponse]) -> None:
        self.world, self.chance, self.left = world, chance, left
        self.path = f"/threads/{run.thread_id}/runs/{run.id}/events"
        self.heard, self.last, self.broken = b"", "", 0

    async def read(self) -> bytes:
        """All that is heard in the end."""
        while not self.heard.endswith(sse.DONE):
            self._keep(await self._piece(self.chance.randint(1, 3000)))
        return self.heard

    async def _piece(self, size: int) -> bytes:
        headers = {"Last-Event-ID": self.last} if self.last else {}
        response = await self.world.session.get(self.world.url(self.chance) + self.path, headers=headers)
        assert response.status == 200
        piece = b""
        while len(piece) < size and (more := await response.content.readany()):
            piece += more
        self.broken += 1
        if self.chance.random() < 0.1:
            self.left.append(response)
        else:
            response.close()
        return piece[:size]

    def _keep(self, piece: bytes) -> None:
        for event in piece.split(b"\n\n")[:-1]:
            if not event.startswith(b":"):
                self.heard += event + b"\n\n"
                if event.startswith(b"id: "):
                    self.last = event[4:].partition(b"\n")[0].decode()


async def test_p4_a_thousand_broken_connections_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    left: list[aiohttp.ClientResponse] = []
    async with reality(f"sqlite:///{tmp_path}/a.db", "serve", "api", STREAM_FLUSH_MS="5") as world:

        async def one_run(number: int) -> list[Reader]:
            """Streamed or not, with eight readers while it works."""
            visitor = world.visitor(number)
            await visitor.open_thread()
            await visitor.say()
            run = await visitor.run("slow", stream=number % 2 == 0)
            readers = [Reader(world, run, chance, left) for _ in range(8)]
            await asyncio.gather(*(reader.read() for reader in readers))
            return readers

        live = [reader for readers in await asyncio.gather(*map(one_run, range(8))) for reader in readers]
        readers = [*live]
        while sum(reader.broken for reader in readers) < 1000 * SCALE:
            later = Reader(world, chance.choice(world.visitors).runs[0], chance, left)
            await later.read()
            readers.append(later)
        for reader in readers:
            async with world.session.get(world.url(chance) + reader.path) as response:
                assert reader.heard == await response.read(), "each event once, in order"
        print(
            f"\n{sum(reader.broken for reader in readers)} connections broke, {sum(r.broken for r in live)} while the"
            f" run worked, {len(left)} of them without a word; {len(readers)} readers heard each event once"
        )
        for response in left:
            response.close()
        await world.check()


async def test_p4_an_event_id_of_another_run_is_refused() -> None:
    async with in_process() as service:
        first = await service.finished()
        second = await service.finished(first["thread_id"])
        async with service.api.stream("GET", f"{path_of(first)}/events") as stream:
            ids = [event.id for event in await stream.rest() if event.id]
        for known in ids:
            answer = await service.api.send("GET", f"/v1{path_of(second)}/events", headers={"Last-Event-ID": known})
            assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID")


# --- readers that wait ----------------------------------------------------------------------------------------------


async def test_a_thousand_idle_watchers_cost_little_and_leave_nothing(tmp_path: Path) -> None:
    count, most = 1000 * SCALE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))  # what the service begins with: it takes more by itself
    async with reality(f"sqlite:///{tmp_path}/a.db", "serve", MAX_CONNECTIONS=str(3 * count)) as world:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        process, visitor = world.processes["serve"], world.visitor(SEED)
        runs = []
        for number in range(20):
            await visitor.open_thread()
            await visitor.say()
            runs.append(await visitor.run("tools", stream=number % 2 == 0))
        for run in runs:
            await visitor.until(run, "requires_action")
        for limit in (100, 20):  # KB; the second thousand finds the room that the first one left
            before, files = memory(process.pid), open_files(process.pid)
            watching = await asyncio.gather(*(watch(visitor, runs[n % len(runs)]) for n in range(count)))
            each = (memory(process.pid) - before) / count / 1024
            start, used = time.monotonic(), cpu(process.pid)
            answers = [await timed(visitor, f"/threads/{visitor.thread}") for _ in range(50)]
            await asyncio.sleep(1)
            used = (cpu(process.pid) - used) / (time.monotonic() - start)
            print(
                f"\n{count} idle watchers: {each:.0f} KB each, {used:.0%} of a core; another request takes"
                f" {statistics.median(answers) * 1000:.1f} ms (p50), {max(answers) * 1000:.1f} ms at most"
            )
            assert each < limit
            assert statistics.median(answers) < 0.5
            for response in watching:
                response.close()
            async with asyncio.timeout(PATIENCE):
                while open_files(process.pid) > files:
                    await asyncio.sleep(0.01)
            if SCALE > 1:
                await asyncio.sleep(streaming.POLL_SLOWEST)  # until each has noticed


def test_all_idle_watchers_together_look_two_hundred_times_a_second() -> None:
    looks = 0

    async def source(_: int) -> bytes:
        nonlocal looks
        looks += 1
        return b""

    async def watch_for(seconds: float, count: int) -> None:
        service: Any = SimpleNamespace(notifier=Notifier())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(count):
                    chunks = streaming.follow(service, source, ["a run"], 0, to_the_end=True, watchers=range(count))
                    group.create_task(exhaust(chunks))

    virtual_time.run(watch_for(120, 200))
    assert looks / 120 < streaming.LOOKS * 1.2
    looks = 0
    virtual_time.run(watch_for(120, 1))
    assert looks / 120 > 1 / streaming.POLL_SLOW * 0.9, "alone it looks often"


async def exhaust(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def watch(visitor: Visitor, run: Run) -> aiohttp.ClientResponse:
    """Until there is nothing more to hear."""
    world, path = visitor.world, names_in_path(run.thread_id, run.id)
    response = await world.session.get(f"{world.url(visitor.chance)}{path}/events")  # type: ignore[attr-defined]
    while (await response.content.readline()) != f"event: {sse.PAUSE}\n".encode():
        pass
    return response


async def timed(visitor: Visitor, path: str) -> float:
    start = time.perf_counter()
    await visitor.get(path)
    return time.perf_counter() - start


def memory(pid: int) -> int:
    """Bytes that are resident."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def cpu(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@contextlib.asynccontextmanager
async def as_deployed(service: InProcess) -> AsyncIterator[tuple[web.Application, int]]:
    """Its API on a port of its own: unlike the test server, this one does not cancel the handlers of who went away."""
    app = api_of(service.parts, service.threads, service.stores, service.searcher)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert runner.server
    cutting = asyncio.create_task(connection_limits.cut_off_stalled(runner.server))
    try:
        yield app, runner.addresses[0][1]
    finally:
        cutting.cancel()
        await runner.cleanup()


async def test_a_watcher_who_goes_away_is_forgotten() -> None:
    async with in_process(worker=False) as service, as_deployed(service) as (app, port):
        run = await service.start_run()
        watchers = [await connect(port, run, read=True) for _ in range(50)]
        assert len(app[streaming.STREAMS]) == 50
        for watcher in watchers:
            watcher.close()
        async with asyncio.timeout(PATIENCE):
            while app[streaming.STREAMS]:
                await asyncio.sleep(0.01)
        assert not service.notifier._listeners


# --- readers that never read ----------------------------------------------------------------------------------------


async def connect(port: int, run: Any, *, read: bool = False) -> socket.socket:
    """A request for the events of a run, by a client that reads their beginning, or nothing."""
    channel = socket.socket()
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    channel.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(channel, ("127.0.0.1", port))
    headers = "".join(f"{name}: {value}\r\n" for name, value in BETA.items())
    path = f"/v1{path_of(run)}/events"
    await loop.sock_sendall(channel, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    if read:
        assert b" 200 " in await loop.sock_recv(channel, 100)
    return channel


async def test_who_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "STALLED", 0.5)
    async with in_process(says("x" * 3 * MB)) as service, as_deployed(service) as (app, port):
        run = await service.finished(stream=False)
        readers = [await connect(port, run) for _ in range(5)]
        async with asyncio.timeout(PATIENCE):
            while not app[streaming.STREAMS]:
                await asyncio.sleep(0.01)
            while app[streaming.STREAMS]:
                await asyncio.sleep(0.01)
        for reader in readers:
            reader.close()


class Novelist(ByName):
    """Says 3 MB."""

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        page = "All work and no play makes Jack a dull boy. " * 1000
        assert deltas
        for _ in range(70):
            deltas.text(page)
            await asyncio.sleep(0.01)
        return Reply(text=page * 70)


async def test_who_never_reads_holds_little_memory(tmp_path: Path) -> None:
    count = 20 * SCALE
    async with reality(f"sqlite:///{tmp_path}/a.db", "serve", models=Novelist()) as world:
        process, visitor = world.processes["serve"], world.visitor(SEED)
        await visitor.open_thread()
        await visitor.say()
        run = await visitor.until(await visitor.run("novel", stream=True))
        path = names_in_path(run.thread_id, run.id)
        async with world.session.get(f"{world.url(visitor.chance)}{path}/events") as response:
            size = len(await response.read())
        before = memory(process.pid)
        where = {"thread_id": run.thread_id, "id": run.id}
        readers = [await connect(world.ports["serve"], where) for _ in range(count)]
        await asyncio.sleep(1)
        answer = await timed(visitor, f"/threads/{visitor.thread}")
        held = (memory(process.pid) - before) / count
        print(
            f"\n{count} readers that never read a stream of {size / MB:.1f} MB hold {held / MB:.2f} MB each;"
            f" another request takes {answer * 1000:.0f} ms"
        )
        for reader in readers:
            reader.close()
        assert held < MB
