"""The limit on what one project stores, in bytes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import Storage, StorageUnavailable

log = logging.getLogger(__name__)

COUNT_EVERY: Final = 60.0  # minimum seconds between counts of a project's bytes
COUNT_SHARE: Final = 50  # a count that took one second is not repeated for this many
COUNT_AT_LAST: Final = 3600.0  # seconds after which it is repeated, regardless of how long it took
COUNTS: Final = 4  # projects that are counted at a time


@dataclass(slots=True)
class StoredUsage:
    """Bytes of a project: as last counted, and what this process has added since."""

    counted: int = 0
    since: int = 0
    due: float = float("-inf")
    counting: asyncio.Task[None] | None = None

    @property
    def total(self) -> int:
        return self.counted + self.since


class StoredBytes:
    """A quota of `limit` stored bytes per project. It is counted in the background and enforced after the first
    count."""

    def __init__(self, limit: int, storage: Storage, clock: Clock) -> None:
        self._limit, self._storage, self._clock = limit, storage, clock
        self._projects: dict[str, StoredUsage] = {}
        self._counts = asyncio.Semaphore(COUNTS)

    def is_full(self, project: str) -> bool:
        """Whether the project stores as much as it may, as far as is known. Begins a count if one is due."""
        usage = self._projects.setdefault(project, StoredUsage())
        # The clock may have been set back since.
        if not 0 < usage.due - self._clock.now() <= COUNT_AT_LAST and usage.counting is None:
            usage.counting = asyncio.create_task(self._count(project, usage))
        return usage.total >= self._limit

    def check(self, project: str) -> None:
        """Raises the 429 for a project that is full; the SDKs do not retry it."""
        if self.is_full(project):
            raise ApiError(
                f"You exceeded your current quota: project {project} stores {self._projects[project].total} bytes, and"
                f" the limit is {self._limit}. Delete what you do not need.",
                status=429,
                kind="insufficient_quota",
                code="insufficient_quota",
                headers={"Retry-After": str(int(COUNT_EVERY)), "x-should-retry": "false"},
            )

    def add(self, project: str, size: int) -> None:
        self._projects.setdefault(project, StoredUsage()).since += size

    async def _count(self, project: str, usage: StoredUsage) -> None:
        try:
            async with self._counts:
                took = await self._weigh(project, usage)
            pause = min(max(COUNT_EVERY, COUNT_SHARE * took), COUNT_AT_LAST)
        except Exception as error:
            pause = COUNT_EVERY
            unforeseen = error if not isinstance(error, StorageUnavailable) else None
            log.warning("cannot count the stored bytes of project %s: %s", project, error, exc_info=unforeseen)
        finally:
            usage.counting = None
        usage.due = self._clock.now() + pause

    async def _weigh(self, project: str, usage: StoredUsage) -> float:
        """Returns how long it took, in seconds."""
        begun, known = self._clock.now(), usage.since
        sizes = [await self._storage.weigh(container, f"{project}/") for container in names.WEIGHED]
        usage.counted, usage.since = sum(sizes), usage.since - known
        return self._clock.now() - begun

    async def close(self) -> None:
        counting = [usage.counting for usage in self._projects.values() if usage.counting]
        for task in counting:
            task.cancel()
        await asyncio.gather(*counting, return_exceptions=True)
