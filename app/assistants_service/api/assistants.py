"""/v1/assistants: plain documents with ETags; they have no history worth a log."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from aiohttp import web

from assistants_service.api import references
from assistants_service.api.idempotency import reserve
from assistants_service.api.listing import list_documents
from assistants_service.api.service import Service, answer, answer_stored, path_id, read_body, service_of
from assistants_service.core import names
from assistants_service.core.assistants.commands import assistant_from, updated_assistant
from assistants_service.core.errors import no_such
from assistants_service.core.ports.storage import Conflict, Stored
from assistants_service.core.protocol.assistants.requests import CreateAssistant, UpdateAssistant
from assistants_service.core.protocol.assistants.resources import Assistant, StoredAssistant
from assistants_service.core.protocol.objects import Deleted, encode

_decoder = msgspec.json.Decoder(StoredAssistant)
_wire = msgspec.json.Decoder(Assistant)
_HIDDEN = b'"chosen":'


def _shown(body: bytes) -> bytes:
    """Without what is not on the wire. Few assistants have it: the others are shown as they are kept."""
    return encode(_wire.decode(body)) if _HIDDEN in body else body


async def load(service: Service, project: str, assistant_id: str) -> StoredAssistant:
    """Raises the 404 of an unknown assistant."""
    return _decoder.decode((await _stored(service, project, assistant_id)).body)


async def _stored(service: Service, project: str, assistant_id: str) -> Stored:
    stored = await service.storage.get(names.ASSISTANTS, names.document(project, assistant_id))
    if stored is None:
        raise no_such("assistant", assistant_id)
    return stored


def _answer(assistant: StoredAssistant) -> web.Response:
    return answer(msgspec.Raw(_shown(encode(assistant))))


async def create(request: web.Request) -> web.Response:
    service, project = service_of(request)
    body = await read_body(request, CreateAssistant)
    reserved = await reserve(request, "asst", body)
    if reserved.known:
        return reserved.known
    body = await service.helpers.for_assistant(project, reserved.id, body)
    assistant = assistant_from(body, reserved.id, service.clock.now())
    try:
        await service.storage.create(names.ASSISTANTS, names.document(project, assistant.id), encode(assistant))
    except Conflict:  # there is such an assistant: the same request came before
        assistant = await load(service, project, assistant.id)
    return await reserved.keep(_answer(assistant))


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    stored = await _stored(service, project, path_id(request, "assistant_id", "asst"))
    return answer_stored(request, replace(stored, body=_shown(stored.body)))


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    assistant_id = path_id(request, "assistant_id", "asst")
    body = await read_body(request, UpdateAssistant)
    await references.check(service, project, body)
    while True:
        stored = await _stored(service, project, assistant_id)
        assistant = updated_assistant(_decoder.decode(stored.body), body)
        try:
            # If-Match: of two updates at once neither is lost.
            await service.storage.replace(names.ASSISTANTS, stored.name, encode(assistant), stored.etag)
        except Conflict:
            continue
        return _answer(assistant)


async def delete(request: web.Request) -> web.Response:
    service, project = service_of(request)
    assistant_id = path_id(request, "assistant_id", "asst")
    if not await service.storage.remove(names.ASSISTANTS, names.document(project, assistant_id)):
        raise no_such("assistant", assistant_id)
    return answer(Deleted(id=assistant_id, object="assistant.deleted"))


async def list_all(request: web.Request) -> web.Response:
    return await list_documents(request, names.ASSISTANTS, "asst", _shown)
