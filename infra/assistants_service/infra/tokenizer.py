"""Counts tokens with tiktoken's cl100k_base, whose table is part of this package. It differs from a given model's
tokenizer by some percent in English and by more elsewhere; worker.budget corrects that by what providers report.
"""

from __future__ import annotations

from typing import Final

_PIECE: Final = 16_384  # characters: one letter a million times takes seconds as one piece, and 0.2 s in these
_REMEMBERED: Final = 100_000  # texts, some 10 MB


class Tiktoken:
    """ports.models.Tokenizer. The table is loaded by the first count, which takes 0.2 s and 40 MB: most workers never
    get a prompt that is long enough to be counted. tiktoken releases the GIL while it counts."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

    def count(self, text: str) -> int:
        key = hash(text), len(text)  # not the text, which would stay in memory
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
