"""Turns violations of core.protocol's rules into 400s: text, `param` and `code` follow the contract's section 6."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from multidict import MultiMapping
from pydantic import ValidationError

from assistants_service.core.errors import ApiError, invalid_id
from assistants_service.core.paging import PageQuery
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.tools.registry import TOOLS

B = TypeVar("B", bound=Body)

EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "union_tag_not_found": "an object",
}


def parse_body(kind: type[B], body: bytes) -> B:
    """Raises ApiError for the first error in the body."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(error.errors(include_url=False)[0], body) from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None


def parse_page(query: Mapping[str, str], *, most: int = 100, default: int = 20) -> PageQuery:
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise _invalid_choice("order", order, ["asc", "desc"])
    return PageQuery(
        limit=_limit(query.get("limit", str(default)), most),
        newest_first=order == "desc",
        after=query.get("after") or None,
        before=query.get("before") or None,
    )


def parse_include(query: MultiMapping[str]) -> bool:
    """Whether `include[]`, or `include`, asks for the additional contents that tools can show."""
    asked = [value for name in ("include[]", "include") for value in query.getall(name, [])]
    for value in asked:
        choice("include", value, [each for tool in TOOLS for each in tool.includes])
    return bool(asked)


def choice(name: str, value: str | None, choices: Sequence[str]) -> str | None:
    """A query parameter. Raises the 400 for a value that is not one of the choices."""
    if value is not None and value not in choices:
        raise _invalid_choice(name, value, list(choices))
    return value


