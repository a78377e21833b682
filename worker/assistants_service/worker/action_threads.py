"""Calls of plain functions, each in a thread of its own; and what async functions hand to threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, Final

from assistants_service.worker.calls import CallKind, CallOutcome, Calls

THREADS: Final = 512  # concurrent, of all projects


class ActionThreads(Calls):
    """Calls of plain functions."""

    def __init__(self, most: int = THREADS) -> None:
        super().__init__(most)

    async def run(self, project: str, name: str, function: Callable[[], Any]) -> CallOutcome:
        """Run it in a daemon thread of its own, which does not keep the process alive. Raises Hanging."""
        kind = project, name
        await self._turn(kind)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[CallOutcome] = loop.create_future()

        def work() -> None:
            outcome: CallOutcome
            try:
                outcome = function(), None
            except BaseException as error:  # such as SystemExit, which must not end the thread
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._returned, kind, done, outcome)

        try:
            threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
        except BaseException:  # such as a limit of the system
            self._release(kind)
            raise
        return await self._outcome(kind, done, None)


# Set in the task of an action.
CALLING: ContextVar[tuple[ActionThreads, CallKind] | None] = ContextVar("calling", default=None)


class Executor(ThreadPoolExecutor):
    """The event loop's default executor, which has a few threads for everything, such as searches. Calls that an action
    runs in it (`asyncio.to_thread`) run in the threads of actions instead: hanging ones use none of these few, and do
    not keep the process alive."""

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
        future.add_done_callback(lambda future: future.cancelled() and task.cancel())  # also keeps a reference to it
        return future


async def _into(future: Future[Any], threads: ActionThreads, kind: CallKind, function: Callable[[], Any]) -> None:
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
