"""Creates the engines that the settings select, one function for each; Azure's libraries are imported only if needed.
`assistants_service.parts` opens and closes them, `assistants_service.composition` makes API and worker from them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from assistants_service.core import names
from assistants_service.core.keys import Caller
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.ports.extraction import Extraction
from assistants_service.core.ports.sandbox import Sandbox
from assistants_service.core.ports.search import Weights
from assistants_service.core.ports.storage import Storage
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.search.embedded import EmbeddedIndex
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.storage_engines import engine_of

if TYPE_CHECKING:
    from assistants_service.infra.entra import EntraTokens


class SystemClock:
    def now(self) -> float:
        return time.time()


def storage_of(settings: Settings, clock: Clock) -> Storage:
    """The engine of STORAGE, not opened yet. Raises ConfigurationError."""
    return engine_of(settings.storage).storage(settings.storage, clock)


def place_of(settings: Settings) -> str:
    """The store, for people: without keys and signatures."""
    return engine_of(settings.storage).display(settings.storage)


def tokens_of(settings: Settings, clock: Clock) -> EntraTokens | None:
    """The issuer of accepted access tokens, if configured. Raises ConfigurationError for an incomplete
    configuration."""
    tenant, login = settings.entra_tenant, f"https://login.microsoftonline.com/{settings.entra_tenant}"
    if not tenant and not settings.entra_issuer:
        return None
    # Tokens of version 2 and of version 1 name the tenant differently; the application's manifest selects the version.
    issuers = settings.entra_issuer or (f"{login}/v2.0", f"https://sts.windows.net/{tenant}/")
    jwks = settings.entra_jwks or (f"{login}/discovery/v2.0/keys" if tenant else None)
    if not jwks:
        raise ConfigurationError(
            "ENTRA_ISSUER is set and ENTRA_JWKS is not: set it to the address of the issuer's keys."
        )
    if not settings.entra_audience:
        raise ConfigurationError(
            "ENTRA_AUDIENCE is not set: set it to api://CLIENT_ID of this service's application registration."
        )
    if not settings.entra_roles:
        raise ConfigurationError('ENTRA_ROLES is not set: set it to JSON such as {"Writer": "PROJECT"}.')
    from assistants_service.infra.entra import EntraTokens, Trust

    roles = {role: _caller(role, text) for role, text in settings.entra_roles.items()}
    return EntraTokens(Trust(issuers, settings.entra_audience, jwks, roles), clock.now)


def _caller(role: str, text: str) -> Caller:
    project, _, scope = text.partition(":")
    if not names.PROJECT.fullmatch(project) or scope not in ("", "read", "full"):
        raise ConfigurationError(
            f"ENTRA_ROLES is not valid: {role}: expected PROJECT, PROJECT:read or PROJECT:full; of a project's name"
            f" {names.PROJECT_RULE}."
        )
    return Caller(project, "read" if scope == "read" else "full")


def _no_default(default: str, providers: Iterable[str]) -> str:
    if default == "offline":
        return "DEFAULT_PROVIDER is 'offline', which OFFLINE_MODEL=off turns off: change one of the two."
    known = ", ".join(sorted(providers))
    choose = f"set it to one of {known}, or add it to PROVIDERS" if known else "add it to PROVIDERS"
    return f"DEFAULT_PROVIDER is '{default}', which is not configured: {choose}."


def models_of(settings: Settings, telemetry: Telemetry = SILENCE) -> ModelRouter:
    """The providers: `openai` if it has a key or a URL, `azure` if it has an endpoint, those of PROVIDERS, and the
    built-in `offline`, unless it is off. Raises ConfigurationError."""
    providers = {} if settings.offline_model == "off" else {"offline": Provider(api="offline")}
    if settings.openai_api_key or settings.openai_base_url:
        providers["openai"] = Provider(
            api=settings.model_api, base_url=settings.openai_base_url, api_key=settings.openai_api_key
        )
    if settings.azure_openai_endpoint:
        endpoint = settings.azure_openai_endpoint.rstrip("/")
        providers["azure"] = Provider(api=settings.model_api, base_url=f"{endpoint}/openai/v1", identity=True)
    for name, entry in settings.providers.items():
        providers[name] = Provider(
            api=entry.api,
            base_url=entry.base_url,
            api_key=entry.api_key,
            identity=entry.identity,
            models=entry.models,
            max_tokens_field=entry.max_tokens_field,
            tool_choice=entry.tool_choice,
            window=entry.window,
            windows=entry.windows,
        )
    default = settings.default_provider or next(
        (name for name in ("openai", "azure", "offline") if name in providers), None
    )
    if default is not None and default not in providers:
        raise ConfigurationError(_no_default(default, providers))
    return ModelRouter(
        providers,
        default,
        timeout=settings.model_timeout,
        max_retries=settings.model_retries,
        window=settings.model_window,
        telemetry=telemetry,
    )


def embeddings_of(settings: Settings, models: ModelRouter) -> Embeddings:
    """Raises ConfigurationError. The built-in model is the default even if a provider is configured: setting a key for
    chat must not change the vectors with which a vector store is searched."""
    from assistants_service.infra.embeddings.families import Input, family_of
    from assistants_service.infra.embeddings.offline import OFFLINE, OfflineEmbeddings
    from assistants_service.infra.embeddings.provider import ProviderEmbeddings

    family = family_of(settings.embedding_model)
    if settings.embedding_input:
        configured = {kind: Input(entry.prefix, entry.fields) for kind, entry in settings.embedding_input.items()}
        family = replace(family, query=configured.get("query", Input()), passage=configured.get("passage", Input()))
    if (weight := settings.embedding_weight) is not None:
        family = replace(family, weights=Weights(vector=weight, words=1 - weight))
    if settings.embedding_model == OFFLINE:
        return OfflineEmbeddings(family.weights)
    try:
        return ProviderEmbeddings(models, settings.embedding_model, settings.embedding_dimensions, family)
    except ValueError as error:
        raise ConfigurationError(f"EMBEDDING_MODEL is not valid: {error}.") from None


def extraction_of(settings: Settings) -> Extraction:
    from assistants_service.infra.extraction.pool import ReaderPool

    return ReaderPool(
        processes=settings.extraction_processes,
        memory=settings.extraction_memory_mb,
        timeout=settings.extraction_timeout,
    )


def reader_weakness() -> str:
    """Why files are read with less protection than possible, or empty."""
    from assistants_service.infra.extraction.confinement import weakness

    return weakness()


def sandbox_of(settings: Settings) -> Sandbox:
    """Starts nothing yet. Raises ConfigurationError."""
    from assistants_service.infra.sandbox.limits import MIB, InterpreterLimits
    from assistants_service.infra.sandbox.off import NoSandbox

    chosen, pool = settings.code_interpreter, settings.code_interpreter_pool
    limits = InterpreterLimits(
        interpreters=settings.code_interpreter_processes,
        memory=settings.code_interpreter_memory_mb * MIB,
        seconds=settings.code_interpreter_timeout,
    )
    if chosen == "off":
        return NoSandbox("CODE_INTERPRETER is off.")
    if chosen == "azure":
        from assistants_service.infra.dynamic_sessions.wiring import sessions_in

        return sessions_in(pool or "", limits)
    if pool:
        raise ConfigurationError(
            f"CODE_INTERPRETER_POOL is set, and CODE_INTERPRETER is {chosen}: set CODE_INTERPRETER=azure, or remove the"
            " pool."
        )
    if sys.platform != "linux":
        return NoSandbox(f"Python is confined on Linux only, and this is {sys.platform}.")
    from assistants_service.infra.sandbox.local import LocalSandbox

    return LocalSandbox(limits)


def index_of(settings: Settings, storage: Storage) -> EmbeddedIndex:
    return EmbeddedIndex(storage, settings.search_memory_mb * 1024**2)


@contextlib.asynccontextmanager
async def telemetry_of(settings: Settings, storage: Storage) -> AsyncIterator[Telemetry]:
    """Exports the rest when it is closed. Raises ConfigurationError."""
    if not settings.applicationinsights_connection_string and not settings.otel_exporter_otlp_endpoint:
        yield SILENCE
        return
    from assistants_service.infra.telemetry.exporters import telemetry_to

    telemetry = telemetry_to(settings)
    telemetry.watch(storage)
    try:
        yield telemetry
    finally:
        await telemetry.close()
