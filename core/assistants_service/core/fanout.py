"""Many requests of one kind, with a limit on concurrency."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 32  # concurrent requests


async def fan_out(act: Callable[[T], Awaitable[R]], items: Iterable[T], at_once: int = AT_ONCE) -> list[R]:
    """Call `act` for each of the items, with at most `at_once` in progress: each starts as soon as an earlier one has
    ended. The results are in the order of the items. After an error no more are started, and the first one in that
    order is raised when those in progress have ended."""
    coming = enumerate(items)  # shared: each worker takes the next one
    found: dict[int, R] = {}
    errors: dict[int, BaseException] = {}

    async def work(first: tuple[int, T]) -> None:
        try:
            for number, item in itertools.chain([first], coming):
                found[number] = await act(item)
                if errors:
                    return
        except BaseException as error:
            errors[number] = error

    begun = [work(item) for item in itertools.islice(coming, at_once)]
    if len(begun) > 1:
        await asyncio.gather(*begun)
    elif begun:  # without a task: most commits have one document, and most reads of a log none
        await begun[0]
    if errors:
        raise errors[min(errors)]
    return [found[number] for number in sorted(found)]
