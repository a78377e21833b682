"""Middleware for every request: its id, the dialect, a span, and the conversion of errors into responses."""

from __future__ import annotations

import logging
import secrets
import time
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from assistants_service.api.bodies import MalformedBody, check_coding, check_expectation, close_without_continue, waits
from assistants_service.api.connection_limits import SlowBody, body_timer
from assistants_service.api.dialects import dialect_of, is_api
from assistants_service.api.error_responses import error_response, render
from assistants_service.api.repeated_headers import check_repeated
from assistants_service.api.request_keys import PROJECT, REQUEST_ID
from assistants_service.core import log_context
from assistants_service.core.errors import too_slow, undecodable
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.ports.telemetry import Telemetry
from assistants_service.core.resources import PARAMS

log = logging.getLogger(__name__)

KNOWN_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
LONGEST_PATH = 200  # characters of the path in a trace


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
            response = error_response(request, error, dialect)
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


def head_checks() -> Middleware:
    """The innermost middleware: the checks of headers that all requests to an existing path must pass."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:  # else its path or method is refused
            if is_api(request):
                dialect_of(request).check(request)
            check_coding(request)
            if waits(request):
                check_expectation(request)
        return await handler(request)

    return middleware
