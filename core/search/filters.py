"""Filters of a search: comparisons of a file's attributes, and what `and` and `or` make of them (section 3.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from core.requests import Body

Attribute = str | float | bool
Attributes = Mapping[str, Attribute]


class Comparison(Body):
    """A file without the attribute satisfies `ne` and `nin` only. Values of different kinds (string, number, boolean)
    are not equal, and neither is greater; of two booleans neither is greater."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str
    value: str | float | bool | list[str | float]


class Compound(Body):
    type: Literal["and", "or"]
    filters: list[Filter]


Filter = Comparison | Compound


def matches(filter: Filter, attributes: Attributes) -> bool:
    """Whether a file with these attributes passes."""
    raise NotImplementedError
