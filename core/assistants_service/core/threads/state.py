"""The folded state of a thread's log: the thread, its messages and its runs."""

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
from assistants_service.core.tools.registry import CLIENTS, tool_of

ThreadObject = Thread | Message | Run | Step | File
Results = Mapping[str, msgspec.Raw]  # what tools store in addition to the outputs of calls, by call id


@dataclass(frozen=True, slots=True)
class ThreadChange:
    """The effect of one event: the wire's event name, the object right after it as the wire shows it to the run's
    client, and the resulting version of the thread."""

    version: int
    name: str
    object: ThreadObject


class InProgress(msgspec.Struct, frozen=True):
    """A step in progress, and the message that is written in it. Neither is in the run's history yet."""

    step: Step
    message: Message | None = None

    def named(self, object_id: str) -> Step | Message | None:
        """The step or the message if it has this id."""
        return next((resource for resource in (self.step, self.message) if resource and resource.id == object_id), None)


class ShownFile(msgspec.Struct, frozen=True):
    """A file that a tool has created, and the version of the thread that first showed it to clients."""

    version: int
    created_at: int
    kept: KeptFile

    @property
    def file(self) -> File:
        kept, name = self.kept, PurePosixPath(self.kept.path).name
        return File(id=kept.file_id, purpose=OUTPUT, filename=name, bytes=kept.bytes, created_at=self.created_at)


class RunState(
    msgspec.Struct,
    rename={
        "published_at": "shown_at",
        "cancel_requested_at": "asked_at",
        "in_progress": "making",
        "with_results": "contents",
    },
):
    """A run, its steps, and what the wire does not show: its claims, and which calls the worker executes."""

    run: Run
    stream: bool = False
    trace: str = ""
    with_results: bool = False  # its client wants the contents of search results
    chosen: tuple[str, ...] = ()  # those of temperature and top_p that were set explicitly
    attempt: int = 0
    claims: int = 0  # consecutive claims without a result, the last one included
    item: str = ""
    claimed_at: int = 0  # version of the last claim
    cancel_requested_at: int = 0  # when its cancellation was requested
    published_at: int = 0  # its documents are written up to this version; each worker that continues the run ensures it
    steps: Index[Step] = msgspec.field(default_factory=Index)
    own: set[str] = msgspec.field(default_factory=set)
    costs: dict[str, Usage] = {}  # of open steps
    in_progress: InProgress | None = None
    thoughts: dict[str, Thought] = {}  # reasoning that preceded the calls of a step, while the run is active
    files: dict[str, ShownFile] = {}  # that its tools created, and that it showed first
    # For replies whose calls become several steps, while the run is active:
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
        """How many times the model has called tools, the client's or the worker's."""
        return sum(isinstance(step.step_details, ToolCalls) for step in self.steps) - len(self.joined)

    @property
    def usage(self) -> Usage:
        """The sum over all model calls so far."""
        total = sum((step.usage for step in self.steps if step.usage), Usage())
        return sum(self.costs.values(), total)

    @property
    def known(self) -> set[str]:
        """Ids of the run's steps and messages that are in the log."""
        details = (step.step_details for step in self.steps)
        written = {each.message_creation.message_id for each in details if isinstance(each, MessageCreation)}
        return written | {step.id for step in self.steps}

    @property
    def own_calls(self) -> list[StepToolCall]:
        """Calls of the open step that the worker has to execute: those without an output."""
        return [call for call in self._unanswered() if call.id in self.own]

    @property
    def owed_calls(self) -> list[StepToolCall]:
        """Calls of the open step whose outputs the client owes."""
        calls = (call for call in self._unanswered() if call.id not in self.own)
        return [call for call in calls if tool_of(call) is CLIENTS]

    def _unanswered(self) -> Iterator[StepToolCall]:
        step = self.open_step
        return (call for call in (step.calls if step else ()) if tool_of(call).is_pending(call))


class ThreadState(State):
    """The folded log of a thread."""

    thread: Thread | None = None
    messages: Index[Message] = msgspec.field(default_factory=Index)
    runs: Index[RunState] = msgspec.field(default_factory=Index)
    active: str | None = None  # id of the active run
    files: dict[str, KeptFile] = msgspec.field(default_factory=dict)  # created by its tools, not removed since; by path
    shown: set[str] = msgspec.field(default_factory=set)  # ids of files that clients were shown, and of images
    executed: str = ""  # state of the interpreter after the last call that executed code
    file_names: dict[str, str] = msgspec.field(default_factory=dict)  # of users' files as its calls found them, by id
    removed: set[str] = msgspec.field(
        default_factory=set
    )  # paths of users' files that its calls removed, and where none is

    @property
    def busy(self) -> bool:
        return self.active is not None

    @property
    def active_run(self) -> RunState | None:
        return self.runs.get(self.active) if self.active else None

    def annotations(self, messages: int) -> Iterator[TextAnnotation]:
        """The annotations of that number of newest messages, beginning with the newest message."""
        for message in islice(self.messages.newest(), messages):
            for part in message.content:
                if isinstance(part, TextPart):
                    yield from part.text.annotations

    @property
    def referenced_files(self) -> set[str]:
        """Ids of the files that its tools created and that must exist as long as the thread does."""
        return {file.file_id for file in self.files.values()} | self.shown

    @property
    def in_progress(self) -> InProgress | None:
        """The step and message in progress of the active run, as far as the log shows them."""
        return self.active_run.in_progress if self.active_run else None
