"""HTTP/1.0, one request a connection: in memory to the API's own server, parser and all, or over a socket to one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

END_OF_HEAD, END_OF_EVENT = b"\r\n\r\n", b"\n\n"
LARGE = 16 * 1024 * 1024  # bytes of an event, at most


class Cut(Exception):
    """The connection ended before the answer was whole."""


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: Any = None) -> bytes:
    """HTTP/1.0: the answer comes in one piece, and its end is the connection's."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Content-Type: application/json"] if data else []
    return "\r\n".join([*lines, f"Content-Length: {len(data)}"]).encode() + END_OF_HEAD + data


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    status, *lines = head.decode().split("\r\n")
    fields = (line.split(": ", 1) for line in lines if line)
    return int(status.split(" ")[1]), {name.lower(): value for name, value in fields}


class Connection(asyncio.Transport):
    """Both ends of one request: the server writes to it as to a socket, the client awaits what was written."""

    def __init__(self, server: web.Server[Any], request: bytes) -> None:
        super().__init__()
        self._buffer, self._open = bytearray(), True
        self._news: asyncio.Future[None] | None = None
        self._protocol = server()
        self._protocol.connection_made(self)
        self._protocol.data_received(request)

    # -- the server's end ------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._open:
            self._buffer += data
            self._wake()

    def is_closing(self) -> bool:
        return not self._open

    def close(self) -> None:
        if self._open:
            self._open = False
            self._wake()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    # -- the client's end ------------------------------------------------------------------------------------------

    async def head(self) -> tuple[int, dict[str, str]]:
        """Raises Cut."""
        while END_OF_HEAD not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(END_OF_HEAD)
        self._buffer = bytearray(rest)
        return read_head(head)

    async def body(self, length: int) -> bytes:
        """The whole body. Raises Cut."""
        while len(self._buffer) < length:
            await self._more()
        return bytes(self._buffer[:length])

    async def piece(self) -> bytes:
        """What came next: whole events, as the server writes them. Raises Cut at the end."""
        while not self._buffer:
            await self._more()
        piece, self._buffer = bytes(self._buffer), bytearray()
        return piece

    async def _more(self) -> None:
        if not self._open:
            raise Cut
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Socket:
    """The client's end of a connection to a port of this machine."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._writer: asyncio.StreamWriter | None = None

    async def head(self) -> tuple[int, dict[str, str]]:
        """Raises Cut."""
        with _cut():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LARGE)
            self._writer.write(self._request)
            return read_head(await self._reader.readuntil(END_OF_HEAD))

    async def body(self, length: int) -> bytes:
        """The whole body. Raises Cut."""
        with _cut(), contextlib.closing(self):
            return await self._reader.readexactly(length)

    async def piece(self) -> bytes:
        """The next event. Raises Cut at the end."""
        with _cut():
            return await self._reader.readuntil(END_OF_EVENT)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


@contextlib.contextmanager
def _cut() -> Iterator[None]:
    try:
        yield
    except (OSError, asyncio.IncompleteReadError) as silence:
        raise Cut from silence
