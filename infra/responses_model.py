"""Models behind the Responses API, used without its server-side state: nothing is stored there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.ports import Deltas, Image, Prompt, Reply, Tokens, Turn
from infra.draft import Draft
from infra.turns import joined
from infra.upstream import Upstream

_PATH = "/responses"
_NO_PARAMETERS = {"type": "object", "properties": {}}


class ResponsesModel:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Ask once; streamed only if somebody listens, for a stream costs more than a whole reply."""
        body = _body(prompt)
        with self._upstream.errors():
            if deltas is None:
                draft, response = Draft(None), await self._upstream.post(_PATH, body)
                _absorb(response["output"], draft)
            else:
                draft = Draft(deltas)
                response = await self._streamed(body, draft)
            return self._reply(response, draft)

    async def _streamed(self, body: dict[str, Any], draft: Draft) -> dict[str, Any]:
        calls: dict[Any, int] = {}  # the wire's output index: index in the draft
        async with self._upstream.stream(_PATH, body | {"stream": True}) as events:
            async for event in events:
                kind = event.get("type")
                if kind in ("response.completed", "response.incomplete", "response.failed"):
                    response: dict[str, Any] = event["response"]
                    if draft.empty:  # a server that sends no deltas
                        _absorb(response.get("output") or (), draft)
                    return response
                if kind == "error":
                    raise self._upstream.failed(event)
                _advance(event, draft, calls)
        raise self._upstream.broken_off()

    def _reply(self, response: Mapping[str, Any], draft: Draft) -> Reply:
        if response.get("status") in ("failed", "cancelled"):
            raise self._upstream.failed(response.get("error"))
        reason = (response.get("incomplete_details") or {}).get("reason")
        finish = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason or "", "stop")
        return draft.reply(finish, _tokens(response.get("usage") or {}))


def _advance(event: Mapping[str, Any], draft: Draft, calls: dict[Any, int]) -> None:
    kind, key = event.get("type"), event.get("output_index")
    if kind == "response.output_text.delta":
        draft.text(event["delta"])
    elif kind == "response.refusal.delta":
        draft.refusal(event["delta"])
    elif kind == "response.function_call_arguments.delta":
        draft.extend(calls[key], event["delta"])
    elif kind == "response.function_call_arguments.done":
        draft.complete(calls[key], event["arguments"])
    elif kind in ("response.output_item.added", "response.output_item.done"):
        item = event["item"]
        if item["type"] != "function_call":
            return
        if key not in calls:
            calls[key] = draft.call(item.get("call_id") or "", item["name"], item.get("arguments") or "")
        elif kind == "response.output_item.done":
            draft.complete(calls[key], item.get("arguments") or "")


def _absorb(output: Any, draft: Draft) -> None:
    for item in output:
        if item["type"] == "function_call":
            draft.call(item.get("call_id") or "", item["name"], item.get("arguments") or "")
        elif item["type"] == "message":
            for part in item["content"]:
                draft.text(part.get("text") or "")
                draft.refusal(part.get("refusal") or "")


def _body(prompt: Prompt) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": prompt.model,
        "input": [item for turn in joined(prompt.turns) for item in _items(turn)],
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
    if prompt.response_format not in ("auto", None):
        body["text"] = {"format": _text_format(prompt.response_format)}
    options = {
        "instructions": prompt.instructions or None,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_output_tokens": prompt.max_completion_tokens,
    }
    return body | {name: value for name, value in options.items() if value is not None}


def _items(turn: Turn) -> Iterator[dict[str, Any]]:
    if turn.role == "tool":
        yield {"type": "function_call_output", "call_id": turn.call_id, "output": turn.text}
        return
    if turn.role == "user" and turn.images:
        yield {"role": "user", "content": [_part(part) for part in turn.parts]}
    elif turn.text or not turn.calls:
        yield {"role": turn.role, "content": turn.text}
    for call in turn.calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    return {"type": "input_image", "image_url": part.url, "detail": part.detail}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened. `strict` and `parameters` are required here; left out in Chat Completions they mean this."""
    tool = {"type": "function", "parameters": _NO_PARAMETERS, "strict": False}
    return tool | {name: value for name, value in function.items() if value is not None}


def _tool_choice(choice: str | Mapping[str, Any]) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else {"type": "function", "name": choice["function"]["name"]}


def _text_format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """Chat Completions nests the schema's name and options, Responses has them flat."""
    if response_format["type"] != "json_schema":
        return dict(response_format)
    schema = {name: value for name, value in response_format["json_schema"].items() if value is not None}
    return {"type": "json_schema", **schema}


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    return Tokens(
        prompt=usage.get("input_tokens") or 0,
        completion=usage.get("output_tokens") or 0,
        cached=(usage.get("input_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning=(usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
