"""/v1/files: documents, and their contents."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any, get_args
from urllib.parse import quote

import msgspec
from aiohttp import web

from assistants_service.api.handling import answer, answer_stored, context_of, page_query, path_id, services_of
from assistants_service.api.idempotency import create_under
from assistants_service.api.multipart import Form
from assistants_service.api.request_keys import PROJECT, REQUEST_ID
from assistants_service.api.validation import parse_body
from assistants_service.core.errors import ApiError, no_such_file
from assistants_service.core.files.service import decode_file
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.protocol.files.requests import CreateFile, Purpose
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import Deleted, encode
from assistants_service.core.resources import FILE

log = logging.getLogger(__name__)

FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
MOST = 10_000  # files in one list, and the default


async def create(request: web.Request) -> web.Response:
    """The form's fields may come before or after the file, so all of them are known only after its last byte."""
    services, context = services_of(request), context_of(request)
    form = Form(request, "file", FIELDS, limit=services.file_limit)
    await form.begin()
    _check_purpose(form)  # if it comes before the file, refuse it before storing anything
    async with services.files.receive(context, form.chunks()) as received:
        body = _body(form)
        return await create_under(
            request,
            received.file_id,
            lambda file_id: services.files.create(context, file_id, body, received),
            content=body.model_dump_json().encode() + (form.digest.digest() if form.digest else b""),
        )


def _check_purpose(form: Form) -> None:
    purpose = form.fields.get("purpose")
    if purpose is not None and purpose not in get_args(Purpose):
        message = f"'{purpose[:200]}' is not one of {[*get_args(Purpose)]} - 'purpose'"
        raise ApiError(message, param="purpose", detailed=True)


def _body(form: Form) -> CreateFile:
    """The form as a request object."""
    _check_purpose(form)
    body: dict[str, Any] = {"filename": form.filename} if form.filename is not None else {}
    for name, value in form.fields.items():
        outer, _, inner = name.removesuffix("]").partition("[")
        if not inner:
            body[outer] = value
        else:
            whole = re.fullmatch("[0-9]{1,18}", value)
            body.setdefault(outer, {})[inner] = int(value) if whole else value
    return parse_body(CreateFile, json.dumps(body).encode())


async def retrieve(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    return answer_stored(request, await services.files.fetch(project, path_id(request, FILE)))


async def delete(request: web.Request) -> web.Response:
    file_id = path_id(request, FILE)
    await services_of(request).files.delete(context_of(request), file_id)
    return answer(Deleted(id=file_id, object="file"))


async def list_all(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    query = page_query(request, most=MOST, default=MOST)
    if query.after and not SAFE_ID.fullmatch(query.after):
        raise no_such_file(query.after[:200])
    found = await services.files.page(
        project,
        purpose=request.query.get("purpose") or None,
        after=query.after,
        limit=query.limit + 1,
        newest_first=query.newest_first,
    )
    kept = found[: query.limit]
    ids = [stored.name.rpartition("/")[2] for stored in kept]
    page = {
        "object": "list",
        "data": [msgspec.Raw(stored.body) for stored in kept],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": len(found) > query.limit,
    }
    return web.Response(body=encode(page), content_type="application/json")


# --- content ------------------------------------------------------------------------------------------------------


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes, or a range of them, as a download that no browser treats as a page or script of this service."""
    services, project = services_of(request), request[PROJECT]
    file = decode_file((await services.files.fetch(project, path_id(request, FILE))).body)
    start, stop = _range(request, file.bytes)
    chunks = services.files.read(project, file.id, offset=start, length=stop - start)
    first = await anext(chunks, b"")
    if not first and file.bytes:
        raise no_such_file(file.id)  # deleted since its document was read
    response = web.StreamResponse(status=206 if stop - start < file.bytes else 200, headers=_headers(request, file))
    response.content_length = stop - start
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.bytes}"
    await response.prepare(request)
    if request.method != "HEAD":
        await _send(request, response, first, chunks)
    return response


async def _send(request: web.Request, response: web.StreamResponse, first: bytes, chunks: AsyncIterator[bytes]) -> None:
    try:
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client disconnected
    except StorageUnavailable as error:
        # The response has begun: ending it before its announced length is the only way to tell the client.
        log.warning("%s a download was interrupted: %s", request[REQUEST_ID], error)
        response.force_close()


def _headers(request: web.Request, file: File) -> dict[str, str]:
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", file.filename)
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file.filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "x-request-id": request[REQUEST_ID],
    }


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """The first byte and the one after the last. An invalid or multiple Range counts as the whole (RFC 9110)."""
    try:
        asked = request.http_range
    except ValueError:
        return 0, size
    if asked.start is None and asked.stop is None:
        return 0, size
    start, stop, _ = slice(asked.start, asked.stop).indices(size)
    if start >= stop:
        message = f"The requested range is outside the file, which has {size} bytes."
        raise ApiError(message, status=416, param="Range", headers={"Content-Range": f"bytes */{size}"})
    return start, stop
