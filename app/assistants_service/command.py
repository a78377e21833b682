"""The command `assistants`: the one place where API, worker and engines meet."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from assistants_service.api import connections, key_command
from assistants_service.api.limits import Limits
from assistants_service.api.main import create_app
from assistants_service.api.service import Service
from assistants_service.api.unready import create_unready_app
from assistants_service.core.bell import Bell
from assistants_service.core.ids import Ids
from assistants_service.core.keys import Keys
from assistants_service.core.ports import SILENCE, Clock, Embeddings, Extraction, Storage, StorageUnavailable, Telemetry
from assistants_service.core.resume import Resumption
from assistants_service.core.stores.ledger import Stores
from assistants_service.core.stores.search import Searcher
from assistants_service.core.threads import Threads
from assistants_service.infra import logs
from assistants_service.infra.providers import ModelRouter
from assistants_service.infra.settings import ConfigurationError, Settings, UnresolvedReference, describe, read_settings
from assistants_service.infra.sqlite_space import existing, vacuum
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.infra.version import VERSION
from assistants_service.infra.wiring import (
    MEMORY,
    SystemClock,
    embeddings_of,
    extraction_of,
    index_of,
    models_of,
    place_of,
    storage_of,
    telemetry_of,
    tokens_of,
)
from assistants_service.worker.actions import Actions
from assistants_service.worker.kit import Kit
from assistants_service.worker.main import Worker
from assistants_service.worker.search import Search
from assistants_service.worker.slots import HOSTED_RUNS, HOSTED_WAITING, WAITING
from assistants_service.worker.watchdog import watching

if TYPE_CHECKING:
    from assistants_service.infra.entra import EntraTokens

log = logging.getLogger("assistants")

# Objects made before a collection, and collections before one of older objects. One of all objects holds everybody up
# while it walks them, and finds next to nothing: reference counts free what a request leaves.
COLLECTIONS = (5_000, 10, 100)
LEFT_OVER = 2.0  # seconds that what actions left behind has to end, when all else has
WAITS = (0.2, 0.5, 1.0, 2.0)  # seconds between looks for a store that is away; then five

SQLITE = "sqlite:///"

DESCRIPTION = """The OpenAI Assistants API, self-hosted.

  assistants serve    the API and the worker in one process
  assistants api      the API alone
  assistants worker   the worker alone; any number of each may share one store
  assistants keys     make, list and revoke API keys
  assistants resume   after a restore without the queue: have the workers go on
  assistants vacuum   make an SQLite file as small as what is in it"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What API and worker share in one process."""

    settings: Settings
    clock: Clock
    ids: Ids
    bell: Bell
    storage: Storage
    models: ModelRouter
    extraction: Extraction
    embeddings: Embeddings
    tokens: EntraTokens | None = None
    telemetry: Telemetry = SILENCE


@contextlib.asynccontextmanager
async def opened(settings: Settings, stop: asyncio.Event | None = None) -> AsyncIterator[Parts]:
    """The engines that the settings name, open. Raises ConfigurationError for a store that does not answer in
    STORAGE_WAIT, or before `stop`."""
    clock = SystemClock()
    storage, tokens = storage_of(settings, clock), tokens_of(settings, clock)
    async with telemetry_of(settings, storage) as telemetry:
        models = models_of(settings, telemetry)
        extraction, embeddings = extraction_of(settings), embeddings_of(settings, models)
        try:
            await open_storage(storage, settings, stop or asyncio.Event())
            yield Parts(settings, clock, Ids(clock), Bell(), storage, models, extraction, embeddings, tokens, telemetry)
        finally:
            if tokens:
                await tokens.close()
            await extraction.close()
            await embeddings.close()
            await models.close()
            await storage.close()


async def open_storage(storage: Storage, settings: Settings, stop: asyncio.Event) -> None:
    """Wait for a store that is away: it may start at the same time, or its rights may still be spreading. Raises
    ConfigurationError."""
    end = time.monotonic() + settings.storage_wait
    for pause in itertools.chain(WAITS, itertools.repeat(5.0)):
        try:
            return await storage.open()
        except (StorageUnavailable, ValueError) as error:
            left = end - time.monotonic()
            if isinstance(error, ValueError) or left <= 0 or stop.is_set():
                raise ConfigurationError(f"{str(error).rstrip('.')}. Check STORAGE.") from None
            log.warning("the store %s is not there, waiting %d s more for it: %s", place_of(settings), left, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(pause, left))


