"""Messages and steps in the making. They have no documents: the thread's log tells of those that take a while, and a
streamed run's stream of each from its first delta on.

Nothing can be torn: in the log they stand for as long as their worker is at them. What a worker that died left open
ends on the stream, where the next worker closes it, and can be fetched like that as long as streams are kept.
"""

from __future__ import annotations

from bisect import bisect_right

from aiohttp import web

from assistants_service.api.handling import PROJECT, answer, answer_stored, services_of
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ids import made_at
from assistants_service.core.protocol.runs.resources import Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.threads.stream import last_published


async def fetch(request: web.Request, container: str, thread_id: str, *ids: str) -> web.Response:
    """The document of a message or a step, or what the log or its run's stream tells of it. Raises the 404 of what is
    in none."""
    services, project = services_of(request), request[PROJECT]
    try:
        return answer_stored(request, await services.thread_repository.fetch(container, project, thread_id, *ids))
    except ApiError as error:
        if error.status != 404:
            raise
    if found := await find(request, thread_id, *ids):
        return answer(found)
    # It is not there; or it came whole since the first look.
    return answer_stored(request, await services.thread_repository.fetch(container, project, thread_id, *ids))


async def find(request: web.Request, thread_id: str, *ids: str) -> Message | Step | None:
    """`ids` are of a message, or of a run and a step. Reads two streams at most, and none of a run without one. Raises
    the 404 of a thread that is not there."""
    services, project = services_of(request), request[PROJECT]
    state = await services.thread_repository.read(project, thread_id)
    *of_run, object_id = ids
    for run_id in of_run or _runs_of(state, object_id):
        held = state.runs.get(run_id)
        if held and held.making and (found := held.making.named(object_id)):
            return found
        if held and held.stream and object_id not in held.known:  # that was deleted, and its stream still has it
            name = names.document(project, thread_id, run_id)
            if found := await last_published(services.storage, name, object_id):
                return found
    return None


def _runs_of(state: ThreadState, message_id: str) -> list[str]:
    """The run that had begun last when the message was named; and the next, as clocks of two machines differ."""
    try:
        place = bisect_right(state.runs.order, made_at(message_id), key=made_at)
    except ValueError:
        return []  # no id of ours
    return state.runs.order[max(0, place - 1) : place + 1]
