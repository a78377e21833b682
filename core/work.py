"""Work items: doorbells of a few hundred bytes, never data. A worker reads the log to see what there is to do."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.resources import Struct, encode


class WorkItem(Struct, frozen=True, kw_only=True):
    """`run`: look at this run. `purge`: the thread was deleted, empty what is left of it.

    `seen` is the version of the thread that the sender knew when it rang, before it committed: a worker that sees no
    later one came too early. `sent_at` is Unix time, and stays when an item is put back. A purge rings once more, for
    its `tombstones`. `trace` is the W3C traceparent of the request that rang, empty if nobody traces.
    """

    kind: Literal["run", "purge"] = "run"
    project: str
    thread_id: str
    run_id: str = ""
    seen: int = 0
    sent_at: float
    tombstones: bool = False
    trace: str = ""


_decoder = msgspec.json.Decoder(WorkItem)


def to_body(item: WorkItem) -> bytes:
    return encode(item)


def from_body(body: bytes) -> WorkItem:
    """Raises msgspec.ValidationError or DecodeError for what is no work item."""
    return _decoder.decode(body)
