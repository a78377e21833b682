"""Learns from refusals which parts of a request a provider does not accept, and remembers it while the process lives.

Servers that are called compatible refuse a request for a field that they do not know, and name the field. Then it is
left out, or expressed differently, and the request is repeated at once:

* `stream_options`: older deployments of Azure ("Unknown parameter: 'stream_options'.",
  github.com/agno-agi/agno/issues/1066). A stream then ends without usage.
* `max_completion_tokens`: servers that know the older `max_tokens` alone (Mistral's 422, extra_forbidden), and the
  other way round ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'
  instead.", github.com/teilomillet/gollm/issues/33).
* `parallel_tool_calls`: reasoning models. The worker takes one call, if it may take only one.
* `temperature` and `top_p` of 1, which is what a model does unasked. Another value was meant, and its refusal stands.
  Newer models of Anthropic take only one of the two, or none.
* `include`, by which the Responses API is asked for encrypted thoughts.
* `tool_choice` as an object: LM Studio ("Invalid tool_choice type: 'object'. Supported string values: none, auto,
  required", github.com/lmstudio-ai/lmstudio-bug-tracker/issues/670), and llama.cpp, which ignores it.
* fields of a thinking model's message that its server sends, and does not take back
  (github.com/BerriAI/litellm/issues/30835), or that it wants even if they are empty
  (github.com/earendil-works/pi/pull/3659).
* `stream`, at all ("Unsupported value: 'stream' does not support true with this model.",
  github.com/ChatGPTNextWeb/NextChat/issues/5410; "Your organization must be verified to stream this model.",
  github.com/continuedev/continue/issues/8209) or beside tools ("This model doesn't support tool use in streaming
  mode.", Bedrock, github.com/earendil-works/pi/issues/3739). The reply then comes whole. Refusals in words without
  `stream` are known only where no client wants a stream: the worker asks again without one.
* ids of calls, of which Mistral takes nine letters and digits (github.com/anomalyco/opencode/issues/1680).
"""

from __future__ import annotations

import copy
import hashlib
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from assistants_service.infra.models.thoughts import OF_CALLS, OF_MESSAGES

