"""/v1/vector_stores/.../file_batches: files that are added to a store together."""

from __future__ import annotations

from aiohttp import web

from assistants_service.api.handling import (
    answer,
    answer_stored,
    context_of,
    ignore_body,
    page_query,
    path_id,
    read_body,
    services_of,
)
from assistants_service.api.idempotency import create_once
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.vector_store_files import page_of, poll_headers, status_filter
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.paging import Index
from assistants_service.core.protocol.vector_stores.requests import CreateFileBatch
from assistants_service.core.resources import FILE_BATCH, VECTOR_STORE
from assistants_service.core.vector_stores.lookups import batch_of
from assistants_service.core.vector_stores.new import new_files
from assistants_service.core.vector_stores.state import FileState


async def create_batch(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    store_id = path_id(request, VECTOR_STORE)
    body = await read_body(request, CreateFileBatch)
    if body.file_ids is None and body.files is None:
        raise ApiError("Missing required parameter: 'file_ids'.", param="file_ids", code="missing_required_parameter")
    if body.file_ids is not None and body.files is not None:
        raise ApiError(
            "Give either 'file_ids' or 'files', not both.", param="files", code="mutually_exclusive_parameters"
        )
    files = new_files(body)
    return await create_once(
        request, FILE_BATCH, lambda batch_id: services.vector_stores.create_batch(context, store_id, batch_id, files)
    )


async def retrieve_batch(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    stored = await services.store_repository.fetch(
        names.STORE_BATCHES, project, path_id(request, VECTOR_STORE), path_id(request, FILE_BATCH)
    )
    return answer_stored(request, stored, headers=poll_headers(services.poll_after))


async def cancel_batch(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    await ignore_body(request)
    return answer(
        await services.vector_stores.cancel_batch(context, path_id(request, VECTOR_STORE), path_id(request, FILE_BATCH))
    )


async def list_batch_files(request: web.Request) -> web.Response:
    """Lists the files of the batch that are still in the store."""
    services, project = services_of(request), request[PROJECT]
    store_id, batch_id, query = path_id(request, VECTOR_STORE), path_id(request, FILE_BATCH), page_query(request)
    status = status_filter(request)
    state = await services.store_repository.read(project, store_id)
    batch_files: Index[FileState] = Index(order=[], items={})
    for file_id in batch_of(state, batch_id).file_ids:
        file_state = state.files.get(file_id)
        if file_state:
            batch_files.put(file_id, file_state)
    return answer(page_of(batch_files, query, status))
