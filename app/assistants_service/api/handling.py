"""How handlers read a request, and how they answer it."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web

from assistants_service.api.bodies import invite, waits
from assistants_service.api.repeated_headers import list_header
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.services import SERVICES, Services
from assistants_service.api.validation import MOST, parse_body, parse_include, parse_page
from assistants_service.core.errors import ApiError, invalid_id
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.paging import PageQuery
from assistants_service.core.ports.documents import Stored
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.objects import encode
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import Resource

B = TypeVar("B", bound=Body)


def services_of(request: web.Request) -> Services:
    return request.app[SERVICES]


def context_of(request: web.Request) -> RequestContext:
    """The context of a write. A read needs only the project."""
    return request.app[SERVICES].context(request[PROJECT])


def checked_id(value: str, resource: Resource, param: str) -> str:
    """An id of the right shape. Raises a 400 for a wrong prefix, or a 404 for an id that cannot exist."""
    if resource.strict and not value.startswith(resource.prefix):
        raise invalid_id(param, value[:200], resource.prefix)
    if not SAFE_ID.fullmatch(value):
        raise resource.unknown(value[:200])
    return value


def path_id(request: web.Request, resource: Resource) -> str:
    return checked_id(request.match_info[resource.param], resource, resource.param)


async def read_body(request: web.Request, kind: type[B]) -> B:
    """The request's JSON; no body at all counts as an empty object. Raises ApiError naming what is wrong."""
    return parse_body(kind, await _read_json(request) or b"{}")


async def ignore_body(request: web.Request) -> None:
    """Reads and ignores the body of a POST that needs none. One that is sent must be declared as JSON, as
    everywhere."""
    if request.can_read_body:
        await _read_json(request)


async def _read_json(request: web.Request) -> bytes:
    if waits(request) and request.can_read_body:
        _check_type(request)
        _check_length(request)
        await invite(request)
    body = await request.read()
    if body:
        _check_type(request)
    return body


def _check_length(request: web.Request) -> None:
    length, most = request.content_length or 0, request.client_max_size
    if length > most:  # as aiohttp refuses it after reading that much
        raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=length)


def _check_type(request: web.Request) -> None:
    """Raises the 400 for a body that is not declared as JSON, in the original's words
    (github.com/openai/openai-openapi/issues/194). It also blocks cross-site requests without a preflight: browsers send
    these only as text, as a form, or without a type."""
    sent = request.headers.get("Content-Type", "")[:200]
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            f"Unsupported content type: '{sent}'. This API method only accepts 'application/json' requests, but you"
            f" specified the header 'Content-Type: {sent}'. Please try again with a supported content type.",
            code="unsupported_content_type",
        )


def page_query(request: web.Request, *, most: int = MOST, default: int = 20) -> PageQuery:
    """`most` and `default` refer to `limit`."""
    return parse_page(request.query, most=most, default=default)


def includes_results(request: web.Request) -> bool:
    """Whether the caller asks for the contents of search results. Raises the 400 for any other include[]."""
    return parse_include(request.query)


def answer(resource: object, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(resource), content_type="application/json", headers=headers)


def answer_stored(request: web.Request, stored: Stored, *, headers: dict[str, str] | None = None) -> web.Response:
    """The document's bytes, or 304 if the caller has the current version."""
    found = {"ETag": stored.etag, **(headers or {})}
    known = list_header(request, "If-None-Match")
    if stored.etag in known or known == ["*"]:
        return web.Response(status=304, headers=found)
    return web.Response(body=stored.body, content_type="application/json", headers=found)
