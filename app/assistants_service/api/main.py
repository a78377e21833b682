"""The API as an aiohttp application: every route in one place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping

from aiohttp import web

from assistants_service.api import (
    assistants,
    files,
    messages,
    middleware,
    models,
    openapi,
    runs,
    steps,
    streaming,
    threads,
    uploads,
    vector_store_batches,
    vector_store_files,
    vector_stores,
)
from assistants_service.api.authentication import AccessTokens, Callers, StoredKeys, authentication
from assistants_service.api.cors import cors, preflight
from assistants_service.api.dialects import in_azure
from assistants_service.api.keyless import Keyless
from assistants_service.api.limits import limiting, show
from assistants_service.api.services import SERVICES, Services
from assistants_service.core import errors
from assistants_service.core.keys import Keys
from assistants_service.core.ports.telemetry import SILENCE
from assistants_service.core.resources import PARAMS

MAX_BODY = 4 * 1024 * 1024  # bytes of JSON; files have their own limits
THREAD = "/v1/threads/{thread_id}"
STORE = "/v1/vector_stores/{vector_store_id}"
STORE_FILE = STORE + "/files/{file_id}"
BATCH = STORE + "/file_batches/{batch_id}"
RUN = THREAD + "/runs/{run_id}"

ROUTES: list[web.RouteDef] = [
    web.post("/v1/assistants", assistants.create),
    web.get("/v1/assistants", assistants.list_all),
    web.get("/v1/assistants/{assistant_id}", assistants.retrieve),
    web.post("/v1/assistants/{assistant_id}", assistants.update),
    web.delete("/v1/assistants/{assistant_id}", assistants.delete),
    web.post("/v1/threads", threads.create),
    web.post("/v1/threads/runs", runs.create_with_thread),
    web.get(THREAD, threads.retrieve),
    web.post(THREAD, threads.update),
    web.delete(THREAD, threads.delete),
    web.post(THREAD + "/messages", messages.create),
    web.get(THREAD + "/messages", messages.list_all),
    web.get(THREAD + "/messages/{message_id}", messages.retrieve),
    web.post(THREAD + "/messages/{message_id}", messages.update),
    web.delete(THREAD + "/messages/{message_id}", messages.delete),
    web.post(THREAD + "/runs", runs.create),
    web.get(THREAD + "/runs", runs.list_all),
    web.get(RUN, runs.retrieve),
    web.post(RUN, runs.update),
    web.post(RUN + "/cancel", runs.cancel),
    web.post(RUN + "/submit_tool_outputs", runs.submit_tool_outputs),
    web.get(RUN + "/events", runs.events),
    web.get(RUN + "/steps", steps.list_all),
    web.get(RUN + "/steps/{step_id}", steps.retrieve),
    web.post("/v1/files", files.create),
    web.get("/v1/files", files.list_all),
    web.get("/v1/files/{file_id}", files.retrieve),
    web.delete("/v1/files/{file_id}", files.delete),
    web.get("/v1/files/{file_id}/content", files.content),
    web.post("/v1/uploads", uploads.create),
    web.post("/v1/uploads/{upload_id}/parts", uploads.add_part),
    web.post("/v1/uploads/{upload_id}/complete", uploads.complete),
    web.post("/v1/uploads/{upload_id}/cancel", uploads.cancel),
    web.post("/v1/vector_stores", vector_stores.create),
    web.get("/v1/vector_stores", vector_stores.list_all),
    web.get(STORE, vector_stores.retrieve),
    web.post(STORE, vector_stores.update),
    web.delete(STORE, vector_stores.delete),
    web.post(STORE + "/files", vector_store_files.create_file),
    web.get(STORE + "/files", vector_store_files.list_files),
    web.get(STORE_FILE, vector_store_files.retrieve_file),
    web.post(STORE_FILE, vector_store_files.update_file),
    web.delete(STORE_FILE, vector_store_files.delete_file),
    web.get(STORE_FILE + "/content", vector_store_files.file_content),
    web.post(STORE + "/search", vector_stores.search),
    web.post(STORE + "/file_batches", vector_store_batches.create_batch),
    web.get(BATCH, vector_store_batches.retrieve_batch),
    web.post(BATCH + "/cancel", vector_store_batches.cancel_batch),
    web.get(BATCH + "/files", vector_store_batches.list_batch_files),
    web.get("/v1/models", models.list_all),
    web.get("/v1/models/{model:.+}", models.retrieve),
    web.delete("/v1/models/{model:.+}", models.delete),
]


def _check_routes() -> None:
    """Checked at import: every id in a path must belong to a resource in core/resources.py."""
    for route in ROUTES:
        if unknown := set(re.findall(r"{(\w+)}", route.path)) - PARAMS:
            raise TypeError(f"{route.path}: {unknown} belong to no resource")


_check_routes()
# The features of the worker in this process, and for each the reason why it is off, or an empty text.
Features = Mapping[str, Callable[[], Awaitable[str]]]
FEATURES: web.AppKey[Features] = web.AppKey("features")
LIMITED: web.AppKey[Mapping[str, str]] = web.AppKey("limited")  # what works with less protection, and why
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)


async def live(_: web.Request) -> web.Response:
    """200: the process responds."""
    return web.json_response({"status": "ok"})


async def health(request: web.Request) -> web.Response:
    """200 if the store responds, else 503. If this process has a worker: which features are on, or why not."""
    await request.app[SERVICES].storage.ping()
    reasons = {name: await reason() for name, reason in request.app[FEATURES].items()}
    features = {name: {"status": "off", "reason": off} if off else {"status": "on"} for name, off in reasons.items()}
    limited = {name: {"status": "limited", "reason": reason} for name, reason in request.app[LIMITED].items()}
    return web.json_response({"status": "ok", **features, **limited})


async def ready(request: web.Request) -> web.Response:
    """200 if this process should get requests: the store responds, and the process is not shutting down."""
    if request.app[STOPPING].is_set():
        raise errors.stopping()
    await request.app[SERVICES].storage.ping()
    return web.json_response({"status": "ok"})


def create_app(
    services: Services,
    *,
    keys: Mapping[str, str],
    tokens: AccessTokens | None = None,
    required: bool = False,
    origins: Collection[str] = (),
    hosts: Collection[str] = (),
    stopping: asyncio.Event | None = None,
    features: Features | None = None,
    limited: Mapping[str, str] | None = None,
) -> web.Application:
    """`keys` maps API keys to projects, in addition to the stored ones; `tokens` are those of an identity provider.
    While there are neither, every program on this machine is project `default`, unless a key is `required`; `hosts` are
    additional names by which it may call the service. Pages of `origins` may call from browsers. `stopping` is set when
    the process is asked to shut down."""
    stored = StoredKeys(Keys(services.storage, services.clock, services.ids), services.clock)
    app = web.Application(
        client_max_size=MAX_BODY,
        middlewares=[
            *([middleware.tracing(services.telemetry)] if services.telemetry is not SILENCE else []),
            middleware.errors_and_ids(),
            *([preflight(origins)] if origins else []),
            authentication(Callers(stored, keys, tokens, Keyless(hosts, origins), required=required)),
            *([limiting(services.limits)] if services.limits else []),
            middleware.head_checks(),
        ],
    )
    app[SERVICES] = services
    app[FEATURES] = features or {}
    app[LIMITED] = limited or {}
    app[STOPPING] = stopping or asyncio.Event()
    app[streaming.STREAMS] = set()
    if origins:
        app.on_response_prepare.append(cors(origins))
    app.on_shutdown.append(streaming.end_streams)
    if services.limits:
        app.on_response_prepare.append(show)
        app.on_cleanup.append(services.limits.close)
    app.add_routes(ROUTES)
    app.add_routes(in_azure(ROUTES))
    app.router.add_get("/health", health)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    openapi.add_routes(app)
    return app
