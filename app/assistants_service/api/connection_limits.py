"""What a client may use of a process before it is authenticated: connections, bytes and time.

docs/threat-model.md lists all limits. Those of headers are aiohttp's defaults, fixed here so that they stay.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from assistants_service.api.services import SERVICES
from assistants_service.core.errors import ApiError, overloaded
from assistants_service.core.protocol.objects import encode

log = logging.getLogger(__name__)
Progress = dict[asyncio.Transport, tuple[int, float]]  # bytes sent, and since when the number has not changed

HEAD: Final[dict[str, Any]] = {"max_line_size": 8190, "max_field_size": 8190, "max_headers": 128}  # bytes, bytes, lines
LINGER: Final = 10.0  # seconds for which the rest of a refused body is read and discarded
# Seconds that a body may take to arrive: a minute, and what this rate needs for its length.
BODY_TIME, SLOWEST = 60.0, 16 * 1024  # bytes a second
STALLED: Final = 60.0  # seconds after which a client that reads nothing of its response is cut off
LOOKS: Final = 6  # checks in that time
UNSENT: Final = 256 * 1024  # bytes that the kernel accepts for a connection beyond those in flight
REFUSED: Final = 5.0  # seconds that a connection beyond the limit gets to send a request and receive the refusal
# Options of the server, wherever the API is served. Compressed bodies are not unpacked: api.bodies refuses them.
SERVER: Final[dict[str, Any]] = {**HEAD, "lingering_time": LINGER, "auto_decompress": False}


class SlowBody(TimeoutError):
    """The request's body did not arrive in time."""


def body_timer(request: web.Request) -> asyncio.TimerHandle | None:
    """Makes reading the request's body raise SlowBody if it takes too long. Cancel it when the body is complete."""
    if request.content.is_eof():
        return None  # it came with the head
    size = request.content_length
    if size is None:  # of a body in chunks, the most that it may have
        services = request.app[SERVICES]
        size = services.file_limit if request.content_type == "multipart/form-data" else request.client_max_size
    loop = asyncio.get_running_loop()
    return loop.call_later(BODY_TIME + size / SLOWEST, request.content.set_exception, SlowBody())


def limit_connections(server: web.Server, most: int) -> Callable[[], asyncio.Protocol]:
    """Connections of a listening socket: `most` are served at once, further clients get an error."""
    return lambda: server() if len(server.connections) < most else _Refusal()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._timer = asyncio.get_running_loop().call_later(REFUSED, transport.close)

    def data_received(self, data: bytes) -> None:
        # After the request: closing with unread bytes resets the connection and loses the response.
        self._transport.write(_answer(overloaded()))
        self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()


def _answer(error: ApiError) -> bytes:
    body = encode({"error": {"message": error.message, "type": error.kind, "param": None, "code": error.code}})
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"{name}: {value}" for name, value in {**headers, **error.headers}.items()]
    head = "\r\n".join([f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *lines])
    return head.encode() + b"\r\n\r\n" + body


def limit_kernel_buffers(listener: asyncio.Server) -> None:
    """Let the kernel buffer little of what waits to be sent, for all connections of this listener. Its default of
    megabytes would hide for a minute that a client reads a large response at only 20 kB/s."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        for each in listener.sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


async def cut_off_stalled(server: web.Server) -> None:
    """Close connections whose clients have read nothing of a waiting response for STALLED seconds."""
    known: Progress = {}
    while True:
        await asyncio.sleep(STALLED / LOOKS)
        try:
            known = _look(server, known)
        except Exception:  # else no client would ever be cut off again
            log.exception("cannot check the connections, trying again")


def _look(server: web.Server, known: Progress) -> Progress:
    now, found = asyncio.get_running_loop().time(), Progress()
    for connection in server.connections:
        if (transport := connection.transport) and transport.get_write_buffer_size():
            taken, since = progress_of(connection), now
            if known.get(transport, (None, now))[0] == taken:
                since = known[transport][1]
            if now - since >= STALLED:
                transport.abort()
            found[transport] = taken, since
    return found


def progress_of(connection: RequestHandler) -> int:
    """A number that grows while the client reads its response: the bytes written minus those that wait to be sent. The
    waiting bytes alone do not tell: they stay constant while the client reads and more is written, and heartbeats add
    to them although it reads nothing."""
    request, transport = connection._current_request, connection.transport
    waiting = transport.get_write_buffer_size() if transport else 0
    return (request.writer.output_size if request else 0) - waiting
