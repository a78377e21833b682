"""Calls of async functions, each in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from assistants_service.worker.action_threads import CALLING, ActionThreads, Executor
from assistants_service.worker.calls import CallKind, CallOutcome, Calls

TASKS: Final = (
    3_072  # at once, of all projects; by default one function may have as many as a worker has runs in flight
)


class ActionTasks(Calls):
    """Calls of async functions. What they run in threads uses `threads`."""

    def __init__(self, threads: ActionThreads, most: int = TASKS) -> None:
        super().__init__(most)
        self._threads = threads
        self._tasks: set[asyncio.Task[CallOutcome]] = set()  # the loop itself keeps no references

    async def run(self, project: str, name: str, coroutine: Coroutine[Any, Any, Any]) -> CallOutcome:
        """Run it in a task of its own, which is cancelled with this call. Raises Hanging."""
        kind = project, name
        try:
            await self._turn(kind)
        except BaseException:
            coroutine.close()
            raise
        loop = asyncio.get_running_loop()
        Executor.install(loop)
        done: asyncio.Future[CallOutcome] = loop.create_future()

        def ended(task: asyncio.Task[CallOutcome]) -> None:
            self._tasks.discard(task)
            coroutine.close()  # if the task was cancelled before it began
            self._returned(kind, done, (None, asyncio.CancelledError()) if task.cancelled() else task.result())

        calling = _caught(coroutine, self._threads, kind)
        task = asyncio.create_task(calling, name=f"action {name} of project {project}")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return await self._outcome(kind, done, task)


async def _caught(coroutine: Coroutine[Any, Any, Any], threads: ActionThreads, kind: CallKind) -> CallOutcome:
    """Catches SystemExit as well, which would end the event loop, and with it the process."""
    CALLING.set((threads, kind))
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error
