"""Around every request: its id, the caller's project, the beta header, CORS, and the one place that renders errors."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

from app.service import PROJECT, REQUEST_ID
from core.errors import ApiError, server_error, storage_unavailable, undecided
from core.ports import Conflict, StorageUnavailable, Undecided
from core.resources import encode

log = logging.getLogger(__name__)

NEEDS_BETA = ("/v1/assistants", "/v1/threads")
BETA = "assistants=v2"
STALLED = 60.0  # seconds
CORS_HEADERS = "authorization,content-type,openai-beta,last-event-id,if-none-match,idempotency-key"


def digest(key: str) -> bytes:
    """Keys are compared by their hashes, so that the time a comparison takes tells nothing about a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def errors_and_ids() -> Middleware:
    """The outermost middleware. Nothing that a handler raises leaves as anything but OpenAI's error envelope."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id, begun = f"req_{secrets.token_hex(16)}", time.perf_counter()
        request[REQUEST_ID] = request_id
        try:
            response = await handler(request)
        except ApiError as error:
            response = render(error)
        except web.HTTPException as error:
            response = _render_http(request, error)
        except StorageUnavailable as error:
            log.warning("%s %s %s: the store does not answer: %s", request_id, request.method, request.path, error)
            once = isinstance(error, Undecided) and "Idempotency-Key" not in request.headers
            response = render(undecided() if once else storage_unavailable())
        except Conflict:
            log.warning("%s %s %s: too many writers at once", request_id, request.method, request.path)
            response = render(storage_unavailable())
        except (ConnectionResetError, TimeoutError):
            raise
        except Exception:
            log.exception("%s %s %s failed", request_id, request.method, request.path)
            response = render(server_error())
        if not response.prepared:
            response.headers["x-request-id"] = request_id
            response.headers["openai-version"] = "2020-10-01"
            response.headers["openai-processing-ms"] = str(int((time.perf_counter() - begun) * 1000))
        return response

    return middleware


def render(error: ApiError) -> web.Response:
    body = {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
    return web.Response(status=error.status, body=encode(body), content_type="application/json", headers=error.headers)


def _render_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        return error
    match error.status:
        case HTTPStatus.NOT_FOUND:
            message = f"Invalid URL ({request.method} {request.path})"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Not allowed to {request.method} on {request.path}. (HINT: Perhaps you meant another method?)"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            message = "The request body is too large: 4 MiB are the limit."
        case _:
            message = error.reason
    allow = {name: value for name, value in error.headers.items() if name == "Allow"}
    return render(ApiError(message, status=error.status, headers=allow))


def authentication(keys: Mapping[str, str]) -> Middleware:
    """`keys` maps each API key to its project; without any, everybody is project `default` (loopback only)."""
    projects = {digest(key): project for key, project in keys.items()}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not projects or not request.path.startswith("/v1"):
            request[PROJECT] = "default"
            return await handler(request)
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using"
                " Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                status=401,
            )
        project = projects.get(digest(key.strip()))
        if project is None:
            raise ApiError(f"Incorrect API key provided: {_masked(key.strip())}.", status=401, code="invalid_api_key")
        request[PROJECT] = project
        return await handler(request)

    return middleware


def _masked(key: str) -> str:
    return f"{key[:3]}...{key[-2:]}" if len(key) > 12 else "***"


def beta_header() -> Middleware:
    """Assistants and threads want `OpenAI-Beta: assistants=v2`, models and the rest do not (section 1.2)."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = (part.strip() for part in request.headers.get("OpenAI-Beta", "").split(","))
        if request.path.startswith(NEEDS_BETA) and BETA not in sent and request.match_info.http_exception is None:
            raise ApiError(
                "You must provide the 'OpenAI-Beta' header to access the Assistants API. Please try again by setting"
                " the header 'OpenAI-Beta: assistants=v2'.",
                code="invalid_beta",
            )
        return await handler(request)

    return middleware


def preflight(origins: Collection[str]) -> Middleware:
    """Tells browsers what pages of these origins may send; `*` stands for all."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or not _allowed(request, origins):
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
    """A signal before each response, streams included: browsers may show it to pages of these origins."""

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        if _allowed(request, origins):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = "x-request-id,etag,openai-poll-after-ms"
            response.headers["Vary"] = "Origin"

    return signal


async def limit_stall(request: web.Request, _: web.StreamResponse) -> None:
    """A signal before each response: the system cuts the connection of a reader who takes nothing for STALLED seconds,
    and of one who is gone without a word. Else both would hold what is on its way to them for as long as they like."""
    channel = request.transport and request.transport.get_extra_info("socket")
    if channel and channel.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # closed meanwhile
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED * 1000))


def _allowed(request: web.Request, origins: Collection[str]) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in origins or origin in origins)


def unparsed(
    protocol: RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
) -> web.StreamResponse:
    """The envelope for what never became a request: the HTTP parser's refusals (headers too long, broken encodings)."""
    if request.writer.output_size > 0:
        raise ConnectionError("the answer has begun, and cannot become an error") from exc
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request failed outside of its handler", exc_info=exc)
        response = render(server_error())
    else:
        reason = (message or "it is not HTTP").strip().partition("\n")[0][:200]
        response = render(ApiError(f"We could not parse your request: {reason}", status=status))
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    response.force_close()
    return response


# aiohttp asks nobody how to say this: its own answer is plain text.
RequestHandler.handle_error = unparsed  # type: ignore[method-assign, assignment]
