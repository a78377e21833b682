"""The API of a process that cannot serve because its configuration needs its operator's attention."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api.middleware import errors_and_ids
from assistants_service.core.errors import ApiError


def create_unready_app(reason: str) -> web.Application:
    """Answers everything except /health/live with 503 and the reason. The platform then takes the instance out of
    rotation, and does not restart the process over and over, as it would if it exited."""

    async def live(_: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def refuse(_: web.Request) -> web.StreamResponse:
        raise ApiError(reason, status=503, kind="server_error", code="not_configured", headers={"Retry-After": "60"})

    app = web.Application(middlewares=[errors_and_ids()])
    app.router.add_get("/health/live", live)
    app.router.add_route("*", "/{path:.*}", refuse)
    return app
