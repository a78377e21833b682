"""/v1/threads."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api.handling import answer, answer_stored, context_of, path_id, read_body, services_of
from assistants_service.api.idempotency import create_once
from assistants_service.api.request_keys import PROJECT
from assistants_service.core import names
from assistants_service.core.protocol.objects import Deleted
from assistants_service.core.protocol.threads.requests import CreateThread, UpdateThread
from assistants_service.core.resources import THREAD


async def create(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CreateThread)
    return await create_once(request, THREAD, lambda thread_id: services.threads.create(context, thread_id, body), body)


async def retrieve(request: web.Request) -> web.Response:
    thread_id = path_id(request, THREAD)
    threads = services_of(request).thread_repository
    return answer_stored(request, await threads.fetch(names.THREADS, request[PROJECT], thread_id))


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id = path_id(request, THREAD)
    body = await read_body(request, UpdateThread)
    return answer(await services.threads.update(context, thread_id, body))


async def delete(request: web.Request) -> web.Response:
    thread_id = path_id(request, THREAD)
    await services_of(request).threads.delete(context_of(request), thread_id)
    return answer(Deleted(id=thread_id, object="thread.deleted"))
