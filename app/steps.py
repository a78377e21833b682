"""/v1/threads/{thread_id}/runs/{run_id}/steps."""

from __future__ import annotations

from aiohttp import web

from app.service import answer, answer_stored, page_query, path_id, service_of
from app.validation import check_include
from core import names
from core.commands import run_of


async def list_all(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    query = page_query(request)
    check_include(request.query)
    state = await service.ledger.read(project, thread_id)
    return answer(run_of(state, run_id).steps.page(query, "run step"))


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    step_id = path_id(request, "step_id", "step")
    check_include(request.query)
    return answer_stored(request, await service.ledger.fetch(names.STEPS, project, thread_id, run_id, step_id))
