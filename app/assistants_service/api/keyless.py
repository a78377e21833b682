"""What a service without keys asks of a request: that it comes from a program of this machine.

There, every page that a browser on the machine shows can reach the service, too. A page of another site may send it
requests, though it may not read the answers; and a site that lets its name resolve to 127.0.0.1 after its page was
loaded ("DNS rebinding") may even read them, as the browser takes both for one site. Programs send no `Origin`, and call
the service by a name of the machine; browsers tell in `Origin`, `Sec-Fetch-Site` and `Host` what a page cannot change.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from aiohttp import web

from assistants_service.core.errors import ApiError

NAMES: Final = 128  # that are remembered: programs call the service by a few, and this is asked of each request
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d*)?")


class Keyless:
    """`hosts` are names of the service beside those of the machine itself, `origins` those of pages that may call."""

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts, self._origins = {host.lower() for host in hosts}, origins

    def check(self, request: web.Request) -> None:
        """Raises the 403 of what a page of another site may have sent."""
        host = request.headers.get("Host", "")
        name = _name(host)
        if not (_is_loopback(name) or name in self._hosts):
            raise _refused(f"it may not be called '{host[:200]}': set ALLOWED_HOSTS to that name")
        if allowed(request, self._origins):
            return
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
        if origin is not None and origin.partition("://")[2] != host:
            raise _refused(f"pages of '{origin[:200]}' may not call it. Set CORS_ORIGINS to that origin")
        if site not in ("none", "same-origin"):
            raise _refused("pages of other sites may not call it. Set CORS_ORIGINS to their origin")


def allowed(request: web.Request, origins: Collection[str]) -> bool:
    """Whether the request is of a page whose origin is one of these; `*` stands for all."""
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in origins or origin in origins)


@lru_cache(NAMES)
def _name(host: str) -> str:
    """Without the port; empty if the header is none."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


@lru_cache(NAMES)
def _is_loopback(name: str) -> bool:
    """No one can register a name of `localhost`: it is this machine (RFC 6761, 6.3)."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _refused(why: str) -> ApiError:
    message = f"This service has no keys, so it answers only programs on its own machine: {why}, or create a key."
    return ApiError(message, status=403, code="not_local")
