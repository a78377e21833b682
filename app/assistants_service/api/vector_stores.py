"""/v1/vector_stores: the stores, their files, and batches of files."""

from __future__ import annotations

from typing import get_args

import msgspec
from aiohttp import web
from msgspec.structs import replace

from assistants_service.api.idempotency import reserve
from assistants_service.api.listing import list_documents
from assistants_service.api.service import answer, answer_stored, page_query, path_id, read_body, service_of
from assistants_service.api.validation import choice
from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such
from assistants_service.core.ids import SAFE_ID
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
    ExpiresAfter,
    FileContent,
    FileStatus,
    SearchResult,
    SearchResults,
    TextContent,
    VectorStore,
)
from assistants_service.core.search.request import Ranking, SearchVectorStore
from assistants_service.core.vector_stores.commands import NewFile, chunking_of, has_expired, new_file, new_files
from assistants_service.core.vector_stores.fold import FileState
from assistants_service.core.vector_stores.repository import batch_of

RESULTS = 10  # of a search that names no number (section 3.8)
_decode = msgspec.json.Decoder(VectorStore).decode


def _store_id(request: web.Request) -> str:
    return path_id(request, "vector_store_id", "vs")


def _batch_id(request: web.Request) -> str:
    return path_id(request, "batch_id", "vsfb")


def _file_id(request: web.Request) -> str:
    file_id = request.match_info["file_id"]
    if not SAFE_ID.fullmatch(file_id):
        raise no_such("file", file_id[:200])
    return file_id


def _shown(store: VectorStore, now: float) -> VectorStore:
    """A store expires on the second, however late that is noted."""
    return replace(store, status="expired") if has_expired(store, now) else store


async def create(request: web.Request) -> web.Response:
    service, project = service_of(request)
    body = await read_body(request, CreateVectorStore)
    chunking = chunking_of(body.chunking_strategy)
    if body.chunking_strategy and not body.file_ids:
        raise ApiError("'chunking_strategy' can only be given with 'file_ids'.", param="chunking_strategy")
    reserved = await reserve(request, "vs")
    if reserved.known:
        return reserved.known
    store = await service.store_service.create(
        project,
        reserved.id,
        [NewFile(file_id, chunking=chunking) for file_id in body.file_ids or ()],
        name=body.name,
        description=body.description,
        expires_after=ExpiresAfter(days=body.expires_after.days) if body.expires_after else None,
        metadata=body.metadata,
    )
    return await reserved.keep(answer(store))


async def list_all(request: web.Request) -> web.Response:
    now = service_of(request)[0].clock.now()

    def show(body: bytes) -> bytes:
        store = _decode(body)
        return encode(_shown(store, now)) if has_expired(store, now) else body

    return await list_documents(request, names.VECTOR_STORES, "vs", show)


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    stored = await service.stores.fetch(names.VECTOR_STORES, project, _store_id(request))
    store = _decode(stored.body)
    if store.status != "expired" and has_expired(store, service.clock.now()):
        return answer(_shown(store, service.clock.now()))  # without an ETag: that is of the document
    return answer_stored(request, stored, headers=_poll(service.poll_after))


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    body = await read_body(request, UpdateVectorStore)
    return answer(await service.store_service.update(project, _store_id(request), body))


async def delete(request: web.Request) -> web.Response:
    service, project = service_of(request)
    store_id = _store_id(request)
    await service.store_service.delete(project, store_id)
    return answer(Deleted(id=store_id, object="vector_store.deleted"))


# --- files ------------------------------------------------------------------------------------------------------------


async def create_file(request: web.Request) -> web.Response:
    service, project = service_of(request)
    store_id = _store_id(request)
    body = await read_body(request, CreateVectorStoreFile)
    reserved = await reserve(request, "file")  # for its answer: the id is the file's own
    if reserved.known:
        return reserved.known
    return await reserved.keep(answer(await service.store_service.attach(project, store_id, [new_file(body)])))


