"""Cuts a text into chunks: sizes are in tokens, and cuts are at the ends of paragraphs, lines, sentences or words.

A chunk has at most `size` tokens, and at least 7/8 of that unless it is the last one. Neighbours share at most
`overlap` tokens, and at least 7/8 of that (minus up to 3 tokens, so that no code point is split). Every token is in
some chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from assistants_service.core.ports.extraction import Chunking

_SENTENCE_ENDS = frozenset(".!?…。！？")


def spans(text: str, bounds: Sequence[int], chunking: Chunking) -> Iterator[tuple[int, int]]:
    """The chunks as (first token, token after the last one).

    `bounds[i]` is where token i starts in `text`, in code points, and the last element is where the text ends; a token
    that starts within a code point has the same bound as the one before it.
    """
    first, count = 0, len(bounds) - 1
    while count - first > chunking.size:
        end = _cut(text, bounds, first + chunking.size, chunking.size // 8, step=-1)
        yield first, end
        first = _cut(text, bounds, end - chunking.overlap, max(chunking.overlap // 8, min(chunking.overlap, 3)), step=1)
    yield first, count


def _cut(text: str, bounds: Sequence[int], nominal: int, slack: int, *, step: int) -> int:
    """The best token to cut before, at most `slack` from the nominal one; of equal ones, the nearest to it."""
    best, rank = nominal, -2
    for token in range(nominal, nominal + step * (slack + 1), step):
        found = _rank(text, bounds, token)
        if found > rank:
            best, rank = token, found
    return best


def _rank(text: str, bounds: Sequence[int], token: int) -> int:
    place = bounds[token]
    if place == bounds[token - 1]:
        return -1  # within a code point
    before, after = text[place - 1], text[place]
    if before == "\n":
        return 4 if text[place - 2 : place] == "\n\n" else 3
    if before in _SENTENCE_ENDS and after.isspace():
        return 2
    return 1 if before.isspace() or after.isspace() else 0
