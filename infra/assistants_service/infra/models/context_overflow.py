"""Recognises errors that say that a prompt is too long for its model. Few providers have a code for it; the others are
recognised by their text.

Sources: the servers' code, and public reports of their responses, by line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_CODES: Final = {
    "context_length_exceeded",  # OpenAI and Azure, both APIs; Groq, DeepSeek, OpenRouter
    "exceed_context_size_error",  # llama.cpp (pull request 15780), with n_ctx
    "model_context_window_exceeded",  # Z.ai
    "request_too_large",  # Anthropic, by bytes
}
_TEXTS: Final = re.compile(
    "|".join(
        (
            r"maximum context length",  # OpenAI, vLLM, SGLang, DeepSeek, OpenRouter, Mistral
            r"exceeds the context window",  # OpenAI's Responses
            r"exceeds? the available context size",  # llama.cpp
            r"longer than the (model's context length|maximum model length)",  # Together, SGLang; vLLM
            r"input length exceeds the (maximum )?context length",  # Ollama, if it was told not to truncate
            r"prompt (is )?too long",  # Anthropic ("210000 tokens > 200000 maximum"); Ollama's cloud
            r"exceed context limit",  # Anthropic ("input length and `max_tokens` exceed context limit")
            r"input is too long for requested model",  # Bedrock
            r"input token count.{0,40}exceeds the maximum number of tokens",  # Gemini
            r"maximum prompt length is \d",  # xAI
            r"reduce the length of the (messages|prompt|input)",  # Groq
            r"prompt token count of \d+ exceeds",  # GitHub Models
            r"exceeded model token limit",  # Moonshot
            r"context window exceeds limit",  # MiniMax
            r"greater than the context length",  # LM Studio
            r"`inputs` tokens \+ `max_new_tokens` must be",  # Text Generation Inference
            r"context size has been exceeded",  # llama.cpp, with status 500
            r"max_tokens must be at least 1, got -",  # vLLM, for what the prompt has left of the window
            r"exceed context window of",  # llama-cpp-python
            r"keep the first \d+ tokens when context the overflows",  # LM Studio
            r"range of input length should be",  # DashScope
            r"`inputs` must have less than \d+ tokens",  # Text Embeddings Inference, Text Generation Inference
            r"contextwindowexceedederror",  # LiteLLM's proxy, before the provider's text
        )
    ),
    re.IGNORECASE,
)
# 262144, or 262,144 as some write it.
_NUMBER: Final = r"(\d{1,3}(?:[,._'\u2019\u00a0\u202f]\d{3})+(?!\d)|\d+)"
_WINDOWS: Final = tuple(
    re.compile(text.replace("NUMBER", _NUMBER), re.IGNORECASE)
    for text in (
        r"maximum (?:context|prompt) length (?:is|of) NUMBER",
        r"(?:context (?:size|length)|maximum number of tokens allowed|model length of|token limit:?) ?\(?NUMBER",
        r"model with NUMBER maximum context length",
        r"\d+ tokens > NUMBER maximum",
        r"context limit: [\d +]+> NUMBER",
        r"context window of NUMBER",
        r"context length of only NUMBER",
        r"range of input length should be \[\d+, ?NUMBER\]",
        r"`inputs` must have less than NUMBER tokens",
    )
)
_SENSIBLE: Final = range(256, 100_000_000)  # tokens of a window: other numbers mean something else


def exceeds_window(error: Mapping[str, Any], message: str) -> bool:
    """Whether an error object with the text `message` says so."""
    return bool(_CODES & {str(error.get("code")), str(error.get("type"))} or _TEXTS.search(message))


def window_in(error: Mapping[str, Any], message: str) -> int | None:
    """The model's maximum number of tokens, if the error names it."""
    values = [
        str(error.get("n_ctx")),
        *(re.sub(r"\D", "", found[1]) for pattern in _WINDOWS if (found := pattern.search(message))),
    ]
    numbers = (int(each) for each in values if each.isdecimal())
    return next((number for number in numbers if number in _SENSIBLE), None)
