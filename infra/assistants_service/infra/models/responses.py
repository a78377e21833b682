"""Models with the Responses API, used without its server-side state: nothing is stored there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import to_builtins

from assistants_service.core.ports.models import Deltas, ForcedFunction, Function, Image, Prompt, Refused, Reply, Turn
from assistants_service.core.protocol.response_formats import ResponseFormat
from assistants_service.infra.models.asking import ask
from assistants_service.infra.models.habits import Habits, Remembered
from assistants_service.infra.models.reply_builder import ReplyBuilder
from assistants_service.infra.models.responses_reply import ResponsesReply
from assistants_service.infra.models.thoughts import of_turn
from assistants_service.infra.models.turns import join_neighbours
from assistants_service.infra.models.upstream import Upstream

_PATH = "/responses"
_NO_PARAMETERS = {"type": "object", "properties": {}}
# Reasoning is not stored there, so it is returned encrypted (platform.openai.com/docs/guides/reasoning).
_INCLUDE = {"include": ["reasoning.encrypted_content"]}
# A deployment with another key cannot read it ("could not be verified", github.com/openai/codex/issues/3573): then the
# model reasons again. A server that does not support it refuses the request for it: see Habits.
_ENCRYPTED = re.compile(r"encrypted.content", re.IGNORECASE)


class ResponsesModel:
    """`forced` as in ChatModel."""

    def __init__(self, upstream: Upstream, *, forced: str = "object") -> None:
        self._upstream = upstream
        self._habits = Remembered(lambda: Habits(forced=forced))

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Call the model, and again without what the provider refuses; streamed only if a client listens, because a
        stream costs more than a whole reply."""
        wanted = _body(prompt, self._upstream.provider)
        if deltas is not None:
            wanted["stream"] = True
        if prompt.tools:
            wanted |= _INCLUDE
        return await ask(self._habits.of(prompt.model), wanted, deltas, self._ask, _without_reasoning)

    async def _ask(self, body: dict[str, Any], builder: ReplyBuilder) -> Reply:
        reply = ResponsesReply(builder, self._upstream)
        with self._upstream.errors():
            if "stream" not in body:
                reply.end(await self._upstream.post(_PATH, body))
                return reply.reply(body.get("max_output_tokens"))
            async with self._upstream.stream(_PATH, body, builder) as events:
                async for event in events:
                    if reply.absorb(event):
                        return reply.reply(body.get("max_output_tokens"))
            raise self._upstream.broken_off()


def _without_reasoning(body: dict[str, Any], refused: Refused) -> dict[str, Any]:
    """Removes the reasoning. Raises the refusal if it is not about reasoning, or if there is none."""
    rest = [item for item in body["input"] if item["type"] != "reasoning"]
    if not _ENCRYPTED.search(refused.error_text) or len(rest) == len(body["input"]):
        raise refused
    return body | {"input": rest}


def _body(prompt: Prompt, provider: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": prompt.model,
        "input": [item for turn in join_neighbours(prompt.turns) for item in _items(turn, provider)],
        "store": False,
    }
    if prompt.tools:
        body["tools"] = [_tool(tool) for tool in prompt.tools]
        if prompt.tool_choice != "auto":
            body["tool_choice"] = _tool_choice(prompt.tool_choice)
        if not prompt.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if prompt.reasoning_effort is not None:
        body["reasoning"] = {"effort": prompt.reasoning_effort}
    if prompt.response_format != "auto":
        body["text"] = {"format": _text_format(prompt.response_format)}
    options = {
        "instructions": prompt.instructions or None,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_output_tokens": prompt.max_completion_tokens,
    }
    return body | {name: value for name, value in options.items() if value is not None}


def _items(turn: Turn, provider: str) -> Iterator[dict[str, Any]]:
    if turn.role == "tool":
        yield {"type": "function_call_output", "call_id": turn.call_id, "output": turn.text}
        return
    if turn.role == "user" and turn.images:
        yield {"type": "message", "role": "user", "content": [_part(part) for part in turn.parts]}
    elif turn.text or not turn.calls:
        yield {"type": "message", "role": turn.role, "content": turn.text}
    thoughts = of_turn(turn, provider)[0].get("items", [])
    for place, call in enumerate(turn.calls):
        yield from (item for before, item in thoughts if before == place)
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    return {"type": "input_image", "image_url": part.url, "detail": part.detail}


def _tool(function: Function) -> dict[str, Any]:
    """The function, not nested. `strict` and `parameters` are required here; these values are the defaults of Chat
    Completions."""
    return {"type": "function", "parameters": _NO_PARAMETERS, "strict": False} | function.fields


def _tool_choice(choice: str | ForcedFunction) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else {"type": "function", "name": choice.name}


def _text_format(response_format: ResponseFormat) -> dict[str, Any]:
    """Chat Completions nests the schema's name and options, Responses does not."""
    found: dict[str, Any] = to_builtins(response_format)
    schema: dict[str, Any] = found.pop("json_schema", {})
    return found | schema
