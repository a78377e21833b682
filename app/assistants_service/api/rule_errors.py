"""The error of each rule that a parameter can break: text, `param` and `code` as recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assistants_service.core.errors import ApiError, invalid_id


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


def not_json(why: str) -> ApiError:
    return ApiError(f"We could not parse the JSON body of your request: {why}.")


def wrong_type(path: str, expected: str, value: Any) -> ApiError:
    if not path:
        return not_json(f"expected {expected}, but got {_named(value)} instead")
    message = f"Invalid type for '{path}': expected {expected}, but got {_named(value)} instead."
    return ApiError(message, param=path, code="invalid_type")


def missing_parameter(path: str, *_: Any) -> ApiError:
    return ApiError(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def _unknown(path: str, *_: Any) -> ApiError:
    return ApiError(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")


def invalid_choice(path: str, value: Any, choices: list[str]) -> ApiError:
    quoted = [f"'{choice}'" for choice in choices]
    last = (
        f"{', '.join(quoted[:-1])}{',' if len(quoted) > 2 else ''} and {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    )
    message = f"Invalid value: '{str(value)[:200]}'. Supported values are: {last}."
    return ApiError(message, param=path, code="invalid_value")


def _literal(path: str, context: Any, value: Any) -> ApiError:
    if not isinstance(value, str):
        return wrong_type(path, "a string", value)
    return invalid_choice(path, value, _quoted(context["expected"]))


def _tag(path: str, context: Any, value: Any) -> ApiError:
    tag = value.get("type") if isinstance(value, dict) else value
    path = f"{path}.type" if path else "type"
    if not isinstance(tag, str):
        return wrong_type(path, "a string", tag)
    return invalid_choice(path, tag, _quoted(context["expected_tags"]))


def _quoted(text: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as a list."""
    return text.split("'")[1::2]


def out_of_range(path: str, what: str, bound: str, value: Any, code: str) -> ApiError:
    message = f"Invalid '{path}': {what}. Expected a value {bound}, but got {value} instead."
    return ApiError(message, param=path, code=code)


def _range(sign: str, what: str, code: str, key: str) -> Callable[[str, Any, Any], ApiError]:
    def rule(path: str, context: Any, value: Any) -> ApiError:
        bound = context[key]
        kind = "integer" if isinstance(bound, int) else "decimal"  # of the parameter, whatever was sent
        return out_of_range(path, f"{kind} {what} value", f"{sign} {int(bound)}", value, f"{kind}_{code}_value")

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


def invalid_value(path: str, context: Any, value: Any) -> ApiError:
    return ApiError(f"Invalid value for '{path}'.", param=path or None, code="invalid_value")


RULES: dict[str, Callable[[str, Any, Any], ApiError]] = {
    "missing": missing_parameter,
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
