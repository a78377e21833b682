"""Work items: messages of a few hundred bytes without data. A worker reads the store to find out what there is to do.

All kinds are defined here; worker/dispatch.py selects the work for each of them. `sent_at` is Unix time, and stays the
same when an item is put back.
"""

from __future__ import annotations

from typing import Final

import msgspec

from assistants_service.core.protocol.objects import Struct, encode

MAX_DELAY: Final = 7 * 24 * 3600.0  # maximum seconds for which a queue hides an item
NOTHING_NEW: Final = -1  # `seen` of an item that announces no commit


class Item(Struct, frozen=True, kw_only=True, tag_field="kind"):
    project: str
    sent_at: float

    @property
    def facts(self) -> dict[str, str]:
        """The ids that it concerns, for core.log_context."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if name == "project" or name.endswith("_id")}


class AdvanceRun(Item, frozen=True, kw_only=True, tag="run"):
    """Advance this run. `seen` is the version of the thread that the sender knew before its commit: a worker that sees
    no later one came too early. `trace` is the W3C traceparent of the request that sent it, empty if it is not traced.
    `handed_back` names the delivery whose worker handed the item back, and has not died."""

    thread_id: str
    run_id: str
    seen: int = 0
    trace: str = ""
    handed_back: str = ""


class PurgeThread(Item, frozen=True, kw_only=True, tag="purge"):
    """The thread was deleted: remove its data. Sent a second time for the `tombstones`."""

    thread_id: str
    tombstones: bool = False


class CleanUpFile(Item, frozen=True, kw_only=True, tag="tidy_file"):
    """Check whether this file was created, and when it expires."""

    file_id: str


class PurgeFile(Item, frozen=True, kw_only=True, tag="purge_file"):
    """The file was deleted: remove its data."""

    file_id: str


class CleanUpOutputs(Item, frozen=True, kw_only=True, tag="tidy_outputs"):
    """Look whether the thread, or a document, holds these files that a tool has made, or has replaced."""

    thread_id: str
    file_ids: tuple[str, ...]


class CleanUpUpload(Item, frozen=True, kw_only=True, tag="tidy_upload"):
    """Check the state of this upload."""

    upload_id: str


class MaintainStore(Item, frozen=True, kw_only=True, tag="store"):
    """Work on this vector store: ingest its files, remove orphaned segments. `seen` as in a run's item."""

    store_id: str
    seen: int = 0


class CleanUpStore(Item, frozen=True, kw_only=True, tag="tidy_store"):
    """Check whether this vector store has expired."""

    store_id: str


class PurgeStore(Item, frozen=True, kw_only=True, tag="purge_store"):
    """The vector store was deleted: remove its data. Sent a second time for the `tombstones`."""

    store_id: str
    tombstones: bool = False


WorkItem = (
    AdvanceRun
    | PurgeThread
    | CleanUpFile
    | PurgeFile
    | CleanUpOutputs
    | CleanUpUpload
    | MaintainStore
    | CleanUpStore
    | PurgeStore
)

_decoder: msgspec.json.Decoder[WorkItem] = msgspec.json.Decoder(WorkItem)


def delivery_name(item_id: str, count: int) -> str:
    """A name that is unique to a delivery."""
    return f"{item_id}/{count}"


def to_body(item: WorkItem) -> bytes:
    return encode(item)


def from_body(body: bytes) -> WorkItem:
    """Raises msgspec.ValidationError or DecodeError for an invalid work item."""
    return _decoder.decode(body)
