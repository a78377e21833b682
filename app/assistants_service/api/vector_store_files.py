"""/v1/vector_stores/.../files: the files of a store."""

from __future__ import annotations

from typing import get_args

from aiohttp import web
from msgspec.structs import replace

from assistants_service.api.handling import (
    answer,
    answer_stored,
    context_of,
    page_query,
    path_id,
    read_body,
    services_of,
)
from assistants_service.api.idempotency import create_once
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.validation import choice
from assistants_service.core import names
from assistants_service.core.paging import Index, PageQuery
from assistants_service.core.protocol.objects import Deleted, Page
from assistants_service.core.protocol.vector_stores.requests import CreateVectorStoreFile, UpdateVectorStoreFile
from assistants_service.core.protocol.vector_stores.resources import FileContent, FileStatus, TextContent
from assistants_service.core.resources import FILE, STORE_FILE, VECTOR_STORE
from assistants_service.core.vector_stores.new import new_file
from assistants_service.core.vector_stores.state import FileState


async def create_file(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    store_id = path_id(request, VECTOR_STORE)
    body = await read_body(request, CreateVectorStoreFile)
    files = [new_file(body)]
    # The key stores only the answer: the id is the file's own.
    return await create_once(request, FILE, lambda _: services.vector_stores.attach(context, store_id, files))


async def list_files(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    store_id, query = path_id(request, VECTOR_STORE), page_query(request)
    status = status_filter(request)
    state = await services.store_repository.read(project, store_id)
    return answer(page_of(state.files, query, status))


async def retrieve_file(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    stored = await services.store_repository.fetch(
        names.STORE_FILES, project, path_id(request, VECTOR_STORE), path_id(request, STORE_FILE)
    )
    return answer_stored(request, stored, headers=poll_headers(services.poll_after))


async def update_file(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    store_id, file_id = path_id(request, VECTOR_STORE), path_id(request, STORE_FILE)
    body = await read_body(request, UpdateVectorStoreFile)
    return answer(await services.vector_stores.update_file(context, store_id, file_id, body))


async def delete_file(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    file_id = path_id(request, STORE_FILE)
    await services.vector_stores.detach(context, path_id(request, VECTOR_STORE), file_id)
    return answer(Deleted(id=file_id, object="vector_store.file.deleted"))


def status_filter(request: web.Request) -> str | None:
    return choice("filter", request.query.get("filter"), get_args(FileStatus))


def page_of(files: Index[FileState], query: PageQuery, status: str | None) -> Page:
    page = files.page(query, "file", (lambda file_state: file_state.file.status == status) if status else None)
    return replace(page, data=tuple(file_state.file for file_state in page.data))


def poll_headers(seconds: float) -> dict[str, str]:
    return {"openai-poll-after-ms": str(round(seconds * 1000))}


async def file_content(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    pieces = await services.searcher.content(project, path_id(request, VECTOR_STORE), path_id(request, STORE_FILE))
    return answer(FileContent(data=tuple(TextContent(text=piece) for piece in pieces)))
