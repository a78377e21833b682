"""The clock port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Clock(Protocol):
    def now(self) -> float:
        """Unix time in seconds."""
