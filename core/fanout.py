"""Many requests of one kind, with a bound on how many are under way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 32  # requests that are under way


async def fan_out(act: Callable[[T], Awaitable[R]], items: Iterable[T], at_once: int = AT_ONCE) -> list[R]:
    """`act` on each of the items, on `at_once` at a time; the results in the order of the items, each of which is made
    when its turn has come. Raises the first error when those that began with it have ended; no others begin then."""
    found: list[R] = []
    coming = iter(items)
    while some := list(itertools.islice(coming, at_once)):
        for ended in await asyncio.gather(*map(act, some), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended
            found.append(ended)
    return found
