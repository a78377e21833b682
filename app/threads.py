"""/v1/threads."""

from __future__ import annotations

from aiohttp import web

from app.service import answer, answer_stored, path_id, read_body, service_of
from core import names
from core.requests import CreateThread, UpdateThread
from core.resources import Deleted


async def create(request: web.Request) -> web.Response:
    service, project = service_of(request)
    body = await read_body(request, CreateThread)
    thread_id = service.ids.new("thread")
    changes = await service.ledger.start(project, thread_id, service.scribe().create_thread(body, thread_id))
    return answer(changes[0].object)


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    return answer_stored(request, await service.ledger.fetch(names.THREADS, project, thread_id))


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    body, scribe = await read_body(request, UpdateThread), service.scribe()
    await service.ledger.command(project, thread_id, lambda state: scribe.update_thread(state, body))
    return answer((await service.ledger.read(project, thread_id)).thread)


async def delete(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    await service.desk.delete_thread(project, thread_id)
    return answer(Deleted(id=thread_id, object="thread.deleted"))
