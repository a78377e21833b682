"""A circuit breaker: a store that does not respond gets few requests, however many are waiting."""

from __future__ import annotations

import random
from collections.abc import Callable

# It opens after so many consecutive failures and so many seconds without a response: retries cover shorter outages.
FAILURES, PATIENCE = 5, 1.5
# Seconds between two requests while it is open; doubled each time, and randomised between half and all of it.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0


class Breaker:
    """Closed, it admits every request. Open, it admits one request after each pause, until one gets a response."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns the seconds of a monotonic clock."""
        self._now = now
        self._open, self._failures, self._since = False, 0, 0.0
        self._pause, self._until = FIRST_PAUSE, 0.0

    def admits(self) -> bool:
        """Whether a request may be sent now."""
        if not self._open:
            return True
        if self._now() < self._until:
            return False
        self._rest()  # this request tries; unless it gets a response, the next one waits longer
        return True

    def record_success(self) -> None:
        self._open, self._failures = False, 0

    def record_failure(self) -> None:
        now = self._now()
        if not self._failures:
            self._since = now
        self._failures += 1
        if not self._open and self._failures >= FAILURES and now - self._since >= PATIENCE:
            self._open, self._pause = True, FIRST_PAUSE
            self._rest()

    def _rest(self) -> None:
        self._until = self._now() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
