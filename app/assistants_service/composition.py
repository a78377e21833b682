"""Makes API and worker from the parts that `parts` has opened; `infra.wiring` creates these from the settings."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from assistants_service.api.limits import ProjectLimits
from assistants_service.api.main import create_app
from assistants_service.api.services import services_over
from assistants_service.core.keys import Keys
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.tools.code_interpreter.services import CodeExecution
from assistants_service.core.tools.code_interpreter.tool import CODE_INTERPRETER
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Search, Searcher
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.infra.wiring import index_of, reader_weakness
from assistants_service.parts import Parts
from assistants_service.worker.actions import Actions
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.main import Worker
from assistants_service.worker.slots import HOSTED_RUNS, HOSTED_WAITING, WAITING

log = logging.getLogger("assistants")

DAY = 24 * 3600.0  # seconds


def threads_of(parts: Parts) -> ThreadRepository:
    return ThreadRepository(
        parts.storage,
        parts.clock,
        parts.ids,
        parts.notifier,
        rollover_after=parts.settings.event_log_rollover,
        telemetry=parts.telemetry,
    )


def stores_of(parts: Parts) -> VectorStoreRepository:
    index = index_of(parts.settings, parts.storage)
    return VectorStoreRepository(
        parts.storage,
        parts.clock,
        parts.ids,
        parts.notifier,
        rollover_after=parts.settings.event_log_rollover,
        index=index,
    )


def searcher_of(parts: Parts, stores: VectorStoreRepository) -> Searcher:
    return Searcher(stores, parts.embeddings, parts.clock)


def api_of(
    parts: Parts,
    threads: ThreadRepository,
    stores: VectorStoreRepository,
    searcher: Searcher,
    stopping: asyncio.Event | None = None,
    *,
    worker: bool = False,
) -> web.Application:
    """`worker`: whether this process has one, too."""
    settings = parts.settings
    limits = ProjectLimits(
        threads,
        parts.clock,
        requests=settings.project_requests_per_minute,
        runs=settings.project_active_runs,
        stored=parts.stored,
    )
    services = services_over(
        parts.storage,
        threads,
        stores,
        searcher,
        parts.models,
        parts.clock,
        parts.ids,
        parts.notifier,
        run_lifetime=settings.run_expires_after,
        poll_after=settings.poll_after_ms / 1000,
        file_limit=settings.file_max_mb * 1024**2,
        upload_limit=settings.upload_max_mb * 1024**2,
        telemetry=parts.telemetry,
        limits=limits,
    )
    return create_app(
        services,
        keys=settings.keys,
        tokens=parts.tokens,
        required=settings.exposed,
        origins=settings.cors_origins,
        hosts=settings.allowed_hosts,
        stopping=stopping,
        features={CODE_INTERPRETER.kind: parts.sandbox.unavailable_reason} if worker and parts.sandbox else None,
        limited={"file_reader": weakness} if worker and (weakness := reader_weakness()) else None,
    )


def keys_of(parts: Parts) -> Keys:
    return Keys(parts.storage, parts.clock, parts.ids)


def actions_of(settings: Settings) -> Actions:
    try:
        return Actions.load(settings.actions, settings.action_timeout, settings.action_threads)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def for_tools(parts: Parts) -> dict[str, object]:
    """What one tool alone needs."""
    if not parts.sandbox:
        return {}
    processes, seconds = parts.settings.code_interpreter_processes, parts.settings.code_interpreter_timeout
    return {CODE_INTERPRETER.kind: CodeExecution(parts.sandbox, processes, seconds)}


def worker_of(
    parts: Parts, threads: ThreadRepository, stores: VectorStoreRepository, searcher: Search, *, hosted: bool = False
) -> Worker:
    settings = parts.settings
    if weakness := reader_weakness():
        log.warning("%s", weakness)
    concurrency, waiting = settings.worker_concurrency, WAITING
    if hosted:
        concurrency, waiting = min(concurrency, HOSTED_RUNS), HOSTED_WAITING
    context = WorkerContext(
        parts.storage,
        threads,
        stores,
        parts.models,
        actions_of(settings),
        parts.extraction,
        parts.embeddings,
        parts.clock,
        parts.ids,
        parts.notifier,
        flush_interval=settings.stream_flush_ms / 1000,
        visibility_timeout=settings.worker_visibility_timeout,
        max_rounds=settings.max_tool_rounds,
        tool_history_tokens=settings.tool_history_tokens,
        telemetry=parts.telemetry,
        max_runs=concurrency,
        max_waiting=waiting,
        searcher=searcher,
        tokenizer=Tiktoken(),
        output_retention=settings.code_interpreter_keep_days * DAY,
        stored=parts.stored,
        for_tools=for_tools(parts),
    )
    return Worker(context)


def log_model_notices(parts: Parts) -> None:
    """Say which models are available, so that no provider is replaced silently."""
    notice = parts.models.without_default
    if notice and not parts.settings.default_provider:
        log.info(
            "no model provider is the default, so %s; set OPENAI_API_KEY, AZURE_OPENAI_ENDPOINT, or PROVIDERS and"
            " DEFAULT_PROVIDER",
            notice,
        )
