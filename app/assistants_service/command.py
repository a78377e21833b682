"""The command `assistants`."""

from __future__ import annotations

import argparse
import gc
import os
import sys

from assistants_service import reindex_command
from assistants_service.api import key_command
from assistants_service.composition import keys_of, stores_of, threads_of
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.resume import Resumption
from assistants_service.infra.configuration import ConfigurationError, UnresolvedReference, describe, read_settings
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.storage_engines import engine_of
from assistants_service.infra.telemetry import logs
from assistants_service.infra.version import VERSION
from assistants_service.infra.wiring import place_of
from assistants_service.parts import open_parts
from assistants_service.serving import COLLECTIONS, _loop, allow_open_files, refuse, run_to_the_end

DESCRIPTION = """The OpenAI Assistants API, self-hosted. `assistants COMMAND --help` explains a command."""
SERVE = """Run the API and the worker in one process. Data is stored in STORAGE; SIGTERM and Ctrl-C end it after active
runs have had SHUTDOWN_GRACE to finish."""
API = """Run the API without a worker. Runs stay queued until a worker with the same STORAGE executes them. Any number
of API processes and workers may share one store."""
WORKER = """Run a worker, which executes runs and processes files, without the API. Any number of workers and API
processes may share one store."""
RESUME = """After a backup was restored (backups contain no queue): enqueue work items for everything that was in
progress. Not needed for SQLite, whose file contains the queue. Running it again does no harm."""
VACUUM = """Compact an SQLite file. It temporarily needs up to twice the size of the file. It works while the service
runs, but nothing else can write meanwhile, and such requests get 503: better stop the service first."""


async def manage_keys(settings: Settings, arguments: argparse.Namespace) -> None:
    """Runs the subcommand of `assistants keys`."""
    _check_store(settings, may_create=arguments.action == "create")
    try:
        key_command.check_arguments(arguments)  # before a store is made for a key that cannot be
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    async with open_parts(settings.model_copy(update={"storage_wait": 0})) as parts:
        print(f"In the store {place_of(settings)}:", file=sys.stderr)
        try:
            await key_command.manage(keys_of(parts), arguments)
        except (StorageUnavailable, ValueError) as error:
            raise ConfigurationError(str(error)) from None


async def resume(settings: Settings) -> None:
    """`assistants resume`."""
    _check_store(settings)
    async with open_parts(settings) as parts:
        resumption = Resumption(parts.storage, threads_of(parts), stores_of(parts), parts.clock)
        try:
            await resumption.run()
        except StorageUnavailable as error:
            raise ConfigurationError(f"{str(error).rstrip('.')}. Run it again.") from None
        sent = ", ".join(f"{number} {kind}" for kind, number in sorted(resumption.enqueued.items())) or "none"
        print(f"Work items enqueued in {place_of(settings)}: {sent}.")
        if resumption.unreadable:
            raise ConfigurationError(
                f"These could not be read and were not resumed: {', '.join(resumption.unreadable)}. The log says why."
                " Restore what is missing, or install the version of the service that wrote it; then run this again."
            )


async def reindex(settings: Settings, arguments: argparse.Namespace) -> None:
    """`assistants reindex`."""
    _check_store(settings)
    async with open_parts(settings) as parts:
        print(f"In the store {place_of(settings)}:", file=sys.stderr)
        await reindex_command.reindex(parts, arguments)


def _check_store(settings: Settings, *, may_create: bool = False) -> None:
    """Raises ConfigurationError for a store that would end with this command; and, unless it `may_create` one, for one
    that does not exist, since opening would silently create it."""
    engine = engine_of(settings.storage)
    if not engine.lasting:
        raise ConfigurationError(
            f"STORAGE is {settings.storage}, which is lost when the process ends. Set the STORAGE of the service."
        )
    if not may_create:
        engine.check_existing(settings.storage)


def vacuum(settings: Settings) -> None:
    """`assistants vacuum`."""
    before, after = engine_of(settings.storage).vacuum(settings.storage)
    print(f"{place_of(settings)}: {before} bytes before, {after} bytes after.")


def parser() -> argparse.ArgumentParser:
    settings = f"settings (environment variables):\n{describe()}"
    common = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": settings}
    root = argparse.ArgumentParser(prog="assistants", description=DESCRIPTION, **common)  # type: ignore[arg-type]
    root.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = root.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    for name, summary, text in (
        ("serve", "the API and the worker in one process", SERVE),
        ("api", "only the API", API),
        ("worker", "only the worker", WORKER),
    ):
        command = commands.add_parser(name, help=summary, description=text, **common)  # type: ignore[arg-type]
        if name != "worker":
            command.add_argument("--host", help="address to listen on; overrides HOST")
            command.add_argument("--port", type=int, help="port to listen on; overrides PORT")
    key_command.add_arguments(
        commands.add_parser(
            "keys",
            help="create, list and revoke API keys",
            description="Create, list and revoke the API keys in STORAGE.",
        )
    )
    commands.add_parser("resume", help="after a backup was restored: enqueue what was in progress", description=RESUME)
    reindex_command.add_arguments(
        commands.add_parser(
            "reindex",
            help="rebuild the index of vector stores, for example after EMBEDDING_MODEL has changed",
            description=reindex_command.ABOUT,
        )
    )
    commands.add_parser("vacuum", help="compact an SQLite file", description=VACUUM)
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
        elif arguments.command == "reindex":
            _loop(reindex(settings, arguments))
        elif arguments.command == "vacuum":
            vacuum(settings)
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


if __name__ == "__main__":
    main()
