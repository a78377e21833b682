"""Headers that a request sends more than once, read alike by every part of the service and by every proxy before it.

Of a repeated header a program may take the first, the last or all, so two of them may see different requests: a gateway
that checks one `Authorization`, and a service that obeys the other. What has one value is refused if it comes twice; a
list may come in several lines, which mean the same as one (RFC 9110, 5.3).
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from assistants_service.core.errors import ApiError

# All that the service reads and that has one value. aiohttp itself refuses some of them in the newer versions.
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
    """Before anything reads a header. Raises the 400 of one that has one value and comes twice."""
    if len(request.headers) == len(set(map(str.lower, request.headers))):
        return
    for name in ONCE:
        if len(request.headers.getall(name, ())) > 1:
            message = f"Duplicate '{name}' header. Send it only once."
            raise ApiError(message, param=name, code="duplicate_header")


def listed(request: web.Request, name: str) -> list[str]:
    """The members of a list, of all lines that it came in."""
    if name not in request.headers:
        return []
    return [each.strip() for line in request.headers.getall(name, ()) for each in line.split(",")]
