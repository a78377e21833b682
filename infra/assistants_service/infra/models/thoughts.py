"""The reasoning of a model before its function calls, in the form in which its server expects it back with their
outputs.

Without it, servers refuse the next turn of a run, or the model has to reason again:

* Gemini: `extra_content.google.thought_signature` of a call (ai.google.dev/gemini-api/docs/thought-signatures).
* DeepSeek, Moonshot, Z.ai and others: `reasoning_content` (api-docs.deepseek.com/guides/thinking_mode#tool-calls).
* OpenRouter: `reasoning_details` (openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks).
* Groq and vLLM for gpt-oss: `reasoning`. LiteLLM: `thinking_blocks`, and `provider_specific_fields` of a call.

The fields are returned unchanged, and to the same provider only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from assistants_service.core.ports.models import Thought, Turn
from assistants_service.infra.models.reply_builder import clean

logger = logging.getLogger(__name__)

MOST: Final = 1024 * 1024  # bytes of JSON, stored in the log with a step
OF_MESSAGES: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "extra_content")
OF_CALLS: Final = ("extra_content", "provider_specific_fields")
_GROWING: Final = ("text", "summary", "thinking")  # fields of a block that a stream sends in parts


class Thinking:
    """Collects it, from a whole message or from deltas."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._size = 0

    def message(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if value and self._room(value):
                self._message[name] = _grown(self._message.get(name), value)

    def call(self, call_id: str, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if value and self._room(value):
                self._calls.setdefault(call_id, {})[name] = value

    def item(self, item: Mapping[str, Any], before: int) -> None:
        """An item of Responses, which preceded the call of that number."""
        if self._room(item):
            self._message.setdefault("items", []).append([before, item])

    def _room(self, value: Any) -> bool:
        self._size += len(value) if isinstance(value, str) else len(json.dumps(value))
        return self._size <= MOST

    def thought(self, provider: str) -> Thought | None:
        """The model's reasoning; None if there is none, or too much to store: the provider never gets only a part of
        it."""
        if not self._size:
            return None
        if self._message.get("reasoning_details"):  # `reasoning` is the same without its signatures
            self._message.pop("reasoning", None)
        data = json.dumps({"message": self._message, "calls": self._calls}, separators=(",", ":"))
        if self._size > MOST or len(data) > MOST:
            logger.warning("the reasoning of a model of '%s' is not stored: it is too long", provider)
            return None
        return Thought(provider, data)


def _grown(known: Any, value: Any) -> Any:
    if isinstance(value, str) and isinstance(known, str):
        return known + value
    if _blocks(value):
        blocks = [dict(block) for block in known] if _blocks(known) else []
        for block in value:
            _add(blocks, block)
        return blocks
    return value


def _blocks(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(block, dict) for block in value)


def _add(blocks: list[dict[str, Any]], block: Mapping[str, Any]) -> None:
    """Adds a part of the last block, or of the one with the same index, or a new block."""
    last = next(
        (known for known in reversed(blocks) if _kind(known) == _kind(block)),
        None,
    )
    if last is None or (block.get("index") is None and last.get("signature")) or block.get("data"):
        blocks.append(dict(block))
        return
    for name, value in block.items():
        if name in _GROWING and isinstance(value, str):
            last[name] = (last.get(name) or "") + value
        elif value not in (None, ""):
            last[name] = value


def _kind(block: Mapping[str, Any]) -> tuple[Any, Any]:
    return block.get("type"), block.get("index")


def of_turn(turn: Turn, provider: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The fields of the message, and those of its calls by id; none of another provider's."""
    if turn.thought is None or turn.thought.provider != provider:
        return {}, {}
    try:
        data = _clean(json.loads(turn.thought.data))
    except RecursionError:  # nested a thousand times: not what a server would need
        return {}, {}
    return data["message"], data["calls"]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return {clean(name): _clean(each) for name, each in value.items()} if isinstance(value, dict) else value
