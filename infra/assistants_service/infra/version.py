"""The version of the service. It stands in the code, since a package that azd deploys has no metadata to ask."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
