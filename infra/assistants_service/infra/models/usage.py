"""Token usage of a call, as counted by the provider."""

from __future__ import annotations

import msgspec

from assistants_service.core.ports.models import Tokens

_MOST = 2**53 - 1  # readable by every client


class Details(msgspec.Struct):
    cached_tokens: int | float | None = None
    reasoning_tokens: int | float | None = None


class ProviderUsage(msgspec.Struct):
    """Token counts of both APIs: Chat Completions has prompt and completion tokens, Responses input and output
    tokens."""

    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


def tokens_of(usage: ProviderUsage | None) -> Tokens:
    if usage is None:
        return Tokens()
    prompt_details, completion_details = usage.prompt_tokens_details, usage.completion_tokens_details
    prompt_details, completion_details = (
        prompt_details or usage.input_tokens_details,
        completion_details or usage.output_tokens_details,
    )
    return Tokens(
        prompt=_number(usage.prompt_tokens or usage.input_tokens),
        completion=_number(usage.completion_tokens or usage.output_tokens),
        cached=_number(prompt_details.cached_tokens if prompt_details else 0),
        reasoning=_number(completion_details.reasoning_tokens if completion_details else 0),
    )


def _number(value: float | None) -> int:
    """Some servers write whole numbers with a decimal point."""
    return int(min(max(0, value or 0), _MOST))
