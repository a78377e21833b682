"""Limits of one project: requests per minute, active runs, stored bytes. Beyond a limit it gets a 429.

Each API process counts by itself, in memory, so no request waits for the store because of a limit that is not reached.
With N processes, a project may therefore have up to N times the requests and runs. Stored bytes are counted in the
store, for all processes together, but only from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from assistants_service.api.dialects import is_api
from assistants_service.api.handling import PROJECT
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import Storage, StorageUnavailable
from assistants_service.core.threads.repository import ThreadRepository

log = logging.getLogger(__name__)

LOOKS: Final = 8  # runs of a project at its limit that one check looks at
FULL: Final = 1.0  # seconds for which the result holds if none has ended
COUNT_EVERY: Final = 60.0  # minimum seconds between counts of a project's bytes
COUNT_SHARE: Final = 50  # a count that took one second is not repeated for this many
COUNT_AT_LAST: Final = 3600.0  # seconds after which it is repeated, regardless of how long it took
COUNTS: Final = 4  # projects that are counted at a time
HEADERS = web.RequestKey("rate_limit_headers", dict[str, str])


def _too_many(what: str, kind: str, wait: float) -> ApiError:
    headers = {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    message = f"Rate limit reached for {what}. Please try again in {wait:.3g}s."
    return ApiError(message, status=429, kind=kind, code="rate_limit_exceeded", headers=headers)


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
            error = _too_many(what, "requests", (1 - left) / rate)
            error.headers |= headers
            raise error
        return headers


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
            raise _too_many(f"project {project} on active runs: Limit {self._limit}", "runs", 2 * FULL)

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


@dataclass(slots=True)
class Usage:
    """Bytes of a project: as last counted, and what this process has added since."""

    counted: int = 0
    since: int = 0
    due: float = float("-inf")
    counting: asyncio.Task[None] | None = None


class StoredBytes:
    """A quota of `limit` stored bytes per project. It is counted in the background and enforced after the first
    count."""

    def __init__(self, limit: int, storage: Storage, clock: Clock) -> None:
        self._limit, self._storage, self._clock = limit, storage, clock
        self._projects: dict[str, Usage] = {}
        self._counts = asyncio.Semaphore(COUNTS)

    def check(self, project: str) -> None:
        """Raises the 429 for a project that stores too much; the SDKs do not retry it."""
        usage = self._projects.setdefault(project, Usage())
        # The clock may have been set back since.
        if not 0 < usage.due - self._clock.now() <= COUNT_AT_LAST and usage.counting is None:
            usage.counting = asyncio.create_task(self._count(project, usage))
        if usage.counted + usage.since >= self._limit:
            raise ApiError(
                f"You exceeded your current quota: project {project} stores {usage.counted + usage.since} bytes, and"
                f" the limit is {self._limit}. Delete what you do not need.",
                status=429,
                kind="insufficient_quota",
                code="insufficient_quota",
                headers={"Retry-After": str(int(COUNT_EVERY)), "x-should-retry": "false"},
            )

    def add(self, project: str, size: int) -> None:
        self._projects[project].since += size

    async def _count(self, project: str, usage: Usage) -> None:
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

    async def _weigh(self, project: str, usage: Usage) -> float:
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


class Limits:
    """All limits; 0 means no limit."""

    def __init__(
        self,
        storage: Storage,
        threads: ThreadRepository,
        clock: Clock,
        *,
        requests: int = 0,
        runs: int = 0,
        stored: int = 0,
    ) -> None:
        self.requests = RequestRate(requests, clock) if requests else None
        self.runs = ActiveRuns(runs, threads, clock) if runs else None
        self.stored = StoredBytes(stored, storage, clock) if stored else None

    def __bool__(self) -> bool:
        return any((self.requests, self.runs, self.stored))

    async def close(self, _: web.Application) -> None:
        if self.stored:
            await self.stored.close()


def limiting(limits: Limits) -> Middleware:
    requests, stored = limits.requests, limits.stored

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_api(request):
            return await handler(request)
        project = request[PROJECT]
        if requests:
            request[HEADERS] = requests.take(project)
        # Deleting and cancelling is always allowed: it frees resources.
        if stored is None or request.method != "POST" or request.path.endswith("/cancel"):
            return await handler(request)
        stored.check(project)
        response = await handler(request)
        if response.status < 400:
            stored.add(project, request.content_length or 0)
        return response

    return middleware


async def show(request: web.Request, response: web.StreamResponse) -> None:
    """A signal before each response, streams included: adds the headers that show the remaining requests."""
    response.headers.update(request.get(HEADERS, {}))
