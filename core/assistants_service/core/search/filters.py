"""Search filters on the attributes of files: comparisons, and their combinations by `and` and `or`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from assistants_service.core.protocol.bodies import Body

Attribute = str | float | bool
_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


class Comparison(Body):
    """Compares one attribute with a value. A missing attribute equals nothing, and is in no list.

    Strings, numbers and booleans are never equal or comparable to each other; strings are ordered by code points.
    Booleans have no order.
    """

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    key: str
    value: str | float | bool

    def matches(self, attributes: Mapping[str, Attribute]) -> bool:
        there = self.key in attributes and _kind(attributes[self.key]) is _kind(self.value)
        match self.type:
            case "eq":
                return there and attributes[self.key] == self.value
            case "ne":
                return not there or attributes[self.key] != self.value
        return there and _kind(self.value) is not bool and _ORDERS[self.type](attributes[self.key], self.value)


class Membership(Body):
    """Compares one attribute with several values, as Comparison does."""

    type: Literal["in", "nin"]
    key: str
    value: list[str | float]

    def matches(self, attributes: Mapping[str, Attribute]) -> bool:
        value = attributes.get(self.key)
        among = any(value == other and _kind(value) is _kind(other) for other in self.value)
        return among == (self.type == "in")


class Compound(Body):
    """Filters of which all, or at least one, must match."""

    type: Literal["and", "or"]
    filters: Annotated[list[Filter], Field(min_length=1)]

    def matches(self, attributes: Mapping[str, Attribute]) -> bool:
        return (all if self.type == "and" else any)(part.matches(attributes) for part in self.filters)


Filter = Annotated[Comparison | Membership | Compound, Field(discriminator="type")]


def _kind(value: Attribute | None) -> type:
    """Numbers are one kind, whether integer or decimal."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