async def list_files(request: web.Request) -> web.Response:
    service, project = service_of(request)
    store_id, query = _store_id(request), page_query(request)
    status = _filter(request)
    state = await service.stores.read(project, store_id)
    return answer(_page(state.files, query, status))


async def retrieve_file(request: web.Request) -> web.Response:
    service, project = service_of(request)
    stored = await service.stores.fetch(names.STORE_FILES, project, _store_id(request), _file_id(request))
    return answer_stored(request, stored, headers=_poll(service.poll_after))


async def update_file(request: web.Request) -> web.Response:
    service, project = service_of(request)
    store_id, file_id = _store_id(request), _file_id(request)
    body = await read_body(request, UpdateVectorStoreFile)
    return answer(await service.store_service.update_file(project, store_id, file_id, body))


async def delete_file(request: web.Request) -> web.Response:
    service, project = service_of(request)
    file_id = _file_id(request)
    await service.store_service.detach(project, _store_id(request), file_id)
    return answer(Deleted(id=file_id, object="vector_store.file.deleted"))


def _filter(request: web.Request) -> str | None:
    return choice("filter", request.query.get("filter"), get_args(FileStatus))


def _page(files: Index[FileState], query: PageQuery, status: str | None) -> Page:
    page = files.page(query, "file", (lambda held: held.file.status == status) if status else None)
    return replace(page, data=tuple(held.file for held in page.data))


def _poll(seconds: float) -> dict[str, str]:
    return {"openai-poll-after-ms": str(round(seconds * 1000))}


async def file_content(request: web.Request) -> web.Response:
    service, project = service_of(request)
    pieces = await service.searcher.content(project, _store_id(request), _file_id(request))
    return answer(FileContent(data=tuple(TextContent(text=piece) for piece in pieces)))


# --- search -----------------------------------------------------------------------------------------------------------


async def search(request: web.Request) -> web.Response:
    """`rewrite_query` changes nothing: queries are searched as they are. So does a ranker, of which there is one."""
    service, project = service_of(request)
    store_id = _store_id(request)
    body = await read_body(request, SearchVectorStore)
    queries = [body.query] if isinstance(body.query, str) else body.query
    ranking = body.ranking_options or Ranking()
    found = await service.searcher.search_stores(
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
    service, project = service_of(request)
    store_id = _store_id(request)
    body = await read_body(request, CreateFileBatch)
    if body.file_ids is None and body.files is None:
        raise ApiError("Missing required parameter: 'file_ids'.", param="file_ids", code="missing_required_parameter")
    if body.file_ids is not None and body.files is not None:
        raise ApiError(
            "Give either 'file_ids' or 'files', not both.", param="files", code="mutually_exclusive_parameters"
        )
    reserved = await reserve(request, "vsfb")
    if reserved.known:
        return reserved.known
    made = await service.store_service.create_batch(project, store_id, reserved.id, new_files(body))
    return await reserved.keep(answer(made))


async def retrieve_batch(request: web.Request) -> web.Response:
    service, project = service_of(request)
    stored = await service.stores.fetch(names.STORE_BATCHES, project, _store_id(request), _batch_id(request))
    return answer_stored(request, stored, headers=_poll(service.poll_after))


async def cancel_batch(request: web.Request) -> web.Response:
    service, project = service_of(request)
    return answer(await service.store_service.cancel_batch(project, _store_id(request), _batch_id(request)))


async def list_batch_files(request: web.Request) -> web.Response:
    """Those that are still in the store."""
    service, project = service_of(request)
    store_id, batch_id, query = _store_id(request), _batch_id(request), page_query(request)
    status = _filter(request)
    state = await service.stores.read(project, store_id)
    theirs: Index[FileState] = Index(order=[], items={})
    for file_id in batch_of(state, batch_id).file_ids:
        held = state.files.get(file_id)
        if held:
            theirs.put(file_id, held)
    return answer(_page(theirs, query, status))
