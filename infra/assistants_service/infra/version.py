"""The version of the service. It is in the code, because a package deployed by azd has no metadata."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
