"""Writes the limits of request models into the published schemas of the bodies that they parse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openapi_corrections import alternatives_of, referenced

Json = Any

LIMITS = (
    *("enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"),
    *("required", "maxProperties", "propertyNames"),
)
TAG = "type"  # the field that distinguishes kinds of objects; the document and the models may divide them differently


@dataclass(frozen=True)
class Narrowing:
    """Writes the limits of models into `schemas`, those of the document. Use one instance for a whole document."""

    schemas: dict[str, Json]
    written: dict[int, Json] = field(
        default_factory=dict
    )  # the limits written to each node, by its id(): nodes are shared

    def apply(self, published: Json, model: Json) -> None:
        """`model` is the JSON Schema of a request model, as pydantic generates it. Raises ValueError if the two do not
        match: only one of them has a property or a kind of value, or another model has different limits for the same
        schema of the document."""
        _Body(self, model.get("$defs", {})).apply(published, model, "body")


@dataclass(frozen=True)
class _Body:
    """The application of one model. `definitions` are the schemas that it refers to."""

    narrowing: Narrowing
    definitions: dict[str, Json]
    seen: set[tuple[int, str]] = field(default_factory=set)  # pairs that were processed: filters contain filters

    def apply(self, published: Json, model: Json, where: str) -> None:
        shown = list(_alternatives(published, self.narrowing.schemas))
        taken = list(_alternatives(model, self.definitions))
        for each in taken:
            if not any(_fits(other, each) for other in shown):
                raise ValueError(f"{where}: the document does not show {each}")
        for each in shown:
            fitting = [other for other in taken if _fits(each, other)]
            if not fitting:
                raise ValueError(f"{where}: no model takes {each}")
            self._narrow(each, fitting, where)

    def _narrow(self, shown: Json, taken: list[Json], where: str) -> None:
        """`taken` are the models of one kind of value: several for objects that the document does not distinguish."""
        here = (id(shown), json.dumps(taken))
        if here in self.seen:
            return
        self.seen.add(here)
        limits = _limits(taken, where)
        if (before := self.narrowing.written.setdefault(id(shown), limits)) != limits:
            raise ValueError(f"{where}: the document has one schema for {before} and {limits}")
        _write(shown, limits)
        if "properties" in taken[0]:
            self._properties(shown, taken, where)
        for inner in ("items", "additionalProperties"):
            if all(isinstance(each.get(inner), dict) for each in [shown, *taken]):
                self.apply(shown[inner], {"anyOf": [each[inner] for each in taken]}, f"{where}.{inner}")

    def _properties(self, shown: Json, taken: list[Json], where: str) -> None:
        properties = shown["properties"]
        known = list(dict.fromkeys(name for each in taken for name in each["properties"]))
        if refused := properties.keys() - set(known):
            raise ValueError(f"{where}: no model knows {refused}")
        for name in known:
            models = [each["properties"][name] for each in taken if name in each["properties"]]
            if name not in properties:
                properties[name] = _inlined(models[0], self.definitions)
            if name != TAG:
                self.apply(properties[name], {"anyOf": models}, f"{where}.{name}")
        shown["additionalProperties"] = False  # as core.protocol.bodies.Body has it


def _alternatives(schema: Json, definitions: dict[str, Json]) -> Iterator[Json]:
    """The alternatives that a schema allows, without null. If it has properties, its alternatives are only rules about
    them."""
    if "$ref" in schema:
        yield from _alternatives(definitions[referenced(schema)], definitions)
    elif "properties" not in schema and (several := alternatives_of(schema)):
        for each in several:
            yield from _alternatives(each, definitions)
    elif schema.get("type") != "null":
        yield schema


def _fits(shown: Json, taken: Json) -> bool:
    """Whether both are of one kind. An integer is also a number; objects match unless their tags differ."""
    kinds = _kinds(taken) | ({"number"} if "integer" in _kinds(taken) else set())
    tags = _tags(shown), _tags(taken)
    return bool(_kinds(shown) & kinds) and (not all(tags) or bool(tags[0] & tags[1]))


def _kinds(schema: Json) -> set[str]:
    kind = schema["type"]
    return {kind} if isinstance(kind, str) else {*kind} - {"null"}


def _tags(schema: Json) -> set[str]:
    return set(_choices(schema.get("properties", {}).get(TAG, {})))


def _choices(schema: Json) -> list[Json]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _limits(taken: list[Json], where: str) -> Json:
    """The limits that all of these models share. Required are the fields that all of them require. Raises ValueError if
    other limits differ."""
    found = [{name: each[name] for name in LIMITS if name in each and name != "required"} for each in taken]
    for limits, each in zip(found, taken, strict=True):
        if choices := _choices(each):
            limits["enum"] = choices
    if any(limits != found[0] for limits in found):
        raise ValueError(f"{where}: the document has one schema for {found}")
    required = [
        name for name in taken[0].get("required", ()) if all(name in each.get("required", ()) for each in taken)
    ]
    return found[0] | ({"required": required} if required else {})


def _write(shown: Json, limits: Json) -> None:
    for name in LIMITS:
        if name not in limits:
            shown.pop(name, None)
    for name, limit in limits.items():
        if not isinstance(limit, list) or {*limit} != {*shown.get(name, ())}:  # otherwise the document keeps its order
            shown[name] = int(limit) if isinstance(limit, float) and limit.is_integer() else limit
    if "pattern" in limits:
        shown.pop("format", None)


def _inlined(schema: Json, definitions: dict[str, Json]) -> Json:
    """The schema without references to definitions, titles and null defaults, none of which the document has."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[referenced(schema)], definitions)
    kept = {name: value for name, value in schema.items() if not (name == "title" and isinstance(value, str))}
    if kept.get("default", ...) is None:
        del kept["default"]
    return {name: _inlined(value, definitions) for name, value in kept.items()}
