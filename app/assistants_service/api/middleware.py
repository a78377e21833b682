"""Middleware for every request: its id, the dialect, CORS, and the one place that renders errors."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

from assistants_service.api.bodies import MalformedBody, check_coding, close_without_continue, invite, waits
from assistants_service.api.connection_limits import SlowBody, body_timer
from assistants_service.api.dialects import OPENAI, Dialect, dialect_of, is_api
from assistants_service.api.handling import PROJECT, REQUEST_ID
from assistants_service.api.keyless import allowed
from assistants_service.api.repeated_headers import check_repeated
from assistants_service.core import log_context
from assistants_service.core.errors import (
    ApiError,
    server_error,
    storage_full,
    storage_unavailable,
    too_slow,
    undecided,
    undecodable,
    unreadable,
)
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.storage import Conflict, Full, StorageUnavailable, Undecided
from assistants_service.core.ports.telemetry import Telemetry
from assistants_service.core.protocol.objects import encode
from assistants_service.core.resources import PARAMS

log = logging.getLogger(__name__)

KNOWN_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
LONGEST_PATH = 200  # characters of the path in a trace
CORS_HEADERS = "authorization,api-key,content-type,openai-beta,last-event-id,if-none-match,idempotency-key,range"
EXPOSED = "x-request-id,etag,openai-poll-after-ms,content-disposition,content-range"


def tracing(telemetry: Telemetry) -> Middleware:
    """Wraps all others: a span for the request, in the caller's trace if it sends a traceparent."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/health"):  # probes are frequent
            return await handler(request)
        resource = request.match_info.route.resource
        with telemetry.span(
            "request",
            trace=request.headers.get("traceparent", ""),
            method=request.method if request.method in KNOWN_METHODS else "_OTHER",
            route=resource.canonical if resource else "",
            path=request.rel_url.raw_path[:LONGEST_PATH],
            scheme=request.scheme,
        ) as span:
            response = await handler(request)
            span.record(code=response.status, **log_context.current())
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.record(error=str(response.status))
            return response

    return middleware


def errors_and_ids() -> Middleware:
    """The outermost middleware. Everything that a handler raises becomes the dialect's error envelope."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        dialect = dialect_of(request)
        request_id, begun = f"req_{secrets.token_hex(16)}", time.perf_counter()
        request[REQUEST_ID] = request_id
        log_context.bind(lambda: _facts(request))
        timer = body_timer(request)
        try:
            check_repeated(request)
            response = await handler(request)
        except SlowBody:
            response = render(too_slow(), dialect)
            response.force_close()
        except MalformedBody:
            response = render(undecodable(), dialect)
            response.force_close()
        except (ConnectionResetError, TimeoutError):
            raise
        except Exception as error:
            if request.transport is None and error is request.content.exception():
                raise ConnectionResetError("the client disconnected while sending the body") from error
            response = _answer(request, error, dialect)
        finally:
            if timer:
                timer.cancel()
        took = int((time.perf_counter() - begun) * 1000)
        log.debug("%s %s: %d after %d ms", request.method, request.path, response.status, took)
        close_without_continue(request, response)
        if not response.prepared:
            response.headers["x-request-id"] = request_id
            response.headers["openai-version"] = "2020-10-01"
            response.headers["openai-processing-ms"] = str(took)
        return response

    return middleware


def _facts(request: web.Request) -> dict[str, str]:
    """Ids for logs and traces. Values that do not look like ids are left out: a caller could write anything there."""
    ids = {key: value for key, value in request.match_info.items() if key in PARAMS and SAFE_ID.fullmatch(value)}
    return {"request_id": request[REQUEST_ID], "project": request.get(PROJECT, ""), **ids}


def _answer(request: web.Request, error: Exception, dialect: Dialect) -> web.StreamResponse:
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
            log.warning("%s: too many concurrent writers", what)
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


def head_checks() -> Middleware:
    """What is asked of every request to a path that is there, behind all else that may refuse it: only then a client
    that waits for `100 Continue` is asked for the body."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:  # else its path or method is refused
            if is_api(request):
                dialect_of(request).check(request)
            check_coding(request)
            if waits(request):
                await invite(request)
        return await handler(request)

    return middleware


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