def _limit(text: str, most: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise _wrong_type("limit", "an integer", text)
    if int(text) > most:
        raise _out_of_range("limit", "integer above maximum value", f"<= {most}", int(text), "integer_above_max_value")
    if int(text) < 1:
        raise _out_of_range("limit", "integer below minimum value", ">= 1", int(text), "integer_below_min_value")
    return int(text)


def _api_error(error: Any, body: bytes) -> ApiError:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "json_invalid":
        return _not_json(str(context.get("error")))
    if kind == "recursion_loop":
        return _not_json("it is nested too deeply")
    path = _path(error["loc"], body, last_is_missing=kind in ("missing", "extra_forbidden"))
    if kind in EXPECTED:
        if kind == "union_tag_not_found" and isinstance(value, dict):
            return _missing(f"{path}.type" if path else "type")
        expected = EXPECTED[kind]
        if error["loc"] and expected == f"an {error['loc'][-1]}":  # the tag of a union that also allows a string
            expected = f"a string or {expected}"
        return _wrong_type(path, expected, value)
    return RULES.get(kind, _other)(path, context, value)


def _path(loc: tuple[Any, ...], body: bytes, *, last_is_missing: bool) -> str:
    """The path as the client wrote it: without the names of union members that pydantic inserts."""
    at, path = json.loads(body), ""
    for place, key in enumerate(loc):
        last = last_is_missing and place == len(loc) - 1
        if isinstance(at, list) and isinstance(key, int) and key < len(at):
            at, path = at[key], f"{path}[{key}]"
        elif last or (isinstance(at, dict) and key in at):
            at = at.get(key) if isinstance(at, dict) else None
            path = f"{path}.{key}" if path else str(key)
    return path


def _named(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def _not_json(why: str) -> ApiError:
    return ApiError(f"We could not parse the JSON body of your request: {why}.")


def _wrong_type(path: str, expected: str, value: Any) -> ApiError:
    if not path:
        return _not_json(f"expected {expected}, but got {_named(value)} instead")
    message = f"Invalid type for '{path}': expected {expected}, but got {_named(value)} instead."
    return ApiError(message, param=path, code="invalid_type")


def _missing(path: str, *_: Any) -> ApiError:
    return ApiError(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def _unknown(path: str, *_: Any) -> ApiError:
    return ApiError(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")


def _invalid_choice(path: str, value: Any, choices: list[str]) -> ApiError:
    quoted = [f"'{choice}'" for choice in choices]
    last = (
        f"{', '.join(quoted[:-1])}{',' if len(quoted) > 2 else ''} and {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    )
    message = f"Invalid value: '{str(value)[:200]}'. Supported values are: {last}."
    return ApiError(message, param=path, code="invalid_value")


def _literal(path: str, context: Any, value: Any) -> ApiError:
    if not isinstance(value, str):
        return _wrong_type(path, "a string", value)
    return _invalid_choice(path, value, _quoted(context["expected"]))


def _tag(path: str, context: Any, value: Any) -> ApiError:
    tag = value.get("type") if isinstance(value, dict) else value
    path = f"{path}.type" if path else "type"
    if not isinstance(tag, str):
        return _wrong_type(path, "a string", tag)
    return _invalid_choice(path, tag, _quoted(context["expected_tags"]))


def _quoted(text: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as a list."""
    return text.split("'")[1::2]


def _out_of_range(path: str, what: str, bound: str, value: Any, code: str) -> ApiError:
    message = f"Invalid '{path}': {what}. Expected a value {bound}, but got {value} instead."
    return ApiError(message, param=path, code=code)


def _range(sign: str, what: str, code: str, key: str) -> Callable[[str, Any, Any], ApiError]:
    def rule(path: str, context: Any, value: Any) -> ApiError:
        bound = context[key]
        kind = "integer" if isinstance(bound, int) else "decimal"  # of the parameter, whatever was sent
        return _out_of_range(path, f"{kind} {what} value", f"{sign} {int(bound)}", value, f"{kind}_{code}_value")

    return rule


def _size(noun: str, what: str, code: str, bound: str, key: str) -> Callable[[str, Any, Any], ApiError]:
    a = "an" if noun == "array" else "a"

    def rule(path: str, context: Any, value: Any) -> ApiError:
        message = (
            f"Invalid '{path}': {noun} too {what}. Expected {a} {noun} with {bound} length {context[key]},"
            f" but got {a} {noun} with length {len(value)} instead."
        )
        return ApiError(message, param=path, code=code)

    return rule


def _pattern(path: str, context: Any, value: Any) -> ApiError:
    message = (
        f"Invalid '{path}': string does not match pattern. Expected a string that matches the pattern"
        f" '{context['pattern']}'."
    )
    return ApiError(message, param=path, code="invalid_value")


def _prefix(path: str, context: Any, value: Any) -> ApiError:
    return invalid_id(path, value[:200], context["prefix"])


def _properties(path: str, context: Any, value: Any) -> ApiError:
    message = (
        f"Invalid '{path}': too many properties. Expected an object with at most {context['max']} properties, but got"
        f" an object with {context['count']} properties instead."
    )
    return ApiError(message, param=path, code="object_above_max_properties")


def _empty(path: str, context: Any, value: Any) -> ApiError:
    """The original's text, which clients look for."""
    return ApiError("Message content must be non-empty.", param=path)


def _other(path: str, context: Any, value: Any) -> ApiError:
    return ApiError(f"Invalid value for '{path}'.", param=path or None, code="invalid_value")


RULES: dict[str, Callable[[str, Any, Any], ApiError]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "literal_error": _literal,
    "union_tag_invalid": _tag,
    "less_than_equal": _range("<=", "above maximum", "above_max", "le"),
    "greater_than_equal": _range(">=", "below minimum", "below_min", "ge"),
    "string_too_long": _size("string", "long", "string_above_max_length", "maximum", "max_length"),
    "string_too_short": _size("string", "short", "string_below_min_length", "minimum", "min_length"),
    "too_long": _size("array", "long", "array_above_max_length", "maximum", "max_length"),
    "too_short": _size("array", "short", "array_below_min_length", "minimum", "min_length"),
    "string_pattern_mismatch": _pattern,
    "wrong_prefix": _prefix,
    "object_above_max_properties": _properties,
    "empty_content": _empty,
}
