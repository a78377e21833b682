"""The parts that API and worker share: opens and closes the engines that `infra.wiring` creates from the settings.
`composition` makes API and worker from them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.ports.extraction import Extraction
from assistants_service.core.ports.sandbox import Sandbox
from assistants_service.core.ports.storage import Storage, StorageUnavailable
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.stored_bytes import StoredBytes
from assistants_service.infra.configuration import ConfigurationError, removed_settings, renamed_settings
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import (
    SystemClock,
    embeddings_of,
    extraction_of,
    models_of,
    place_of,
    sandbox_of,
    storage_of,
    telemetry_of,
    tokens_of,
)

if TYPE_CHECKING:
    from assistants_service.infra.entra import EntraTokens

log = logging.getLogger("assistants")

WAITS = (0.2, 0.5, 1.0, 2.0)  # seconds between attempts to open an unavailable store; then five


@dataclass(frozen=True, slots=True)
class Parts:
    """What API and worker share in one process."""

    settings: Settings
    clock: Clock
    ids: Ids
    notifier: Notifier
    storage: Storage
    models: ModelRouter
    extraction: Extraction
    embeddings: Embeddings
    tokens: EntraTokens | None = None
    telemetry: Telemetry = SILENCE
    sandbox: Sandbox | None = None
    stored: StoredBytes | None = None  # None: projects may store any amount


def stored_bytes_of(settings: Settings, storage: Storage, clock: Clock) -> StoredBytes | None:
    """One for API and worker: each adds what it stores until the next count."""
    limit = settings.project_stored_bytes
    return StoredBytes(limit, storage, clock) if limit else None


@contextlib.asynccontextmanager
async def open_parts(settings: Settings, stop: asyncio.Event | None = None) -> AsyncIterator[Parts]:
    """Opens the engines that the settings select. Raises ConfigurationError for a store that does not respond within
    STORAGE_WAIT, or before `stop`."""
    for old, new in renamed_settings():
        log.warning(
            "the setting %s has been renamed to %s: rename it, because a later version will ignore the old name",
            old,
            new,
        )
    for advice in removed_settings():
        log.warning("%s", advice)
    clock = SystemClock()
    storage, tokens = storage_of(settings, clock), tokens_of(settings, clock)
    async with telemetry_of(settings, storage) as telemetry:
        models = models_of(settings, telemetry)
        extraction, embeddings = extraction_of(settings), embeddings_of(settings, models)
        sandbox = sandbox_of(settings)
        try:
            await open_storage(storage, settings, stop or asyncio.Event())
            engines = (storage, models, extraction, embeddings, tokens, telemetry, sandbox)
            stored = stored_bytes_of(settings, storage, clock)
            yield Parts(settings, clock, Ids(clock), Notifier(), *engines, stored)
        finally:
            if tokens:
                await tokens.close()
            await sandbox.close()
            await extraction.close()
            await embeddings.close()
            await models.close()
            await storage.close()


async def open_storage(storage: Storage, settings: Settings, stop: asyncio.Event) -> None:
    """Wait for an unavailable store: it may be starting too, or its role assignments may not be effective yet. Raises
    ConfigurationError."""
    end = time.monotonic() + settings.storage_wait
    for pause in itertools.chain(WAITS, itertools.repeat(5.0)):
        try:
            return await storage.open()
        except (StorageUnavailable, ValueError) as error:
            left = end - time.monotonic()
            if isinstance(error, ValueError) or left <= 0 or stop.is_set():
                raise ConfigurationError(f"{str(error).rstrip('.')}. Check STORAGE.") from None
            log.warning("the store %s is not available, waiting up to %d s more: %s", place_of(settings), left, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(pause, left))
