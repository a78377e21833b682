"""/v1/threads."""

from __future__ import annotations

import contextlib

from aiohttp import web

from assistants_service.api import references
from assistants_service.api.idempotency import reserve
from assistants_service.api.service import answer, answer_stored, path_id, read_body, service_of
from assistants_service.core import names
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.objects import Deleted
from assistants_service.core.protocol.threads.requests import CreateThread, UpdateThread
from assistants_service.core.threads.lookups import thread_of


async def create(request: web.Request) -> web.Response:
    service, project = service_of(request)
    body = await read_body(request, CreateThread)
    reserved = await reserve(request, "thread", body)
    if reserved.known:
        return reserved.known
    body = await service.helpers.for_new_thread(project, reserved.id, body)
    with contextlib.suppress(Conflict):  # there is such a thread: the same request came before
        await service.threads.start(project, reserved.id, service.commands().create_thread(body, reserved.id))
    state = await service.threads.recall(project, reserved.id)
    return await reserved.keep(answer(thread_of(state, reserved.id)))


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    return answer_stored(request, await service.threads.fetch(names.THREADS, project, thread_id))


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    body, commands = await read_body(request, UpdateThread), service.commands()
    await references.check(service, project, body)
    changes = await service.threads.command(project, thread_id, lambda state: commands.update_thread(state, body))
    if changes:  # what this request made of it, whatever others do to it by now
        return answer(changes[-1].object)
    return answer(thread_of(await service.threads.recall(project, thread_id), thread_id))


async def delete(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    await service.thread_service.delete_thread(project, thread_id)
    return answer(Deleted(id=thread_id, object="thread.deleted"))
