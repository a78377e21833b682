"""Responses of the Responses API, whole or in events, validated so that they can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from assistants_service.core.ports.models import Reply
from assistants_service.infra.models.finish_reasons import incomplete_of
from assistants_service.infra.models.reply_builder import ReplyBuilder
from assistants_service.infra.models.thoughts import Thinking
from assistants_service.infra.models.upstream import Upstream
from assistants_service.infra.models.usage import ProviderUsage, tokens_of

_ENDINGS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class _Reason(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    output: list[dict[str, Any]] | None = None
    status: str | None = None
    incomplete_details: _Reason | None = None
    usage: ProviderUsage | None = None
    error: Any = None


class _Part(msgspec.Struct):
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Part] | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    output_index: int | None = None
    item_id: str | None = None
    delta: Any = None
    arguments: str | None = None
    item: dict[str, Any] | None = None


class ResponsesReply:
    """Raises msgspec.ValidationError for wrong types."""

    def __init__(self, builder: ReplyBuilder, upstream: Upstream) -> None:
        self._builder, self._upstream = builder, upstream
        self._calls: dict[int | str | None, int] = {}  # the wire's output index: index in the builder
        self._thinking, self._thought = Thinking(), False
        self._response = _Response()

    def absorb(self, data: Mapping[str, Any]) -> bool:
        """Returns whether that was the last event."""
        if data.get("type") in _ENDINGS:
            self.end(data["response"])
            return True
        if data.get("type") is None and "output" in data:  # a whole response, although a stream was requested
            self.end(data)
            return True
        self._event(msgspec.convert(data, _Event))
        return False

    def end(self, data: Mapping[str, Any]) -> None:
        self._response = msgspec.convert(data, _Response)
        if self._response.status in ("failed", "cancelled"):
            raise self._upstream.failed(self._response.error)
        output = self._response.output
        if output is None and self._builder.empty:
            raise ValueError("no output")
        if self._builder.empty:  # nothing was streamed
            for item in output or ():
                self._item(item)
        elif not self._thought:
            self._thoughts_of(output or ())

    def reply(self, limit: int | None) -> Reply:
        """llama.cpp reports `completed` for a reply that was cut off by its limit. Raises ModelError for one that is
        incomplete for another reason than its length or a content filter."""
        details = self._response.incomplete_details
        reason = details.reason if details else None
        tokens = tokens_of(self._response.usage)
        finish = incomplete_of(reason) if reason or self._response.status == "incomplete" else "stop"
        if finish != "content_filter" and limit and tokens.completion >= limit:
            finish = "length"
        if finish == "error":
            raise self._upstream.ended(reason or "incomplete", self._response.error)
        reply = self._builder.reply(finish, tokens)
        return replace(reply, thought=self._thinking.thought(self._upstream.provider)) if reply.calls else reply

    def _event(self, event: _Event) -> None:
        # llama.cpp sends no index, but the item's id.
        kind, key = event.type, event.item_id if event.output_index is None else event.output_index
        if kind == "response.output_text.delta":
            self._builder.text(msgspec.convert(event.delta, str))
        elif kind == "response.refusal.delta":
            self._builder.refusal(msgspec.convert(event.delta, str))
        elif kind == "response.function_call_arguments.delta":
            self._builder.extend(self._calls[key], msgspec.convert(event.delta, str))
        elif kind == "response.function_call_arguments.done":
            self._builder.complete(self._calls[key], event.arguments or "")
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._of_item(event.item or {}, key, done=kind.endswith("done"))

    def _of_item(self, item: Mapping[str, Any], key: int | str | None, *, done: bool) -> None:
        if item.get("type") == "reasoning" and done:
            self._think(item, len(self._builder.calls))
        if item.get("type") != "function_call":
            return
        call = msgspec.convert(item, _Item)
        key = call.id if key is None else key
        if key not in self._calls:
            self._calls[key] = self._builder.call(call.call_id or "", call.name or "", call.arguments or "")
        elif done:
            self._builder.complete(self._calls[key], call.arguments or "")

    def _item(self, data: Mapping[str, Any]) -> None:
        item = msgspec.convert(data, _Item)
        if item.type == "function_call":
            self._builder.call(item.call_id or "", item.name or "", item.arguments or "")
        elif item.type == "reasoning":
            self._think(data, len(self._builder.calls))
        elif item.type == "message":
            for part in item.content or ():
                self._builder.text(part.text or "")
                self._builder.refusal(part.refusal or "")

    def _thoughts_of(self, output: list[dict[str, Any]] | tuple[()]) -> None:
        calls = 0
        for item in output:
            if item.get("type") == "reasoning":
                self._think(item, calls)
            calls += item.get("type") == "function_call"

    def _think(self, item: Mapping[str, Any], before: int) -> None:
        """An item without encrypted or plain text has nothing to return but its id, which its server does not store."""
        self._thought = True
        if item.get("encrypted_content") or item.get("content"):
            fields = {name: value for name, value in item.items() if name != "status" and value is not None}
            self._thinking.item(fields, before)
