"""/v1/assistants."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from aiohttp import web

from assistants_service.api.handling import answer, answer_stored, context_of, path_id, read_body, services_of
from assistants_service.api.idempotency import create_once
from assistants_service.api.listing import list_documents
from assistants_service.api.request_keys import PROJECT
from assistants_service.core.protocol.assistants.requests import CreateAssistant, UpdateAssistant
from assistants_service.core.protocol.assistants.resources import Assistant, StoredAssistant
from assistants_service.core.protocol.objects import Deleted, encode
from assistants_service.core.resources import ASSISTANT

_wire = msgspec.json.Decoder(Assistant)
_HIDDEN = b'"chosen":'


def _shown(body: bytes) -> bytes:
    """Remove fields that are stored but not sent. Few assistants have any; the others are returned as stored."""
    return encode(_wire.decode(body)) if _HIDDEN in body else body


def _wired(assistant: StoredAssistant) -> msgspec.Raw:
    return msgspec.Raw(_shown(encode(assistant)))


async def create(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CreateAssistant)

    async def make(assistant_id: str) -> msgspec.Raw:
        return _wired(await services.assistants.create(context, assistant_id, body))

    return await create_once(request, ASSISTANT, make, body)


async def retrieve(request: web.Request) -> web.Response:
    assistant_id = path_id(request, ASSISTANT)
    stored = await services_of(request).assistants.fetch(request[PROJECT], assistant_id)
    return answer_stored(request, replace(stored, body=_shown(stored.body)))


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    assistant_id = path_id(request, ASSISTANT)
    body = await read_body(request, UpdateAssistant)
    return answer(_wired(await services.assistants.update(context, assistant_id, body)))


async def delete(request: web.Request) -> web.Response:
    assistant_id = path_id(request, ASSISTANT)
    await services_of(request).assistants.delete(context_of(request), assistant_id)
    return answer(Deleted(id=assistant_id, object="assistant.deleted"))


async def list_all(request: web.Request) -> web.Response:
    return await list_documents(request, ASSISTANT, _shown)
