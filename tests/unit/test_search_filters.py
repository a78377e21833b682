"""Filters of a search over the attributes of files."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from assistants_service.core.search.filters import Filter

quickly = settings(deadline=None, max_examples=60)  # other tests take the processor meanwhile
PARSER: TypeAdapter[Filter] = TypeAdapter(Filter)
values = st.sampled_from(["", "a", "b", "1", 0, 1, 2, 1.0, 1.5, -1, True, False])
keys = st.sampled_from(["x", "y"])
comparisons = st.fixed_dictionaries(
    {"type": st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), "key": keys, "value": values}
)
lists = st.lists(values.filter(lambda value: not isinstance(value, bool)), max_size=3)
memberships = st.fixed_dictionaries({"type": st.sampled_from(["in", "nin"]), "key": keys, "value": lists})
filters = st.recursive(
    comparisons | memberships,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=6,
)


def kind(value: Any) -> str:
    return "boolean" if value is True or value is False else "string" if isinstance(value, str) else "number"


def naive(wire: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """On the wire's JSON, operator by operator."""
    if wire["type"] in ("and", "or"):
        results = [naive(part, attributes) for part in wire["filters"]]
        return False not in results if wire["type"] == "and" else True in results
    value, key = wire["value"], wire["key"]
    if wire["type"] == "in":
        return any(naive({"type": "eq", "key": key, "value": other}, attributes) for other in value)
    if wire["type"] == "nin":
        return not naive({**wire, "type": "in"}, attributes)
    if wire["type"] == "ne":
        return not naive({**wire, "type": "eq"}, attributes)
    if key not in attributes or kind(attributes[key]) != kind(value):
        return False
    mine = attributes[key]
    if wire["type"] == "eq":
        return bool(mine == value)
    if kind(value) == "boolean":
        return False
    return bool({"gt": mine > value, "gte": mine >= value, "lt": mine < value, "lte": mine <= value}[wire["type"]])


@quickly
@given(filters, st.dictionaries(keys, values))
def test_filters_equal_a_naive_evaluation(wire: dict[str, Any], attributes: dict[str, Any]) -> None:
    assert PARSER.validate_python(wire).matches(attributes) == naive(wire, attributes)


@pytest.mark.parametrize(
    ("wire", "attributes", "expected"),
    [
        ({"type": "eq", "key": "year", "value": 2026}, {"year": 2026.0}, True),
        ({"type": "eq", "key": "draft", "value": True}, {"draft": 1}, False),
        ({"type": "ne", "key": "draft", "value": True}, {}, True),
        ({"type": "nin", "key": "team", "value": ["a"]}, {}, True),
        ({"type": "lt", "key": "year", "value": 2026}, {}, False),
        ({"type": "gt", "key": "year", "value": 5}, {"year": "6"}, False),
        ({"type": "gte", "key": "day", "value": "2026-11-21"}, {"day": "2026-12-01"}, True),
        ({"type": "in", "key": "team", "value": []}, {"team": "a"}, False),
    ],
)
def test_comparisons(wire: dict[str, Any], attributes: dict[str, Any], expected: bool) -> None:
    assert PARSER.validate_python(wire).matches(attributes) is expected


@pytest.mark.parametrize(
    "wire",
    [
        {"type": "eq", "key": "x", "value": ["a"]},
        {"type": "in", "key": "x", "value": "a"},
        {"type": "in", "key": "x", "value": [True]},
        {"type": "and", "filters": []},
        {"type": "not", "filters": [{"type": "eq", "key": "x", "value": 1}]},
        {"type": "eq", "key": "x", "value": None},
        {"type": "eq", "key": "x"},
        {"type": "eq", "key": "x", "value": 1, "other": 1},
    ],
)
def test_what_is_no_filter_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PARSER.validate_python(wire)


def test_filters_as_deep_as_they_are_accepted_are_evaluated() -> None:
    wire: dict[str, Any] = {"type": "eq", "key": "x", "value": 1}
    accepted = 0
    for _ in range(2000):
        wire = {"type": "and", "filters": [wire]}
        try:
            parsed = PARSER.validate_python(wire)
        except ValidationError:
            break
        accepted += 1
        assert parsed.matches({"x": 1})
    assert 8 <= accepted < 2000
