"""The events of a run's stream, made from the changes of its thread, in the recorded orders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

import msgspec
from msgspec.structs import replace

from assistants_service.core.protocol.objects import LastError
from assistants_service.core.protocol.runs.resources import Run, Step
from assistants_service.core.protocol.threads.resources import (
    ImageFile,
    ImageFilePart,
    Message,
    MessagePart,
    Reason,
    RefusalPart,
    Text,
    TextPart,
    Thread,
)
from assistants_service.core.protocol.tools.resources import TextAnnotation
from assistants_service.core.threads.delta_events import (
    Delta,
    call_begun,
    call_delta,
    opening_message,
    opening_step,
    remaining_deltas,
)
from assistants_service.core.threads.sse import ENDINGS, StreamEvent
from assistants_service.core.threads.state import ThreadChange
from assistants_service.core.tools.registry import tool_of

# Events of the wire: the log's private events change documents, but are not sent to clients.
STREAMED = re.compile(
    r"thread\.created|thread\.run\.(created|queued|in_progress|requires_action|cancelling|completed|incomplete|failed"
    r"|cancelled|expired)|thread\.run\.step\.(created|completed|failed|cancelled|expired)"
    r"|thread\.message\.(completed|incomplete)"
)
OUTPUTS = "thread.run.step.outputs"  # private, too; tools may stream deltas for it


def streamed(change: ThreadChange) -> bool:
    """Whether the change may appear on a run's stream, apart from the thread that it begins with."""
    if change.name == OUTPUTS and isinstance(change.object, Step):
        return any(tool_of(call).result_delta(call) for call in change.object.calls)
    return STREAMED.fullmatch(change.name) is not None and not isinstance(change.object, Thread)


class Renderer:
    """Turns changes into events. Tracks open steps and messages: those that have begun on the stream and not ended."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.messages: dict[str, Message] = {}
        self._begun: set[str] = set()
        # message -> part -> (type, pieces, annotations)
        self._deltas: dict[str, dict[int, tuple[str, list[str], list[TextAnnotation]]]] = {}

    def observe(self, name: str, payload: Any) -> None:
        """Process an event that is already on the stream."""
        match payload:
            case Step() if name == "thread.run.step.created":
                self.steps[payload.id] = payload
                self._begun.add(payload.id)
            case Step() if payload.status != "in_progress":
                self.steps.pop(payload.id, None)
            case Message() if name == "thread.message.created":
                self.messages[payload.id] = payload
                self._begun.add(payload.id)
            case Message() if payload.status != "in_progress":
                self.messages.pop(payload.id, None)
                self._deltas.pop(payload.id, None)
            case Delta() if payload.id in self.messages:
                self._add_delta(payload)

    def _add_delta(self, delta: Delta) -> None:
        parts = self._deltas.setdefault(delta.id, {})
        for part in delta.delta.get("content", ()):
            kind = part["type"]
            if kind in ("text", "refusal"):
                text = part["text"] if kind == "text" else {"value": part["refusal"]}
                _, pieces, annotations = parts.setdefault(part["index"], (kind, [], []))
                pieces.append(text["value"])
                annotations += (msgspec.convert(each, TextAnnotation) for each in text.get("annotations", ()))
            elif kind == "image_file":
                parts[part["index"]] = (kind, [part["image_file"]["file_id"]], [])

    def _content_of(self, message_id: str) -> tuple[MessagePart, ...]:
        """The part of a message that was streamed. Clients read it again from the message's end."""
        parts = sorted(self._deltas.get(message_id, {}).items())
        return tuple(_part(*part) for _, part in parts)

    def begun(self, object_id: str) -> bool:
        return object_id in self._begun

    def render(self, change: ThreadChange) -> Iterator[StreamEvent]:
        """The events of one change. At the end of the run, closes what is still open on the stream."""
        match change.object:
            case Run() as run if change.name in ENDINGS:
                yield from self._close_open(frozenset(), run)
                yield change.name, run
            case Step() as step if change.name == "thread.run.step.created":
                yield from self._step_created(step)
            case Step() as step if change.name == OUTPUTS:
                yield from self._outputs(step)
            case Step() as step:
                begun = self.steps.get(step.id)
                # On the stream an ended step still has its expires_at (recorded), in lists it does not.
                yield change.name, replace(step, expires_at=begun.expires_at) if begun else step
            case Message() as message:
                yield from self._message_ended(message)
                yield change.name, message
            case resource:
                yield change.name, resource

    def _step_created(self, step: Step) -> Iterator[StreamEvent]:
        """All events of a step that was not streamed; a message's own events follow with the message."""
        if self.begun(step.id):
            return
        yield from opening_step(step)
        for index, call in enumerate(step.calls):
            tool = tool_of(call)
            yield call_begun(step.id, index, call)
            if tool.streams:
                yield call_delta(step.id, index, tool, {tool.streams: tool.streamed_text(call)})

    def _outputs(self, step: Step) -> Iterator[StreamEvent]:
        """The results of the worker's own calls, of those tools that stream them."""
        for index, call in enumerate(step.calls):
            tool = tool_of(call)
            if not tool.is_pending(call) and (results := tool.result_delta(call)):
                yield call_delta(step.id, index, tool, results)

    def _message_ended(self, message: Message) -> Iterator[StreamEvent]:
        """The deltas of a message that was not streamed, one for each part; or the rest of one that was: text that was
        held back as a possible marker, or not written yet when the run was cut off."""
        if not self.begun(message.id):
            yield from opening_message(message)
        sent = self._content_of(message.id)
        for index, part in enumerate(message.content):
            yield from remaining_deltas(message.id, index, part, sent[index] if index < len(sent) else None)

    def _close_open(self, known: Set[str], run: Run) -> Iterator[StreamEvent]:
        """Close what a model was writing when its run ended, or when its worker died: first messages, then steps."""
        at = run.cancelled_at or run.failed_at or run.completed_at
        ending = run.status if run.status in ("cancelled", "expired") else "failed"
        for message in [message for message in self.messages.values() if message.id not in known]:
            cut = replace(message, status="incomplete", incomplete_details=Reason(reason=f"run_{ending}"))
            yield "thread.message.incomplete", replace(cut, incomplete_at=at, content=self._content_of(message.id))
        for step in [step for step in self.steps.values() if step.id not in known]:
            yield f"thread.run.step.{ending}", _ended(step, ending, at, run)

    def abandoned(self, run: Run, keep: Set[str], now: int) -> list[StreamEvent]:
        """Close what a dead worker left open on the stream, before another one continues."""
        if not (set(self.steps) | set(self.messages)) - keep:
            return []
        error = LastError(code="server_error", message="The worker of this step stopped; another one continues.")
        return list(self._close_open(keep, replace(run, status="failed", failed_at=now, last_error=error)))


def _part(kind: str, pieces: Sequence[str], annotations: Sequence[TextAnnotation]) -> MessagePart:
    match kind:
        case "text":
            return TextPart(text=Text(value="".join(pieces), annotations=tuple(annotations)))
        case "image_file":
            return ImageFilePart(image_file=ImageFile(file_id="".join(pieces)))
    return RefusalPart(refusal="".join(pieces))


def _ended(step: Step, ending: str, at: int | None, run: Run) -> Step:
    match ending:
        case "cancelled":
            return replace(step, status="cancelled", cancelled_at=at)
        case "expired":
            return replace(step, status="expired", expired_at=at)
    error = run.last_error
    return replace(step, status="failed", failed_at=at, last_error=error.of_step if error else None)
