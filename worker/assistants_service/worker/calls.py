"""Calls of functions that may never return: plain ones in threads, of which none can be ended, async ones in tasks,
which may swallow their cancellation. Each counts from its start until it returns, whether or not it was given up
meanwhile. So those that hang are bounded, and one project's leave room for others. What an async function hands to a
thread (`asyncio.to_thread`) is such a call, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final

log = logging.getLogger(__name__)
THREADS: Final = 512  # at once, of all projects
TASKS: Final = 3_072  # likewise: one function may have as many as a worker, by default, has runs in flight
LETTING_GO: Final = 1.0  # seconds that a cancelled task has to end, until it counts as one that hangs
Kind = tuple[str, str]  # project, name of the function
Outcome = tuple[Any, BaseException | None]  # what a function returned, or what it raised


class Hanging(Exception):
    """There is no room for a call, since so many that were given up have not returned."""


@dataclass(slots=True)
class Count:
    """Of calls: in all, of each project, and of each function of a project."""

    total: int = 0
    projects: Counter[str] = field(default_factory=Counter)
    kinds: Counter[Kind] = field(default_factory=Counter)

    def add(self, kind: Kind) -> None:
        self.total += 1
        self.projects[kind[0]] += 1
        self.kinds[kind] += 1

    def remove(self, kind: Kind) -> None:
        self.total -= 1
        self.projects -= Counter([kind[0]])  # without what is zero, as there is no end of projects
        self.kinds -= Counter([kind])

    def leaves_room(self, most: int, kind: Kind) -> bool:
        """Whether `kind` may have one more where there are `most`."""
        return self.kinds[kind] < most - self.total - self.projects[kind[0]]


class Calls:
    """At most `most` at once. A project has no more than are free for the others, and a function of a project no more
    than are free for the project's other functions. A function that hangs holds a third of all, a project less than
    half, the next one as much of the rest: so there is room for others until some fifteen projects hang. A call
    that finds none waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._working = Count()  # given up or not
        self.hanging = Count()  # given up, and not back yet
        self._waiting: dict[asyncio.Future[None], Kind] = {}  # in the order of their coming

    def _has_room(self, kind: Kind) -> bool:
        return self._working.leaves_room(self._most, kind)

    def _in_vain(self, kind: Kind) -> int:
        """How many calls hang, if waiting is in vain: what hangs leaves no room, even if all else returned."""
        if self.hanging.leaves_room(self._most, kind):
            return 0
        return self.hanging.kinds[kind] or self.hanging.total

    async def _turn(self, kind: Kind) -> None:
        """Take a place, at once or when others return. Raises Hanging."""
        if self._has_room(kind):
            return self._working.add(kind)
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

    def _release(self, kind: Kind) -> None:
        self._working.remove(kind)
        for turn, waiting in list(self._waiting.items()):
            if not turn.done() and self._has_room(waiting):
                self._working.add(waiting)
                turn.set_result(None)

    async def _outcome(self, kind: Kind, done: asyncio.Future[Outcome], task: asyncio.Task[Any] | None) -> Outcome:
        """Wait for it. If this wait is cancelled, so is the task, and the call is given up unless it ends soon."""
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            try:
                if task and task.cancel():
                    await asyncio.wait((done,), timeout=LETTING_GO)
            finally:
                if done.cancel():  # not if it returned at this very moment
                    self._gave_up(kind)
            raise
        return done.result()

    def _returned(self, kind: Kind, done: asyncio.Future[Outcome], outcome: Outcome) -> None:
        if done.cancelled():
            self.hanging.remove(kind)
        else:
            done.set_result(outcome)
        self._release(kind)

    def _gave_up(self, kind: Kind) -> None:
        self.hanging.add(kind)
        count = self.hanging.kinds[kind]
        log.warning("action %s does not return: %d calls of project %s hang", kind[1], count, kind[0])
        for turn, waiting in self._waiting.items():
            if not turn.done() and (hanging := self._in_vain(waiting)):
                turn.set_exception(Hanging(hanging))


class ActionThreads(Calls):
    """Of plain functions."""

    def __init__(self, most: int = THREADS) -> None:
        super().__init__(most)

    async def run(self, project: str, name: str, function: Callable[[], Any]) -> Outcome:
        """In a daemon thread of its own: one that hangs keeps no process alive. Raises Hanging."""
        kind = project, name
        await self._turn(kind)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Outcome] = loop.create_future()

        def work() -> None:
            outcome: Outcome
            try:
                outcome = function(), None
            except BaseException as error:  # such as SystemExit, which ends neither the thread nor the process
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._returned, kind, done, outcome)

        try:
            threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
        except BaseException:  # such as a limit of the system
            self._release(kind)
            raise
        return await self._outcome(kind, done, None)


CALLING: ContextVar[tuple[ActionThreads, Kind] | None] = ContextVar("calling", default=None)  # in the task of an action


class Executor(ThreadPoolExecutor):
    """The event loop's own, which has a few threads for all that goes on there, such as searches. What an action hands
    to it (`asyncio.to_thread`) runs in threads of actions instead: one that hangs takes none of these few, and keeps no
    process from its end."""

    _loops: ClassVar[weakref.WeakSet[asyncio.AbstractEventLoop]] = weakref.WeakSet()

    @classmethod
    def install(cls, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in cls._loops:
            cls._loops.add(loop)
            loop.set_default_executor(cls(thread_name_prefix="asyncio"))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if (calling := CALLING.get()) is None:
            return super().submit(function, *args, **kwargs)
        future: Future[Any] = Future()
        task = asyncio.create_task(_into(future, *calling, partial(function, *args, **kwargs)))
        future.add_done_callback(lambda future: future.cancelled() and task.cancel())  # which also keeps the task
        return future


async def _into(future: Future[Any], threads: ActionThreads, kind: Kind, function: Callable[[], Any]) -> None:
    try:
        result, error = await threads.run(*kind, function)
    except asyncio.CancelledError:
        future.cancel()
        raise
    except Exception as failed:  # such as Hanging
        result, error = None, failed
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class ActionTasks(Calls):
    """Of async functions. What they hand to threads runs in `threads`."""

    def __init__(self, threads: ActionThreads, most: int = TASKS) -> None:
        super().__init__(most)
        self._threads = threads
        self._tasks: set[asyncio.Task[Outcome]] = set()  # the loop itself does not keep them

    async def run(self, project: str, name: str, coroutine: Coroutine[Any, Any, Any]) -> Outcome:
        """In a task of its own, which is cancelled with this call. Raises Hanging."""
        kind = project, name
        try:
            await self._turn(kind)
        except BaseException:
            coroutine.close()
            raise
        loop = asyncio.get_running_loop()
        Executor.install(loop)
        done: asyncio.Future[Outcome] = loop.create_future()

        def ended(task: asyncio.Task[Outcome]) -> None:
            self._tasks.discard(task)
            coroutine.close()  # if the task was cancelled before it began
            self._returned(kind, done, (None, asyncio.CancelledError()) if task.cancelled() else task.result())

        calling = _caught(coroutine, self._threads, kind)
        task = asyncio.create_task(calling, name=f"action {name} of project {project}")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return await self._outcome(kind, done, task)


async def _caught(coroutine: Coroutine[Any, Any, Any], threads: ActionThreads, kind: Kind) -> Outcome:
    """A SystemExit that left its task would end the event loop, and with it the process."""
    CALLING.set((threads, kind))
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error
