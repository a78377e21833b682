"""Messages and steps in progress. They have no documents: the thread's log contains those that take longer, and the
stream of a streamed run contains each of them from its first delta on.

A crash leaves nothing inconsistent: the log counts them only while their worker is at work. What a dead worker left
open on a stream is closed there by the next worker, and can be fetched as long as streams are kept.
"""

from __future__ import annotations

from bisect import bisect_right

from aiohttp import web

from assistants_service.api.handling import answer, answer_stored, services_of
from assistants_service.api.request_keys import PROJECT
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ids import made_at
from assistants_service.core.protocol.runs.resources import Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.threads.stream import last_published


async def fetch(request: web.Request, container: str, thread_id: str, *ids: str) -> web.Response:
    """The document of a message or step, or its state in the log or the run's stream. Raises a 404 if it is in none of
    them."""
    services, project = services_of(request), request[PROJECT]
    try:
        return answer_stored(request, await services.thread_repository.fetch(container, project, thread_id, *ids))
    except ApiError as error:
        if error.status != 404:
            raise
    if found := await find(request, thread_id, *ids):
        return answer(found)
    # It does not exist, or it was completed since the first read.
    return answer_stored(request, await services.thread_repository.fetch(container, project, thread_id, *ids))


async def find(request: web.Request, thread_id: str, *ids: str) -> Message | Step | None:
    """`ids` are those of a message, or of a run and a step. Reads at most two streams, and none for a run without one.
    Raises the 404 for an unknown thread."""
    services, project = services_of(request), request[PROJECT]
    state = await services.thread_repository.read(project, thread_id)
    *of_run, object_id = ids
    for run_id in of_run or _runs_of(state, object_id):
        run_state = state.runs.get(run_id)
        if run_state and run_state.in_progress and (found := run_state.in_progress.named(object_id)):
            return found
        if run_state and run_state.stream and object_id not in run_state.known:  # known: it was deleted
            name = names.document(project, thread_id, run_id)
            if found := await last_published(services.storage, name, object_id):
                return found
    return None


def _runs_of(state: ThreadState, message_id: str) -> list[str]:
    """The latest run that existed when the message's id was made; and the next one, because clocks differ."""
    try:
        place = bisect_right(state.runs.order, made_at(message_id), key=made_at)
    except ValueError:
        return []  # not an id of this service
    return state.runs.order[max(0, place - 1) : place + 1]
