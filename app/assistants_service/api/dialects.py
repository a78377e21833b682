"""Two dialects of one protocol: OpenAI's under /v1, Azure OpenAI's under /openai. The handlers are the same.

They differ in where a caller puts its key, in the required headers and parameters, and in the errors of the gateway
that stood in front of the Assistants API on Azure. Errors of the API itself (400, and 404 for objects) looked alike on
both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from assistants_service.api.repeated_headers import list_header
from assistants_service.core.errors import ApiError

NEEDS_BETA = ("/v1/assistants", "/v1/threads")
BETA = "assistants=v2"
MISSING = "You must provide the 'OpenAI-Beta' header to access the Assistants API."
DEPRECATED = "The v1 Assistants API has been deprecated."
API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")


class Gateway(ApiError):
    """An error of Azure's gateway, which answered before the Assistants API saw the request."""


class Dialect:
    """OpenAI's own."""

    prefix = "/v1"

    def credential(self, request: web.Request) -> str:
        """The caller's key or token. Raises the 401 of a request without one."""
        if key := _bearer(request):
            return key
        raise ApiError(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using"
            " Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            status=401,
        )

    def check(self, request: web.Request) -> None:
        """Raises the error for a request to a known path that lacks what the dialect requires: assistants and threads
        need `OpenAI-Beta: assistants=v2`, models and the others do not."""
        sent = list_header(request, "OpenAI-Beta")
        if request.path.startswith(NEEDS_BETA) and BETA not in sent:
            wrong = DEPRECATED if "assistants=v1" in sent else MISSING
            raise ApiError(
                f"{wrong} Please try again by setting the header 'OpenAI-Beta: {BETA}'.", code="invalid_beta"
            )

    def unknown_path(self, request: web.Request) -> ApiError:
        return ApiError(f"Invalid URL ({request.method} {request.path})", status=404)

    def wrong_key(self, key: str) -> ApiError:
        """The 401 for an unknown key. It does not repeat the key."""
        masked = f"{key[:3]}...{key[-2:]}" if len(key) > 12 else "***"
        return ApiError(f"Incorrect API key provided: {masked}.", status=401, code="invalid_api_key")

    def body(self, error: ApiError) -> dict[str, Any]:
        found = {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
        return found | ({"detail": {"message": error.message, "code": error.code}} if error.detailed else {})


class AzureDialect(Dialect):
    """The dialect of the SDKs' `AzureOpenAI`. The texts are those of the original service."""

    prefix = "/openai"

    def credential(self, request: web.Request) -> str:
        """A key in its own header, or an Entra ID token as a bearer token."""
        if key := request.headers.get("api-key", "").strip() or _bearer(request):
            return key
        raise ApiError(
            "Access denied due to missing subscription key. Make sure to include subscription key when making requests"
            " to an API.",
            status=401,
        )

    def check(self, request: web.Request) -> None:
        """Any date is accepted as a version: there is one Assistants API, and no other behaviour to choose. Azure did
        not require the beta header."""
        if not API_VERSION.fullmatch(request.query.get("api-version", "")):
            raise Gateway(
                "Resource not found: the query parameter 'api-version' must be a date, such as 2024-05-01-preview.",
                status=404,
            )

    def unknown_path(self, request: web.Request) -> ApiError:
        return Gateway("Resource not found", status=404)

    def wrong_key(self, key: str) -> ApiError:
        return ApiError(
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for"
            " an active subscription and use a correct regional API endpoint for your resource.",
            status=401,
        )

    def body(self, error: ApiError) -> dict[str, Any]:
        if error.status in (400, 404) and not isinstance(error, Gateway):
            return OPENAI.body(error)
        return {"error": {"code": str(error.status), "message": error.message}}


OPENAI, AZURE = Dialect(), AzureDialect()
API = (OPENAI.prefix, f"{AZURE.prefix}/")


def dialect_of(request: web.BaseRequest) -> Dialect:
    return AZURE if request.path.startswith(f"{AZURE.prefix}/") else OPENAI


def is_api(request: web.Request) -> bool:
    """Whether the path needs a key: all except the health checks, the OpenAPI document and the docs page."""
    return request.path.startswith(API)


def in_azure(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """The same handlers under Azure's paths."""
    moved = []
    for route in routes:
        path = AZURE.prefix + route.path.removeprefix(OPENAI.prefix)
        moved.append(web.route(route.method, path, route.handler, **route.kwargs))
    return moved


def _bearer(request: web.Request) -> str:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""
