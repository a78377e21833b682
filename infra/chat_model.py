"""Models behind the Chat Completions API: OpenAI, Azure OpenAI, Ollama, vLLM and most others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from core.ports import Deltas, Image, Prompt, Reply, Tokens, ToolCall, Turn
from infra.draft import Draft
from infra.turns import joined
from infra.upstream import Upstream

_PATH = "/chat/completions"


class ChatModel:
    """`max_tokens_field` is for servers that only know the older `max_tokens`."""

    def __init__(self, upstream: Upstream, *, max_tokens_field: str = "max_completion_tokens") -> None:
        self._upstream = upstream
        self._max_tokens_field = max_tokens_field

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Ask once; streamed only if somebody listens, for a stream costs more than a whole reply."""
        body = self._body(prompt)
        with self._upstream.errors():
            if deltas is None:
                return _whole(await self._upstream.post(_PATH, body))
            return await self._streamed(body, deltas)

    async def _streamed(self, body: dict[str, Any], deltas: Deltas) -> Reply:
        draft, calls = Draft(deltas), _Calls()
        finish: str | None = None
        usage: Mapping[str, Any] | None = None
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with self._upstream.stream(_PATH, body) as chunks:
            async for chunk in chunks:
                usage = chunk.get("usage") or usage  # in the last chunk, or growing in each of them
                for choice in chunk.get("choices") or ():
                    calls.absorb(choice.get("delta") or {}, draft)
                    finish = choice.get("finish_reason") or finish
        if finish is None:
            raise self._upstream.broken_off()
        return draft.reply(_finish(finish), _tokens(usage))

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        messages = [_message(turn) for turn in joined(prompt.turns)]
        if prompt.instructions:
            messages.insert(0, {"role": "system", "content": prompt.instructions})
        body: dict[str, Any] = {"model": prompt.model, "messages": messages}
        if prompt.tools:
            body["tools"] = [{"type": "function", "function": _given(tool)} for tool in prompt.tools]
            # Their defaults are not sent: many compatible servers reject fields that they do not know.
            if prompt.tool_choice != "auto":
                choice = prompt.tool_choice
                body["tool_choice"] = choice if isinstance(choice, str) else dict(choice)
            if not prompt.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if prompt.response_format not in ("auto", None):
            body["response_format"] = prompt.response_format
        options = {
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "reasoning_effort": prompt.reasoning_effort,
            self._max_tokens_field: prompt.max_completion_tokens,
        }
        return body | _given(options)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _message(turn: Turn) -> dict[str, Any]:
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.call_id, "content": turn.text}
    if turn.role == "assistant" and turn.calls:
        return {"role": "assistant", "content": turn.text or None, "tool_calls": [_tool_call(c) for c in turn.calls]}
    if turn.role == "user" and turn.images:
        return {"role": "user", "content": [_part(part) for part in turn.parts]}
    return {"role": turn.role, "content": turn.text}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _whole(data: dict[str, Any]) -> Reply:
    draft, choice = Draft(None), data["choices"][0]
    for place, call in enumerate(choice["message"].get("tool_calls") or ()):
        call["index"] = place  # each is a call of its own, even if a server gives all the same id
    _Calls().absorb(choice["message"], draft)
    return draft.reply(_finish(choice.get("finish_reason")), _tokens(data.get("usage")))


class _Calls:
    """Finds the call that a fragment belongs to. A whole message is read like a stream of one fragment."""

    def __init__(self) -> None:
        self._open: dict[int | None, tuple[int, str]] = {}  # the wire's index: (index in the draft, id)

    def absorb(self, message: Mapping[str, Any], draft: Draft) -> None:
        draft.text(_text(message.get("content")))
        draft.refusal(message.get("refusal") or "")
        for fragment in message.get("tool_calls") or ():
            self._fragment(fragment.get("index"), fragment.get("id") or "", fragment.get("function") or {}, draft)
        if legacy := message.get("function_call"):
            self._fragment(0, "", legacy, draft)

    def _fragment(self, key: int | None, call_id: str, function: Mapping[str, Any], draft: Draft) -> None:
        name, arguments = function.get("name") or "", _arguments(function.get("arguments"))
        known = self._open.get(key)
        if known is None or (name and _another(key, call_id, known[1])):
            self._open[key] = draft.call(call_id, name, arguments), call_id
        else:
            draft.extend(known[0], arguments)


def _another(key: int | None, call_id: str, known_id: str) -> bool:
    """A named fragment for an index that is taken. Some servers number all their calls 0, or none of them."""
    return call_id != known_id if call_id else key is None


def _arguments(value: Any) -> str:
    """JSON text; a few servers send the object itself."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _text(content: Any) -> str:
    """Text, or the parts of it that some servers send."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return content or ""


def _finish(reason: str | None) -> str:
    return reason if reason in ("length", "content_filter") else "stop"


def _tokens(usage: Mapping[str, Any] | None) -> Tokens:
    usage = usage or {}
    return Tokens(
        prompt=usage.get("prompt_tokens") or 0,
        completion=usage.get("completion_tokens") or 0,
        cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
