"""/v1/threads/{thread_id}/messages."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api import making
from assistants_service.api.idempotency import reserve
from assistants_service.api.service import answer, checked_id, page_query, path_id, read_body, service_of
from assistants_service.core import names
from assistants_service.core.protocol.objects import Deleted
from assistants_service.core.protocol.threads.requests import CreateMessage, UpdateMetadata
from assistants_service.core.threads.lookups import message_of


async def create(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    body, commands = await read_body(request, CreateMessage), service.commands()
    reserved = await reserve(request, "msg", body)
    if reserved.known:
        return reserved.known
    filing = None
    if body.attachments:
        state = await service.threads.read(project, thread_id)
        commands.create_message(state, body, reserved.id)  # what is refused is filed nowhere
        filing = await service.helpers.for_messages(project, reserved.id, state, [body])
    changes = await service.threads.command(
        project, thread_id, lambda state: commands.create_message(state, body, reserved.id, filing)
    )
    created = [change.object for change in changes if change.name == "thread.message.created"]
    if created:  # what this request made of it, whatever others do to it by now
        return await reserved.keep(answer(created[0]))
    return await reserved.keep(answer(message_of(await service.threads.recall(project, thread_id), reserved.id)))


async def list_all(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    query, run_id = page_query(request), request.query.get("run_id")
    if run_id:
        checked_id(run_id, "run_id", "run")
    state = await service.threads.read(project, thread_id)
    where = (lambda message: message.run_id == run_id) if run_id else None
    making = state.making.message if state.making else None
    return answer(state.messages.page(query, "message", where, {making.id: making} if making else {}))


async def retrieve(request: web.Request) -> web.Response:
    thread_id, message_id = path_id(request, "thread_id", "thread"), path_id(request, "message_id", "msg")
    return await making.fetch(request, names.MESSAGES, thread_id, message_id)


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, message_id = path_id(request, "thread_id", "thread"), path_id(request, "message_id", "msg")
    body, commands = await read_body(request, UpdateMetadata), service.commands()
    changes = await service.threads.command(
        project, thread_id, lambda state: commands.update_message(state, message_id, body)
    )
    if changes:
        return answer(changes[-1].object)
    return answer(message_of(await service.threads.recall(project, thread_id), message_id))


async def delete(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, message_id = path_id(request, "thread_id", "thread"), path_id(request, "message_id", "msg")
    commands = service.commands()
    await service.threads.command(project, thread_id, lambda state: commands.delete_message(state, message_id))
    return answer(Deleted(id=message_id, object="thread.message.deleted"))