def ledger_of(parts: Parts) -> Threads:
    return Threads(
        parts.storage,
        parts.clock,
        parts.ids,
        parts.bell,
        roll_after=parts.settings.log_roll_after,
        telemetry=parts.telemetry,
    )


def stores_of(parts: Parts) -> Stores:
    index = index_of(parts.settings, parts.storage)
    return Stores(
        parts.storage, parts.clock, parts.ids, parts.bell, roll_after=parts.settings.log_roll_after, index=index
    )


def searcher_of(parts: Parts, stores: Stores) -> Searcher:
    return Searcher(stores, parts.embeddings, parts.clock)


def api_of(
    parts: Parts, ledger: Threads, stores: Stores, searcher: Searcher, stopping: asyncio.Event | None = None
) -> web.Application:
    settings = parts.settings
    limits = Limits(
        parts.storage,
        ledger,
        parts.clock,
        requests=settings.project_requests_per_minute,
        runs=settings.project_active_runs,
        stored=settings.project_stored_bytes,
    )
    service = Service(
        parts.storage,
        ledger,
        stores,
        searcher,
        parts.models,
        parts.clock,
        parts.ids,
        parts.bell,
        lifetime=settings.run_expires_after,
        poll_after=settings.poll_after_ms / 1000,
        file_limit=settings.file_max_mb * 1024**2,
        upload_limit=settings.upload_max_mb * 1024**2,
        telemetry=parts.telemetry,
        limits=limits,
    )
    return create_app(
        service,
        keys=settings.keys,
        tokens=parts.tokens,
        required=settings.exposed,
        origins=settings.cors_origins,
        hosts=settings.allowed_hosts,
        stopping=stopping,
    )


def keys_of(parts: Parts) -> Keys:
    return Keys(parts.storage, parts.clock, parts.ids)


def actions_of(settings: Settings) -> Actions:
    try:
        return Actions.load(settings.actions, settings.action_timeout, settings.action_threads)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def worker_of(parts: Parts, ledger: Threads, stores: Stores, searcher: Search, *, hosted: bool = False) -> Worker:
    settings = parts.settings
    concurrency, waiting = settings.worker_concurrency, WAITING
    if hosted:
        concurrency, waiting = min(concurrency, HOSTED_RUNS), HOSTED_WAITING
    kit = Kit(
        parts.storage,
        ledger,
        stores,
        parts.models,
        actions_of(settings),
        parts.extraction,
        parts.embeddings,
        parts.clock,
        parts.ids,
        parts.bell,
        flush_every=settings.stream_flush_ms / 1000,
        hide=settings.worker_hide_seconds,
        max_rounds=settings.max_tool_rounds,
        tool_history=settings.tool_history_tokens,
        telemetry=parts.telemetry,
        concurrency=concurrency,
        waiting=waiting,
        searcher=searcher,
        tokenizer=Tiktoken(),
    )
    return Worker(kit)


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def run(settings: Settings, *, api: bool, worker: bool) -> None:
    """Until SIGTERM or SIGINT; then drain."""
    if settings.storage == MEMORY and not (api and worker):
        raise ConfigurationError(
            f"STORAGE is {MEMORY}, which no other process sees: run `assistants serve`, or set STORAGE to a store that"
            " API and worker share."
        )
    stop = stop_signal()
    async with opened(settings, stop) as parts, contextlib.AsyncExitStack() as stack:
        if api:
            await check_exposure(parts)
        ledger, stores = ledger_of(parts), stores_of(parts)
        searcher = searcher_of(parts, stores)
        # First: nothing listens before the settings hold.
        consumer = worker_of(parts, ledger, stores, searcher) if worker else None
        if api:
            await stack.enter_async_context(listening(api_of(parts, ledger, stores, searcher, stop), settings))
        if consumer:
            await stack.enter_async_context(working(consumer, settings, stop))
        tell_of_models(parts)
        warming = asyncio.create_task(warm(parts.models if worker else None))
        stack.callback(warming.cancel)
        await stop.wait()
        log.info("stopping: runs in flight have %g s to finish", settings.shutdown_grace)


async def refuse(settings: Settings, reason: str) -> None:
    """Tell every client why the API cannot serve, until SIGTERM or SIGINT."""
    stop = stop_signal()
    async with listening(create_unready_app(reason), settings):
        await stop.wait()


