"""The forms of URLs that settings take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Url = Annotated[str, Field(pattern=r"^https?://.")]
# Tokens of an identity are sent there: never in the clear, but to this machine.
SAFE_URL = r"^(https://.|http://(localhost|127\.0\.0\.1)(:\d+)?(/|$))"
SafeUrl = Annotated[str, Field(pattern=SAFE_URL)]
