"""Plays scenarios, and prints what came of each as a line of JSON. Runs in each client's own environment.

    OPENAI_BASE_URL=... OPENAI_API_KEY=... python openai_scenarios.py [NAME ...]

With PROJECTS set, OPENAI_API_KEY is the beginning of the keys of that many projects: each scenario gets its own.
With WAYS set, only the clients that it names play.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

LONGEST_LINE = 400  # characters
Scenario = Callable[[Any], Awaitable[None]]
SCENARIOS: list[Scenario] = []
# Clients that a scenario made besides its own: closed while its loop runs, since one that is collected in a later loop
# closes its connections there, and those know the loop that is gone.
MADE: list[Any] = []


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


def play(clients: Mapping[str, Callable[[], Any]]) -> None:
    """Every scenario (or those named on the command line) with every client."""
    key, numbers = os.environ["OPENAI_API_KEY"], itertools.count()
    ways = os.environ.get("WAYS", " ".join(clients)).split()
    for name, client in clients.items():
        for each in SCENARIOS:
            number = next(numbers)
            if name not in ways or (sys.argv[1:] and each.__name__ not in sys.argv[1:]):
                continue
            if "PROJECTS" in os.environ:
                os.environ["OPENAI_API_KEY"] = f"{key}-{number}"
            begun = time.perf_counter()
            error = _play(each, client)
            seconds = round(time.perf_counter() - begun, 2)
            print(json.dumps({"scenario": each.__name__, "client": name, "seconds": seconds, "error": error}))


def _play(one: Scenario, client: Callable[[], Any]) -> str | None:
    try:
        asyncio.run(_with(one, client))
    except BaseException as error:
        # With the variables, as nothing here rewrites assertions.
        found = traceback.TracebackException.from_exception(error, limit=-3, capture_locals=True)
        return "\n".join(line[:LONGEST_LINE] for line in "".join(found.format()).splitlines())
    return None


async def _with(one: Scenario, client: Callable[[], Any]) -> None:
    async with opened(client()) as ready, asyncio.timeout(120):
        try:
            await one(ready)
        finally:
            while MADE:
                await done(MADE.pop().close())


# --- one way to write for both clients: the sync one blocks the loop, and nothing else is on it -----------------------


async def done(value: Any) -> Any:
    """What a call gives."""
    return await value if inspect.isawaitable(value) else value


async def each(values: Any) -> AsyncIterator[Any]:
    """The items of a page and its successors, or of a stream."""
    if hasattr(values, "__aiter__"):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


async def all_of(values: Any) -> list[Any]:
    return [value async for value in each(values)]


@asynccontextmanager
async def opened(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


@asynccontextmanager
async def refused(kind: type[Exception]) -> AsyncIterator[list[Any]]:
    """As pytest.raises, which the clients' environments have not; the error is put into the list."""
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    assert caught, f"no {kind.__name__}"
