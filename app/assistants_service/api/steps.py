"""/v1/threads/{thread_id}/runs/{run_id}/steps."""

from __future__ import annotations

from aiohttp import web
from msgspec.structs import replace

from assistants_service.api import in_progress
from assistants_service.api.handling import answer, includes_results, page_query, path_id, services_of
from assistants_service.api.request_keys import PROJECT
from assistants_service.core import names
from assistants_service.core.protocol.runs.resources import step_on_wire
from assistants_service.core.resources import RUN, STEP, THREAD
from assistants_service.core.threads.lookups import run_of


async def list_all(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    query = page_query(request)
    with_results = includes_results(request)
    state = await services.thread_repository.read(project, thread_id)
    run_state = run_of(state, run_id)
    unfinished = {run_state.in_progress.step.id: run_state.in_progress.step} if run_state.in_progress else {}
    page = run_state.steps.page(query, "run step", in_progress=unfinished)
    return answer(replace(page, data=tuple(step_on_wire(step, with_results=with_results) for step in page.data)))


async def retrieve(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    step_id = path_id(request, STEP)
    if includes_results(request):
        step = run_of(await services.thread_repository.read(project, thread_id), run_id).steps.get(step_id)
        if step is not None:
            return answer(step_on_wire(step, with_results=True))
    return await in_progress.fetch(request, names.STEPS, thread_id, run_id, step_id)
