"""/v1/threads/{thread_id}/messages."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api import in_progress
from assistants_service.api.handling import answer, checked_id, context_of, page_query, path_id, read_body, services_of
from assistants_service.api.idempotency import create_once
from assistants_service.api.request_keys import PROJECT
from assistants_service.core import names
from assistants_service.core.protocol.objects import Deleted
from assistants_service.core.protocol.threads.requests import CreateMessage, UpdateMetadata
from assistants_service.core.resources import MESSAGE, RUN, THREAD


async def create(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id = path_id(request, THREAD)
    body = await read_body(request, CreateMessage)
    return await create_once(
        request, MESSAGE, lambda message_id: services.threads.create_message(context, thread_id, message_id, body), body
    )


async def list_all(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    thread_id = path_id(request, THREAD)
    query, run_id = page_query(request), request.query.get("run_id")
    if run_id:
        checked_id(run_id, RUN, "run_id")
    state = await services.thread_repository.read(project, thread_id)
    where = (lambda message: message.run_id == run_id) if run_id else None
    unfinished = state.in_progress.message if state.in_progress else None
    return answer(state.messages.page(query, "message", where, {unfinished.id: unfinished} if unfinished else {}))


async def retrieve(request: web.Request) -> web.Response:
    thread_id, message_id = path_id(request, THREAD), path_id(request, MESSAGE)
    return await in_progress.fetch(request, names.MESSAGES, thread_id, message_id)


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id, message_id = path_id(request, THREAD), path_id(request, MESSAGE)
    body = await read_body(request, UpdateMetadata)
    return answer(await services.threads.update_message(context, thread_id, message_id, body))


async def delete(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id, message_id = path_id(request, THREAD), path_id(request, MESSAGE)
    await services.threads.delete_message(context, thread_id, message_id)
    return answer(Deleted(id=message_id, object="thread.message.deleted"))
