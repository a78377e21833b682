"""Responses of Chat Completions, whole or in chunks, validated so that they can be stored."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import msgspec

from assistants_service.core.ports.models import Reply
from assistants_service.infra.models.finish_reasons import finish_of
from assistants_service.infra.models.reply_builder import ReplyBuilder
from assistants_service.infra.models.thoughts import OF_CALLS, OF_MESSAGES, Thinking
from assistants_service.infra.models.upstream import Upstream
from assistants_service.infra.models.usage import ProviderUsage, tokens_of

logger = logging.getLogger(__name__)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # JSON text; a few servers send the object itself


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None
    provider_specific_fields: Any = None


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    # Fields that are returned to the provider unchanged may have any type.
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    extra_content: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: ProviderUsage | None = None


class ChatReply:
    """Reads a whole response like a stream of one chunk. Raises msgspec.ValidationError for wrong types."""

    def __init__(self, builder: ReplyBuilder, upstream: Upstream) -> None:
        self._builder, self._upstream = builder, upstream
        self._open: dict[int | None, tuple[int, str]] = {}  # the wire's index: (index in the builder, id)
        # Calls whose name may still follow: id, arguments, and the number of thoughts before them.
        self._unnamed: dict[int | None, tuple[str, str, dict[str, Any]]] = {}
        self._thinking = Thinking()
        self._finish: str | None = None
        self._error: Any = None
        self._usage: ProviderUsage | None = None
        self._said = self._complete = False

    def absorb(self, data: dict[str, Any]) -> None:
        answer = msgspec.convert(data, _Answer)
        self._usage = answer.usage or self._usage  # in the last chunk, or growing in each of them
        for choice in answer.choices or ():
            if choice.message is not None:
                self._whole_calls(choice.message)
            if message := choice.message or choice.delta:
                self._message(message)
                self._said = True
            self._finish = choice.finish_reason or self._finish
            self._error = choice.error or self._error

    def whole_reply(self) -> Reply:
        if not self._said:
            raise ValueError("no message")
        return self._reply()

    def streamed_reply(self) -> Reply:
        if self._finish is None and not self._complete:
            if not self._builder.done or self._builder.empty:
                raise self._upstream.broken_off()
            logger.warning(
                "model provider '%s' ended a stream with [DONE], but without a reason: taken for stop",
                self._upstream.provider,
            )
        return self._reply()

    def _reply(self) -> Reply:
        if any(arguments for _, arguments, _ in self._unnamed.values()):
            raise ValueError("the model called a function without a name")
        finish = finish_of(self._finish, self._upstream.provider, empty=self._builder.empty)
        if finish == "error" or self._error:
            raise self._upstream.ended(self._finish or "error", self._error)
        reply = self._builder.reply(finish, tokens_of(self._usage))
        return replace(reply, thought=self._thinking.thought(self._upstream.provider)) if reply.calls else reply

    def _whole_calls(self, message: _Message) -> None:
        """Each is a separate call, even if a server gives all the same index or id."""
        self._complete = True
        for place, call in enumerate(message.tool_calls or ()):
            call.index = place

    def _message(self, message: _Message) -> None:
        self._builder.text(_text(message.content))
        self._builder.refusal(message.refusal or "")
        self._thinking.message({name: getattr(message, name) for name in OF_MESSAGES})
        for fragment in message.tool_calls or ():
            self._fragment(fragment, fragment.function or _Function())
        if message.function_call:
            self._fragment(_Call(index=0), message.function_call)

    def _fragment(self, call: _Call, function: _Function) -> None:
        key, call_id, name, arguments = call.index, call.id or "", function.name or "", _arguments(function.arguments)
        known, thought = self._open.get(key), {name: getattr(call, name) for name in OF_CALLS}
        if known is None:
            begun_id, begun, before = self._unnamed.pop(key, ("", "", {}))
            call_id, arguments = call_id or begun_id, begun + arguments
            thought = {name: value or before.get(name) for name, value in thought.items()}
            if not name:
                self._unnamed[key] = call_id, arguments, thought
                return
        if known is None or (name and _another(key, call_id, known[1])):
            known = self._open[key] = self._builder.call(call_id, name, arguments), call_id
        else:
            self._builder.extend(known[0], arguments)
        self._thinking.call(self._builder.calls[known[0]], thought)


def _another(key: int | None, call_id: str, known_id: str) -> bool:
    """A named fragment for an index that is in use. Some servers number all their calls 0, or none of them."""
    return call_id != known_id if call_id else key is None


def _arguments(value: str | dict[str, Any] | None) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _text(content: str | list[_Part] | None) -> str:
    """Text, or the text of the parts that some servers send."""
    if isinstance(content, list):
        return "".join(part.text or "" for part in content if part.type == "text")
    return content or ""
