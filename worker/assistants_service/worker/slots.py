"""Slots that projects share fairly: the next one goes to the project that has the fewest.

This is max-min fairness. A single project may use all of them; one that comes later gets each slot that becomes free,
until it has what it needs or as many as the others. No share is reserved, so no slot stays unused.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

CHORES: Final = 32  # work items that neither advance a run nor fill a vector store, in progress in one worker
# Concurrent runs in one worker, of those whose workers died in their last 2, 3, and 4 or more claims.
ISOLATION: Final = (64, 8, 1)
WAITING: Final = 2_000  # work items that wait in one worker for slots of one kind
# The limits of runs in flight, and of items that wait for slots of one kind, if a host delivers the items: to 256
# concurrent functions (host.json), which waiting items occupy as well.
HOSTED_RUNS, HOSTED_WAITING = 176, 8
LONGEST: Final = 86_400.0  # seconds: the longest life of a run; the timers of an event loop do not accept infinity


class NoSlot(Exception):
    """There was no slot, so the work item goes back to the queue, for at most `within` seconds. `crowded`: too many
    wait here already."""

    def __init__(self, *, crowded: bool) -> None:
        super().__init__("no slot is free")
        self.crowded, self.within = crowded, math.inf


@dataclass(eq=False, slots=True)
class _Waiter:
    project: str
    place: tuple[float, int]  # sort key in the queue of its project
    granted: asyncio.Future[bool]  # False: it gives way

    @property
    def stays(self) -> bool:
        return self.place[0] == -math.inf


@dataclass(slots=True)
class Slots:
    """`size` slots. At most `most_waiting` items wait; beyond that, the project with the most waiting items gives way.
    None waits longer than `patience` seconds: then another worker may have a slot."""

    size: int
    most_waiting: int = WAITING
    patience: float = math.inf
    given_back: bool = field(default=False, init=False)  # to other workers, since it was last set to False
    waiting: int = field(default=0, init=False)
    taken: Counter[str] = field(default_factory=Counter, init=False)  # by project
    _free: int = field(init=False)
    _lines: dict[str, list[_Waiter]] = field(default_factory=dict, init=False)  # longest without a new slot first
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)

    def __post_init__(self) -> None:
        self._free = self.size

    @property
    def full(self) -> bool:
        return self._free <= 0

    @property
    def item_count(self) -> int:
        """The number of items that have a slot or wait for one."""
        return self.size - self._free + self.waiting

    def contested(self, project: str) -> bool:
        """Whether a project waits that would still have no more slots than this one if this one gave it a slot."""
        return any(self.taken[other] + 1 < self.taken[project] for other in self._lines)

    @contextlib.asynccontextmanager
    async def slot(
        self, project: str, since: float = 0.0, *, within: float = math.inf, stays: bool = False
    ) -> AsyncIterator[None]:
        """Hold a slot. Of a project's items, the one with the earliest `since` goes first.

        Raises NoSlot if there is none `within` so many seconds, or if too many wait, or for too long. With `stays` the
        work was begun by this item, and no other could continue it: it goes before the others, and does not give way to
        them.
        """
        if self._free > 0:  # so nothing waits
            self._grant(project)
        else:
            place = -math.inf if stays else since, next(self._numbers)
            await self._wait(_Waiter(project, place, asyncio.get_running_loop().create_future()), within)
        try:
            yield
        finally:
            self._leave(project)

    def close(self) -> None:
        """From now on only items that stay wait: the process is about to end."""
        self.most_waiting = 0
        for waiter in [waiter for line in self._lines.values() for waiter in line if not waiter.stays]:
            self._evict(waiter)

    async def _wait(self, waiter: _Waiter, within: float) -> None:
        bisect.insort(self._lines.setdefault(waiter.project, []), waiter, key=lambda other: other.place)
        self.waiting += 1
        if self.waiting > self.most_waiting:
            self._evict_newest()
        patience = math.inf if waiter.stays else self._patience()
        try:
            async with asyncio.timeout(min(within, patience, LONGEST)):
                granted = await waiter.granted
        except BaseException as error:
            self._remove(waiter)
            if not waiter.granted.cancelled() and waiter.granted.result():  # at this very moment
                self._leave(waiter.project)
            if isinstance(error, TimeoutError):
                self.given_back |= patience <= within
                raise NoSlot(crowded=False) from None
            raise
        if not granted:
            raise NoSlot(crowded=self.most_waiting > 0)

    def _patience(self) -> float:
        """Randomly up to a third less, so that waiting items give way in a few large groups: a worker without free
        slots then stops receiving for a moment, and cannot do that all the time."""
        now, tick = asyncio.get_running_loop().time(), self.patience / 3
        return self.patience if math.isinf(tick) else (now + self.patience) // tick * tick - now

    def _evict_newest(self) -> None:
        newest = max((line[-1] for line in self._lines.values()), key=self._eviction_order)
        if not newest.stays:
            self._evict(newest)

    def _eviction_order(self, newest: _Waiter) -> tuple[bool, int]:
        return not newest.stays, len(self._lines[newest.project])

    def _evict(self, waiter: _Waiter) -> None:
        self._remove(waiter)
        if not waiter.granted.done():
            waiter.granted.set_result(False)

    def _remove(self, waiter: _Waiter) -> None:
        line = self._lines.get(waiter.project, [])
        if waiter in line:
            line.remove(waiter)
            self.waiting -= 1
            if not line:
                del self._lines[waiter.project]

    def _grant(self, project: str) -> None:
        self._free -= 1
        self.taken[project] += 1

    def _leave(self, project: str) -> None:
        self._free += 1
        self.taken[project] -= 1
        if not self.taken[project]:
            del self.taken[project]
        while self._lines and self._free > 0:
            self._call(min(self._lines, key=self.taken.__getitem__))

    def _call(self, project: str) -> None:
        """Its first item gets the slot, and the project moves behind those with equally many."""
        waiter = self._lines[project][0]
        self._remove(waiter)
        if line := self._lines.pop(project, None):
            self._lines[project] = line
        if not waiter.granted.done():  # otherwise it was cancelled a moment ago
            self._grant(project)
            waiter.granted.set_result(True)
