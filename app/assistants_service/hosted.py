"""The worker inside the process of another program, such as the Azure Functions host."""

from __future__ import annotations

import asyncio
import contextlib

from assistants_service.composition import actions_of, log_model_notices, searcher_of, stores_of, threads_of, worker_of
from assistants_service.infra.configuration import ConfigurationError, read_settings
from assistants_service.infra.storage_engines import engine_of
from assistants_service.infra.telemetry import logs
from assistants_service.parts import open_parts
from assistants_service.worker.main import Worker
from assistants_service.worker.watchdog import watch


class HostedWorker:
    """The worker in a process that another program owns and ends without notice, such as the Azure Functions host.
    Raises ConfigurationError for errors that can be found before the first item is taken."""

    def __init__(self) -> None:
        settings = self._settings = read_settings({})
        if not engine_of(settings.storage).watchable:
            raise ConfigurationError(
                "STORAGE is not the Azure Storage account whose queue triggers this function. Set it to that account."
            )
        actions_of(settings)
        logs.configure(settings, hosted=True)
        self._opening: asyncio.Task[Worker] | None = None
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> Worker:
        """The process's one worker, opened with its first items. Raises ConfigurationError, for all that wait, if the
        store does not respond; the next item tries again."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Worker:
        parts = await self._stack.enter_async_context(open_parts(self._settings))
        self._stack.enter_context(watch())
        log_model_notices(parts)
        self._warming = asyncio.create_task(parts.models.warm())
        stores = stores_of(parts)
        return worker_of(parts, threads_of(parts), stores, searcher_of(parts, stores), hosted=True)
