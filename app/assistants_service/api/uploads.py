"""/v1/uploads: files that are sent in parts."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api.handling import answer, context_of, ignore_body, path_id, read_body, services_of
from assistants_service.api.idempotency import create_once
from assistants_service.api.multipart import Form
from assistants_service.core.protocol.files.requests import CompleteUpload, CreateUpload
from assistants_service.core.resources import UPLOAD

MAX_PART = 64 * 1024**2  # bytes


async def create(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CreateUpload)
    return await create_once(request, UPLOAD, lambda upload_id: services.uploads.create(context, upload_id, body))


async def add_part(request: web.Request) -> web.Response:
    """Takes no Idempotency-Key: a part that is sent twice is two parts, of which the completion names one. A part that
    is larger than its whole upload is refused while it is received."""
    services, context = services_of(request), context_of(request)
    stored = await services.uploads.pending(context.project, path_id(request, UPLOAD))
    form = Form(request, "data", limit=min(MAX_PART, stored.upload.bytes))
    await form.begin()
    return answer(await services.uploads.add_part(context, stored, form.chunks()))


async def complete(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    upload_id = path_id(request, UPLOAD)
    body = await read_body(request, CompleteUpload)
    return answer(await services.uploads.complete(context, upload_id, body))


async def cancel(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    await ignore_body(request)
    return answer(await services.uploads.cancel(context, path_id(request, UPLOAD)))
