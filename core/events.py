"""The log of a thread: one line of JSON a commit, each commit a batch of events that hold together or not at all.

The wire's event names are the vocabulary; a few private ones are marked so. An event says what changed, not the whole
object. Kinds and fields that were ever released keep their meaning: new fields get defaults, old ones stay.
"""

from __future__ import annotations

import msgspec

from core.resources import (
    FileSearchResult,
    LastError,
    Message,
    Metadata,
    Run,
    Step,
    Struct,
    Thread,
    ToolResources,
    Usage,
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
    """A model's message. Only whole ones enter the log: what was streamed of it before is not history."""

    message: Message


class MessageIncomplete(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.message.incomplete"):
    """A model's message that the model itself cut off (length, content filter)."""

    message: Message


class RunCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.created"):
    """The run as queued, with its assistant's configuration as it was at this moment. `trace` is the W3C traceparent
    of the request that created it: all work on the run joins that trace. `contents`: its client wants to see what was
    found in files, on the stream too."""

    run: Run
    stream: bool = False
    trace: str = ""
    contents: bool = False


class RunUpdated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.updated"):
    """Private."""

    run_id: str
    metadata: Metadata


class RunClaimed(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.claimed"):
    """Private: a worker took the run up, by the work item `item`. `attempt` grows by one with each claim."""

    run_id: str
    attempt: int
    item: str


class StepCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.created"):
    """`own` are the call ids that the worker itself executes; `usage` is what the model call of this step cost."""

    step: Step
    own: tuple[str, ...] = ()
    usage: Usage | None = None


class StepOutputs(Struct, frozen=True, kw_only=True, tag_field="type", tag="thread.run.step.outputs"):
    """Private: outputs of calls that the worker executed, by call id. Of a search, `results` is what it found, and its
    output what the model is told beside that."""

    run_id: str
    step_id: str
    outputs: dict[str, str]
    results: dict[str, tuple[FileSearchResult, ...]] = msgspec.field(default_factory=dict)


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
    """All outputs are there: the run waits for a worker again. `stream`: somebody asked to stream from here on."""

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


Event = (
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
