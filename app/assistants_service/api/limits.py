"""Limits of one project: requests per minute, active runs, stored bytes. Beyond a limit it gets a 429.

Each API process counts by itself, in memory, so no request waits for the store because of a limit that is not reached.
With N processes, a project may therefore have up to N times the requests and runs. Stored bytes are counted in the
store, for all processes together, but only from time to time.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from assistants_service.api.active_runs import ActiveRuns
from assistants_service.api.dialects import is_api
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.request_rate import RequestRate
from assistants_service.core.ports.clock import Clock
from assistants_service.core.stored_bytes import StoredBytes
from assistants_service.core.threads.repository import ThreadRepository

HEADERS = web.RequestKey("rate_limit_headers", dict[str, str])


class ProjectLimits:
    """All limits; 0 means no limit."""

    def __init__(
        self,
        threads: ThreadRepository,
        clock: Clock,
        *,
        requests: int = 0,
        runs: int = 0,
        stored: StoredBytes | None = None,
    ) -> None:
        self.requests = RequestRate(requests, clock) if requests else None
        self.runs = ActiveRuns(runs, threads, clock) if runs else None
        self.stored = stored

    def __bool__(self) -> bool:
        return any((self.requests, self.runs, self.stored))

    async def close(self, _: web.Application) -> None:
        if self.stored:
            await self.stored.close()


def limiting(limits: ProjectLimits) -> Middleware:
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
