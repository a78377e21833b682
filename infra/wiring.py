"""From settings to the engines that they name. Azure's libraries are imported only where they are used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from core.ports import SILENCE, Clock, Storage, Telemetry
from infra.providers import ModelRouter, Provider
from infra.settings import ConfigurationError, Settings
from infra.sqlite_store import SqliteStorage


class SystemClock:
    def now(self) -> float:
        return time.time()


def storage_of(settings: Settings, clock: Clock) -> Storage:
    """Not opened yet. Raises ConfigurationError."""
    where = settings.storage
    if where == "sqlite://:memory:":
        return SqliteStorage(":memory:", clock)
    if where.startswith("sqlite:///") and len(where) > len("sqlite:///"):
        return SqliteStorage(where.removeprefix("sqlite:///"), clock)
    if where.startswith("https://") or "=" in where:
        from infra.azure_store import AzureStorage

        try:
            if where.startswith("https://"):
                return AzureStorage.with_identity(where)
            return AzureStorage.from_connection_string(where)
        except ValueError as error:
            raise ConfigurationError(f"STORAGE is not valid: {error}") from None
    raise ConfigurationError(
        "STORAGE is not valid: set sqlite:///PATH, a connection string of Azure Storage, UseDevelopmentStorage=true,"
        " or https://ACCOUNT.blob.core.windows.net."
    )


def models_of(settings: Settings, telemetry: Telemetry = SILENCE) -> ModelRouter:
    """The providers: `openai` if it has a key or a URL, those of PROVIDERS, and the built-in `offline`."""
    providers = {"offline": Provider(api="offline")}
    if settings.openai_api_key or settings.openai_base_url:
        providers["openai"] = Provider(
            api=settings.model_api, base_url=settings.openai_base_url, api_key=settings.openai_api_key
        )
    for name, given in settings.providers.items():
        providers[name] = Provider(
            api=given.api,
            base_url=given.base_url,
            api_key=given.api_key,
            models=given.models,
            max_tokens_field=given.max_tokens_field,
        )
    default = settings.default_provider or ("openai" if "openai" in providers else "offline")
    if default not in providers:
        known = ", ".join(sorted(providers))
        raise ConfigurationError(
            f"DEFAULT_PROVIDER is '{default}', which is not configured: set it to one of {known},"
            " or add it to PROVIDERS."
        )
    return ModelRouter(
        providers,
        default,
        timeout=settings.model_timeout,
        max_retries=settings.model_retries,
        telemetry=telemetry,
    )


@contextlib.asynccontextmanager
async def telemetry_of(settings: Settings, storage: Storage) -> AsyncIterator[Telemetry]:
    """Closed at the end, when it exports the rest. Raises ConfigurationError."""
    if not settings.applicationinsights_connection_string and not settings.otel_exporter_otlp_endpoint:
        yield SILENCE
        return
    from infra.telemetry import telemetry_to

    telemetry = telemetry_to(settings)
    telemetry.watch(storage)
    try:
        yield telemetry
    finally:
        await telemetry.close()
