"""HTTP without a network: connections in memory to the API's own server, parser and all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

END_OF_HEAD = b"\r\n\r\n"


class Cut(Exception):
    """The connection ended before the answer was whole."""


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: Any = None) -> bytes:
    """HTTP/1.0: the answer comes in one piece, and its end is the connection's."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}"]).encode() + END_OF_HEAD + data


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
        """Status and headers, their names in lower case. Raises Cut."""
        while END_OF_HEAD not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(END_OF_HEAD)
        self._buffer = bytearray(rest)
        status, *lines = head.decode().split("\r\n")
        fields = (line.split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), {name.lower(): value for name, value in fields}

    async def body(self, length: int) -> bytes:
        """The whole body. Raises Cut."""
        while len(self._buffer) < length:
            await self._more()
        return bytes(self._buffer[:length])

    async def piece(self) -> bytes:
        """What came next. Raises Cut at the end."""
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
