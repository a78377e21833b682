"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Sleeps and timeouts cost nothing, and a run of the same program takes the same course every time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_800_000_000.0  # Unix time at which every loop begins


class Stuck(Exception):
    """Every task waits for something that nothing will ever bring about."""


class _Jumping(selectors.SelectSelector):
    """Never waits: where a real selector would, the loop's time moves on instead. It never looks at its files either:
    nothing comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.time += timeout
        return []


class _Numbered:
    """Its hash is a number instead of its address, so that sets of such are gone through in the same order always."""

    number = -1

    def __hash__(self: Any) -> int:
        if self.number < 0:
            self.number = next(self.get_loop().numbers)
        return int(self.number)


class Future(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    pass


class Task(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    pass


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping, self.numbers = _Jumping(), itertools.count()
        super().__init__(self._jumping)

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def time(self) -> float:
        return self._jumping.time

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *given: Any) -> asyncio.Future[Any]:
        """At once, as time would run on while a thread works."""
        done = self.create_future()
        try:
            done.set_result(work(*given))
        except Exception as error:
            done.set_exception(error)
        return done


class VirtualClock:
    """core.ports.Clock: Unix time as the running virtual loop has it. A clock that is wrong is `ahead` by seconds."""

    ahead = 0.0

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.ahead


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in virtual time."""
    _collect_less_garbage()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@functools.cache
def _collect_less_garbage() -> None:
    """The collector need not look at all modules again and again, nor as often at what a simulation makes: that was a
    third of its time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
