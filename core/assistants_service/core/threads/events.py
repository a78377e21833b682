"""The events of a thread's log."""

from __future__ import annotations

import msgspec

from assistants_service.core.log import events as log
from assistants_service.core.ports.models import Thought
from assistants_service.core.protocol.objects import LastError, Metadata
from assistants_service.core.protocol.runs.resources import Run, Step, Usage
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.protocol.tool_resources import ToolResources


class ThreadCreated(log.Event, frozen=True, kw_only=True, tag="thread.created"):
    thread: Thread


class ThreadUpdated(log.Event, frozen=True, kw_only=True, tag="thread.updated"):
    """Private. None: unchanged."""

    metadata: Metadata | None = None
    tool_resources: ToolResources | None = None


class ThreadDeleted(log.Event, frozen=True, kw_only=True, tag="thread.deleted"):
    pass


class MessageCreated(log.Event, frozen=True, kw_only=True, tag="thread.message.created"):
    """A client's message, which is always complete."""

    message: Message


class MessageUpdated(log.Event, frozen=True, kw_only=True, tag="thread.message.updated"):
    """Private."""

    message_id: str
    metadata: Metadata


class MessageDeleted(log.Event, frozen=True, kw_only=True, tag="thread.message.deleted"):
    message_id: str


class MessageCompleted(log.Event, frozen=True, kw_only=True, tag="thread.message.completed"):
    """A model's complete message. Its deltas are not part of the log."""

    message: Message


class MessageIncomplete(log.Event, frozen=True, kw_only=True, tag="thread.message.incomplete"):
    """A model's message that was cut off by the model (length, content filter) or by the end of its run: then it
    contains what clients had received, and what followed."""

    message: Message


class RunCreated(log.Event, frozen=True, kw_only=True, tag="thread.run.created", rename={"with_results": "contents"}):
    """The run as queued, with a copy of its assistant's configuration. `trace` is the W3C traceparent of the request
    that created it: all work on the run joins that trace. `with_results`: its client wants the contents of search
    results, on the stream as well. `chosen`: which of temperature and top_p are 1 because the run or its assistant set
    them, and not by default."""

    run: Run
    stream: bool = False
    trace: str = ""
    with_results: bool = False
    chosen: tuple[str, ...] = ()


class RunUpdated(log.Event, frozen=True, kw_only=True, tag="thread.run.updated"):
    """Private."""

    run_id: str
    metadata: Metadata


class RunClaimed(log.Event, frozen=True, kw_only=True, tag="thread.run.claimed"):
    """Private: a worker claimed the run, by the work item `item`. `attempt` increases by one with each claim.
    `handed_back`: the previous worker handed the run back, and did not die."""

    run_id: str
    attempt: int
    item: str
    handed_back: bool = False


class StepBegun(log.Event, frozen=True, kw_only=True, tag="thread.run.step.begun"):
    """Private: a model has been working on this step, and on its message if it writes one, for a while. It has no
    content, and is not history: it counts until the step is completed, its run ends, or another worker takes over."""

    step: Step
    message: Message | None = None


class StepCreated(log.Event, frozen=True, kw_only=True, tag="thread.run.step.created"):
    """`own` are the call ids that the worker itself executes; `usage` is what the model call of this step cost.
    `thought` led to the calls: private, for the provider that gave it, and for as long as the run goes on.

    A reply whose calls make several steps: its first one comes with the `later` ones, which are created one after the
    other, each when the one before has ended. `own` is of all of them, and `order` has all call ids of the reply."""

    step: Step
    own: tuple[str, ...] = ()
    usage: Usage | None = None
    thought: Thought | None = None
    later: tuple[Step, ...] = ()
    order: tuple[str, ...] = ()


class StepOutputs(log.Event, frozen=True, kw_only=True, tag="thread.run.step.outputs"):
    """Private: outputs of calls that the worker executed, by call id, as sent to the model. `results` is what else is
    stored of them (tools.tool.Output)."""

    run_id: str
    step_id: str
    outputs: dict[str, str]
    results: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)


class StepCompleted(log.Event, frozen=True, kw_only=True, tag="thread.run.step.completed"):
    """`outputs` are those that came with this event, by call id."""

    run_id: str
    step_id: str
    outputs: dict[str, str] = msgspec.field(default_factory=dict)


class StepFailed(log.Event, frozen=True, kw_only=True, tag="thread.run.step.failed"):
    run_id: str
    step_id: str
    error: LastError


class StepCancelled(log.Event, frozen=True, kw_only=True, tag="thread.run.step.cancelled"):
    run_id: str
    step_id: str


class StepExpired(log.Event, frozen=True, kw_only=True, tag="thread.run.step.expired"):
    run_id: str
    step_id: str


class RunRequiresAction(log.Event, frozen=True, kw_only=True, tag="thread.run.requires_action"):
    """The client owes outputs for the calls of the open step that have none."""

    run_id: str


class RunQueued(log.Event, frozen=True, kw_only=True, tag="thread.run.queued"):
    """All outputs are there, or the work item of the run's worker was lost: the run waits for a worker again. `stream`:
    a client asked to stream from here on."""

    run_id: str
    stream: bool = False


class RunCancelling(log.Event, frozen=True, kw_only=True, tag="thread.run.cancelling"):
    run_id: str


class RunCancelled(log.Event, frozen=True, kw_only=True, tag="thread.run.cancelled"):
    run_id: str


class RunExpired(log.Event, frozen=True, kw_only=True, tag="thread.run.expired"):
    run_id: str


class RunFailed(log.Event, frozen=True, kw_only=True, tag="thread.run.failed"):
    run_id: str
    error: LastError


class RunIncomplete(log.Event, frozen=True, kw_only=True, tag="thread.run.incomplete"):
    run_id: str
    reason: str


class RunCompleted(log.Event, frozen=True, kw_only=True, tag="thread.run.completed"):
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


Commit = log.Commit[ThreadEvent]

_decoder = msgspec.json.Decoder(Commit)


def from_lines(data: bytes) -> list[Commit]:
    """The commits in whole lines of a log."""
    return _decoder.decode_lines(data)
