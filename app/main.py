"""The API as an aiohttp application: every route in one place."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aiohttp import web

from app import assistants, messages, middleware, models, openapi, runs, steps, streaming, threads
from app.service import SERVICE, Service

MAX_BODY = 4 * 1024 * 1024  # bytes
THREAD = "/v1/threads/{thread_id}"
RUN = THREAD + "/runs/{run_id}"

ROUTES: list[web.AbstractRouteDef] = [
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
    web.get("/v1/models", models.list_all),
    web.get("/v1/models/{model:.+}", models.retrieve),
    web.delete("/v1/models/{model:.+}", models.delete),
]


async def health(request: web.Request) -> web.Response:
    """200 when the store answers, 503 when it does not."""
    await request.app[SERVICE].storage.ping()
    return web.json_response({"status": "ok"})


def create_app(service: Service, *, keys: Mapping[str, str], origins: Collection[str] = ()) -> web.Application:
    """`keys` maps API keys to projects (none: everybody is project `default`), `origins` may call from browsers."""
    app = web.Application(
        client_max_size=MAX_BODY,
        middlewares=[
            middleware.errors_and_ids(),
            middleware.preflight(origins),
            middleware.authentication(keys),
            middleware.beta_header(),
        ],
    )
    app[SERVICE] = service
    app[streaming.STREAMS] = set()
    app.on_response_prepare.append(middleware.cors(origins))
    app.on_response_prepare.append(middleware.limit_stall)
    app.on_shutdown.append(streaming.end_streams)
    app.add_routes(ROUTES)
    app.router.add_get("/health", health)
    openapi.add_routes(app)
    return app
