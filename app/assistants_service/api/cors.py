"""CORS: what browsers may send, and show, to pages of other origins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from assistants_service.api.keyless import allowed

CORS_HEADERS = "authorization,api-key,content-type,openai-beta,last-event-id,if-none-match,idempotency-key,range"
EXPOSED = "x-request-id,etag,openai-poll-after-ms,content-disposition,content-range"


def preflight(origins: Collection[str]) -> Middleware:
    """Tells browsers what pages of these origins may send; `*` allows all."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or not allowed(request, origins):
            return await handler(request)
        asked = request.headers.get("Access-Control-Request-Headers", CORS_HEADERS)
        headers = {
            "Access-Control-Allow-Methods": "GET,POST,DELETE",
            "Access-Control-Allow-Headers": asked,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers)

    return middleware


def cors(origins: Collection[str]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal before each response, streams included: lets browsers show it to pages of these origins."""

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        if allowed(request, origins):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
            response.headers["Vary"] = "Origin"

    return signal
