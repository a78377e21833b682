"""The forms of URLs that settings take."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator


def matching(pattern: str, expected: str) -> AfterValidator:
    """Refuses a string that does not begin with the pattern; the error says what is `expected`."""

    def check(value: str) -> str:
        if not re.match(pattern, value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


Url = Annotated[str, matching(r"https?://.", "a URL that begins with http:// or https://")]
# Tokens of an identity are sent there: never in the clear, but to this machine.
SAFE_URL = r"https://.|http://(localhost|127\.0\.0\.1)(:\d+)?(/|\Z)"
SafeUrl = Annotated[str, matching(SAFE_URL, "a URL that begins with https:// (http:// only for localhost)")]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def origin_of(text: str) -> str | None:
    """The origin of a URL or of a host, as browsers send it (RFC 6454, section 6.2): in lower case and ASCII, without
    the default port and without a path. None if there is none."""
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        host, port = url.hostname or "", url.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:  # UnicodeError too
        return None
    if not host or "*" in host or " " in host:
        return None
    shown = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{shown}" + (f":{port}" if port not in (None, _DEFAULT_PORTS.get(url.scheme)) else "")
