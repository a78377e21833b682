"""The logs of threads and of vector stores: one line of JSON a commit, each commit a batch of events that
hold together or not at all.

The wire's event names are the vocabulary; a few private ones are marked so. An event says what changed, not the whole
object. Kinds and fields that were ever released keep their meaning: new fields get defaults, old ones stay.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from assistants_service.core.ports.models import Thought
from assistants_service.core.protocol.objects import LastError, Metadata, Struct, ToolResources
from assistants_service.core.protocol.runs.resources import Run, Step, Usage
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.protocol.vector_stores.resources import (
    Attributes,
    ExpiresAfter,
    StaticChunking,
    VectorStore,
)


class ThreadCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.created"):
    thread: Thread


class ThreadUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.updated"):
    """Private. None: unchanged."""

    metadata: Metadata | None = None
    tool_resources: ToolResources | None = None


class ThreadDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.deleted"):
    pass


class MessageCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.created"):
    """A client's message, complete at once."""

    message: Message


class MessageUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.updated"):
    """Private."""

    message_id: str
    metadata: Metadata


class MessageDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.deleted"):
    message_id: str


class MessageCompleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.completed"):
    """A model's message, whole: what was streamed of it before is not history."""

    message: Message


class MessageIncomplete(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.incomplete"):
    """A model's message that the model itself cut off (length, content filter), or the end of its run: then it is what
    clients had heard, and what came after that."""

    message: Message


class RunCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.created"):
    """The run as queued, with its assistant's configuration as it was at this moment. `trace` is the W3C traceparent
    of the request that created it: all work on the run joins that trace. `contents`: its client wants to see what was
    found in files, on the stream too. `chosen`: which of temperature and top_p are 1 because the run or its assistant
    said so, and not by default."""

    run: Run
    stream: bool = False
    trace: str = ""
    contents: bool = False
    chosen: tuple[str, ...] = ()


class RunUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.updated"):
    """Private."""

    run_id: str
    metadata: Metadata


class RunClaimed(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.claimed"):
    """Private: a worker took the run up, by the work item `item`. `attempt` grows by one with each claim.
    `handed_back`: the worker that had it before let go of it, and did not die."""

    run_id: str
    attempt: int
    item: str
    handed_back: bool = False


class StepBegun(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.begun"):
    """Private: a model has been at this step, and at its message if it writes one, for a while. It is told without
    content, and is not history: it stands until the step comes whole, its run ends, or another worker takes over."""

    step: Step
    message: Message | None = None


class StepCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.created"):
    """`own` are the call ids that the worker itself executes; `usage` is what the model call of this step cost.
    `thought` led to the calls: private, for the provider that gave it, and for as long as the run goes on."""

    step: Step
    own: tuple[str, ...] = ()
    usage: Usage | None = None
    thought: Thought | None = None


class StepOutputs(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.outputs"):
    """Private: outputs of calls that the worker executed, by call id: what the model is told. `results` is what else is
    stored of them (tools.tool.Output)."""

    run_id: str
    step_id: str
    outputs: dict[str, str]
    results: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)


class StepCompleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.completed"):
    """`outputs` are those that came with this event, by call id."""

    run_id: str
    step_id: str
    outputs: dict[str, str] = msgspec.field(default_factory=dict)


class StepFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.failed"):
    run_id: str
    step_id: str
    error: LastError


class StepCancelled(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.cancelled"):
    run_id: str
    step_id: str


class StepExpired(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.expired"):
    run_id: str
    step_id: str


class RunRequiresAction(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.requires_action"):
    """The client owes the outputs of the open step's calls that have none."""

    run_id: str


class RunQueued(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.queued"):
    """All outputs are there, or the work item of the worker that had the run is lost: it waits for a worker again.
    `stream`: a client asked to stream from here on."""

    run_id: str
    stream: bool = False


class RunCancelling(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.cancelling"):
    run_id: str


class RunCancelled(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.cancelled"):
    run_id: str


class RunExpired(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.expired"):
    run_id: str


class RunFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.failed"):
    run_id: str
    error: LastError


class RunIncomplete(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.incomplete"):
    run_id: str
    reason: str


class RunCompleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.completed"):
    run_id: str


ThreadEvent = (
    ThreadCreated
    | ThreadUpdated
    | ThreadDeleted
    | MessageCreated
    | MessageUpdated
    | MessageDeleted
    | MessageCompleted
    | MessageIncomplete
    | RunCreated
    | RunUpdated
    | RunClaimed
    | StepBegun
    | StepCreated
    | StepOutputs
    | StepCompleted
    | StepFailed
    | StepCancelled
    | StepExpired
    | RunRequiresAction
    | RunQueued
    | RunCancelling
    | RunCancelled
    | RunExpired
    | RunFailed
    | RunIncomplete
    | RunCompleted
)


# --- vector stores ------------------------------------------------------------------------------------------------


class StoreCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.created"):
    store: VectorStore


class StoreUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.updated"):
    """What was given."""

    name: str | UnsetType | None = UNSET
    expires_after: ExpiresAfter | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET


class StoreUsed(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.used"):
    """Private: the store was searched. Not told of every search."""


class StoreExpired(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.expired"):
    """Its index is gone; what it held is still listed, so that another store can be made of it."""


class StoreDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.deleted"):
    pass


class FileCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.created"):
    """The file was attached, or attached again after it was cancelled or had failed."""

    file_id: str
    chunking: StaticChunking = StaticChunking()
    attributes: Attributes = msgspec.field(default_factory=dict)


class FileUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.updated"):
    file_id: str
    attributes: Attributes


class FileClaimed(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.claimed"):
    """Private: a worker took the file up, by the delivery `item` of a work item. `attempt` is unlike any other of the
    store."""

    file_id: str
    attempt: int
    item: str


class FileReleased(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.released"):
    """Private: the claim counts no more, and others may claim the file."""

    file_id: str


class FileCompleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.completed"):
    """Its chunks are in the segment that is named by file and attempt, a blob of `size` bytes. `format` is that of its
    words (core.search.words)."""

    file_id: str
    filename: str
    size: int
    chunks: int
    model: str
    format: int = 1


class FileFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.failed"):
    file_id: str
    error: LastError


class FileCancelled(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.cancelled"):
    file_id: str


class FileDetached(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file.deleted"):
    file_id: str


class BatchCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file_batch.created"):
    """Those of the files that were not attached yet are, by events before this one."""

    batch_id: str
    file_ids: tuple[str, ...]


class BatchCancelled(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.file_batch.cancelled"):
    """The files that are cancelled with it have events of their own, before this one."""

    batch_id: str


class MergeClaimed(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.segments.claimed"):
    """Private: a worker begins to write a segment that shall stand for others."""

    attempt: int
    item: str


class ItemTakenOver(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.segments.taken"):
    """Private: this delivery of a work item took over from earlier ones. They take nothing up any more, and these
    segments, which they began to write, are not to become a part of the store."""

    names: tuple[str, ...]
    item: str


class SegmentsMerged(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.segments.merged"):
    """Private. `into` holds so many chunks now; `sources` are those in it that are alive, each with its number."""

    into: str
    merged: tuple[str, ...]
    size: int
    chunks: int
    model: str
    sources: dict[str, int]
    format: int = 1


class SegmentsDropped(Struct, frozen=True, kw_only=True, tag_field="type", tag="vector_store.segments.dropped"):
    """Private: these blobs are gone, which were not, or no longer, part of the store."""

    names: tuple[str, ...]


StoreEvent = (
    StoreCreated
    | StoreUpdated
    | StoreUsed
    | StoreExpired
    | StoreDeleted
    | FileCreated
    | FileUpdated
    | FileClaimed
    | FileReleased
    | FileCompleted
    | FileFailed
    | FileCancelled
    | FileDetached
    | BatchCreated
    | BatchCancelled
    | MergeClaimed
    | ItemTakenOver
    | SegmentsMerged
    | SegmentsDropped
)
Event = ThreadEvent | StoreEvent


class Commit(Struct, frozen=True, kw_only=True):
    """A transaction. `id` makes its bytes unlike any other's, `at` is Unix time in seconds."""

    id: str
    at: float
    events: tuple[Event, ...]


_decoder = msgspec.json.Decoder(Commit)
_encoder = msgspec.json.Encoder()


def to_block(commit: Commit) -> bytes:
    return _encoder.encode(commit) + b"\n"


def from_lines(data: bytes) -> list[Commit]:
    """The commits of whole lines, as a log is read."""
    return _decoder.decode_lines(data)
