"""Prompts and answers as attributes of a span, by OpenTelemetry's GenAI conventions: JSON of roles and parts.

Only used if content in traces is allowed. Images are shown by their URLs, with data: URLs cut off.
"""

from __future__ import annotations

from typing import Any

from assistants_service.core.ports.models import Image, Prompt, Reply, ToolCall, Turn
from assistants_service.core.ports.telemetry import Fact
from assistants_service.core.protocol.objects import encode

LONGEST_URL = 200  # characters


def prompt_facts(prompt: Prompt) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"messages": _json([_message(turn) for turn in prompt.turns])}
    if prompt.instructions:
        facts["instructions"] = _json([_text(prompt.instructions)])
    return facts


def reply_facts(reply: Reply) -> dict[str, Fact]:
    parts = [_text(text) for text in (reply.text, reply.refusal) if text] + [_call(call) for call in reply.calls]
    return {"reply": _json([{"role": "assistant", "parts": parts, "finish_reason": reply.finish}])}


def _message(turn: Turn) -> dict[str, Any]:
    if turn.role == "tool":
        return {"role": "tool", "parts": [{"type": "tool_call_response", "id": turn.call_id, "response": turn.text}]}
    return {"role": turn.role, "parts": [*map(_part, turn.parts), *map(_call, turn.calls)]}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return _text(part)
    return {"type": "uri", "modality": "image", "uri": part.url[:LONGEST_URL]}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}


def _json(value: Any) -> str:
    return encode(value).decode()
