"""Finds a piece of code in a source whose names, line breaks and comments have changed since the piece was noted down.

They are compared token by token. A name of the piece may be another one in the source, if it is throughout the piece;
a variable, an attribute and a keyword argument of the same name count as three names. Brackets need not be balanced.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, zip_longest
from typing import Literal

TOKEN = re.compile(
    r"""
    (?P<skipped> \s+ | \\\n | \#[^\n]*)
  | (?P<string> (?i:[rbuf]{0,2}) (?: \"{3} (?:\\.|[^\\])*? \"{3} | '{3} (?:\\.|[^\\])*? '{3}
                                   | " (?:\\.|[^"\\\n])* "       | ' (?:\\.|[^'\\\n])* ' ))
  | (?P<name> [^\W\d]\w*)
  | \d[\w.]* | \.{3} | (?: \*\* | // | << | >> )=? | -> | [-+*/%&|^@=!<>:]= | .
    """,
    re.VERBOSE | re.DOTALL,
)
ASSIGNED = re.compile(r"=(?!=)")  # without a space before it
FIELD = re.compile(r"\{([^{}]*)\} | [^{}]+ | .", re.VERBOSE | re.DOTALL)  # of an f-string

Kind = Literal["variable", "attribute", "keyword argument", "fixed"]
Names = Mapping[tuple[Kind, str], str]  # what they are in the source


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Place:
    tokens: Sequence[Token]
    renamed: Names


def replaced(source: str, old: str, new: str, within: str = "") -> str:
    """`source` with `new` in the place of `old`: where its tokens are; or else within the one string that has its text;
    or else where the fewest names differ, and then the names in `new` are renamed as they are there. Of several places
    alike it is the one in the function of the qualified name `within`.

    Raises ValueError if there is no such place, or more than one.
    """
    places = list(_places(source, old))
    literally = any(not place.renamed for place in places)
    if not literally and any(token.kind == "fixed" and old in token.text for token in tokens_of(source)):
        if (count := source.count(old)) != 1:
            raise ValueError(f"its text occurs {count} times")
        return source.replace(old, new)
    return _replaced(source, _best(source, places, within), old, new)


def _best(source: str, places: Sequence[Place], within: str) -> Place:
    fewest = min((len(place.renamed) for place in places), default=0)
    best = [place for place in places if len(place.renamed) == fewest]
    if len(best) > 1 and within:
        start, end = _extent(source, within)
        best = [place for place in best if start <= place.tokens[0].start < end]
    if len(best) != 1:
        lines = ", ".join(str(source.count("\n", 0, place.tokens[0].start) + 1) for place in best)
        raise ValueError(f"it fits in several places: lines {lines}" if best else "it fits nowhere")
    return best[0]


@lru_cache(maxsize=8)
def tokens_of(text: str) -> tuple[Token, ...]:
    """Without comments, and without a comma before a closing bracket, which comes and goes with line breaks."""
    tokens = list(_tokens(text, 0, len(text)))
    pairs = zip_longest(tokens, tokens[1:])
    return tuple(token for token, after in pairs if token.text != "," or not after or after.text not in ")]}")


def _tokens(text: str, start: int, end: int) -> Iterator[Token]:
    after_dot = False
    for match in TOKEN.finditer(text, start, end):
        if match["string"] and "f" in re.split("['\"]", match[0].lower())[0]:
            yield from _format_tokens(text, *match.span())
        elif not match["skipped"]:
            yield Token(_kind(match, after_dot), match[0], *match.span())
            after_dot = match[0] == "."


def _kind(match: re.Match[str], after_dot: bool) -> Kind:
    if not match["name"] or keyword.iskeyword(match[0]):
        return "fixed"
    if after_dot:
        return "attribute"
    if ASSIGNED.match(match.string, match.end()):
        return "keyword argument"
    return "fixed" if hasattr(builtins, match[0]) else "variable"


def _format_tokens(text: str, start: int, end: int) -> Iterator[Token]:
    """Of an f-string: the expressions in it are code."""
    for match in FIELD.finditer(text, start, end):
        if match[1]:
            yield from _tokens(text, *match.span(1))
        else:
            yield Token("fixed", match[0], *match.span())


@lru_cache(maxsize=8)
def _shape(text: str) -> tuple[str, ...]:
    """All but the names."""
    return tuple(token.text if token.kind == "fixed" else token.kind for token in tokens_of(text))


def _places(source: str, old: str) -> Iterator[Place]:
    tokens, piece, shape, wanted = tokens_of(source), tokens_of(old), _shape(source), _shape(old)
    for start in range(len(shape) - len(wanted) + 1):
        if shape[start] == wanted[0] and shape[start : start + len(wanted)] == wanted:
            window = tokens[start : start + len(wanted)]
            if (renamed := _renamed(piece, window)) is not None:
                yield Place(window, renamed)


def _extent(source: str, name: str) -> tuple[int, int]:
    """Of the function or class, as offsets; of the whole source if there is none."""
    for found, node in _definitions(ast.parse(source)):
        if found == name:
            lines = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
            return lines[node.lineno - 1], lines[node.end_lineno or node.lineno]
    return 0, len(source)


def _definitions(parent: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")


def _renamed(piece: Sequence[Token], window: Sequence[Token]) -> Names | None:
    """None if one name of the piece is two here, or two are one; or if most are others: it is another piece then."""
    names: dict[tuple[Kind, str], str] = {}
    for own, found in zip(piece, window, strict=True):
        if own.kind != "fixed" and names.setdefault((own.kind, own.text), found.text) != found.text:
            return None
    renamed = {name: found for name, found in names.items() if name[1] != found}
    one_to_one = len({(kind, found) for (kind, _), found in names.items()}) == len(names)
    return renamed if one_to_one and len(renamed) <= (len(names) + 1) // 2 else None


def _replaced(source: str, place: Place, old: str, new: str) -> str:
    """The lines of `new` are moved to the right or to the left as those of `old` are in the source."""
    piece, text = tokens_of(old), _with_names(new, place.renamed)
    pairs = [
        (_indentation(old, own), _indentation(source, there)) for own, there in zip(piece, place.tokens, strict=True)
    ]
    move = next((there - own for own, there in pairs if own is not None and there is not None), 0)
    first, *others = text.lstrip().splitlines(keepends=True) or [""]
    moved = "".join([first, *(_moved(line, move) for line in others)])
    begins, (own, there) = _indentation(new, tokens_of(new)[0]) if tokens_of(new) else None, pairs[0]
    deeper = begins - own if begins is not None and own is not None and there is not None else 0
    start = place.tokens[0].start + min(deeper, 0)
    return source[:start] + " " * max(deeper, 0) + moved + source[place.tokens[-1].end :]


def _with_names(text: str, names: Names) -> str:
    """Without what comes after the last token: a comment would hide code that follows on the same line."""
    tokens = tokens_of(text)
    text = text[: tokens[-1].end] if tokens else ""
    for token in reversed(tokens):
        text = text[: token.start] + names.get((token.kind, token.text), token.text) + text[token.end :]
    return text


def _indentation(text: str, token: Token) -> int | None:
    """Of the line that begins with this token. None if it is none, or is not indented."""
    before = text[text.rfind("\n", 0, token.start) + 1 : token.start]
    return len(before) if before.isspace() else None


def _moved(line: str, columns: int) -> str:
    return " " * columns + line if columns > 0 else line.removeprefix(" " * -columns)
