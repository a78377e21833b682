"""What a model says reaches its stream whole, however slow the store and however the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec.structs import replace

import virtual_time
from assistants_service.core.citations import Citations
from assistants_service.core.ids import Ids
from assistants_service.core.ports.models import Deltas, Reply, Tokens, ToolCall
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.resources import (
    ImageFile,
    ImageFilePart,
    Message,
    RefusalPart,
    Text,
    TextPart,
)
from assistants_service.core.threads import delta_events, sse
from assistants_service.core.threads.renderer import Renderer
from assistants_service.core.threads.state import ThreadChange
from assistants_service.core.tools.tool import AnswerPiece
from assistants_service.worker.deltas import DeltaBuffer
from assistants_service.worker.partial_reply import PartialReply

RUN = Run(id="run_1", created_at=1, assistant_id="asst_1", thread_id="thread_1", model="m", expires_at=601)


class Clock:
    def now(self) -> float:
        return 2.0


class SlowWriter:
    """A stream whose writes last until they are let go."""

    def __init__(self) -> None:
        self.events: list[sse.StreamEvent] = []
        self.writing, self.go = asyncio.Event(), asyncio.Event()

    async def emit(self, events: Iterable[sse.StreamEvent]) -> None:
        self.writing.set()
        await self.go.wait()
        self.events += events

    @property
    def text(self) -> str:
        deltas = [payload.delta["content"][0] for name, payload in self.events if name == "thread.message.delta"]
        return "".join(part["text"]["value"] for part in deltas)


async def still_mine() -> set[str]:
    return set()


async def test_what_is_said_during_the_last_write_is_not_lost() -> None:
    writer: Any = SlowWriter()
    partial = PartialReply(RUN, Ids(Clock()))
    live = DeltaBuffer(writer, partial, 0.01, Clock().now, still_mine)
    deltas = partial.deltas = Deltas(live.wake)
    running = asyncio.create_task(live.run())
    deltas.text("Once upon ")
    await writer.writing.wait()
    deltas.text("a time.")
    live.close()
    writer.go.set()
    await running
    assert writer.text == "Once upon a time."


def test_the_reader_is_told_of_each_addition_and_nothing_final_is_taken_back() -> None:
    woken: list[int] = []
    deltas = Deltas(lambda: woken.append(1))
    assert deltas.restart()
    deltas.text("It ")
    deltas.refusal("No")
    deltas.extend(deltas.call("call_1", "add"), "{}")
    withheld = Deltas()
    deltas.take(withheld)
    assert len(woken) == 4
    withheld.text("is.")
    deltas.take(withheld)
    assert len(woken) == 5
    whole = Reply("It is.", "No", (ToolCall("call_1", "add", "{}"),), "tool_calls")
    assert not deltas.restart() and deltas.reply("tool_calls", Tokens()) == whole


def test_a_run_that_takes_long_writes_more_rarely() -> None:
    """For a stream that is full takes no end, either."""

    async def written(age: float) -> int:
        writer: Any = SlowWriter()
        writer.go.set()
        partial, began = PartialReply(replace(RUN, started_at=0), Ids(Clock())), asyncio.get_running_loop().time()
        live = DeltaBuffer(writer, partial, 0.05, lambda: age + asyncio.get_running_loop().time() - began, still_mine)
        partial.deltas = Deltas(live.wake)
        running = asyncio.create_task(live.run())
        for _ in range(1000):
            partial.deltas.text("word ")
            await asyncio.sleep(0.01)
        live.close()
        await running
        assert writer.text == "word " * 1000
        return sum(name == "thread.message.delta" for name, _ in writer.events)

    assert 190 < virtual_time.run(written(0)) < 210, "twenty times a second"
    assert virtual_time.run(written(3600)) < 10, "every other second"


async def test_text_that_comes_after_a_call_has_begun_waits_and_the_call_goes_on() -> None:
    writer: Any = SlowWriter()
    writer.go.set()
    partial = PartialReply(RUN, Ids(Clock()))
    live = DeltaBuffer(writer, partial, 0.001, Clock().now, still_mine)
    deltas = partial.deltas = Deltas(live.wake)
    running = asyncio.create_task(live.run())
    call = deltas.call("call_1", "add", '{"a": ')
    await writer.writing.wait()
    deltas.text("\n")
    deltas.extend(call, "1}")
    live.close()
    await running
    calls = [p.delta["step_details"]["tool_calls"][0] for n, p in writer.events if n == "thread.run.step.delta"]
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"a": 1}'
    assert partial.message is None


def test_a_message_that_is_cut_keeps_what_was_said() -> None:
    """Clients look a part up in the message that ends: it has to be there."""
    step, message = PartialReply(RUN, Ids(Clock())).open_message(1.0)
    renderer = Renderer()
    said = [
        *delta_events.opening_step(step),
        *delta_events.opening_message(message),
        delta_events.text_delta(message.id, 0, "Once ", first=True),
        delta_events.text_delta(message.id, 0, "upon", first=False),
        delta_events.refusal_delta(message.id, 1, "No."),
    ]
    for event in said:
        renderer.observe(*event)
    (cut,) = [thing for _, thing in renderer.abandoned(RUN, set(), 3) if isinstance(thing, Message)]
    assert (cut.status, cut.incomplete_at) == ("incomplete", 3)
    text, refusal = cut.content
    assert (text.text.value, refusal.refusal) == ("Once upon", "No.")


def test_the_first_keys_of_a_delta_are_its_index_and_type_streamed_or_not() -> None:
    """As in all recordings. None has a refusal, whose published schema has the same order."""
    _, begun = PartialReply(RUN, Ids(Clock())).open_message(1.0)
    parts = (
        TextPart(text=Text(value="Once")),
        RefusalPart(refusal="No!"),
        ImageFilePart(image_file=ImageFile(file_id="file_1")),
    )
    completed = ThreadChange(1, "thread.message.completed", replace(begun, status="completed", content=parts))
    streamed = Renderer()
    sent = [delta_events.text_delta(begun.id, 0, "On", first=True), delta_events.refusal_delta(begun.id, 1, "N")]
    for event in [*delta_events.opening_message(begun), *sent]:
        streamed.observe(*event)
    events = [*Renderer().render(completed), *streamed.render(completed)]
    deltas = [thing.delta["content"][0] for _, thing in events if isinstance(thing, delta_events.Delta)]
    assert {delta["type"] for delta in deltas} == {"text", "refusal", "image_file"}
    assert [[*delta][:2] for delta in deltas] == [["index", "type"]] * 6


class Counted(Citations):
    """What was looked through for citations."""

    looked_at = ""

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        self.looked_at += text
        return super().feed(text)


async def test_citations_are_looked_for_once_however_often_an_end_is_decided() -> None:
    """Of a streamed answer nothing again that was streamed; of any other all of it, at its end."""
    writer: Any = SlowWriter()
    writer.go.set()
    partial = PartialReply(RUN, Ids(Clock()), citations=(counted := Counted()))
    buffer = DeltaBuffer(writer, partial, 0.001, Clock().now, still_mine)
    deltas = partial.deltas = Deltas(buffer.wake)
    running = asyncio.create_task(buffer.run())
    deltas.text("Once upon ")
    await writer.writing.wait()
    deltas.text("a time.")
    buffer.close()
    await running
    for _ in range(2):  # a commit that meets another one is decided again
        assert partial.annotations_of("Once upon a time. The end.") == ()
    assert counted.looked_at == "Once upon a time. The end."
