"""Maps the finish reasons of all servers to those of the protocol. Unknown reasons are logged.

The lists are in snake case. Servers write the same reasons with hyphens (Vercel's SDK), in capitals (Gemini, Cohere),
in camel case (SDKs for .NET), or after the name of their enumeration (`FinishReason.STOP`, `FINISH_REASON_MAX_TOKENS`).
LiteLLM's table of them: github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/core_helpers.py
"""

from __future__ import annotations

import logging
import re
from typing import Final

logger = logging.getLogger(__name__)

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS: Final = re.compile(r"[\W_]+")
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


def finish_of(reason: str | None, provider: str, *, empty: bool) -> str:
    """Returns stop, length, content_filter or error. Some servers end whole replies without a reason; for an unknown
    one, like Gemini's `OTHER`, the result depends on whether the reply is empty."""
    if found := _meaning(reason or "stop"):
        return found
    taken = "error" if empty else "stop"
    logger.warning(
        "Model provider '%s' ended a reply with the unknown reason %.80r: taken for %s", provider, reason, taken
    )
    return taken


def incomplete_of(reason: str | None) -> str:
    """For a reply that its provider calls incomplete: length, content_filter, or error in all other cases."""
    found = _meaning(reason or "")
    return found if found in ("length", "content_filter") else "error"


def _meaning(reason: str) -> str:
    words = [_in_snake_case(word) for word in reason.split(":")]
    for word in reversed(words):  # the more specific one is last
        if word in _FILTER:
            return "content_filter"
        if word in _LENGTH:
            return "length"
        if word in _FAILED or word.startswith("malformed_"):
            return "error"
        if word in _STOP:
            return "stop"
    return ""


def _in_snake_case(word: str) -> str:
    return _SEPARATORS.sub("_", _HUMP.sub("_", word)).strip("_").lower().removeprefix("finish_reason_")
