"""The one place that renders errors: each leaves as its dialect's error envelope."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from assistants_service.api.dialects import OPENAI, Dialect
from assistants_service.core.errors import (
    ApiError,
    server_error,
    storage_full,
    storage_unavailable,
    undecided,
    unreadable,
)
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.storage import Conflict, Full, StorageUnavailable, Undecided
from assistants_service.core.protocol.objects import encode

log = logging.getLogger(__name__)


def error_response(request: web.Request, error: Exception, dialect: Dialect) -> web.StreamResponse:
    """The response to what a handler raised. Raises ConnectionResetError, which closes the connection, if a response
    has already begun: a second head would be read as part of it."""
    what = f"{request.method} {request.path}"
    if request.writer.output_size:
        log.error("%s failed after its response had started", what, exc_info=error)
        raise ConnectionResetError("the response has started and cannot become an error") from error
    match error:
        case ApiError():
            return render(error, dialect)
        case web.HTTPException():
            return _render_http(request, error, dialect)
        case Full():
            log.warning("%s: the store is full: %s", what, error)
            return render(storage_full(), dialect)
        case StorageUnavailable():
            log.warning("%s: the store is not responding: %s", what, error)
            once = isinstance(error, Undecided) and "Idempotency-Key" not in request.headers
            return render(undecided() if once else storage_unavailable(), dialect)
        case UnreadableLog():
            log.error("%s failed: %s", what, error)
            return render(unreadable(), dialect)
        case Conflict():
            log.warning("%s: other requests changed the same object at each attempt; the client is told to retry", what)
            return render(storage_unavailable(), dialect)
        case _:
            log.error("%s failed", what, exc_info=error)
            return render(server_error(), dialect)


def render(error: ApiError, dialect: Dialect = OPENAI) -> web.Response:
    body = encode(dialect.body(error))
    return web.Response(status=error.status, body=body, content_type="application/json", headers=error.headers)


def _render_http(request: web.Request, error: web.HTTPException, dialect: Dialect) -> web.StreamResponse:
    if error.status < 400:
        return error
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return render(dialect.unknown_path(request), dialect)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Not allowed to {request.method} on {request.path}. (HINT: Perhaps you meant another method?)"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            message = "The request body is too large: the limit is 4 MiB."
        case _:
            message = error.reason
    allow = {name: value for name, value in error.headers.items() if name == "Allow"}
    return render(ApiError(message, status=error.status, headers=allow), dialect)


def unparsed(
    protocol: RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
) -> web.StreamResponse:
    """The error envelope for requests that the HTTP parser rejects (headers too long, broken encodings)."""
    if request.transport is None and isinstance(exc, ConnectionError | None):  # None: of a body that takes too long
        log.info("%s %s: the client disconnected before the response", request.method, request.path)
        raise ConnectionResetError("the client disconnected") from exc
    if request.writer.output_size > 0:
        raise ConnectionError("the response has started and cannot become an error") from exc
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request failed outside its handler", exc_info=exc)
        response = render(server_error())
    else:
        reason = (message or "it is not HTTP").strip().partition("\n")[0][:200]
        response = render(ApiError(f"We could not parse your request: {reason}", status=status))
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    response.force_close()
    return response


# aiohttp has no hook for this: its own response is plain text.
RequestHandler.handle_error = unparsed  # type: ignore[method-assign, assignment]
