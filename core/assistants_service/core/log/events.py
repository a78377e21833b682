"""The format of a log: one line of JSON for each commit, which is a batch of events that is stored atomically.

Events have the names of the wire; the few that exist only in the log are marked as private. An event contains what
changed, not the whole object. Released types and fields keep their meaning: new fields have defaults, old ones stay.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from assistants_service.core.protocol.objects import Struct


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The base of all events. Those of threads and of vector stores are defined in the events.py of each."""


E = TypeVar("E", bound=Event)


class Commit(Struct, Generic[E], frozen=True, kw_only=True):
    """A transaction. `id` is unique, so no two commits have the same bytes; `at` is Unix time in seconds."""

    id: str
    at: float
    events: tuple[E, ...]


_encoder = msgspec.json.Encoder()


def to_block(commit: Commit[E]) -> bytes:
    return _encoder.encode(commit) + b"\n"
