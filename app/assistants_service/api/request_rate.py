"""The limit on the requests of one project, per minute."""

from __future__ import annotations

from assistants_service.core.errors import rate_limit_reached
from assistants_service.core.ports.clock import Clock


class RequestRate:
    """A token bucket: `limit` requests per minute, which may all come at once; it refills evenly."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit, self._clock = limit, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and as of when

    def take(self, project: str) -> dict[str, str]:
        """The headers that show what is left. Raises the 429 for a project that has nothing left."""
        now, rate = self._clock.now(), self._limit / 60
        left, at = self._buckets.get(project, (float(self._limit), now))
        left = min(self._limit, left + max(0.0, now - at) * rate)
        taken = left >= 1
        left -= taken
        self._buckets[project] = left, now
        headers = {
            "x-ratelimit-limit-requests": str(self._limit),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{(self._limit - left) / rate:.3f}s",
        }
        if not taken:
            what = f"project {project} on requests per min (RPM): Limit {self._limit}"
            error = rate_limit_reached(what, "requests", (1 - left) / rate)
            error.headers |= headers
            raise error
        return headers
