"""Threads for plain functions, of which none can be ended: each counts from its start until it returns, whether or not
its call was given up meanwhile. So those that hang are bounded, and one project's leave threads for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)
MOST: Final = 512  # threads at once, of all projects
Kind = tuple[str, str]  # project, name of the function


class Hanging(Exception):
    """There is no thread for a call, since so many that were given up have not returned."""


class Threads:
    """At most `most` at once. A project has no more than are free for the others, and a function of a project no more
    than are free for the project's other functions. A function that hangs holds a third of all, a project less than
    half, the next one as much of the rest: so there is a thread for others until some fifteen projects hang. A call
    that finds none waits."""

    def __init__(self, most: int = MOST) -> None:
        self._most = self._free = most
        self._projects: Counter[str] = Counter()  # threads at work, given up or not
        self._kinds: Counter[Kind] = Counter()  # likewise
        self.hanging: Counter[Kind] = Counter()  # given up, and not back yet
        self._waiting: dict[asyncio.Future[None], Kind] = {}  # in the order of their coming

    async def run(self, project: str, name: str, function: Callable[[], Any]) -> Any:
        """What the function returns or raises, in a daemon thread of its own: one that hangs keeps no process alive.
        Raises Hanging if it has no thread, and calls of it hang, or all that is at work."""
        kind = project, name
        await self._turn(kind)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            result, failure = None, None
            try:
                result = function()
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._returned, kind, done, result, failure)

        try:
            threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
        except BaseException:  # such as a limit of the system
            self._release(kind)
            raise
        try:
            return await done
        except asyncio.CancelledError:
            if done.cancelled():  # not if it returned at this very moment
                self._gave_up(kind)
            raise

    def _has_room(self, kind: Kind) -> bool:
        return self._kinds[kind] < self._free - self._projects[kind[0]]

    def _in_vain(self, kind: Kind) -> int:
        """How many calls hang, if waiting for a thread is in vain."""
        total = self.hanging.total()
        return self.hanging[kind] or (total if total == self._most - self._free else 0)

    async def _turn(self, kind: Kind) -> None:
        """Take a thread, at once or when others return."""
        if self._has_room(kind):
            return self._take(kind)
        if hanging := self._in_vain(kind):
            raise Hanging(hanging)
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = kind
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._release(kind)  # it was given at this very moment
            raise
        finally:
            self._waiting.pop(turn, None)

    def _take(self, kind: Kind) -> None:
        self._free -= 1
        self._projects[kind[0]] += 1
        self._kinds[kind] += 1

    def _release(self, kind: Kind) -> None:
        self._free += 1
        self._projects -= Counter([kind[0]])  # without what is zero, as there is no end of projects
        self._kinds -= Counter([kind])
        for turn, waiting in list(self._waiting.items()):
            if not turn.done() and self._has_room(waiting):
                self._take(waiting)
                turn.set_result(None)

    def _returned(self, kind: Kind, done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        if done.cancelled():
            self.hanging -= Counter([kind])
        elif error is None:
            done.set_result(result)
        else:
            done.set_exception(error)
        self._release(kind)

    def _gave_up(self, kind: Kind) -> None:
        self.hanging[kind] += 1
        log.warning("action %s does not return: %d calls of project %s hang", kind[1], self.hanging[kind], kind[0])
        for turn, waiting in self._waiting.items():
            if not turn.done() and (hanging := self._in_vain(waiting)):
                turn.set_exception(Hanging(hanging))
