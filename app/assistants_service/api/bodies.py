"""Checks what the headers say about a body before it is read (its encoding, `Expect: 100-continue`), and ends a body
that turns out to be malformed.

A client that waits for `100 Continue` gets it when its body is about to be read: by then everything that the head alone
can be refused for has been checked, by the middlewares and by the handler.

Bodies are never decompressed: that can cost far more time and memory than the sender spent. The server's parser leaves
them alone (connection_limits.SERVER), and a request that declares a compressed body is refused.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from assistants_service.api.repeated_headers import list_header
from assistants_service.core.errors import ApiError

CONTINUE_SENT = web.RequestKey("continue_sent", bool)


class MalformedBody(TimeoutError):
    """The body is not in the chunks that its Transfer-Encoding announces. (It is a TimeoutError so that aiohttp, which
    reads the rest of a body after the response, does not log it as a fault.)"""


def close_without_continue(request: web.Request, response: web.StreamResponse) -> None:
    """A client that was not asked for its body may send it or not, so the next bytes on this connection could be that
    body or another request (RFC 9110, 10.1.1)."""
    if "Expect" in request.headers and CONTINUE_SENT not in request and not response.prepared:
        response.force_close()


def check_coding(request: web.Request) -> None:
    """Raises the 415 for a compressed body, and the 501 for one that is compressed for its transfer."""
    if "Transfer-Encoding" in request.headers:
        _check_transfer(list_header(request, "Transfer-Encoding"))
    codings = list_header(request, "Content-Encoding")
    if any(each.lower() not in ("", "identity") for each in codings):
        coding = ", ".join(codings)
        message = (
            f"Unsupported content encoding: '{coding[:100]}'. Send the body without 'Content-Encoding', uncompressed."
        )
        # Accept-Encoding says that the encoding is the problem, and which ones are supported (RFC 9110, 15.5.16).
        headers = {"Accept-Encoding": "identity"}
        raise ApiError(
            message, status=415, param="Content-Encoding", code="unsupported_content_encoding", headers=headers
        )


def _check_transfer(codings: list[str]) -> None:
    """RFC 9112, 6.1. The parser has read the body's chunks, but not what they contain."""
    if [each.lower() for each in codings] != ["chunked"]:
        message = f"Unsupported transfer encoding: '{', '.join(codings)[:100]}'. The only supported value is 'chunked'."
        raise ApiError(message, status=501, param="Transfer-Encoding", code="unsupported_transfer_encoding")


def waits(request: web.Request) -> bool:
    """Whether the client waits to be asked for the body."""
    return "Expect" in request.headers and request.version >= HttpVersion11


def check_expectation(request: web.Request) -> None:
    """Raises the 417 for a client that waits for anything else than to be asked."""
    expected = request.headers["Expect"]
    if expected.strip().lower() != "100-continue":
        message = f"Unsupported 'Expect' header: '{expected[:100]}'. The only supported value is '100-continue'."
        raise ApiError(message, status=417, param="Expect", code="unsupported_expectation")


async def invite(request: web.Request) -> None:
    """Ask a client that waits for it to send the body. Everything that can be refused without the body is checked."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the response has not begun
    request[CONTINUE_SENT] = True


async def _later(_: web.Request) -> None:
    """Middleware answers."""


# aiohttp would send `100 Continue` before any middleware, with or without a key, and errors in plain text. Its handler
# can be replaced for added routes, but unknown paths and methods have routes of their own.
web.UrlMappingMatchInfo.expect_handler = property(lambda _: _later)  # type: ignore[method-assign, assignment]


_received = RequestHandler.data_received


def _receive(self: RequestHandler, data: bytes) -> None:
    """If the parser rejects a body, end that body: its reader responds, and the connection closes.

    aiohttp delays a rejection until the previous request is answered, even if the rejected bytes are that request's own
    body. Nothing would end the body, and its reader would wait until it times out."""
    _received(self, data)
    if not self._messages:
        return
    message, body = self._messages[-1]
    if not isinstance(message, _ErrInfo):
        self._cache["body"] = body
    elif (body := self._cache.get("body", body)) and not body.is_eof():
        _fail_body(self, body)


def _fail_body(connection: RequestHandler, body: StreamReader) -> None:
    if len(connection._messages) > 1 and connection._messages[-2][1] is body:
        del connection._messages[-2]  # a pipelined request: the rejection is its response
        return
    connection._messages.pop()
    body.set_exception(MalformedBody())
    body.feed_eof()  # else aiohttp would continue to read after the response
    connection.close()


RequestHandler.data_received = _receive  # type: ignore[method-assign]
