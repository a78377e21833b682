"""Events of a run's stream that are not history: what begins a step or a message there, and the deltas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from assistants_service.core.protocol.runs.resources import Step, ToolCalls
from assistants_service.core.protocol.threads.resources import (
    ImageFile,
    ImageFilePart,
    Message,
    MessagePart,
    RefusalPart,
    TextPart,
)
from assistants_service.core.protocol.tools.resources import StepToolCall, TextAnnotation
from assistants_service.core.threads.sse import StreamEvent
from assistants_service.core.tools.registry import tool_of
from assistants_service.core.tools.tool import AnyTool


class Delta(msgspec.Struct, frozen=True):
    """`thread.message.delta` or `thread.run.step.delta`."""

    id: str
    object: str
    delta: dict[str, Any]


def _message_delta(message_id: str, part: dict[str, Any]) -> StreamEvent:
    return "thread.message.delta", Delta(message_id, "thread.message.delta", {"content": [part]})


def text_delta(
    message_id: str, index: int, value: str, annotations: Iterable[tuple[int, TextAnnotation]] = (), *, first: bool
) -> StreamEvent:
    """Of the part `index` of a message. Each annotation has its own index in the part, and is sent once. `first`: it is
    the first delta of this part."""
    return _message_delta(message_id, _text_part(index, value, annotations, first=first))


def image_delta(message_id: str, index: int, file_id: str) -> StreamEvent:
    part = msgspec.to_builtins(ImageFilePart(image_file=ImageFile(file_id=file_id)))
    return _message_delta(message_id, {"index": index, **part})


def refusal_delta(message_id: str, index: int, value: str) -> StreamEvent:
    return _message_delta(message_id, {"index": index, "type": "refusal", "refusal": value})


def call_begun(step_id: str, index: int, call: StepToolCall) -> StreamEvent:
    """The first delta of a call."""
    tool = tool_of(call)
    fields = msgspec.to_builtins(getattr(tool.as_begun(call), tool.kind))
    return _step_delta(step_id, {"index": index, "id": call.id, "type": tool.kind, tool.kind: fields})


def call_delta(step_id: str, index: int, tool: AnyTool, fields: Mapping[str, Any]) -> StreamEvent:
    """A further delta of a call: some of the fields that it shows."""
    return _step_delta(step_id, {"index": index, "type": tool.kind, tool.kind: fields})


def _step_delta(step_id: str, call: dict[str, Any]) -> StreamEvent:
    details = {"type": "tool_calls", "tool_calls": [call]}
    return "thread.run.step.delta", Delta(step_id, "thread.run.step.delta", {"step_details": details})


def _text_part(
    index: int, value: str, annotations: Iterable[tuple[int, TextAnnotation]], *, first: bool
) -> dict[str, Any]:
    """Only the first delta of a part always has annotations: clients add repeated values up."""
    text: dict[str, Any] = {"value": value}
    cited = [{"index": number, **msgspec.to_builtins(each.as_delta())} for number, each in annotations]
    if first or cited:
        text["annotations"] = cited
    return {"index": index, "type": "text", "text": text}


def opening_step(step: Step) -> list[StreamEvent]:
    """The events before the first delta of a step."""
    details = step.step_details
    if isinstance(details, ToolCalls):
        details = ToolCalls()
    step = replace(step, status="in_progress", completed_at=None, usage=None, step_details=details)
    return [("thread.run.step.created", step), ("thread.run.step.in_progress", step)]


def opening_message(message: Message) -> list[StreamEvent]:
    """The events before the first delta of a message."""
    message = replace(
        message,
        status="in_progress",
        completed_at=None,
        incomplete_at=None,
        incomplete_details=None,
        content=(),
        attachments=(),
    )
    return [("thread.message.created", message), ("thread.message.in_progress", message)]


def remaining_deltas(message_id: str, index: int, part: MessagePart, sent: MessagePart | None) -> Iterator[StreamEvent]:
    """The deltas of a part after those that add up to `sent`: one, or none if nothing is left."""
    for rest in _remaining(index, part, sent):
        yield _message_delta(message_id, rest)


def _remaining(index: int, part: MessagePart, sent: MessagePart | None) -> Iterator[dict[str, Any]]:
    match part, sent:
        case TextPart(text=text), TextPart(text=before):
            value, cited = text.value[len(before.value) :], text.annotations[len(before.annotations) :]
            if value or cited:
                yield _text_part(index, value, enumerate(cited, len(before.annotations)), first=False)
        case TextPart(text=text), None:
            yield _text_part(index, text.value, enumerate(text.annotations), first=True)
        case RefusalPart(refusal=refusal), RefusalPart(refusal=before):
            if refusal[len(before) :]:
                yield {"index": index, "type": "refusal", "refusal": refusal[len(before) :]}
        case _, None:
            yield {"index": index, **msgspec.to_builtins(part)}
