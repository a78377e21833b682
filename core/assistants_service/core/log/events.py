"""A log: lines of JSON, one a commit, each commit a batch of events that hold together or not at all.

The wire's event names are the vocabulary; a few private ones are marked so. An event says what changed, not the whole
object. Kinds and fields that were ever released keep their meaning: new fields get defaults, old ones stay.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from assistants_service.core.protocol.objects import Struct


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What an event of any aggregate is. Those of threads and of vector stores stand with them."""


E = TypeVar("E", bound=Event)


class Commit(Struct, Generic[E], frozen=True, kw_only=True):
    """A transaction. `id` makes its bytes unlike any other's, `at` is Unix time in seconds."""

    id: str
    at: float
    events: tuple[E, ...]


_encoder = msgspec.json.Encoder()


def to_block(commit: Commit[E]) -> bytes:
    return _encoder.encode(commit) + b"\n"