_UNKNOWN: Final = re.compile(
    r"un(supported|recogni[sz]ed|known|expected)|(not|n't) (currently )?(supported|permitted|allowed|recogni|accept)"
    r"|not (yet )?(support|implement)|does(n't| not) support|extra|cannot find field|invalid tool_choice|no such"
    r"|deprecated|cannot both be",
    re.IGNORECASE,
)
_ID_RULE: Final = re.compile(r"tool call id.{1,200}length of 9", re.IGNORECASE | re.DOTALL)
_MISSING: Final = re.compile(r"must be passed back|missing|required", re.IGNORECASE)
_LEFT_OUT: Final = ("stream_options", "parallel_tool_calls", "include")
_ENCRYPTED: Final = re.compile(r"encrypted.content", re.IGNORECASE)
_WHOLE: Final = re.compile(r"'stream' does not support true|verified to stream", re.IGNORECASE)
_NOT: Final = (
    r"(?:(?:\bnot|n't|cannot|\bun|\bin) ?(?:yet |currently |be )?"
    r"(?:support|allow|permit|implement|available|compatible)|disabled|false)"
)
_NO_STREAM: Final = re.compile(rf"{_NOT}.{{0,80}}\bstream(?!_)|\bstream(?!_).{{0,80}}{_NOT}", re.IGNORECASE)
_OF_STREAMS: Final = ("stream", "stream_options")
_DEFAULTS: Final = ("temperature", "top_p")
_LETTERS: Final = string.ascii_letters + string.digits
_LEARNED: Final = (
    *("forces_alone", "short_ids", "answers_whole", "answers_whole_with_tools"),
    *("wants_reasoning", "wants_signatures"),
)
FIELDS: Final = ("max_completion_tokens", "max_tokens")
# Gemini accepts this in place of a signature that it did not give, or that was lost: documented for histories of other
# models, ai.google.dev/gemini-api/docs/thought-signatures.
UNSIGNED: Final = {"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}


T = TypeVar("T")
_MODELS: Final = 1000  # model names come from clients


class Remembered(Generic[T]):
    """What was learned about each model: one provider has many, from different vendors."""

    def __init__(self, new: Callable[[], T]) -> None:
        self._new, self._known = new, dict[str, T]()

    def of(self, model: str) -> T:
        if model not in self._known and len(self._known) >= _MODELS:
            self._known.clear()
        return self._known.setdefault(model, self._new())


class Habits:
    def __init__(self, max_tokens_field: str = "max_completion_tokens", *, forced: str = "object") -> None:
        self._fields = [max_tokens_field, *(field for field in FIELDS if field != max_tokens_field)]
        self._refused: set[str] = set()
        self.forces_alone = forced == "required"
        self.short_ids = False
        self.answers_whole = False
        self.answers_whole_with_tools = False
        self.wants_reasoning = False
        self.wants_signatures = False

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request in the form that this provider accepts."""
        body = {name: value for name, value in body.items() if not self._leaves_out(name, value)}
        if self.answers_whole or (self.answers_whole_with_tools and "tools" in body):
            body = {name: value for name, value in body.items() if name not in _OF_STREAMS}
        if FIELDS[0] in body:
            limit = body.pop(FIELDS[0])
            field = next((field for field in self._fields if field not in self._refused), None)
            body |= {field: limit} if field else {}
        if self.forces_alone and isinstance(choice := body.get("tool_choice"), Mapping):
            name = _function(choice)["name"]
            body["tools"] = [tool for tool in body["tools"] if _function(tool)["name"] == name]
            body["tool_choice"] = "required"
        if isinstance(body.get("tool_choice"), str) and "tool_choice" in self._refused:
            del body["tool_choice"]
        if "messages" in body:
            body["messages"] = [self._message(message) for message in body["messages"]]
        return body

    def copy(self) -> Habits:
        return copy.deepcopy(self)

    def keep(self, tried: Habits) -> None:
        """Adopt what a copy has learned, after the provider has accepted a request in that form."""
        self._refused |= tried._refused
        for name in _LEARNED:
            setattr(self, name, getattr(self, name) or getattr(tried, name))

    def _leaves_out(self, name: str, value: Any) -> bool:
        if name in _DEFAULTS:
            return value == 1 and name in self._refused
        return name in _LEFT_OUT and name in self._refused

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        message = {name: value for name, value in message.items() if name not in OF_MESSAGES or self._gives(name)}
        if "tool_call_id" in message and self.short_ids:
            message["tool_call_id"] = _short(message["tool_call_id"])
        if "tool_calls" in message:
            message["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
            if self.wants_reasoning:
                message = {"reasoning_content": ""} | message
            first, *rest = message["tool_calls"]
            if self.wants_signatures and "extra_content" not in first:
                message["tool_calls"] = [first | UNSIGNED, *rest]
        return message

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        call = {name: value for name, value in call.items() if name not in OF_CALLS or self._gives(name)}
        return call | {"id": _short(call["id"])} if self.short_ids else call

    def _gives(self, name: str) -> bool:
        return name not in self._refused

    def learn(self, error_text: str, body: Mapping[str, Any]) -> None:
        """Learn from the refusal of a request: the provider's text (failures.text_of), and what was sent. This is a
        guess: see `keep`."""
        if _ID_RULE.search(error_text):
            self.short_ids = True
            return
        if _WHOLE.search(error_text):
            self.answers_whole = True
            return
        if "reasoning_content" in error_text and _MISSING.search(error_text):
            self.wants_reasoning = True
            return
        if "thought_signature" in error_text and _MISSING.search(error_text):
            self.wants_signatures = True
            return
        if _UNKNOWN.search(error_text) and self._learn_fields(error_text, body):
            return
        if "stream" in body and _NO_STREAM.search(error_text):
            self.answers_whole_with_tools |= "tools" in body
            self.answers_whole |= "tools" not in body

    def _learn_fields(self, error_text: str, body: Mapping[str, Any]) -> bool:
        """Returns whether a field was recognised."""
        named = _named(error_text) & _sent(body)
        if "include" in body and _ENCRYPTED.search(error_text):
            named.add("include")
        if forced := "tool_choice" in named and isinstance(body.get("tool_choice"), Mapping):
            self.forces_alone = True
            named.discard("tool_choice")
        if "max_tokens" in body:  # the advice to use the other one names both
            named.discard(FIELDS[0])
        known, self._refused = self._refused, self._refused | named
        return self._refused != known or forced

    def ignored(self, body: Mapping[str, Any], called: bool) -> bool:
        """Whether the provider ignored a forced function; it is then forced in another way from now on."""
        if called or not self.forces(body):
            return False
        self.forces_alone = True
        return True

    def forces(self, body: Mapping[str, Any]) -> bool:
        """Whether a function is forced in a way that the provider may ignore."""
        return not self.forces_alone and isinstance(body.get("tool_choice"), Mapping)


def _sent(body: Mapping[str, Any]) -> set[str]:
    messages = body.get("messages", ())
    calls = (call for message in messages for call in message.get("tool_calls") or ())
    return {name for fields in (body, *messages, *calls) for name in fields}


def _named(error_text: str) -> set[str]:
    names = (*_LEFT_OUT, *_DEFAULTS, *FIELDS, "tool_choice", *OF_MESSAGES, *OF_CALLS)
    return {name for name in names if re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", error_text)}


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool, or of a choice: in Responses its fields are not nested."""
    found: Mapping[str, Any] = tool.get("function", tool)
    return found


def _short(call_id: str) -> str:
    """A short id; the same one for the same id."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:9])