def tell_of_models(parts: Parts) -> None:
    """No silent substitute for a provider."""
    told = parts.models.without_default
    if told and not parts.settings.default_provider:
        log.info(
            "no model provider is the default, so %s; set OPENAI_API_KEY, AZURE_OPENAI_ENDPOINT, or PROVIDERS and"
            " DEFAULT_PROVIDER",
            told,
        )


async def warm(models: ModelRouter | None) -> None:
    """Load what the first run would wait for. What is there then stays: collections pass it over."""
    if models:
        await models.warm()
    gc.freeze()


async def check_exposure(parts: Parts) -> None:
    """Raises ConfigurationError for a service without keys that others could reach."""
    settings = parts.settings
    if settings.exposed and not settings.api_keys and not parts.tokens and not await keys_of(parts).all():
        raise ConfigurationError(
            f"HOST is {settings.host}, which others can reach, and there are no keys: run `assistants keys create"
            " PROJECT`, or set API_KEYS=project:key,..., ENTRA_TENANT or HOST=127.0.0.1."
        )


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: Settings) -> AsyncIterator[str]:
    """The address at which the API listens meanwhile."""
    options = {"keepalive_timeout": settings.keep_alive_timeout, **connections.SERVER}
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5, **options)
    await runner.setup()
    server = runner.server
    assert server  # noqa: S101
    try:
        listener = await asyncio.get_running_loop().create_server(
            connections.guarded(server, settings.max_connections), settings.host, settings.port, backlog=1024
        )
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            taken = f"Port {settings.port} on {settings.host} is taken: set PORT or --port to another one."
            raise ConfigurationError(taken) from None
        raise ConfigurationError(f"Cannot listen on HOST {settings.host}, PORT {settings.port}: {error}.") from None
    host, port = listener.sockets[0].getsockname()[:2]
    log.info("API at http://%s:%s/v1, Swagger UI at http://%s:%s/docs", host, port, host, port)
    connections.keep_little_unsent(listener)
    watching = asyncio.create_task(connections.cut_off_stalled(server))
    try:
        yield f"http://{host}:{port}"
    finally:
        watching.cancel()
        listener.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def working(worker: Worker, settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    consuming = asyncio.create_task(worker.run())
    consuming.add_done_callback(lambda _: stop.set())  # a service without its worker should end, and say why
    log.info("worker ready")
    with watching():
        try:
            yield
        finally:
            await worker.stop(settings.shutdown_grace)
            await consuming


class HostedWorker:
    """The worker of a process that is another's, and ends without a word, such as the Azure Functions host's. Raises
    ConfigurationError for what can be known before an item comes, so that none is taken in vain."""

    def __init__(self) -> None:
        settings = self._settings = read_settings({})
        if settings.storage.startswith("sqlite:"):
            raise ConfigurationError(
                "STORAGE is a SQLite file, whose queue no host watches: set it to the Azure Storage account whose queue"
                " brings the work."
            )
        actions_of(settings)
        logs.configure(settings, hosted=True)
        self._opening: asyncio.Task[Worker] | None = None
        self._kept = contextlib.AsyncExitStack()

    async def opened(self) -> Worker:
        """One for the process, opened with its first items. Raises ConfigurationError, to all that wait, if the store
        does not answer; the next item tries again."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Worker:
        parts = await self._kept.enter_async_context(opened(self._settings))
        self._kept.enter_context(watching())
        tell_of_models(parts)
        self._warming = asyncio.create_task(parts.models.warm())
        stores = stores_of(parts)
        return worker_of(parts, ledger_of(parts), stores, searcher_of(parts, stores), hosted=True)


async def manage_keys(settings: Settings, arguments: argparse.Namespace) -> None:
    """What `assistants keys` was asked for."""
    if settings.storage == MEMORY:
        raise ConfigurationError(f"STORAGE is {MEMORY}, where no key lasts: set that of the service.")
    async with opened(settings.model_copy(update={"storage_wait": 0})) as parts:
        print(f"In the store {place_of(settings)}:", file=sys.stderr)
        try:
            await key_command.manage(keys_of(parts), arguments)
        except (StorageUnavailable, ValueError) as error:
            raise ConfigurationError(str(error)) from None


async def resume(settings: Settings) -> None:
    """`assistants resume`."""
    if settings.storage == MEMORY:
        raise ConfigurationError(f"STORAGE is {MEMORY}, where nothing lasts: set that of the service.")
    if settings.storage.startswith(SQLITE):
        _existing(settings.storage)
    async with opened(settings) as parts:
        resumption = Resumption(parts.storage, ledger_of(parts), stores_of(parts), parts.clock)
        try:
            await resumption.run()
        except StorageUnavailable as error:
            raise ConfigurationError(f"{str(error).rstrip('.')}. Run it again.") from None
        sent = ", ".join(f"{number} {kind}" for kind, number in sorted(resumption.rung.items())) or "none"
        print(f"Work items that were sent in the store {place_of(settings)}: {sent}.")
        if resumption.unreadable:
            raise ConfigurationError(
                f"Nothing goes on of what cannot be read: {', '.join(resumption.unreadable)}. The log says why. Bring"
                " back what is missing, or take the version of the service that wrote it; then run this again."
            )


def _existing(storage: str) -> None:
    """Raises ConfigurationError if there is no such SQLite file."""
    try:
        existing(storage.removeprefix(SQLITE))
    except StorageUnavailable as error:
        raise ConfigurationError(str(error)) from None


def give_back(settings: Settings) -> None:
    """`assistants vacuum`."""
    if not settings.storage.startswith(SQLITE):
        raise ConfigurationError("STORAGE is no SQLite file: there is nothing to give back.")
    try:
        before, after = vacuum(settings.storage.removeprefix(SQLITE))
    except StorageUnavailable as error:
        raise ConfigurationError(str(error)) from None
    print(f"{place_of(settings)} had {before} bytes, and has {after}.")


def parser() -> argparse.ArgumentParser:
    settings = f"settings (environment variables):\n{describe()}"
    common = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": settings}
    root = argparse.ArgumentParser(prog="assistants", description=DESCRIPTION, **common)  # type: ignore[arg-type]
    root.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = root.add_subparsers(
        dest="command", required=True, metavar="serve | api | worker | keys | resume | vacuum"
    )
    for name in ("serve", "api", "worker"):
        command = commands.add_parser(name, **common)  # type: ignore[arg-type]
        if name != "worker":
            command.add_argument("--host", help="wins over HOST")
            command.add_argument("--port", type=int, help="wins over PORT")
    key_command.add_arguments(commands.add_parser("keys", description="API keys in the store that STORAGE names."))
    commands.add_parser("resume", description="Send a work item for all that was in flight, where the queue is lost.")
    commands.add_parser("vacuum", description="Give back what an SQLite file has free. Stop the service before.")
    return root


def main() -> None:
    arguments = parser().parse_args()
    overrides = {key: getattr(arguments, key, None) for key in ("host", "port")}
    try:
        settings = read_settings(overrides)
        logs.configure(settings)
        if arguments.command == "keys":
            _loop(manage_keys(settings, arguments))
        elif arguments.command == "resume":
            _loop(resume(settings))
        elif arguments.command == "vacuum":
            give_back(settings)
        else:
            allow_open_files()
            gc.set_threshold(*COLLECTIONS)
            api, worker = arguments.command in ("serve", "api"), arguments.command in ("serve", "worker")
            _loop(run_to_the_end(settings, api=api, worker=worker))
    except UnresolvedReference as error:
        print(f"assistants: {error}", file=sys.stderr)
        if arguments.command not in ("serve", "api"):
            sys.exit(2)
        for name in error.names:
            del os.environ[name]
        settings = read_settings(overrides)
        logs.configure(settings)
        _loop(refuse(settings, str(error)))
    except ConfigurationError as error:
        print(f"assistants: {error}", file=sys.stderr)
        sys.exit(2)


def allow_open_files() -> None:
    """As many as the system lets this process have: each connection is one, each model call and each store's too."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run_to_the_end(settings: Settings, *, api: bool, worker: bool) -> None:
    """`run`; then the process ends, whatever actions have left in it. Raises what `run` raises."""
    try:
        await run(settings, api=api, worker=worker)
    except ConfigurationError:
        raise  # before anything began
    except BaseException as error:
        end_soon(error)
        raise
    end_soon(None)


def end_soon(error: BaseException | None) -> None:
    """The event loop, and then the interpreter, would wait for tasks that swallow their cancellation, and for threads
    that such a task uses. Runs are handed back by now, and the store is closed."""

    def end() -> None:
        log.warning("the process ends, though actions have not returned", exc_info=error)
        logging.shutdown()
        os._exit(1 if error else 0)

    timer = threading.Timer(LEFT_OVER, end)
    timer.daemon = True  # a process that ends by itself does not wait for it
    timer.start()


def _loop(starting: object) -> None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(starting)  # type: ignore[arg-type]
    else:
        uvloop.run(starting)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
