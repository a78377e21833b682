"""How providers say that a prompt is too long for its model. Few have a code for it; the others are known by words.

Sources: the servers' own code and public reports of what they answered, by line.
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
            r"contextwindowexceedederror",  # LiteLLM's proxy, before the words of the provider
        )
    ),
    re.IGNORECASE,
)
_WINDOWS: Final = tuple(
    re.compile(text, re.IGNORECASE)
    for text in (
        r"maximum (?:context|prompt) length (?:is|of) (\d+)",
        r"(?:context (?:size|length)|maximum number of tokens allowed|model length of|token limit:?) ?\(?(\d+)",
        r"model with (\d+) maximum context length",
        r"\d+ tokens > (\d+) maximum",
        r"context limit: [\d +]+> (\d+)",
    )
)
_SENSIBLE: Final = range(256, 100_000_000)  # tokens of a window: other numbers are not what they were taken for


def exceeded(error: Mapping[str, Any], message: str) -> bool:
    """Whether an error object of the wire, whose words are `message`, says so."""
    return bool(_CODES & {str(error.get("code")), str(error.get("type"))} or _TEXTS.search(message))


def window_in(error: Mapping[str, Any], message: str) -> int | None:
    """How many tokens the model takes, if the error says it."""
    told = [str(error.get("n_ctx")), *(found[1] for pattern in _WINDOWS if (found := pattern.search(message)))]
    numbers = (int(each) for each in told if each.isdecimal())
    return next((number for number in numbers if number in _SENSIBLE), None)
