"""Why a model stopped, in the words of all its servers. A word that stands in no list is told in the log."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

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
    "finish_reason_stop",
    "pause_turn",
}
_LENGTH: Final = {
    "length",
    "max_tokens",  # Gemini, Anthropic, Cohere
    "max_output_tokens",
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
    "unexpected_tool_call",  # Gemini
    "too_many_tool_calls",
    "missing_thought_signature",
    "function_call_filter",  # Gemini's OpenAI endpoint, before `: MALFORMED_FUNCTION_CALL`
}


def finish_of(reason: str | None, provider: str) -> str:
    """stop, length, content_filter or error. Some servers end whole replies without a reason."""
    found = _meaning(reason or "stop")
    if not found:
        logger.warning(
            "Model provider '%s' ended a reply with the unknown reason %.80r: taken for stop", provider, reason
        )
    return found or "stop"


def incomplete_of(reason: str | None) -> str:
    """Of a reply that its provider calls incomplete: length, content_filter, or error for all else."""
    found = _meaning(reason or "")
    return found if found in ("length", "content_filter") else "error"


def _meaning(reason: str) -> str:
    words = [word.strip() for word in reason.lower().split(":")]
    for word in reversed(words):  # the narrower one stands last
        if word in _FILTER:
            return "content_filter"
        if word in _LENGTH:
            return "length"
        if word in _FAILED or word.startswith("malformed_"):
            return "error"
        if word in _STOP:
            return "stop"
    return ""
