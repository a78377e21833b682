"""The limit on the active runs of one project."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from assistants_service.core.errors import ApiError, rate_limit_reached
from assistants_service.core.ports.clock import Clock
from assistants_service.core.threads.repository import ThreadRepository

LOOKS: Final = 8  # runs of a project at its limit that one check looks at
FULL: Final = 1.0  # seconds for which the result holds if none has ended


@dataclass(slots=True)
class Places:
    """The threads whose runs a project has started here, oldest first, and how many it is about to start."""

    threads: OrderedDict[str, None] = field(default_factory=OrderedDict)
    beginning: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    full_until: float = float("-inf")

    @property
    def taken(self) -> int:
        return len(self.threads) + self.beginning


class ActiveRuns:
    """At most `limit` active runs, of those started by this process. Whether a run has ended is checked only when its
    place is needed: first in this process's cached state of the thread, then in its log."""

    def __init__(self, limit: int, threads: ThreadRepository, clock: Clock) -> None:
        self._limit, self._threads, self._clock = limit, threads, clock
        self._projects: dict[str, Places] = {}

    @contextlib.asynccontextmanager
    async def beginning(self, project: str, thread_id: str) -> AsyncIterator[None]:
        """Wraps the creation of a run. Raises the 429 for a project that has too many."""
        places = self._projects.setdefault(project, Places())
        await self._make_room(project, places)
        places.beginning += 1
        try:
            yield
        except ApiError:
            raise  # it was refused
        except BaseException:
            places.threads[thread_id] = None  # it may have started: the next check will show
            raise
        else:
            places.threads[thread_id] = None
        finally:
            places.beginning -= 1

    async def _make_room(self, project: str, places: Places) -> None:
        if places.taken >= self._limit:
            async with places.looking:  # of concurrent requests, one checks for all
                # Not if the clock was set back in the meantime: the result would hold until the clock catches up.
                if not 0 < places.full_until - self._clock.now() <= FULL:
                    await self._look(project, places)
        if places.taken >= self._limit:
            raise rate_limit_reached(f"project {project} on active runs: Limit {self._limit}", "runs", 2 * FULL)

    async def _look(self, project: str, places: Places) -> None:
        """Free the places of runs that have ended, oldest first. Active ones move to the end, so that the next check
        looks at others."""
        for thread_id in list(places.threads)[:LOOKS]:
            if await self._runs(project, thread_id):
                places.threads.move_to_end(thread_id)
            else:
                del places.threads[thread_id]
        if places.taken >= self._limit:
            places.full_until = self._clock.now() + FULL

    async def _runs(self, project: str, thread_id: str) -> bool:
        """Whether the thread has an active run."""
        now = self._clock.now()
        state = await self._threads.cached(project, thread_id)
        if state.active_run and not state.deleted:
            state = (await self._threads.load(project, thread_id)).state
        run_state = state.active_run
        return bool(run_state and not state.deleted and now < (run_state.run.expires_at or now))
