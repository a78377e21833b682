"""API and worker as a process, from its start until leftover actions have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator

from aiohttp import web

from assistants_service.api import connection_limits
from assistants_service.api.unready import create_unready_app
from assistants_service.composition import (
    api_of,
    keys_of,
    log_model_notices,
    searcher_of,
    stores_of,
    threads_of,
    worker_of,
)
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.storage_engines import engine_of
from assistants_service.parts import Parts, open_parts
from assistants_service.worker.main import Worker
from assistants_service.worker.watchdog import watch

log = logging.getLogger("assistants")

# Objects created before a garbage collection, and collections before one of older objects. A full collection blocks
# every request while it walks all objects, and finds next to nothing: reference counting frees what a request leaves.
COLLECTIONS = (5_000, 10, 100)
LEFT_OVER = 2.0  # seconds for leftover actions to end, after everything else has


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def run(settings: Settings, *, api: bool, worker: bool) -> None:
    """Run until SIGTERM or SIGINT; then drain."""
    if not (api and worker) and not engine_of(settings.storage).lasting:
        raise ConfigurationError(
            f"STORAGE is {settings.storage}, which other processes cannot read. Run `assistants serve`, or set"
            " STORAGE to a store that API and worker can share."
        )
    stop = stop_signal()
    async with open_parts(settings, stop) as parts, contextlib.AsyncExitStack() as stack:
        if api:
            await check_exposure(parts)
        threads, stores = threads_of(parts), stores_of(parts)
        searcher = searcher_of(parts, stores)
        # First: nothing listens before the settings are valid.
        consumer = worker_of(parts, threads, stores, searcher) if worker else None
        if worker:
            await check_sandbox(parts)
        if api:
            await stack.enter_async_context(
                listen(api_of(parts, threads, stores, searcher, stop, worker=worker), settings)
            )
        if consumer:
            await stack.enter_async_context(run_worker(consumer, settings, stop))
        log_model_notices(parts)
        warming = asyncio.create_task(warm(parts, consumer))
        stack.callback(warming.cancel)
        await stop.wait()
        log.info("stopping: runs in flight have %g s to finish", settings.shutdown_grace)


async def refuse(settings: Settings, reason: str) -> None:
    """Tell every client why the API cannot serve, until SIGTERM or SIGINT."""
    stop = stop_signal()
    async with listen(create_unready_app(reason), settings):
        await stop.wait()


async def warm(parts: Parts, worker: Worker | None) -> None:
    """Load what the first run would wait for. Garbage collections skip what is loaded by then."""
    if worker:
        await parts.models.warm()
        if parts.settings.code_interpreter != "off":
            await worker.check()
    gc.freeze()


async def check_exposure(parts: Parts) -> None:
    """Raises ConfigurationError for a service without keys that other machines can reach."""
    settings = parts.settings
    if settings.exposed and not settings.api_keys and not parts.tokens and not await keys_of(parts).list_all():
        raise ConfigurationError(
            f"HOST is {settings.host}, which other machines can reach, and there are no keys. Run `assistants keys"
            " create PROJECT`, or set API_KEYS=project:key,..., ENTRA_TENANT or HOST=127.0.0.1."
        )


async def check_sandbox(parts: Parts) -> None:
    """Raises ConfigurationError if CODE_INTERPRETER demands what this machine cannot do."""
    if (
        parts.settings.code_interpreter == "local"
        and parts.sandbox
        and (unavailable := await parts.sandbox.unavailable_reason())
    ):
        raise ConfigurationError(
            f"CODE_INTERPRETER is local, which is impossible here: {unavailable} Set it to auto or off."
        )


@contextlib.asynccontextmanager
async def listen(app: web.Application, settings: Settings) -> AsyncIterator[str]:
    """Listens during the context; yields the address."""
    options = {"keepalive_timeout": settings.keep_alive_timeout, **connection_limits.SERVER}
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5, **options)
    await runner.setup()
    server = runner.server
    assert server  # noqa: S101
    try:
        listener = await asyncio.get_running_loop().create_server(
            connection_limits.limit_connections(server, settings.max_connections),
            settings.host,
            settings.port,
            backlog=1024,
        )
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            taken = f"Port {settings.port} on {settings.host} is taken: set PORT or --port to another one."
            raise ConfigurationError(taken) from None
        raise ConfigurationError(f"Cannot listen on HOST {settings.host}, PORT {settings.port}: {error}.") from None
    host, port = listener.sockets[0].getsockname()[:2]
    log.info("API at http://%s:%s/v1, Swagger UI at http://%s:%s/docs", host, port, host, port)
    connection_limits.limit_kernel_buffers(listener)
    watching = asyncio.create_task(connection_limits.cut_off_stalled(server))
    try:
        yield f"http://{host}:{port}"
    finally:
        watching.cancel()
        listener.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def run_worker(worker: Worker, settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    consuming = asyncio.create_task(worker.run())
    consuming.add_done_callback(lambda _: stop.set())  # a service without its worker should exit and say why
    log.info("worker ready")
    with watch():
        try:
            yield
        finally:
            await worker.stop(settings.shutdown_grace)
            await consuming


def allow_open_files() -> None:
    """Raise the limit of open files as far as the system allows: each connection needs one, and so does each call."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run_to_the_end(settings: Settings, *, api: bool, worker: bool) -> None:
    """`run`; then the process exits, even if actions are still running. Raises what `run` raises."""
    try:
        await run(settings, api=api, worker=worker)
    except ConfigurationError:
        raise  # before anything began
    except BaseException as error:
        end_soon(error)
        raise
    end_soon(None)


def end_soon(error: BaseException | None) -> None:
    """Exit although the event loop and the interpreter would wait for tasks that swallow their cancellation, and for
    threads that such tasks use. By now runs are handed back and the store is closed."""

    def end() -> None:
        log.warning("the process ends although some actions have not returned", exc_info=error)
        logging.shutdown()
        os._exit(1 if error else 0)

    timer = threading.Timer(LEFT_OVER, end)
    timer.daemon = True  # a process that exits by itself does not wait for it
    timer.start()


def _loop(starting: object) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(starting)  # type: ignore[arg-type]
    else:
        uvloop.run(starting)  # type: ignore[arg-type]
