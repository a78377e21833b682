"""Writes a model's deltas to the run's stream as they arrive: the first at once, then a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from assistants_service.core.ports.models import ToolCall
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.threads import delta_events, sse
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.tools.tool import AnswerPiece, AnyTool
from assistants_service.worker.partial_reply import PartialReply

# The minimum pause between two writes is this share of the run's age: some 15,000 writes in a day. Azure allows 50,000
# blocks, and the stream must not be full before the run has ended.
WRITES: Final = 2_000


@dataclass(slots=True)
class DeltaBuffer:
    """Reads the `Deltas` of one streamed turn. The model's side only adds to them and calls `wake`; a task writes what
    has been added since its last write.

    After text has begun, calls wait for the turn's end, because the message must end on the stream before the next step
    begins, as recorded. `still_mine` reads the log after a conflict on the stream, and raises LeaseLost.
    """

    writer: StreamWriter
    partial: PartialReply
    every: float  # minimum seconds between writes
    now: Callable[[], float]
    still_mine: Callable[[], Awaitable[set[str]]]  # the ids of this run's objects in the log
    _cited: int = 0  # annotations that were sent
    _texts: int = 0  # pieces of the text that were read
    _refusals: int = 0  # pieces of the refusal that were sent
    _sent_parts: dict[str, int] = field(default_factory=dict)  # kind -> index on the wire
    _sent_calls: dict[int, int] = field(default_factory=dict)  # index -> characters of its arguments that were sent
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _complete: bool = False  # the arguments of all calls are

    def wake(self) -> None:
        """There is something to write."""
        self._news.set()

    async def run(self) -> None:
        """Write until closed. Raises LeaseLost."""
        while True:
            await self._news.wait()
            closed = self._closed.is_set()  # checked first: what arrives during the write is for the next round
            await self._flush()
            if closed:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self.every, self._age() / WRITES)):
                    await self._closed.wait()

    def _age(self) -> float:
        run = self.partial.run
        return self.now() - (run.started_at or run.created_at)

    def complete(self) -> None:
        """The reply is complete, so that what was not certain of a call's arguments is certain now. `close` follows."""
        self._complete = True

    def close(self) -> None:
        """The reply has ended: let `run` write the rest and return."""
        self._closed.set()
        self._news.set()

    async def _flush(self) -> None:
        self._news.clear()
        events = [*self._message_events(), *self._call_events()]
        while events:
            try:
                return await self.writer.emit(events)
            except Conflict:
                # Another process wrote: an API process that cancels, or another worker that took over.
                partial = self.partial
                await self.writer.take_over(partial.run, mine=self.still_mine, opened=partial.opened, now=self.now())

    def _message_events(self) -> list[sse.StreamEvent]:
        # Text after the start of a call waits for the turn's end: steps must not overlap on the stream.
        if self.partial.calls_step is not None:
            return []
        texts, refusals = self.partial.deltas.texts[self._texts :], self.partial.deltas.refusals[self._refusals :]
        self._texts += len(texts)
        self._refusals += len(refusals)
        # What may become a citation is held back. If it is incomplete at the end, the message's end sends it.
        pieces, refusal = self.partial.find_citations("".join(texts)), "".join(refusals)
        if not pieces and not refusal:
            return []
        events: list[sse.StreamEvent] = []
        if self.partial.message is None:
            step, message = self.partial.open_message(self.now())
            events += [*delta_events.opening_step(step), *delta_events.opening_message(message)]
            events += [delta_events.image_delta(message.id, self._index(each)[0], each) for each in self.partial.images]
        _, message = self.partial.open_message(self.now())
        events += self._text_deltas(message.id, pieces)
        return [*events, *self._refusal_deltas(message.id, refusal)]

    def _text_deltas(self, message_id: str, pieces: Sequence[AnswerPiece]) -> Iterator[sse.StreamEvent]:
        """A delta for each marker, with its annotation, and one for the text between two of them."""
        for value, annotation in pieces:
            cited = [(self._cited, annotation)] if annotation else []
            self._cited += len(cited)
            index, first = self._index("text")
            yield delta_events.text_delta(message_id, index, value, cited, first=first)

    def _refusal_deltas(self, message_id: str, refusal: str) -> Iterator[sse.StreamEvent]:
        if refusal:
            yield delta_events.refusal_delta(message_id, self._index("refusal")[0], refusal)

    def _index(self, kind: str) -> tuple[int, bool]:
        """The index of a part on the wire, and whether this is its first delta."""
        first = kind not in self._sent_parts
        return self._sent_parts.setdefault(kind, len(self._sent_parts)), first

    def _call_events(self) -> list[sse.StreamEvent]:
        calls, offer = self.partial.deltas.calls, self.partial.offer
        if self.partial.message is not None or not calls:
            return []
        events: list[sse.StreamEvent] = []
        if self.partial.calls_step is None:
            events += delta_events.opening_step(self.partial.open_calls(self.now()))
        step_id = self.partial.open_calls(self.now()).id
        if not self.partial.run.parallel_tool_calls:
            calls = calls[:1]  # the turn drops the others, too
        for index, call in enumerate(offer.by_step(calls)[0]):  # later steps follow when it has ended
            events += self._call_deltas(step_id, index, call.so_far, offer.tool(call.name))
        return events

    def _call_deltas(self, step_id: str, index: int, call: ToolCall, tool: AnyTool) -> Iterator[sse.StreamEvent]:
        """What was not sent yet of a call."""
        if index not in self._sent_calls:
            self._sent_calls[index] = 0
            yield delta_events.call_begun(step_id, index, self.partial.call(replace(call, arguments="")))
        if tool.streams:
            shown, sent = self._shown(call, tool), self._sent_calls[index]
            self._sent_calls[index] = len(shown)
            if shown[sent:]:
                yield delta_events.call_delta(step_id, index, tool, {tool.streams: shown[sent:]})

    def _shown(self, call: ToolCall, tool: AnyTool) -> str:
        """The part of the streamed field that can no longer change."""
        return tool.streamed_text(self.partial.call(call)) if self._complete else tool.partial_text(call.arguments)
