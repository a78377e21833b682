"""The interface of a tool: its wire types, the function offered to the model, how a call is executed, what its step and
stream show, what the model gets as output, what is stored, and what it uses.

A tool is one object without state. All other code uses the registry, and no tool by name. The types of threads, runs
and steps are derived from the registry: a tool sees them by the protocols in run_info.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import msgspec

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.ports.models import Function, ToolCall
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.tools.resource_rules import AnyRules
from assistants_service.core.tools.run_info import RunInfo, StepInfo, ThreadInfo
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct
from assistants_service.core.tools.worker_parts import WorkerParts

AnswerPiece = tuple[str, Annotation | None]  # of an answer: text, or a citation with its annotation

B = TypeVar("B", bound=Body)
T = TypeVar("T", bound=ToolStruct)
C = TypeVar("C", bound=StepCall)


class ToolServices:
    """What a tool uses in a worker: created when the worker starts. By default it needs nothing."""

    async def check(self) -> None:
        """Find out what this machine cannot do, and log it."""

    async def close(self) -> None:
        """Called when the worker ends. No call is executed any more."""


S = TypeVar("S", bound=ToolServices)


@dataclass(frozen=True, slots=True)
class Execution(Generic[C]):
    """One call to execute. `steps` are those of the run. `beside`: the number of calls of its tool in this turn,
    including this one."""

    project: str
    thread: ThreadInfo
    run: RunInfo
    steps: Iterable[StepInfo]
    call: C
    beside: int = 1


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a call: the output for the model, and what else is stored, such as results that its step shows.
    `error` names for operators why the call was not executed as it should have been; mistakes of the model are none."""

    text: str
    stored: Any = None
    error: str = ""

    @property
    def raw(self) -> msgspec.Raw | None:
        return msgspec.Raw(msgspec.json.encode(self.stored)) if self.stored else None


@dataclass(frozen=True, slots=True)
class FileChanges:
    """What a completed call did to the files of its thread: `files` that it created or changed, the paths that it
    `removed`, and `images` that clients see. `state` identifies the interpreter's state after the call; empty if
    no code was executed. `names`: under which it found users' files, by id, unless a call before it did."""

    state: str = ""
    files: Sequence[KeptFile] = ()
    removed: Sequence[str] = ()
    images: Sequence[KeptFile] = ()
    names: Mapping[str, str] = field(default_factory=dict)


class Citer(Protocol):
    """Finds citations in an answer that comes in pieces, wherever it is cut. Offsets count code points."""

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        """Returns the part whose citations are certain. At most the beginning of one citation is held back."""

    def close(self) -> Iterator[AnswerPiece]:
        """The rest."""

    def skip(self, text: str) -> None:
        """Pass over another tool's citation."""


class Tool(Generic[B, T, C, S]):
    """A server-side tool. By default, it needs nothing, offers nothing to the model, streams nothing, and cites
    nothing."""

    kind: ClassVar[str]  # its type on the wire
    body: ClassVar[type[Body]]  # in requests
    definition: ClassVar[type[ToolStruct]]  # in assistants and runs
    call: ClassVar[type[StepCall] | None] = None  # in steps; None: it is never called
    resource_rules: ClassVar[AnyRules | None] = None  # its entry in tool_resources; None: it has none
    aliases: ClassVar[tuple[str, ...]] = ()  # by which models call its function, though it was offered by another name
    includes: ClassVar[tuple[str, ...]] = ()  # values of include[] for its calls
    annotation: ClassVar[type[Annotation] | None] = None  # in messages that cite its results
    streams: ClassVar[str | None] = None  # the field of a call that is streamed while the model writes its arguments
    alone: ClassVar[bool] = False  # each of its calls has a step of its own; those of one reply are executed in order

    def start(self, worker: WorkerParts) -> S:
        """What the tool uses in this worker. Called once."""
        return cast("S", ToolServices())

    # -- setup, from assistant, thread and run ----------------------------------------------------------------------

    def definition_of(self, body: B) -> T:
        """The tool as shown by assistants and runs, with its defaults."""
        return cast("T", type(self).definition())

    def defined_name(self, tool: T) -> str | None:
        """The name of the function that an entry in `tools` defines. None: it defines none."""
        return None

    async def offer(
        self, project: str, thread: ThreadInfo, run: RunInfo, taken: Collection[str], services: S
    ) -> Sequence[Function]:
        """The functions by which the model calls the tool in this run: one, unless `function` returns None."""
        function = self.function(run)
        return [dataclasses.replace(function, name=free_name(self.kind, taken))] if function else []

    def function(self, run: RunInfo) -> Function | None:
        """The function that the model sees. Its name is the tool's type; another one is found if a function of the
        assistant has that name."""
        return None

    def executes(self, name: str, services: S) -> bool:
        """Whether the worker executes calls of this function. Otherwise the client does."""
        return True

    # -- a call -----------------------------------------------------------------------------------------------------

    def begin(self, call: ToolCall, run: RunInfo, number: int) -> C:
        """The call as its step shows it before it is done. `number` is unique to the turn within its thread."""
        raise NotImplementedError

    async def execute(self, execution: Execution[C], services: S) -> Output:
        """Execute the call, at least once: a worker that takes over repeats it. It is cancelled if the run is
        cancelled, expires, or is taken over. It must limit its time and the size of its output. Errors are reported to
        the model in the output.

        Raises StorageUnavailable: then it is repeated when the storage is available again.
        """
        raise NotImplementedError

    def completed(self, call: C, output: str, stored: msgspec.Raw | None) -> C:
        """The call as its step shows it when it is done. `stored` is that of the Output, from the log."""
        raise NotImplementedError

    def is_pending(self, call: C) -> bool:
        """Whether the call has no output yet."""
        raise NotImplementedError

    def as_required(self, call: C) -> C:
        """The call as required_action shows it to the client that has to execute it."""
        return call

    def file_changes(self, call: C) -> FileChanges | None:
        """What the completed call did to the thread's files. None: nothing."""
        return None

    def on_wire(self, call: C, *, included: bool) -> C:
        """The call without what only the log has; `included`: include[] asks for additional contents."""
        return call

    # -- the call in later prompts ----------------------------------------------------------------------------------

    def called_with(self, call: C) -> tuple[str | None, str]:
        """The function that the model called (None: the offered one), and the arguments (JSON text)."""
        raise NotImplementedError

    def outputs(self, calls: Sequence[C]) -> Iterable[str]:
        """The outputs of its calls in one step, in order."""
        raise NotImplementedError

    async def citer(
        self, project: str, thread: ThreadInfo, run: RunInfo, steps: Sequence[StepInfo], services: S
    ) -> Citer | None:
        """Finds citations in an answer: of results of these steps, and of results that earlier answers of the thread
        cited. None: the tool has no citations."""
        return None

    # -- the stream -------------------------------------------------------------------------------------------------

    def as_begun(self, call: C) -> C:
        """The call as its first delta shows it."""
        return call

    def partial_text(self, arguments: str) -> str:
        """The value of the `streams` field for these arguments, which may be incomplete JSON. It only grows, and is the
        beginning of `streamed_text`."""
        return arguments

    def streamed_text(self, call: C) -> str:
        """The value of the `streams` field of a whole call."""
        return str(getattr(getattr(call, self.kind), str(self.streams)))

    def result_delta(self, call: C) -> Mapping[str, Any] | None:
        """The delta of a completed call, as fields of what it shows. None: the step's end shows the result."""
        return None


AnyTool = Tool[Any, Any, Any, Any]


def free_name(name: str, taken: Collection[str]) -> str:
    """A function name that is not taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)
