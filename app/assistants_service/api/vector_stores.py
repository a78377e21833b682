"""/v1/vector_stores: the stores, their files, and batches of files."""

from __future__ import annotations

from typing import get_args

import msgspec
from aiohttp import web
from msgspec.structs import replace

from assistants_service.api.handling import (
    PROJECT,
    answer,
    answer_stored,
    context_of,
    page_query,
    path_id,
    read_body,
    services_of,
)
from assistants_service.api.idempotency import create_once
from assistants_service.api.listing import list_documents
from assistants_service.api.validation import choice
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.paging import Index, PageQuery
from assistants_service.core.protocol.objects import Deleted, Page, encode
from assistants_service.core.protocol.vector_stores.requests import (
    CreateFileBatch,
    CreateVectorStore,
    CreateVectorStoreFile,
    UpdateVectorStore,
    UpdateVectorStoreFile,
)
from assistants_service.core.protocol.vector_stores.resources import (
    FileContent,
    FileStatus,
    SearchResult,
    SearchResults,
    TextContent,
    VectorStore,
)
from assistants_service.core.resources import FILE, FILE_BATCH, STORE_FILE, VECTOR_STORE
from assistants_service.core.search.request import Ranking, SearchVectorStore
from assistants_service.core.vector_stores.lookups import batch_of, has_expired
from assistants_service.core.vector_stores.new import new_file, new_files, new_store
from assistants_service.core.vector_stores.state import FileState

RESULTS = 10  # of a search without max_num_results (section 3.8)
_decode = msgspec.json.Decoder(VectorStore).decode


def _shown(store: VectorStore, now: float) -> VectorStore:
    """Shows a store as expired exactly on time, even if the expiry is committed later."""
    return replace(store, status="expired") if has_expired(store, now) else store


async def create(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CreateVectorStore)
    if body.chunking_strategy and not body.file_ids:
        raise ApiError("'chunking_strategy' can only be given with 'file_ids'.", param="chunking_strategy")
    return await create_once(
        request, VECTOR_STORE, lambda store_id: services.vector_stores.create(context, store_id, new_store(body))
    )


async def list_all(request: web.Request) -> web.Response:
    now = services_of(request).clock.now()

    def show(body: bytes) -> bytes:
        store = _decode(body)
        return encode(_shown(store, now)) if has_expired(store, now) else body

    return await list_documents(request, VECTOR_STORE, show)


async def retrieve(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    stored = await services.store_repository.fetch(names.VECTOR_STORES, project, path_id(request, VECTOR_STORE))
    store = _decode(stored.body)
    if store.status != "expired" and has_expired(store, services.clock.now()):
        return answer(_shown(store, services.clock.now()))  # without an ETag, which is the document's
    return answer_stored(request, stored, headers=_poll(services.poll_after))


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, UpdateVectorStore)
    return answer(await services.vector_stores.update(context, path_id(request, VECTOR_STORE), body))


async def delete(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    store_id = path_id(request, VECTOR_STORE)
    await services.vector_stores.delete(context, store_id)
    return answer(Deleted(id=store_id, object="vector_store.deleted"))


# --- files ------------------------------------------------------------------------------------------------------------


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
    status = _filter(request)
    state = await services.store_repository.read(project, store_id)
    return answer(_page(state.files, query, status))


async def retrieve_file(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    stored = await services.store_repository.fetch(
        names.STORE_FILES, project, path_id(request, VECTOR_STORE), path_id(request, STORE_FILE)
    )
    return answer_stored(request, stored, headers=_poll(services.poll_after))


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


def _filter(request: web.Request) -> str | None:
    return choice("filter", request.query.get("filter"), get_args(FileStatus))


def _page(files: Index[FileState], query: PageQuery, status: str | None) -> Page:
    page = files.page(query, "file", (lambda file_state: file_state.file.status == status) if status else None)
    return replace(page, data=tuple(file_state.file for file_state in page.data))


def _poll(seconds: float) -> dict[str, str]:
    return {"openai-poll-after-ms": str(round(seconds * 1000))}


async def file_content(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    pieces = await services.searcher.content(project, path_id(request, VECTOR_STORE), path_id(request, STORE_FILE))
    return answer(FileContent(data=tuple(TextContent(text=piece) for piece in pieces)))


# --- search -----------------------------------------------------------------------------------------------------------


async def search(request: web.Request) -> web.Response:
    """`rewrite_query` has no effect: queries are searched as given. Neither has a ranker, because there is only one."""
    services, project = services_of(request), request[PROJECT]
    store_id = path_id(request, VECTOR_STORE)
    body = await read_body(request, SearchVectorStore)
    queries = [body.query] if isinstance(body.query, str) else body.query
    ranking = body.ranking_options or Ranking()
    found = await services.searcher.search_stores(
        project,
        [store_id],
        queries,
        limit=body.max_num_results or RESULTS,
        filter=body.filters,
        weights=ranking.weights,
        threshold=ranking.score_threshold or 0.0,
    )
    results = [
        SearchResult(
            file_id=each.file_id,
            filename=each.filename,
            score=each.score,
            attributes=each.attributes,
            content=(TextContent(text=each.text),),
        )
        for each in found
    ]
    return answer(SearchResults(search_query=tuple(queries), data=tuple(results)))


# --- batches ----------------------------------------------------------------------------------------------------------


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
    return answer_stored(request, stored, headers=_poll(services.poll_after))


async def cancel_batch(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    return answer(
        await services.vector_stores.cancel_batch(context, path_id(request, VECTOR_STORE), path_id(request, FILE_BATCH))
    )


async def list_batch_files(request: web.Request) -> web.Response:
    """Those that are still in the store."""
    services, project = services_of(request), request[PROJECT]
    store_id, batch_id, query = path_id(request, VECTOR_STORE), path_id(request, FILE_BATCH), page_query(request)
    status = _filter(request)
    state = await services.store_repository.read(project, store_id)
    batch_files: Index[FileState] = Index(order=[], items={})
    for file_id in batch_of(state, batch_id).file_ids:
        file_state = state.files.get(file_id)
        if file_state:
            batch_files.put(file_id, file_state)
    return answer(_page(batch_files, query, status))
