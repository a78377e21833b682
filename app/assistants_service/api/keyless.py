"""A service without keys accepts only requests from programs on its own machine.

Every page in a browser on that machine can reach the service as well. A page of another site may send requests, though
it cannot read the answers; and a site that makes its name resolve to 127.0.0.1 after its page has loaded ("DNS
rebinding") can even read them, because the browser considers both the same site. Programs send no `Origin`, and use a
name of the machine; browsers send `Origin`, `Sec-Fetch-Site` and `Host`, which a page cannot change.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from aiohttp import web

from assistants_service.core.errors import ApiError

NAMES: Final = 128  # remembered names: programs use few, and every request is checked
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d*)?")


class Keyless:
    """`hosts` are additional names of the service, `origins` those of pages that may call it."""

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts, self._origins = {host.lower() for host in hosts}, origins

    def check(self, request: web.Request) -> None:
        """Raises the 403 for a request that a page of another site may have sent."""
        host = request.headers.get("Host", "")
        name = _name(host)
        if not (_is_loopback(name) or name in self._hosts):
            raise _refused(f"it may not be called '{host[:200]}': set ALLOWED_HOSTS to that name")
        if allowed(request, self._origins):
            return
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
        # The scheme is the connection's own: nothing proves that X-Forwarded-Proto is a proxy's word. Behind a proxy
        # with TLS, the service's own pages need CORS_ORIGINS.
        if origin is not None and origin != f"{request.scheme}://{host}":
            raise _refused(f"pages of '{origin[:200]}' may not call it. Set CORS_ORIGINS to that origin")
        if site not in ("none", "same-origin"):
            raise _refused("pages of other sites may not call it. Set CORS_ORIGINS to their origin")


def allowed(request: web.Request, origins: Collection[str]) -> bool:
    """Whether the request comes from a page of one of these origins; `*` allows all."""
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in origins or origin in origins)


@lru_cache(NAMES)
def _name(host: str) -> str:
    """The host without the port; empty if the header is invalid."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


@lru_cache(NAMES)
def _is_loopback(name: str) -> bool:
    """`localhost` and names below it cannot be registered: they always mean this machine (RFC 6761, 6.3)."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _refused(why: str) -> ApiError:
    message = f"This service has no keys, so it answers only programs on its own machine: {why}, or create a key."
    return ApiError(message, status=403, code="not_local")
