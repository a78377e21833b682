"""What a thread's log folds into: the thread, its messages and its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import msgspec

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.files.service import OUTPUT
from assistants_service.core.log.state import State
from assistants_service.core.paging import Index
from assistants_service.core.ports.models import Thought
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.runs.resources import (
    MessageCreation,
    Run,
    Step,
    ToolCalls,
    Usage,
)
from assistants_service.core.protocol.threads.resources import Message, TextPart, Thread
from assistants_service.core.protocol.tools.resources import StepToolCall, TextAnnotation
from assistants_service.core.tools.functions import FunctionToolCall
from assistants_service.core.tools.registry import tool_of

Resource = Thread | Message | Run | Step | File
Results = Mapping[str, msgspec.Raw]  # what tools store beside the outputs of calls, by call id


@dataclass(frozen=True, slots=True)
class Change:
    """What one event did: the wire's event name and the object as it was right after, at this version of the thread, as
    the wire shows it to the run's client."""

    version: int
    name: str
    object: Resource


class Making(msgspec.Struct, frozen=True):
    """What a model is at: a step, and the message that it writes in it. Neither is history yet."""

    step: Step
    message: Message | None = None

    def named(self, object_id: str) -> Step | Message | None:
        """The one that has this id."""
        return next((thing for thing in (self.step, self.message) if thing and thing.id == object_id), None)


class ShownFile(msgspec.Struct, frozen=True):
    """A file that a tool has made, and that clients were shown first at this version of the thread."""

    version: int
    created_at: int
    kept: KeptFile

    @property
    def file(self) -> File:
        kept, name = self.kept, PurePosixPath(self.kept.path).name
        return File(id=kept.file_id, purpose=OUTPUT, filename=name, bytes=kept.bytes, created_at=self.created_at)


class RunState(msgspec.Struct, rename={"published_at": "shown_at", "cancel_requested_at": "asked_at"}):
    """A run, its steps, and what the wire does not show: who works on it, and which calls are the worker's own."""

    run: Run
    stream: bool = False
    trace: str = ""
    contents: bool = False  # its client sees what was found in files
    chosen: tuple[str, ...] = ()  # of temperature and top_p those that are 1 on purpose
    attempt: int = 0
    claims: int = 0  # in a row, the last one included, of which nothing has come yet
    item: str = ""
    claimed_at: int = 0  # version of the last claim
    cancel_requested_at: int = 0  # when its cancellation was asked for
    published_at: int = 0  # version up to which documents show the run: whichever worker goes on with it saw to that
    steps: Index[Step] = msgspec.field(default_factory=Index)
    own: set[str] = msgspec.field(default_factory=set)
    costs: dict[str, Usage] = {}  # of steps that are still open
    making: Making | None = None
    thoughts: dict[str, Thought] = {}  # that led to the calls of a step, while the run is active
    files: dict[str, ShownFile] = {}  # that its tools made, and that it was the first to show
    # Of replies whose calls make several steps, while the run is active:
    later: tuple[Step, ...] = ()  # steps that follow the open one
    joined: tuple[str, ...] = ()  # ids of steps that followed another one of their reply
    orders: dict[str, tuple[str, ...]] = {}  # by the id of a reply's first step: its calls as the model made them

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def open_step(self) -> Step | None:
        """The step in progress: tool calls that wait for outputs."""
        last = next(self.steps.newest(), None)
        return last if last and last.status == "in_progress" else None

    @property
    def rounds(self) -> int:
        """How often the model has called tools, of the client's or of the worker's."""
        return sum(isinstance(step.step_details, ToolCalls) for step in self.steps) - len(self.joined)

    @property
    def usage(self) -> Usage:
        """Of all model calls so far."""
        total = sum((step.usage for step in self.steps if step.usage), Usage())
        return sum(self.costs.values(), total)

    @property
    def known(self) -> set[str]:
        """Ids of the steps and messages of this run that the log knows."""
        details = (step.step_details for step in self.steps)
        written = {each.message_creation.message_id for each in details if isinstance(each, MessageCreation)}
        return written | {step.id for step in self.steps}

    @property
    def own_calls(self) -> list[StepToolCall]:
        """Calls of the open step that the worker has to execute: they have no output yet."""
        return [call for call in self._unanswered() if call.id in self.own]

    @property
    def owed_calls(self) -> list[FunctionToolCall]:
        """Calls of the open step whose outputs the client owes."""
        calls = (call for call in self._unanswered() if call.id not in self.own)
        return [call for call in calls if isinstance(call, FunctionToolCall)]

    def _unanswered(self) -> Iterator[StepToolCall]:
        step = self.open_step
        return (call for call in (step.calls if step else ()) if tool_of(call).is_pending(call))


class ThreadState(State):
    """Everything that a thread's log says."""

    thread: Thread | None = None
    messages: Index[Message] = msgspec.field(default_factory=Index)
    runs: Index[RunState] = msgspec.field(default_factory=Index)
    active: str | None = None  # the run that holds the thread's lock
    files: dict[str, KeptFile] = msgspec.field(default_factory=dict)  # that its tools made and did not remove, by path
    shown: set[str] = msgspec.field(default_factory=set)  # ids of those that clients were shown, and of images
    executed: str = ""  # names the state that the last call left which executed something

    @property
    def busy(self) -> bool:
        return self.active is not None

    @property
    def active_run(self) -> RunState | None:
        return self.runs.get(self.active) if self.active else None

    def annotations(self, messages: int) -> Iterator[TextAnnotation]:
        """Of so many of the newest messages, the newest one's first."""
        for message in islice(self.messages.newest(), messages):
            for part in message.content:
                if isinstance(part, TextPart):
                    yield from part.text.annotations

    @property
    def held_files(self) -> set[str]:
        """Ids of the files that its tools made, and that stay as long as it does."""
        return {file.file_id for file in self.files.values()} | self.shown

    @property
    def making(self) -> Making | None:
        """What the active run's model is at, as far as the log says."""
        return self.active_run.making if self.active_run else None
