"""Headers that a request repeats, so that every part of the service and every proxy in front of it reads them alike.

A program may use the first, the last or all of them, so two programs may see different requests: a gateway checks one
`Authorization`, and the service obeys the other. A repeated header with a single value is refused; a list may be split
over several lines, which mean the same as one (RFC 9110, 5.3).
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from assistants_service.core.errors import ApiError

# All single-valued headers that the service reads. Newer versions of aiohttp refuse some of them themselves.
ONCE: Final = (
    "Authorization",
    "api-key",
    "Content-Type",
    "Expect",
    "Host",
    "Idempotency-Key",
    "Last-Event-ID",
    "OpenAI-Project",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
)


def check_repeated(request: web.Request) -> None:
    """Runs before anything reads a header. Raises the 400 for a repeated header with a single value."""
    if len(request.headers) == len(set(map(str.lower, request.headers))):
        return
    for name in ONCE:
        if len(request.headers.getall(name, ())) > 1:
            message = f"Duplicate '{name}' header. Send it only once."
            raise ApiError(message, param=name, code="duplicate_header")


def list_header(request: web.Request, name: str) -> list[str]:
    """The members of a list header, from all its lines."""
    if name not in request.headers:
        return []
    return [each.strip() for line in request.headers.getall(name, ()) for each in line.split(",")]
