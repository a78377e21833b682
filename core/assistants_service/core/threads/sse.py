"""Server-sent events: how a run's stream stores them and the API sends them, and the names of those that end it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from assistants_service.core.protocol.objects import encode

StreamEvent = tuple[str, Any]  # the wire's event name, and its payload

ENDINGS = frozenset(f"thread.run.{status}" for status in ("completed", "incomplete", "failed", "cancelled", "expired"))
PAUSE = "thread.run.requires_action"
DONE = b"event: done\ndata: [DONE]\n\n"
_HEAD = re.compile(rb"(?:^|\n\n)id: (\d+)\.(\d+)\nevent: ([a-z_.]+)\ndata: ([^\n]*)")


def to_bytes(events: Iterable[tuple[int, StreamEvent]], offset: int) -> Iterator[bytes]:
    """The bytes of the events, each with the version of the thread that it shows, as stored in the stream from byte
    `offset` on, and as sent over the wire.

    An event's id is its own offset, a dot, and that version: Last-Event-ID finds the place again, and the next writer
    sees which events are missing.
    """
    for version, (name, payload) in events:
        event = f"id: {offset}.{version}\nevent: {name}\ndata: ".encode() + encode(payload) + b"\n\n"
        yield event
        offset += len(event)


def parse(data: bytes) -> Iterator[tuple[int, int, str, bytes]]:
    """(offset, version, name, payload) of each event in a part of a stream."""
    for found in _HEAD.finditer(data):
        yield int(found[1]), int(found[2]), found[3].decode(), found[4]
