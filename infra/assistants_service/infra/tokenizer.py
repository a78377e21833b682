"""Tokens of texts, by tiktoken's cl100k_base: the one table that is part of this package. It differs from the tokenizer
of a given model by some percent in English and by more elsewhere; what providers report corrects that (worker.budget).
"""

from __future__ import annotations

from typing import Final

_PIECE: Final = 16_384  # characters: a million times the same letter take seconds in one piece, and 0.2 s in these
_REMEMBERED: Final = 100_000  # texts, some 10 MB


class Tiktoken:
    """ports.models.Tokenizer. The table comes with the first count, which takes 0.2 s and 40 MB: most workers see no
    prompt that is long enough to be counted. tiktoken lets other threads run while it counts."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

    def count(self, text: str) -> int:
        key = hash(text), len(text)  # not the text, which would be kept alive
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = _count(text)
            if len(self._counts) > _REMEMBERED:
                self._counts.pop(next(iter(self._counts)), None)
        return found


def _count(text: str) -> int:
    from assistants_service.infra.extraction.tokens import encoding

    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return sum(len(encoding().encode_ordinary(piece)) for piece in pieces)
