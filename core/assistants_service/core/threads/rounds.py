"""Rounds of tool calls: the calls of one model turn, and their outputs."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assistants_service.core.ports.models import ToolCall, Turn
from assistants_service.core.protocol.runs.resources import MessageCreation, Step, ToolCalls
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tools.offer import Offer
from assistants_service.core.tools.registry import tool_of
from assistants_service.core.tools.tool import AnyTool

RECENT: Final = 20  # messages of runs whose rounds are searched: for an older run, even its state has to be read
_LETTERS: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Round:
    """A round of an earlier run. `turns` are the calls and their outputs."""

    step: Step
    turns: tuple[Turn, ...]


def outputs_of(step: Step) -> dict[str, str]:
    """The outputs that the model gets, by call id."""
    by_tool: dict[AnyTool, list[StepToolCall]] = {}
    for call in step.calls:
        by_tool.setdefault(tool_of(call), []).append(call)
    return {
        call.id: output
        for tool, calls in by_tool.items()
        for call, output in zip(calls, tool.outputs(calls), strict=True)
    }


def rounds_before(state: ThreadState, message: Message, offer: Offer) -> Iterator[Round]:
    """The rounds that led to a message of an earlier run, the newest first.

    Only complete ones, whose functions are all on `offer`: servers refuse calls without outputs, and some (Anthropic,
    Bedrock) refuse calls while no tools are offered. A round without a message after it, as in a failed run, is left
    out: Mistral refuses a user's message right after outputs ("Unexpected role 'user' after role 'tool'"). The caller
    ensures that the message is not empty, since an empty one is not sent.
    """
    run_state = state.runs.get(message.run_id or "")
    steps = [step for step in run_state.steps if step.status == "completed"] if run_state else []
    ends = (
        place
        for place, step in enumerate(steps)
        if isinstance(step.step_details, MessageCreation)
        and step.step_details.message_creation.message_id == message.id
    )
    for step in reversed(steps[: next(ends, 0)]):
        if not isinstance(step.step_details, ToolCalls):
            return
        found = _round(step, offer)
        if all(call.name in offer.tools for call in found.turns[0].calls):
            yield found


def _round(step: Step, offer: Offer) -> Round:
    outputs, calls, results = outputs_of(step), [], []
    for place, call in enumerate(step.calls):
        call_in_prompt, output = offer.model_call(call), outputs[call.id]
        call_id = _id(step, place)
        calls.append(ToolCall(call_id, call_in_prompt.name, call_in_prompt.arguments))
        results.append(Turn("tool", output, call_id=call_id))
    return Round(step, (Turn("assistant", calls=tuple(calls)), *results))


def _id(step: Step, place: int) -> str:
    """Nine letters and digits, as Mistral requires. The ids of the earlier run may come from another provider, and some
    models restart the numbering of calls in each turn, which others refuse."""
    number = int.from_bytes(hashlib.sha256(f"{step.id}/{place}".encode()).digest()[:8])
    return "".join(_LETTERS[number // len(_LETTERS) ** power % len(_LETTERS)] for power in range(9))
