"""What a client may use before, and after, its key is known: each limit of docs/threat-model.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from assistants_service.api import connection_limits
from assistants_service.api.connection_limits import STALLED
from assistants_service.composition import api_of
from assistants_service.infra.configuration import read_settings
from assistants_service.serving import listen
from inprocess_service import InProcess, in_process
from multipart_forms import TYPE, file_form
from virtual_time import run

Json = Any


@contextlib.asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[InProcess, int]]:
    """The API as the command serves it; its port."""
    async with in_process(**settings) as service:
        given = read_settings({"port": 0, **settings})
        async with listen(api_of(service.parts, service.threads, service.stores, service.searcher), given) as url:
            yield service, int(url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answered(port: int, data: bytes) -> tuple[int, Json]:
    """Status and error of a request that is refused, after which the connection is closed."""
    async with connected(port) as (reader, writer):
        writer.write(data)
        return refusal(await reader.read())


def refusal(raw: bytes) -> tuple[int, Json]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


HEAD = (
    b"POST /v1/threads HTTP/1.1\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\nContent-Type: application/json\r\n"
)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: a\r\n" * 200 + b"\r\n",
    ],
    ids=["request line", "header", "headers"],
)
async def test_a_head_has_a_limit(data: bytes) -> None:
    async with served() as (_, port):
        status, error = await answered(port, data)
    assert (status, error["type"]) == (400, "invalid_request_error")


async def test_a_head_that_does_not_arrive_is_not_waited_for() -> None:
    """However its bytes drip."""
    async with served(keep_alive_timeout=0.5) as (_, port), connected(port) as (reader, writer), asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            writer.write(HEAD)
            while not reader.at_eof():
                writer.write(b"X")
                await asyncio.sleep(0.05)
            assert await reader.read() == b""


async def test_a_connection_that_asks_nothing_more_is_closed() -> None:
    async with served(keep_alive_timeout=0.2) as (_, port), connected(port) as (reader, writer), asyncio.timeout(30):
        writer.write(LIVE)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
async def test_a_body_that_does_not_arrive_is_not_waited_for(framing: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "BODY_TIME", 0.2)
    monkeypatch.setattr(connection_limits, "SLOWEST", 2**30)
    async with served() as (_, port), asyncio.timeout(30):
        status, error = await answered(port, HEAD + framing)
    assert (status, error["code"]) == (408, "request_timeout")


async def test_a_body_has_the_time_that_its_length_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "BODY_TIME", 0.1)
    monkeypatch.setattr(connection_limits, "SLOWEST", 1)  # of 20 bytes: 20 s
    async with served() as (_, port), connected(port) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 20\r\n\r\n" + b" " * 18)
        await asyncio.sleep(0.3)
        writer.write(b"{}")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_file_in_chunks_has_the_time_that_the_largest_one_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "BODY_TIME", 0.0)
    monkeypatch.setattr(connection_limits, "SLOWEST", 64 * 1024**2)  # JSON has 0.06 s, a file 8 s
    data = file_form(b"slow")
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE['Content-Type']}\r\n"
    async with served() as (_, port), connected(port) as (reader, writer):
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode() + data[:-5])
        await asyncio.sleep(0.3)
        writer.write(data[-5:] + b"\r\n0\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_body_of_a_client_without_a_key_is_not_kept() -> None:
    """A client without a key is refused at the head."""
    async with served(api_keys="p:key") as (_, port), connected(port) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"


async def test_connections_beyond_the_limit_are_told_to_come_back() -> None:
    async with served(max_connections=2) as (_, port), contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        held = [await stack.enter_async_context(connected(port)) for _ in range(2)]
        for reader, writer in held:
            writer.write(LIVE)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        status, error = await answered(port, LIVE)
        assert (status, error["code"]) == (503, "overloaded")
        held[0][1].close()
        while (await first_line(port)) != b"HTTP/1.1 200 OK\r\n":
            await asyncio.sleep(0.01)


async def first_line(port: int) -> bytes:
    async with connected(port) as (reader, writer):
        writer.write(LIVE)
        return await reader.readline()


async def much(service: InProcess) -> bytes:
    """A request whose answer is larger than what the system's buffers take."""
    thread = await service.thread()
    for _ in range(60):
        await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "x" * 250_000})
    path = f"/v1/threads/{thread}/messages?limit=100"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\nConnection: close\r\n\r\n".encode()


