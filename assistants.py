"""The command `assistants`: the one place where API, worker and engines meet."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from app.main import create_app
from app.service import Service
from core.bell import Bell
from core.ids import Ids
from core.ledger import Ledger
from core.ports import Clock, Storage, StorageUnavailable
from infra.providers import ModelRouter
from infra.settings import ConfigurationError, Settings, describe, read_settings
from infra.wiring import SystemClock, models_of, storage_of
from worker.actions import Actions
from worker.advance import Kit
from worker.main import Worker

log = logging.getLogger("assistants")

DESCRIPTION = """The OpenAI Assistants API, self-hosted.

  assistants serve    the API and the worker in one process
  assistants api      the API alone
  assistants worker   the worker alone; any number of each may share one store"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What API and worker share in one process."""

    settings: Settings
    clock: Clock
    ids: Ids
    bell: Bell
    storage: Storage
    models: ModelRouter


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Parts]:
    """The engines that the settings name, open. Raises ConfigurationError for what does not answer."""
    clock = SystemClock()
    storage, models = storage_of(settings, clock), models_of(settings)
    try:
        await storage.open()
    except (StorageUnavailable, ValueError) as error:
        raise ConfigurationError(f"{str(error).rstrip('.')}. Check STORAGE.") from None
    try:
        yield Parts(settings, clock, Ids(clock), Bell(), storage, models)
    finally:
        await models.close()
        await storage.close()


def ledger_of(parts: Parts) -> Ledger:
    settings = parts.settings
    return Ledger(parts.storage, parts.clock, parts.ids, parts.bell, roll_after=settings.log_roll_after)


def api_of(parts: Parts, ledger: Ledger) -> web.Application:
    settings = parts.settings
    service = Service(
        parts.storage,
        ledger,
        parts.models,
        parts.clock,
        parts.ids,
        parts.bell,
        lifetime=settings.run_expires_after,
        poll_after=settings.poll_after_ms / 1000,
    )
    return create_app(service, keys=settings.keys, origins=settings.cors_origins)


def worker_of(parts: Parts, ledger: Ledger) -> Worker:
    settings = parts.settings
    try:
        actions = Actions.load(settings.actions, settings.action_timeout)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    kit = Kit(
        parts.storage,
        ledger,
        parts.models,
        actions,
        parts.clock,
        parts.ids,
        parts.bell,
        window=settings.model_window,
        flush_every=settings.stream_flush_ms / 1000,
        hide=settings.worker_hide_seconds,
    )
    return Worker(kit, settings.worker_concurrency)


async def run(settings: Settings, *, api: bool, worker: bool) -> None:
    """Until SIGTERM or SIGINT; then drain."""
    if api:
        settings.check_exposure()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with opened(settings) as parts, contextlib.AsyncExitStack() as stack:
        ledger = ledger_of(parts)
        consumer = worker_of(parts, ledger) if worker else None  # first: nobody listens before the settings hold
        if api:
            await stack.enter_async_context(listening(api_of(parts, ledger), settings))
        if consumer:
            await stack.enter_async_context(working(consumer, settings, stop))
            warming = asyncio.create_task(parts.models.warm())
            stack.callback(warming.cancel)
        await stop.wait()
        log.info("stopping: runs in flight have %g s to finish", settings.shutdown_grace)


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            taken = f"Port {settings.port} on {settings.host} is taken: set PORT or --port to another one."
            raise ConfigurationError(taken) from None
        raise ConfigurationError(f"Cannot listen on HOST {settings.host}, PORT {settings.port}: {error}.") from None
    host, port = runner.addresses[0][:2]
    log.info("API at http://%s:%s/v1, Swagger UI at http://%s:%s/docs", host, port, host, port)
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def working(worker: Worker, settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    consuming = asyncio.create_task(worker.run())
    consuming.add_done_callback(lambda _: stop.set())  # a service without its worker should end, and say why
    log.info("worker ready")
    try:
        yield
    finally:
        await worker.stop(settings.shutdown_grace)
        await consuming


def parser() -> argparse.ArgumentParser:
    settings = f"settings (environment variables):\n{describe()}"
    common = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": settings}
    root = argparse.ArgumentParser(prog="assistants", description=DESCRIPTION, **common)  # type: ignore[arg-type]
    commands = root.add_subparsers(dest="command", required=True, metavar="serve | api | worker")
    for name in ("serve", "api", "worker"):
        command = commands.add_parser(name, **common)  # type: ignore[arg-type]
        if name != "worker":
            command.add_argument("--host", help="wins over HOST")
            command.add_argument("--port", type=int, help="wins over PORT")
    return root


def main() -> None:
    arguments = parser().parse_args()
    overrides = {key: getattr(arguments, key, None) for key in ("host", "port")}
    try:
        settings = read_settings(overrides)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        for noisy in ("azure", "httpx2", "httpcore2", "openai"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("azure.identity").setLevel(logging.ERROR)  # its warnings are pages, and follow as our error
        _take_all_files()
        starting = run(
            settings, api=arguments.command in ("serve", "api"), worker=arguments.command in ("serve", "worker")
        )
        _loop(starting)
    except ConfigurationError as error:
        print(f"assistants: {error}", file=sys.stderr)
        sys.exit(2)


def _take_all_files() -> None:
    """Each stream is an open connection, and 1,024 open files is what most systems begin with: take what they allow."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has none, macOS says that all are allowed
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop(starting: object) -> None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(starting)  # type: ignore[arg-type]
    else:
        uvloop.run(starting)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
