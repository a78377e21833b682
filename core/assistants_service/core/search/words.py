"""Splits text in any language into words, for the keyword part of a search.

Words are runs of letters, digits and their marks, regardless of case and accents. Scripts without spaces between words,
and Korean, whose particles are attached to words, are split into pairs of neighbouring characters, as Lucene's
CJKAnalyzer does.

An index contains the words of a text, and the beginning of each longer word: so `household` finds `houses`, and an
exact match still counts more. Unlike a stemmer, this needs no knowledge of the language. On 12 languages of XQuAD, on
Cranfield and in `make bench` (`quality`) it finds more than whole words alone, in every language. Beginnings of four or
six letters, or beginnings alone, do no better.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import Final

BEGINNING: Final = 5  # letters of a word that represent its other forms
SHORTEST: Final = 3  # letters of a word that has other forms
# What an index contains. It is stored with it, because scores of different formats cannot be compared.
WHOLE: Final = 1  # words
BEGUN: Final = 2  # words and their beginnings
FORMAT: Final = BEGUN  # what is written

# Thai, Lao, Burmese, Khmer, kana, Han, Hangul.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# Python's \w excludes marks; without them words of Indic scripts would be split.
_MARKS: Final = "".join(c for c in map(chr, range(0x300, 0xFF00)) if unicodedata.category(c) in ("Mn", "Mc"))
_RUN: Final = re.compile(rf"([{_UNSPACED}]+)|((?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))+)")
# Accents above, below and across letters, and the points of Hebrew and Arabic; not vowel signs or voicing marks, which
# distinguish words. The numbers are Unicode's combining classes.
_ACCENTS: Final = re.compile(
    f"[{''.join(c for c in _MARKS if unicodedata.combining(c) >= 200 or 10 <= unicodedata.combining(c) <= 36)}]+"
)


def fold(text: str) -> str:
    """Remove case, accents and presentation forms: `Größe` becomes `grosse`, and a full-width A becomes a."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold())))


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    found: list[str] = []
    for unspaced, word in _RUN.findall(fold(text)):
        if len(unspaced) > 1:
            found += map("".join, pairwise(unspaced))
        else:
            found.append(word or unspaced)
    return found


def index_terms(found: Iterable[str]) -> list[str]:
    """What an index contains for these words. A beginning never equals a word, so whole words can still be searched."""
    return [each for word in found for each in (word, *_beginning(word))]


def query_terms(text: str, format: int) -> list[str]:
    """The terms that a query looks up in an index of that format, each once. A word that is as short as a beginning is
    looked up only as a beginning: otherwise it would count twice."""
    found = words(text)
    if format < BEGUN:
        return list(dict.fromkeys(found))
    return list(dict.fromkeys(each for word in found for each in (word, *_beginning(word))[len(word) == BEGINNING :]))


def other_forms(text: str, format: int) -> list[str]:
    """Other forms of a query's words that are too short to be found by a beginning: with and without an s, the plural
    in English, French, Spanish and other languages. A form that does not occur has no influence."""
    found = words(text) if format >= BEGUN else []
    return list(dict.fromkeys(form for word in found if (form := _form(word)) not in ("", *found)))


def _form(word: str) -> str:
    """Empty if there is none. In words that end with `ss` or `us`, in `was` and in `his`, the s is not an ending."""
    if not (word.isascii() and word.isalpha() and SHORTEST <= len(word) <= BEGINNING):
        return ""
    if word.endswith("s"):
        return "" if len(word) == SHORTEST or word.endswith(("ss", "us")) else word[:-1]
    return f"{word}s" if len(word) < BEGINNING else ""


def _beginning(word: str) -> tuple[str, ...]:
    return (f"{word[:BEGINNING]}*",) if len(word) >= BEGINNING else ()


def term_number(word: str) -> int:
    """The number of a word in an index: 64 bits of its hash, so that an index contains no words, and needs no numbering
    shared with others. Among a million words, two share a number once in 30 million indexes."""
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest())
