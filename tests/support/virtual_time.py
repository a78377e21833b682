"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Sleeps and timeouts cost nothing, and a run of the same program takes the same course every time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_800_000_000.0  # Unix time at which every loop begins


class Stuck(Exception):
    """Every task waits for something that nothing will ever bring about."""


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


class VirtualLoop(asyncio.BaseEventLoop):
    """Nothing comes from outside: there are only callbacks that are ready, and timers. They are due in the order of
    their instants, and at one instant in the order in which they were set."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.now = itertools.count(), 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self.numbers), timer))
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """What BaseEventLoop.run_forever does again and again. Raises Stuck."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        while self._timers and (not ready or self._timers[0][0] <= self.now):
            when, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self.now = max(self.now, when)
                ready.append(timer)
        if not ready:
            raise Stuck
        for _ in range(len(ready)):
            if not (handle := ready.popleft()).cancelled():
                handle._run()

    def _write_to_self(self) -> None:
        """Wake the loop from another thread: it never sleeps."""

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *given: Any) -> asyncio.Future[Any]:
        """At once, as time would run on while a thread works."""
        done = self.create_future()
        try:
            done.set_result(work(*given))
        except Exception as error:
            done.set_exception(error)
        return done

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """At once: no thread was started. BaseEventLoop waits in a thread, for which virtual time does not wait."""


class VirtualClock:
    """ports.clock.Clock: Unix time as the running virtual loop has it. A clock that is wrong is `ahead` by seconds."""

    ahead = 0.0

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.ahead


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in virtual time."""
    _collect_less_garbage()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.get_loop().run_until_complete(main)  # Runner.run would see to signals first


@functools.cache
def _collect_less_garbage() -> None:
    """The collector need not look at all modules again and again, nor as often at what a simulation makes."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
