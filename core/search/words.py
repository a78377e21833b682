"""What the keyword part of a search takes as words, in any language.

Words are runs of letters, digits and the marks that belong to them, whatever their case and accents. Scripts that put
no spaces between words, and Korean, whose particles stick to them, are read as pairs of neighbouring characters, as
Lucene's CJKAnalyzer does.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from itertools import pairwise
from typing import Final

# Thai, Lao, Burmese, Khmer, kana, Han, Hangul.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# Python's \w has no marks; without them a word of an Indic script falls into pieces.
_MARKS: Final = "".join(c for c in map(chr, range(0x300, 0xFF00)) if unicodedata.category(c) in ("Mn", "Mc"))
_RUN: Final = re.compile(rf"([{_UNSPACED}]+)|((?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))+)")
# Accents above, below and across letters, and the points of Hebrew and Arabic; no vowels or voicing, which tell words
# apart. The numbers are Unicode's combining classes.
_ACCENTS: Final = re.compile(
    f"[{''.join(c for c in _MARKS if unicodedata.combining(c) >= 200 or 10 <= unicodedata.combining(c) <= 36)}]+"
)


def fold(text: str) -> str:
    """Without regard to case, accents and presentation forms: `Größe` is `grosse`, and a full-width A is an a."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold())))


def words(text: str) -> list[str]:
    """The words of a text, in its order."""
    found: list[str] = []
    for unspaced, word in _RUN.findall(fold(text)):
        if len(unspaced) > 1:
            found += map("".join, pairwise(unspaced))
        else:
            found.append(word or unspaced)
    return found


def term(word: str) -> int:
    """What stands for a word in an index: 64 bits of its hash, so that no index holds words, and none needs another's
    numbering. Of a million words, two share a number once in 30 million indexes."""
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest())
