"""What a request says of its body before any of it is read: how it is packed, and whether its client waits to be asked.
And what becomes of a body that turns out to be none while it is read.

Bodies are taken as they are. To unpack them costs time and memory out of all proportion to what was sent, so the
server's parser leaves them alone (connection_limits.SERVER), and what says that it is packed is refused.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from assistants_service.api.heads import listed
from assistants_service.core.errors import ApiError

INVITED = web.RequestKey("invited", bool)


class SpoiledBody(TimeoutError):
    """The request's body is not in chunks as its Transfer-Encoding says. (To aiohttp, which reads the rest of bodies
    after an answer, it must look like one that takes too long: else that would be logged as a fault.)"""


def close_uninvited(request: web.Request, response: web.StreamResponse) -> None:
    """A client that was not asked for its body may or may not send it: what comes next on this connection could be
    either, that body or another request (RFC 9110, 10.1.1)."""
    if "Expect" in request.headers and INVITED not in request and not response.prepared:
        response.force_close()


def check_coding(request: web.Request) -> None:
    """Raises the 415 of a body that is compressed."""
    codings = listed(request, "Content-Encoding")
    if any(each.lower() not in ("", "identity") for each in codings):
        coding = ", ".join(codings)
        message = (
            f"Unsupported content encoding: '{coding[:100]}'. Send the body without 'Content-Encoding', uncompressed."
        )
        # Accept-Encoding: that it is the coding which is not supported, and which ones are (RFC 9110, 15.5.16).
        headers = {"Accept-Encoding": "identity"}
        raise ApiError(
            message, status=415, param="Content-Encoding", code="unsupported_content_encoding", headers=headers
        )


def waits(request: web.Request) -> bool:
    """Whether the client waits to be asked for the body."""
    return "Expect" in request.headers and request.version >= HttpVersion11


async def invite(request: web.Request) -> None:
    """Ask a client that waits for it to send the body. Raises the 417 of another expectation."""
    expected = request.headers["Expect"]
    if expected.strip().lower() != "100-continue":
        message = f"Unsupported 'Expect' header: '{expected[:100]}'. The only supported value is '100-continue'."
        raise ApiError(message, status=417, param="Expect", code="unsupported_expectation")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer has not begun
    request[INVITED] = True


async def _later(_: web.Request) -> None:
    """Middleware answers."""


# aiohttp would answer before any middleware, with or without a key, and in plain text. A handler of one's own can be
# given to the routes that are added, but unknown paths and methods have routes of their own.
web.UrlMappingMatchInfo.expect_handler = property(lambda _: _later)  # type: ignore[method-assign, assignment]


_received = RequestHandler.data_received


def _receive(self: RequestHandler, data: bytes) -> None:
    """What the parser refuses in the middle of a body ends that body, whose reader answers, and the connection.

    aiohttp has a refusal wait until the request before it is answered, even if it is that one's own body which is
    refused. Nothing ends the body then, so its reader would wait until its time is up."""
    _received(self, data)
    if not self._messages:
        return
    message, body = self._messages[-1]
    if not isinstance(message, _ErrInfo):
        self._cache["body"] = body
    elif (body := self._cache.get("body", body)) and not body.is_eof():
        _spoil(self, body)


def _spoil(connection: RequestHandler, body: StreamReader) -> None:
    if len(connection._messages) > 1 and connection._messages[-2][1] is body:
        del connection._messages[-2]  # its turn has not come: the refusal is its answer
        return
    connection._messages.pop()
    body.set_exception(SpoiledBody())
    body.feed_eof()  # else aiohttp would read on after the answer
    connection.close()


RequestHandler.data_received = _receive  # type: ignore[method-assign]
