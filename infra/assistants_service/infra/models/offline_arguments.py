"""Makes a value that matches a JSON schema from a sentence, for the offline model; deterministic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORD = re.compile(r"[^\W\d_]+")  # splits snake_case
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # splits camelCase
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)")
_PIECE = re.compile(r"[^\W\d_][\w'’-]*|, (?=[A-Z]{2}\b)|[^\w\s]")
_I = re.compile(r"I(['’]\w+)?")
_PLACE = re.compile(r"\b(?:in|for|at) (\w+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DEEPEST = 12  # levels of recursive schemas

Schema = Mapping[str, Any]


def words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_HUMP.sub(" ", text))]


def arguments(schema: Schema, text: str) -> Any:
    """An object for a function's parameters, or whatever else the schema requires."""
    return _Maker(schema, text).value(schema if _kind(schema) else {**schema, "type": "object"}, 0)


def takes(schema: Schema | None, name: str) -> bool:
    """Whether a function has one parameter, of this name."""
    properties = (schema or {}).get("properties")
    return isinstance(properties, Mapping) and list(properties) == [name]


class _Maker:
    def __init__(self, root: Schema, text: str) -> None:
        self._root, self._text = root, text
        self._said = words(text)

    def value(self, schema: Any, depth: int) -> Any:
        schema = self._resolved(schema)
        if depth > _DEEPEST:
            return None
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return next((choice for choice in choices if self._mentions(choice)), choices[0])
        match _kind(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return [self.value(schema.get("items"), depth + 1)] if depth < _DEEPEST - 1 else []
            case "boolean":
                return True
            case "integer":
                return int(float(self._number()))
            case "number":
                return float(self._number()) if "." in self._number() else int(self._number())
            case "null":
                return None
        return _string(self._text)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        """All required properties, and others that the text mentions."""
        required = schema.get("required") or ()
        properties = (schema.get("properties") or {}).items()
        wanted = [(name, inner) for name, inner in properties if name in required or self._concerns(name, inner)]
        return {name: self.value(inner, depth + 1) for name, inner in wanted}

    def _concerns(self, name: str, schema: Schema) -> bool:
        choices = self._resolved(schema).get("enum") or ()
        return any(self._mentions(choice) for choice in choices) or any(word in self._said for word in words(name))

    def _mentions(self, choice: Any) -> bool:
        return isinstance(choice, str) and bool(re.search(rf"\b{re.escape(choice)}\b", self._text, re.IGNORECASE))

    def _number(self) -> str:
        found = _NUMBER.search(self._text)
        return found[0] if found else "1"

    def _resolved(self, schema: Any) -> Schema:
        """Follows references, and takes the first alternative that is not null."""
        for _ in range(_DEEPEST):
            if not isinstance(schema, Mapping):  # `true` allows anything
                return {}
            if isinstance(reference := schema.get("$ref"), str):
                schema = self._pointed(reference)
            elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
                schema = next((option for option in options if option != {"type": "null"}), {})
            else:
                return schema
        return {}

    def _pointed(self, reference: str) -> Any:
        found: Any = self._root
        for key in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def _kind(schema: Schema) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None and "properties" in schema:
        return "object"
    return kind


def _string(text: str) -> str:
    """The text in quotes; else the last name; else the word after in, for or at; else the whole text."""
    if quoted := _QUOTED.search(text):
        return next(group for group in quoted.groups() if group)
    if names := _names(text):
        return names[-1]
    if place := _PLACE.findall(text):
        return str(place[-1])
    return text


def _names(text: str) -> list[str]:
    """Runs of capitalised words that do not begin a sentence, with a state's code: `San Francisco, CA`."""
    names: list[str] = []
    sentence_starts, name_goes_on = True, False
    for piece in _PIECE.findall(text):
        if piece == ", ":
            if name_goes_on:
                names[-1] += ","
            continue
        is_name = piece[0].isupper() and not sentence_starts and not _I.fullmatch(piece)
        if is_name and name_goes_on:
            names[-1] += f" {piece}"
        elif is_name:
            names.append(piece)
        sentence_starts, name_goes_on = piece in ".!?", is_name
    return names
