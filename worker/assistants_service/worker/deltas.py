"""Puts a model's deltas on the run's stream while they come: the first at once, then a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from assistants_service.core import events as e
from assistants_service.core.citations import Citations
from assistants_service.core.ids import Ids
from assistants_service.core.ports.models import ToolCall
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.runs.resources import MessageCreation, MessageRef, Run, Step, ToolCalls
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads import sse
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.tools.offer import Offer
from assistants_service.core.tools.tool import Annotation, AnyTool, Piece

# Between two writes lies this part of the time that the run has taken, at least: some 15,000 writes in a day. Azure
# takes 50,000 blocks, and the stream must not be full before the run has ended.
WRITES: Final = 2_000


class Lost(Exception):
    """The run is not this worker's any more: stop at once, write nothing."""


@dataclass(slots=True)
class PartialReply:
    """The steps and the message of a turn in the making. Their ids are final: the commit uses them.

    `number` is the version of the thread on which the model was asked: no other turn of the thread has the same.
    """

    run: Run
    ids: Ids
    number: int = 0
    offer: Offer = field(default_factory=Offer)
    citations: Citations = field(default_factory=Citations)
    message: Message | None = None
    message_step: Step | None = None
    calls_step: Step | None = None
    text: list[str] = field(default_factory=list)  # of the message, as it came so far, if a client listens
    refusal: list[str] = field(default_factory=list)
    expected: str = ""  # of an answer that comes whole: `message` or `calls`
    told: bool = False  # the log knows what was begun
    _annotations: list[Annotation] = field(default_factory=list)
    _cited: int = 0  # code points of the message that were looked through for citations

    @property
    def begun(self) -> bool:
        """Whether a client may have seen something of it."""
        return self.message is not None or self.calls_step is not None

    def call(self, call: ToolCall) -> StepToolCall:
        """As the step shows it before it is done."""
        begun: StepToolCall = self.offer.tool(call.name).begin(call, self.run, self.number)
        return begun

    def cited(self, text: str) -> list[Piece]:
        """The next text of the message, as far as it is certain what of it is a citation."""
        pieces = list(self.citations.feed(text))
        self._cited += len(text)
        self._note(pieces)
        return pieces

    def annotations_of(self, text: str) -> tuple[Annotation, ...]:
        """Of the whole message, of which `cited` had the beginning, or nothing."""
        self.cited(text[self._cited :])
        self._note(self.citations.close())
        return tuple(self._annotations)

    def _note(self, pieces: Iterable[Piece]) -> None:
        self._annotations += [annotation for _, annotation in pieces if annotation]

    def open_expected(self, now: float) -> None:
        """Without a listener, what comes is begun as the only thing that it can be."""
        if self.expected == "message":
            self.open_message(now)
        elif self.expected == "calls":
            self.open_calls(now)

    def open_message(self, now: float) -> tuple[Step, Message]:
        if self.message is None or self.message_step is None:
            self.message = Message(
                id=self.ids.new("msg"),
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

    def _step(self, kind: str, details: MessageCreation | ToolCalls, now: float) -> Step:
        return Step(
            id=self.ids.new("step"),
            created_at=int(now),
            run_id=self.run.id,
            assistant_id=self.run.assistant_id,
            thread_id=self.run.thread_id,
            type="tool_calls" if kind == "tool_calls" else "message_creation",
            expires_at=self.run.expires_at,
            step_details=details,
        )

    @property
    def making(self) -> e.StepBegun | None:
        """What was begun first."""
        if self.message_step:
            return e.StepBegun(step=self.message_step, message=self.message)
        return e.StepBegun(step=self.calls_step) if self.calls_step else None

    @property
    def opened(self) -> set[str]:
        return {thing.id for thing in (self.message, self.message_step, self.calls_step) if thing}


@dataclass(frozen=True, slots=True)
class Unheard:
    """The `Deltas` of a turn without a stream: they tell whether the model writes a message or calls functions."""

    draft: PartialReply
    now: Callable[[], float]

    def text(self, value: str) -> None:
        self.draft.text.append(value)
        self._open_message()

    def refusal(self, value: str) -> None:
        self.draft.refusal.append(value)
        self._open_message()

    def restart(self) -> bool:
        self.draft.text.clear()
        self.draft.refusal.clear()
        return True  # all that was shown is that something is in the making

    def _open_message(self) -> None:
        if self.draft.calls_step is None:  # else it opens with the turn's end: one thing is in the making at a time
            self.draft.open_message(self.now())

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        if self.draft.message is None:
            self.draft.open_calls(self.now())


@dataclass(slots=True)
class PartialCall:
    id: str
    name: str
    arguments: str = ""
    sent: int = 0  # characters of what the stream shows of the arguments

    def news(self, tool: AnyTool) -> str:
        """What the stream does not show yet."""
        shown = tool.written(self.arguments)
        news, self.sent = shown[self.sent :], len(shown)
        return news


@dataclass(slots=True)
class DeltaBuffer:
    """The `Deltas` of one streamed turn. The model's side only appends to memory; a task writes what gathered.

    Once text has come, calls wait for the turn's end, since the message must end on the stream before the next step
    begins (section 5.2). `still_mine` looks at the log after a lost race on the stream, and raises Lost.
    """

    writer: StreamWriter
    draft: PartialReply
    every: float  # seconds between writes, of a run that does not take long
    now: Callable[[], float]
    still_mine: Callable[[], Awaitable[set[str]]]  # the ids that the log knows of this run
    _cited: int = 0  # annotations that were sent
    _parts: list[tuple[str, str]] = field(default_factory=list)  # (text or refusal, value)
    _sent_parts: dict[str, int] = field(default_factory=dict)  # kind -> index on the wire
    _calls: dict[int, PartialCall] = field(default_factory=dict)  # by index
    _sent_calls: set[int] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    def text(self, value: str) -> None:
        self.draft.text.append(value)
        self._parts.append(("text", value))
        self._news.set()

    def refusal(self, value: str) -> None:
        self.draft.refusal.append(value)
        self._parts.append(("refusal", value))
        self._news.set()

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        if self._calls and index not in self._calls and not self.draft.run.parallel_tool_calls:
            return  # the turn drops it, too
        self._calls.setdefault(index, PartialCall(call_id, name)).arguments += arguments
        self._news.set()

    def restart(self) -> bool:
        return not (self.draft.text or self.draft.refusal or self._calls)

    async def run(self) -> None:
        """Write until closed. Raises Lost."""
        while True:
            await self._news.wait()
            closed = self._closed.is_set()  # asked before: what comes while this writes is for the next round
            await self._flush()
            if closed:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self.every, self._age() / WRITES)):
                    await self._closed.wait()

    def _age(self) -> float:
        run = self.draft.run
        return self.now() - (run.started_at or run.created_at)

    def close(self) -> None:
        """The model has said everything: let `run` write the rest and return."""
        self._closed.set()
        self._news.set()

    async def _flush(self) -> None:
        self._news.clear()
        events = [*self._message_events(), *self._call_events()]
        while events:
            try:
                return await self.writer.emit(events)
            except Conflict:
                # Another process wrote: an API process that cancels, or another worker that took the run over.
                draft = self.draft
                await self.writer.take_over(draft.run, mine=self.still_mine, opened=draft.opened, now=self.now())

    def _message_events(self) -> list[sse.Event]:
        # Text that comes after a call has begun waits for the turn's end: the steps do not overlap on the stream.
        if self.draft.calls_step is not None:
            return []
        parts, self._parts = self._parts, []
        deltas = [*self._text_deltas(parts), *self._refusal_deltas(parts)]
        if not deltas:
            return []
        events: list[sse.Event] = []
        if self.draft.message is None:
            step, message = self.draft.open_message(self.now())
            events += [*sse.opening_step(step), *sse.opening_message(message)]
        _, message = self.draft.open_message(self.now())
        return events + [sse.message_delta(message.id, delta) for delta in deltas]

    def _text_deltas(self, parts: Sequence[tuple[str, str]]) -> Iterator[dict[str, object]]:
        """A delta for each marker, with its annotation, and one for the text between two of them."""
        # What may become a citation is held back. If that is so to the end, it is told when the message ends.
        for value, annotation in self.draft.cited("".join(value for kind, value in parts if kind == "text")):
            cited = [sse.annotation_delta(self._cited, annotation)] if annotation else []
            self._cited += len(cited)
            index, first = self._index("text")
            yield {**sse.text_part(value, cited, first=first), "index": index}

    def _refusal_deltas(self, parts: Sequence[tuple[str, str]]) -> Iterator[dict[str, object]]:
        if value := "".join(value for kind, value in parts if kind == "refusal"):
            yield {"index": self._index("refusal")[0], "type": "refusal", "refusal": value}

    def _index(self, kind: str) -> tuple[int, bool]:
        """The index of a part on the wire, and whether this is its first delta."""
        first = kind not in self._sent_parts
        return self._sent_parts.setdefault(kind, len(self._sent_parts)), first

    def _call_events(self) -> list[sse.Event]:
        if self.draft.message is not None or not self._calls:
            return []
        events: list[sse.Event] = []
        if self.draft.calls_step is None:
            events += sse.opening_step(self.draft.open_calls(self.now()))
        step = self.draft.open_calls(self.now())
        for index, known in self._calls.items():
            tool = self.draft.offer.tool(known.name)
            if index not in self._sent_calls:
                self._sent_calls.add(index)
                begun = self.draft.call(ToolCall(known.id, known.name, ""))
                events.append(sse.step_delta(step.id, tool.head(index, begun)))
            if tool.streams and (news := known.news(tool)):
                events.append(sse.step_delta(step.id, tool.delta(index, {tool.streams: news})))
        return events
