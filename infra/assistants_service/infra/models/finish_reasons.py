"""Maps the finish reasons of all servers to those of the protocol. Unknown reasons are logged.

The lists are in snake case. Servers write the same reasons with hyphens (Vercel's SDK), in capitals (Gemini, Cohere),
in camel case (SDKs for .NET), or after the name of their enumeration (`FinishReason.STOP`, `FINISH_REASON_MAX_TOKENS`).
A reason that is in no list is judged by its words, so that a failure of a server that is not known here never counts as
a complete answer. LiteLLM's table of them:
github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/core_helpers.py
"""

from __future__ import annotations

import logging
import re
from typing import Final

logger = logging.getLogger(__name__)

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS: Final = re.compile(r"[\W_]+")
_LONGEST: Final = 1_000  # characters that are looked at
_ENUMERATION: Final = re.compile(r"^(finish|stop|done|completion)_?reason_")
_STOP: Final = {
    "stop",
    "tool_calls",
    "function_call",
    "eos_token",  # Text Generation Inference
    "eos",  # Together
    "stop_sequence",
    "end_turn",  # Anthropic, behind proxies
    "tool_use",
    "complete",  # Cohere
    "tool_call",
    "pause_turn",
}
_LENGTH: Final = {
    "length",
    "max_tokens",  # Gemini, Anthropic, Cohere
    "max_output_tokens",
    "token_limit",  # watsonx.ai
    "error_limit",  # Cohere: the window is full
    "model_length",  # Mistral: the window is full
    "model_context_window_exceeded",  # Anthropic
    "compaction",  # Anthropic, in LiteLLM's table
}
# Gemini's, ai.google.dev/api/generate-content#FinishReason; Z.ai's `sensitive`; Bedrock's guardrails.
_FILTER: Final = {
    "content_filter",
    "safety",
    "recitation",
    "prohibited_content",
    "blocklist",
    "spii",
    "image_safety",
    "image_prohibited_content",
    "image_recitation",
    "language",
    "model_armor",  # Vertex AI
    "sensitive",
    "refusal",
    "guardrail_intervened",
    "content_filtered",
    "error_toxic",
}
_FAILED: Final = {
    "error",  # OpenRouter, Cohere, vLLM
    "abort",  # vLLM (github.com/vllm-project/vllm/issues/57082), SGLang
    "aborted",
    "cancelled",
    "timeout",
    "insufficient_system_resource",  # DeepSeek, api-docs.deepseek.com/api/create-chat-completion
    "network_error",  # Z.ai
    "overloaded",
    "engine_overloaded",  # Moonshot
    "engine_overloaded_error",
    "user_cancel",  # Cohere
    "time_limit",  # watsonx.ai
    "unexpected_tool_call",  # Gemini
    "too_many_tool_calls",
    "missing_thought_signature",
    "function_call_filter",  # Gemini's OpenAI endpoint, before `: MALFORMED_FUNCTION_CALL`
}
# What the words of other reasons mean; the first that matches counts.
_HINTS: Final = (
    # content_policy_violation, SafetyViolation
    ("content_filter", re.compile(r"safety|policy|policies|filter(ed)?|moderat\w+|guardrails?|harmful|toxic\w*")),
    # server_error, canceled (the American spelling; cancelled is OpenAI's), rate_limit, preempted, deadline_exceeded
    (
        "error",
        re.compile(
            r"error|errored|fail(ed|ure|s)?|fault|exception|crash(ed)?|cancel(l?ed|lation)?|abort(ed)?|interrupt(ed)?"
            r"|preempt(ed|ion)?|evicted|killed|timeout|timed|time|deadline|rate|quota|overload(ed)?|throttl(ed|ing)"
            r"|unavailable|disconnect(ed)?|invalid|malformed|oom|rejected"
        ),
    ),
    # max_new_tokens (transformers' parameter), MAX_TOKENS_REACHED, exceeded_context_window, context_length_exceeded
    ("length", re.compile(r"max|maximum|limit|length|context|truncated|exceeded")),
)


def finish_of(reason: str | None, provider: str, *, empty: bool) -> str:
    """Returns stop, length, content_filter or error. Some servers end whole replies without a reason; for an unknown
    one, like Gemini's `OTHER`, the result depends on its words, and else on whether the reply is empty."""
    if found := _listed(reason or "stop"):
        return found
    taken = _hinted(reason or "") or ("error" if empty else "stop")
    logger.warning(
        "model provider '%s' ended a reply with the unknown reason %.80r: taken for %s", provider, reason, taken
    )
    return taken


def incomplete_of(reason: str | None) -> str:
    """Why a reply that its provider calls incomplete is so: length, content_filter, or error in all other cases."""
    found = _listed(reason or "") or _hinted(reason or "")
    return found if found in ("length", "content_filter") else "error"


def _listed(reason: str) -> str:
    for word in reversed(_names(reason)):  # the more specific one is last
        if word in _FILTER:
            return "content_filter"
        if word in _LENGTH:
            return "length"
        if word in _FAILED or word.startswith("malformed_"):
            return "error"
        if word in _STOP:
            return "stop"
    return ""


def _hinted(reason: str) -> str:
    words = [word for name in _names(reason) for word in name.split("_")]
    return next((finish for finish, hint in _HINTS if any(map(hint.fullmatch, words))), "")


def _names(reason: str) -> list[str]:
    return [_in_snake_case(name) for name in reason[:_LONGEST].split(":")]


def _in_snake_case(word: str) -> str:
    return _ENUMERATION.sub("", _SEPARATORS.sub("_", _HUMP.sub("_", word)).strip("_").lower(), count=1)
