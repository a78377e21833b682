"""Calls of functions that may never return: plain ones in threads, which cannot be ended, async ones in tasks, which
may swallow their cancellation. Each counts from its start until it returns, even if it was given up in the meantime. So
hanging calls are limited, and those of one project leave room for others. A call that an async function runs in a
thread (`asyncio.to_thread`) counts as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

log = logging.getLogger(__name__)
CANCEL_GRACE: Final = 1.0  # seconds that a cancelled task has to end before it counts as hanging
CallKind = tuple[str, str]  # project, name of the function
CallOutcome = tuple[Any, BaseException | None]  # what a function returned, or raised


class Hanging(Exception):
    """There is no room for the call, because too many calls that were given up have not returned."""


@dataclass(slots=True)
class CallCounts:
    """Numbers of calls: total, per project, and per function of a project."""

    total: int = 0
    projects: Counter[str] = field(default_factory=Counter)
    kinds: Counter[CallKind] = field(default_factory=Counter)

    def add(self, kind: CallKind) -> None:
        self.total += 1
        self.projects[kind[0]] += 1
        self.kinds[kind] += 1

    def remove(self, kind: CallKind) -> None:
        self.total -= 1
        self.projects -= Counter([kind[0]])  # drops zeros, because the number of projects is unlimited
        self.kinds -= Counter([kind])

    def leaves_room(self, most: int, kind: CallKind) -> bool:
        """Whether `kind` may have one more if the limit is `most`."""
        return self.kinds[kind] < most - self.total - self.projects[kind[0]]


class Calls:
    """Allows at most `most` concurrent calls. A project may use no more than are free for the others, and a function no
    more than are free for its project's other functions. A hanging function thus occupies a third of all, its project
    less than half, the next one as much of the rest: there is room for others until some fifteen projects hang. A call
    without a free place waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._working = CallCounts()  # given up or not
        self.hanging = CallCounts()  # given up, and not returned yet
        self._waiting: dict[asyncio.Future[None], CallKind] = {}  # in the order of arrival

    def _has_room(self, kind: CallKind) -> bool:
        return self._working.leaves_room(self._most, kind)

    def _futile(self, kind: CallKind) -> int:
        """The number of hanging calls, if waiting is futile: they leave no room even if all others return."""
        if self.hanging.leaves_room(self._most, kind):
            return 0
        return self.hanging.kinds[kind] or self.hanging.total

    async def _turn(self, kind: CallKind) -> None:
        """Take a place, now or when another call returns. Raises Hanging."""
        if self._has_room(kind):
            return self._working.add(kind)
        if hanging := self._futile(kind):
            raise Hanging(hanging)
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = kind
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._release(kind)  # it was granted at this very moment
            raise
        finally:
            self._waiting.pop(turn, None)

    def _release(self, kind: CallKind) -> None:
        self._working.remove(kind)
        for turn, waiting in list(self._waiting.items()):
            if not turn.done() and self._has_room(waiting):
                self._working.add(waiting)
                turn.set_result(None)

    async def _outcome(
        self, kind: CallKind, done: asyncio.Future[CallOutcome], task: asyncio.Task[Any] | None
    ) -> CallOutcome:
        """Wait for the outcome. If this wait is cancelled, so is the task, and the call is given up unless it ends
        soon."""
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            try:
                if task and task.cancel():
                    await asyncio.wait((done,), timeout=CANCEL_GRACE)
            finally:
                if done.cancel():  # not if it returned at this very moment
                    self._abandon(kind)
            raise
        return done.result()

    def _returned(self, kind: CallKind, done: asyncio.Future[CallOutcome], outcome: CallOutcome) -> None:
        if done.cancelled():
            self.hanging.remove(kind)
        else:
            done.set_result(outcome)
        self._release(kind)

    def _abandon(self, kind: CallKind) -> None:
        self.hanging.add(kind)
        count = self.hanging.kinds[kind]
        log.warning("action %s does not return: %d calls of project %s hang", kind[1], count, kind[0])
        for turn, waiting in self._waiting.items():
            if not turn.done() and (hanging := self._futile(waiting)):
                turn.set_exception(Hanging(hanging))
