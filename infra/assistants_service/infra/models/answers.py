"""Limits the responses of providers: bodies, events of a stream, redirects.

The service must not run out of memory because a server, or a proxy in front of it, sends without end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import msgspec
import openai

MIB: Final = 1024 * 1024
# Bytes of a whole body, or of one event of a stream. An answer of 4 MiB, the most that is stored, may need four times
# as many in JSON; the vectors of a batch of texts need more.
MOST: Final = 16 * MIB
MOST_VECTORS: Final = 64 * MIB
# iana.org/assignments/http-parameters, "HTTP Content Coding". Some send `none` or a charset: no compression.
_COMPRESSIONS: Final = {"gzip", "x-gzip", "deflate", "br", "zstd", "dcb", "dcz", "compress", "x-compress"}
REDIRECTED: Final = "redirected_to"
DONE: Final = b"[DONE]"
_LONGEST_TEXT: Final = 1_000  # bytes of plain text where a stream should be
_FIELD: Final = (b":", b"event:", b"id:", b"retry:")  # of server-sent events, beside `data`
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # a stream may begin with it


class TooLong(openai.OpenAIError):
    """The response was too long and not read to its end. An error of the SDK, so that the SDK does not retry."""


class Compressed(openai.OpenAIError):
    """A compressed response: a few bytes may unpack to gigabytes, and requests ask for uncompressed ones."""


async def limit(response: httpx2.Response) -> None:
    """A hook of the HTTP client: runs before a response's body is read, and before a redirect is followed.

    Prompts and keys go only to the configured origin: a redirect elsewhere is not followed.
    """
    if _COMPRESSIONS & {each.strip().lower() for each in response.headers.get("content-encoding", "").split(",")}:
        raise Compressed
    if response.has_redirect_location and not _same_origin(response):
        response.extensions[REDIRECTED] = response.headers.pop("location")
    if "text/event-stream" not in response.headers.get("content-type", ""):
        most = MOST_VECTORS if response.request.url.path.endswith("/embeddings") else MOST
        response.stream = _Limited(response.stream, most)  # type: ignore[arg-type]


def _same_origin(response: httpx2.Response) -> bool:
    """Whether a redirect stays within the origin: another port of the host may belong to another service or user."""
    here = response.request.url
    there = here.join(response.headers["location"])
    return (there.scheme, there.host, there.port) == (here.scheme, here.host, here.port)


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: int) -> None:
        self._stream, self._left = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise TooLong
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def decode(data: bytes) -> Any:
    """Decodes JSON. Some servers split a character outside the Basic Multilingual Plane into two events, each with half
    of a surrogate pair, which strict decoders refuse."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, with `DONE` as the last if the server sends it. A body that is JSON or plain
    text instead of a stream is its only event.

    Source: html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. Other fields than `data` are
    ignored, because the protocols repeat their content in it, with two exceptions: llama.cpp of 2025 has errors in a
    field `error`, and other servers send plain text after `event: error`. Both are returned like all errors, as an
    object with the key `error`. Raises TooLong.
    """
    data: list[bytes] = []
    stray, silent = b"", True
    first, failed, skipped = True, False, 0
    async for whole in _lines(pieces):
        line = whole.removeprefix(_BYTE_ORDER_MARK) if first else whole
        if first and line.lstrip()[:1] in (b"{", b"[", b'"'):
            yield b"".join([line, *[rest async for rest in _lines(pieces)]])
            return
        first = first and not line.strip()
        if line.startswith((b"data:", b"error:")):
            field, _, value = line.partition(b":")
            data.append(value.strip() if field == b"data" else _error(value.strip()))
            if sum(map(len, data)) > MOST:
                raise TooLong
            skipped = 0
        elif not line.strip() and data:
            if data[0].startswith(DONE):
                yield DONE
                return
            yield _event(data, failed)
            data, failed, silent = [], False, False
        else:
            if line.startswith(b"event:"):
                failed = line.removeprefix(b"event:").strip() == b"error"
            elif silent and line.strip() and not line.startswith(_FIELD):
                stray = (stray + line + b"\n")[:_LONGEST_TEXT]
            skipped += len(line) + 1  # comments keep a connection alive, but not for ever
            if skipped > MOST:
                raise TooLong
    if data:  # the server ends without an empty line
        yield DONE if data[0].startswith(DONE) else _event(data, failed)
    elif silent and stray:
        yield stray


def _event(data: list[bytes], failed: bool) -> bytes:
    whole = b"\n".join(data)
    return _error(whole) if failed else whole


def _error(value: bytes) -> bytes:
    try:
        return msgspec.json.encode({"error": msgspec.json.decode(value)})
    except msgspec.DecodeError:
        return msgspec.json.encode({"error": value.decode(errors="replace")})


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Includes the rest at the end. An incomplete line is not searched again for its end."""
    begun: list[bytes] = []
    size = 0
    async for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for line in whole:
            yield b"".join([*begun, line]).rstrip(b"\r")
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > MOST:
            raise TooLong
    if size:
        yield b"".join(begun)
