"""Context windows of well-known models: tokens of prompt and answer together.

Source: the vendors' model pages (developers.openai.com/api/docs/models, learn.microsoft.com/azure/ai-foundry, "Models
sold directly by Azure"; platform.claude.com/docs, "Models overview"; ai.google.dev/gemini-api/docs/models; November
2026). Models with open weights are not listed: the server determines their window.
"""

from __future__ import annotations

import re
from typing import Final

# 272,000 of their 400,000 tokens may be the prompt: that is three quarters of this (core.threads.prompt.PROMPT_SHARE).
_GPT_5: Final = 362_000
_LONG: Final = 1_050_000
_WINDOWS: Final = {
    "gpt-3.5-turbo": 16_385,
    "gpt-3.5-turbo-16k": 16_385,
    "gpt-35-turbo": 16_385,  # the name on Azure
    "gpt-4": 8_192,
    "gpt-4-32k": 32_768,
    "gpt-4-turbo": 128_000,
    "gpt-4-vision": 128_000,
    "gpt-4-1106": 128_000,
    "gpt-4-0125": 128_000,
    "gpt-4o": 128_000,
    "gpt-4o-mini": 128_000,
    "chatgpt-4o": 128_000,
    "gpt-4.5": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.1-mini": 1_047_576,
    "gpt-4.1-nano": 1_047_576,
    **{f"gpt-5{minor}-chat": 128_000 for minor in ("", ".1", ".2", ".3")},
    **{f"gpt-5{kind}": _GPT_5 for kind in ("", "-mini", "-nano", "-pro", "-codex")},
    **{f"gpt-5.1{kind}": _GPT_5 for kind in ("", "-codex", "-codex-mini", "-codex-max")},
    **{f"gpt-5.2{kind}": _GPT_5 for kind in ("", "-pro", "-codex")},
    "gpt-5.3-codex": _GPT_5,
    "gpt-5.4-mini": _GPT_5,
    "gpt-5.4-nano": _GPT_5,
    "gpt-5.4": _LONG,
    "gpt-5.4-pro": _LONG,
    "gpt-5.5": _LONG,
    "o1": 200_000,
    "o1-mini": 128_000,
    "o1-preview": 128_000,
    "o1-pro": 200_000,
    "o3": 200_000,
    "o3-mini": 200_000,
    "o3-pro": 200_000,
    "o4-mini": 200_000,
    **{f"claude-{kind}-4-{minor}": 200_000 for kind in ("haiku", "sonnet", "opus") for minor in range(6)},
    **{f"claude-3-{kind}": 200_000 for kind in ("haiku", "opus", "5-haiku", "5-sonnet", "7-sonnet")},
    "claude-sonnet-4": 200_000,
    "claude-opus-4": 200_000,
    **{f"gemini-{kind}": 1_048_576 for kind in ("2.0-flash", "2.5-flash", "2.5-flash-lite", "2.5-pro", "3-pro")},
}
# Suffixes that vendors add to a name: gpt-4o-2024-08-06, gpt-4-0613, claude-sonnet-4-20250514, gpt-4-turbo-preview.
_SNAPSHOT: Final = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest|preview)$")


def known_window(model: str) -> int | None:
    """Looks up the whole name, or that of a snapshot, with any router's prefix (openai/gpt-4o:free). A deployment with
    a similar name (gpt-41) may be any model: None."""
    name = model.rpartition("/")[2]
    if name.startswith("ft:"):  # fine-tuned: ft:MODEL:ORGANISATION:NAME:ID
        name = name.removeprefix("ft:")
    name = name.partition(":")[0].lower()
    while name not in _WINDOWS and (shorter := _SNAPSHOT.sub("", name)) != name:
        name = shorter
    return _WINDOWS.get(name)
