"""Large files up and down over HTTP, without ever having one in memory. Blocks: call it in a thread."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
from collections.abc import Iterator
from typing import Any

from multipart_forms import TYPE, field, form

MIB = 1024 * 1024
PIECE = random.Random(7).randbytes(MIB)


def connected(url: str) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=120))


def send(url: str, size: int) -> str:
    """Upload so many MiB; the id of the file."""
    head, tail = form(field("purpose", "assistants"), field("file", b"\0", "big")).split(b"\0")

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(size):
            yield PIECE
        yield tail

    length = len(head) + size * MIB + len(tail)
    with connected(url) as connection:
        connection.request("POST", "/v1/files", body(), {**TYPE, "Content-Length": str(length)})
        answer: Any = json.loads(connection.getresponse().read())
    assert answer.get("bytes") == size * MIB, answer
    return str(answer["id"])


def receive(url: str, file_id: str, size: int) -> str:
    """Download what `send` sent; the id of the file."""
    digest, wanted = hashlib.sha256(), hashlib.sha256()
    with connected(url) as connection:
        connection.request("GET", f"/v1/files/{file_id}/content")
        response = connection.getresponse()
        while data := response.read(MIB):
            digest.update(data)
    for _ in range(size):
        wanted.update(PIECE)
    assert digest.digest() == wanted.digest(), "other bytes came than were sent"
    return file_id
