"""The steps and the message of a model's reply while it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from assistants_service.core.citations import Citations
from assistants_service.core.ids import Ids
from assistants_service.core.ports.models import Deltas, ToolCall
from assistants_service.core.protocol.runs.resources import MessageCreation, MessageRef, Run, Step, ToolCalls
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.resources import MESSAGE, STEP
from assistants_service.core.threads import events as e
from assistants_service.core.tools.offer import Offer
from assistants_service.core.tools.tool import AnswerPiece
from assistants_service.core.tools.wire import Annotation


@dataclass(slots=True)
class PartialReply:
    """The steps and the message of a turn in progress. Their ids are final: the commit uses them. `deltas` is the reply
    as far as it has arrived; it stays empty if the reply comes whole.

    `number` is the version of the thread on which the model was called: unique to the turn within its thread.
    """

    run: Run
    ids: Ids
    number: int = 0
    offer: Offer = field(default_factory=Offer)
    citations: Citations = field(default_factory=Citations)
    images: Sequence[str] = ()  # ids of files, with which the message begins
    message: Message | None = None
    message_step: Step | None = None
    calls_step: Step | None = None
    deltas: Deltas = field(default_factory=Deltas)
    expected: str = ""  # the only possible kind of a reply that comes whole: `message` or `calls`
    announced: bool = False  # the log contains the objects in progress
    _annotations: list[Annotation] = field(default_factory=list)
    _cited: int = 0  # code points of the message that were searched for citations

    @property
    def begun(self) -> bool:
        """Whether a client may have seen some of it."""
        return self.message is not None or self.calls_step is not None

    def call(self, call: ToolCall) -> StepToolCall:
        """The call as the step shows it before it is done."""
        begun: StepToolCall = self.offer.tool(call.name).begin(call, self.run, self.number)
        return begun

    def find_citations(self, text: str) -> list[AnswerPiece]:
        """The next text of the message, as far as its citations are certain."""
        pieces = list(self.citations.feed(text))
        self._cited += len(text)
        self._note(pieces)
        return pieces

    def annotations_of(self, text: str) -> tuple[Annotation, ...]:
        """The annotations of the whole message, of which `find_citations` may have processed the beginning."""
        self.find_citations(text[self._cited :])
        self._note(self.citations.close())
        return tuple(self._annotations)

    def _note(self, pieces: Iterable[AnswerPiece]) -> None:
        self._annotations += [annotation for _, annotation in pieces if annotation]

    def open_expected(self, now: float) -> None:
        """Without a listener, begin the only object that the reply can become."""
        if self.expected == "message":
            self.open_message(now)
        elif self.expected == "calls":
            self.open_calls(now)

    def open_first(self, now: float) -> None:
        """Begin the object that the first delta belongs to; another one follows when the turn has ended, because one
        object is in progress at a time."""
        if self.begun:
            return
        if self.deltas.calls:
            self.open_calls(now)
        elif self.deltas.speaks:
            self.open_message(now)

    def open_message(self, now: float) -> tuple[Step, Message]:
        if self.message is None or self.message_step is None:
            self.message = Message(
                id=self.ids.new(MESSAGE.prefix),
                created_at=int(now),
                assistant_id=self.run.assistant_id,
                thread_id=self.run.thread_id,
                run_id=self.run.id,
                status="in_progress",
                role="assistant",
            )
            reference = MessageCreation(message_creation=MessageRef(message_id=self.message.id))
            self.message_step = self._step("message_creation", reference, now)
        return self.message_step, self.message

    def open_calls(self, now: float) -> Step:
        self.calls_step = self.calls_step or self._step("tool_calls", ToolCalls(), now)
        return self.calls_step

    def later_calls(self, details: ToolCalls, now: float) -> Step:
        """A step that follows the one of `open_calls`."""
        return self._step("tool_calls", details, now)

    def _step(self, kind: str, details: MessageCreation | ToolCalls, now: float) -> Step:
        return Step(
            id=self.ids.new(STEP.prefix),
            created_at=int(now),
            run_id=self.run.id,
            assistant_id=self.run.assistant_id,
            thread_id=self.run.thread_id,
            type="tool_calls" if kind == "tool_calls" else "message_creation",
            expires_at=self.run.expires_at,
            step_details=details,
        )

    @property
    def in_progress(self) -> e.StepBegun | None:
        """What was begun first."""
        if self.message_step:
            return e.StepBegun(step=self.message_step, message=self.message)
        return e.StepBegun(step=self.calls_step) if self.calls_step else None

    @property
    def opened(self) -> set[str]:
        return {resource.id for resource in (self.message, self.message_step, self.calls_step) if resource}
