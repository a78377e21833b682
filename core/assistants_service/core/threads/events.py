"""What happens to a thread: the events of its log."""

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
    """A client's message, complete at once."""

    message: Message


class MessageUpdated(log.Event, frozen=True, kw_only=True, tag="thread.message.updated"):
    """Private."""

    message_id: str
    metadata: Metadata


class MessageDeleted(log.Event, frozen=True, kw_only=True, tag="thread.message.deleted"):
    message_id: str


class MessageCompleted(log.Event, frozen=True, kw_only=True, tag="thread.message.completed"):
    """A model's message, whole: what was streamed of it before is not history."""

    message: Message


class MessageIncomplete(log.Event, frozen=True, kw_only=True, tag="thread.message.incomplete"):
    """A model's message that the model itself cut off (length, content filter), or the end of its run: then it is what
    clients had heard, and what came after that."""

    message: Message


class RunCreated(log.Event, frozen=True, kw_only=True, tag="thread.run.created"):
    """The run as queued, with its assistant's configuration as it was at this moment. `trace` is the W3C traceparent
    of the request that created it: all work on the run joins that trace. `contents`: its client wants to see what was
    found in files, on the stream too. `chosen`: which of temperature and top_p are 1 because the run or its assistant
    said so, and not by default."""

    run: Run
    stream: bool = False
    trace: str = ""
    contents: bool = False
    chosen: tuple[str, ...] = ()


class RunUpdated(log.Event, frozen=True, kw_only=True, tag="thread.run.updated"):
    """Private."""

    run_id: str
    metadata: Metadata


class RunClaimed(log.Event, frozen=True, kw_only=True, tag="thread.run.claimed"):
    """Private: a worker took the run up, by the work item `item`. `attempt` grows by one with each claim.
    `handed_back`: the worker that had it before let go of it, and did not die."""

    run_id: str
    attempt: int
    item: str
    handed_back: bool = False


class StepBegun(log.Event, frozen=True, kw_only=True, tag="thread.run.step.begun"):
    """Private: a model has been at this step, and at its message if it writes one, for a while. It is told without
    content, and is not history: it stands until the step comes whole, its run ends, or another worker takes over."""

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
    """Private: outputs of calls that the worker executed, by call id: what the model is told. `results` is what else is
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
    """The client owes the outputs of the open step's calls that have none."""

    run_id: str


class RunQueued(log.Event, frozen=True, kw_only=True, tag="thread.run.queued"):
    """All outputs are there, or the work item of the worker that had the run is lost: it waits for a worker again.
    `stream`: a client asked to stream from here on."""

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


Commit = log.Commit[Event]

_decoder = msgspec.json.Decoder(Commit)


def from_lines(data: bytes) -> list[Commit]:
    """The commits of whole lines, as a log is read."""
    return _decoder.decode_lines(data)