async def size_read(reader: asyncio.StreamReader, pause: float) -> int:
    size = 0
    while data := await reader.read(2**20):
        size += len(data)
        await asyncio.sleep(pause)
    return size


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "STALLED", 0.2)
    async with served() as (service, port), connected(port) as (reader, writer), asyncio.timeout(30):
        writer.write(await much(service))
        await asyncio.sleep(3)
        with contextlib.suppress(ConnectionResetError):
            assert await size_read(reader, 0) < 60 * 250_000


async def test_a_client_that_reads_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "STALLED", 2)
    async with served() as (service, port), connected(port) as (reader, writer), asyncio.timeout(60):
        begun = time.monotonic()
        writer.write(await much(service))
        assert await size_read(reader, 0.05) > 60 * 250_000
        assert time.monotonic() - begun > connection_limits.STALLED


class Line:
    """A connection and its transport, of which the answer's bytes are taken as a test says."""

    def __init__(self) -> None:
        self.transport, self.output_size, self.waits, self.cut_off = self, 0, 0, False
        self._current_request = SimpleNamespace(writer=self)

    def write(self, size: int) -> None:
        self.output_size += size
        self.waits += size

    def take(self, size: int) -> None:
        self.waits -= size

    def get_write_buffer_size(self) -> int:
        return self.waits

    def abort(self) -> None:
        self.cut_off = True


@pytest.mark.parametrize(
    ("written", "taken", "cut_off"), [(4096, 4096, False), (4096, 1, False), (20, 0, True), (0, 0, True)]
)
def test_what_is_taken_counts_and_not_what_waits(written: int, taken: int, cut_off: bool) -> None:
    """What waits is filled up as soon as there is room, so that it may be as much at each look; and heartbeats add to
    it, although nothing is taken."""

    async def main() -> None:
        line: Any = Line()
        server: Any = SimpleNamespace(connections=[line])
        watching = asyncio.create_task(connection_limits.cut_off_stalled(server))
        line.write(100_000)
        for _ in range(30):
            await asyncio.sleep(STALLED / 20)
            line.take(taken)
            line.write(written)
        watching.cancel()
        assert line.cut_off == cut_off

    run(main())


def test_connections_are_watched_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        line: Any = Line()
        line.write(1)
        server: Any = SimpleNamespace()  # without connections: an AttributeError
        watching = asyncio.create_task(connection_limits.cut_off_stalled(server))
        await asyncio.sleep(STALLED)
        assert "cannot check the connections" in caplog.text
        server.connections = [line]
        await asyncio.sleep(1.5 * STALLED)
        assert line.cut_off
        watching.cancel()

    run(main())


async def test_it_is_seen_soon_that_a_slow_client_takes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the system's buffer of megabytes has room again."""
    servers: list[web.Server] = []

    async def look(server: web.Server) -> None:
        servers.append(server)

    monkeypatch.setattr(connection_limits, "cut_off_stalled", look)
    async with served() as (service, port), connected(port) as (reader, writer), asyncio.timeout(60):
        writer.write(await much(service))
        await reader.readexactly(1)
        ((line,),) = (server.connections for server in servers)
        before = -1
        while (taken := connection_limits.progress_of(line)) != before:  # until all buffers are full
            before = taken
            await asyncio.sleep(0.1)
        read = 0
        while connection_limits.progress_of(line) == before:
            read += len(await reader.readexactly(2**15))
            await asyncio.sleep(0.005)
        assert read < 2**20
