"""`assistants reindex`: makes the workers rebuild the index of vector stores, and shows their progress."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from assistants_service.composition import stores_of
from assistants_service.core import names
from assistants_service.core.ports.embeddings import EmbeddingError
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.vector_stores.reindex import NoVectors, Reindexer, StoreProgress
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.parts import Parts

LOOK_EVERY: Final = 2.0  # seconds
STANDSTILL: Final = 60.0  # seconds without a finished file after which the command says so
ABOUT: Final = """Read again the files of vector stores whose index was made with another EMBEDDING_MODEL or by an older
version of the service, or is missing. They stay completed and searchable meanwhile. The workers do the work while the
service runs; if this command is stopped, they continue, and running it again shows their progress."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("stores", nargs="*", metavar="STORE", help="id of a vector store (default: all)")
    command.add_argument("--project", help="only the vector stores of this project")
    command.add_argument("--all", action="store_true", help="every file, even if its index is up to date")


async def reindex(parts: Parts, arguments: argparse.Namespace, say: Callable[[str], None] = print) -> None:
    """Raises ConfigurationError, also if files could not be read again."""
    reindexer = Reindexer(stores_of(parts), parts.embeddings, parts.clock, everything=arguments.all)
    try:
        logs = await parts.storage.logs(names.STORE_LOGS)
        begun = await reindexer.begin(reindexer.find(logs, arguments.project, arguments.stores))
        say(_begun(begun))
        await _follow(reindexer, begun, say)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except NoVectors:
        raise ConfigurationError("There is no embedding model on this platform: set EMBEDDING_MODEL.") from None
    except EmbeddingError as error:
        raise ConfigurationError(f"EMBEDDING_MODEL does not work at present: {error}") from None
    except StorageUnavailable as error:
        raise ConfigurationError(f"{str(error).rstrip('.')}. Run it again.") from None
    _check(reindexer, begun)


def _begun(begun: Sequence[StoreProgress]) -> str:
    if not begun:
        return "Nothing to do: the index of every file is up to date."
    return f"{sum(len(store.files) for store in begun)} files of {len(begun)} vector stores are to be read again."


async def _follow(reindexer: Reindexer, begun: Sequence[StoreProgress], say: Callable[[str], None]) -> None:
    """Report progress until all files are done."""
    shown, changed_at, failed = -1, time.monotonic(), set[tuple[str, str]]()
    total = sum(len(store.files) for store in begun)
    while True:
        await reindexer.refresh(begun)
        for store in begun:
            for file_id in sorted(store.failed.keys() - {file for of, file in failed if of == store.store_id}):
                failed.add((store.store_id, file_id))
                say(f"{file_id} of {store.store_id} is unchanged: {store.failed[file_id]}")
        left = sum(len(store.left) for store in begun)
        if left != shown and begun:
            shown, changed_at = left, time.monotonic()
            done = sum(not store.left for store in begun)
            say(f"{total - left} of {total} files are done, {done} of {len(begun)} vector stores.")
        if not left:
            return
        if time.monotonic() - changed_at > STANDSTILL:
            changed_at = time.monotonic()
            say(f"No file was read for {STANDSTILL:.0f} s: is a worker running with this STORAGE?")
        await asyncio.sleep(LOOK_EVERY)


def _check(reindexer: Reindexer, begun: Sequence[StoreProgress]) -> None:
    if reindexer.unreadable:
        raise ConfigurationError(
            f"The logs of these vector stores cannot be read: {', '.join(reindexer.unreadable)}. Install the version of"
            " the service that wrote them, or restore what is missing; then run this again."
        )
    if failed := sum(len(store.failed) for store in begun):
        raise ConfigurationError(f"{failed} files could not be read again, and are unchanged. Run this again.")
