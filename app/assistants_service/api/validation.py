"""Turns violations of core.protocol's rules into 400s: `rule_errors` has their text, `param` and `code`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from multidict import MultiMapping
from pydantic import ValidationError

from assistants_service.api.rule_errors import (
    RULES,
    invalid_choice,
    invalid_value,
    missing_parameter,
    not_json,
    out_of_range,
    wrong_type,
)
from assistants_service.core.errors import ApiError
from assistants_service.core.paging import PageQuery
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.tools.registry import TOOLS

B = TypeVar("B", bound=Body)

MOST: Final = 100  # objects of a page

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
        raise not_json("it is nested too deeply") from None


def parse_page(query: Mapping[str, str], *, most: int = MOST, default: int = 20) -> PageQuery:
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid_choice("order", order, ["asc", "desc"])
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
        raise invalid_choice(name, value, list(choices))
    return value


def _limit(text: str, most: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise wrong_type("limit", "an integer", text)
    if int(text) > most:
        raise out_of_range("limit", "integer above maximum value", f"<= {most}", int(text), "integer_above_max_value")
    if int(text) < 1:
        raise out_of_range("limit", "integer below minimum value", ">= 1", int(text), "integer_below_min_value")
    return int(text)


def _api_error(error: Any, body: bytes) -> ApiError:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "json_invalid":
        return not_json(str(context.get("error")))
    if kind == "recursion_loop":
        return not_json("it is nested too deeply")
    path = _path(error["loc"], body, last_is_missing=kind in ("missing", "extra_forbidden"))
    if kind in EXPECTED:
        if kind == "union_tag_not_found" and isinstance(value, dict):
            return missing_parameter(f"{path}.type" if path else "type")
        expected = EXPECTED[kind]
        if error["loc"] and expected == f"an {error['loc'][-1]}":  # the tag of a union that also allows a string
            expected = f"a string or {expected}"
        return wrong_type(path, expected, value)
    return RULES.get(kind, invalid_value)(path, context, value)


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
