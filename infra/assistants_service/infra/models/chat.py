"""Models with the Chat Completions API: OpenAI, Azure OpenAI, Ollama, vLLM and most others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins

from assistants_service.core.ports.models import Deltas, ForcedFunction, Image, Prompt, Reply, ToolCall, Turn
from assistants_service.infra.models.asking import ask
from assistants_service.infra.models.chat_reply import ChatReply
from assistants_service.infra.models.habits import Habits, Remembered
from assistants_service.infra.models.reply_builder import ReplyBuilder
from assistants_service.infra.models.thoughts import of_turn
from assistants_service.infra.models.turns import join_neighbours
from assistants_service.infra.models.upstream import Upstream

_PATH = "/chat/completions"


class ChatModel:
    """`max_tokens_field` is for servers that know only the older `max_tokens`; `forced` selects how a function is
    forced on servers that ignore the usual way: see Habits."""

    def __init__(
        self, upstream: Upstream, *, max_tokens_field: str = "max_completion_tokens", forced: str = "object"
    ) -> None:
        self._upstream = upstream
        self._habits = Remembered(lambda: Habits(max_tokens_field, forced=forced))

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Call the model, and again without what the provider refuses; streamed only if a client listens, because a
        stream costs more than a whole reply."""
        wanted = self._body(prompt)
        if deltas is not None:
            wanted |= {"stream": True, "stream_options": {"include_usage": True}}
        return await ask(self._habits.of(prompt.model), wanted, deltas, self._ask)

    async def _ask(self, body: dict[str, Any], builder: ReplyBuilder) -> Reply:
        reply = ChatReply(builder, self._upstream)
        with self._upstream.errors():
            if "stream" not in body:
                reply.absorb(await self._upstream.post(_PATH, body))
                return reply.whole_reply()
            async with self._upstream.stream(_PATH, body, builder) as chunks:
                async for chunk in chunks:
                    reply.absorb(chunk)
            return reply.streamed_reply()

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        messages = [_message(turn, self._upstream.provider) for turn in join_neighbours(prompt.turns)]
        if prompt.instructions:
            messages.insert(0, {"role": "system", "content": prompt.instructions})
        body: dict[str, Any] = {"model": prompt.model, "messages": messages}
        if prompt.tools:
            body["tools"] = [{"type": "function", "function": tool.fields} for tool in prompt.tools]
            # Defaults are not sent: many compatible servers reject unknown fields.
            if prompt.tool_choice != "auto":
                body["tool_choice"] = _tool_choice(prompt.tool_choice)
            if not prompt.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if prompt.response_format != "auto":
            body["response_format"] = to_builtins(prompt.response_format)
        options = {
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "reasoning_effort": prompt.reasoning_effort,
            "max_completion_tokens": prompt.max_completion_tokens,
        }
        return body | _set_fields(options)


def _tool_choice(choice: str | ForcedFunction) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}


def _set_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _message(turn: Turn, provider: str) -> dict[str, Any]:
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.call_id, "content": turn.text}
    if turn.role == "assistant" and turn.calls:
        message, calls = of_turn(turn, provider)
        asked = [_tool_call(call) | calls.get(call.id, {}) for call in turn.calls]
        return {"role": "assistant", "content": turn.text or None, **message, "tool_calls": asked}
    if turn.role == "user" and turn.images:
        return {"role": "user", "content": [_part(part) for part in turn.parts]}
    return {"role": turn.role, "content": turn.text}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
