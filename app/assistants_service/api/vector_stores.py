"""/v1/vector_stores: the stores, and the search of one."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec.structs import replace

from assistants_service.api.handling import answer, answer_stored, context_of, path_id, read_body, services_of
from assistants_service.api.idempotency import create_once
from assistants_service.api.listing import list_documents
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.vector_store_files import poll_headers
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.objects import Deleted, encode
from assistants_service.core.protocol.vector_stores.requests import CreateVectorStore, UpdateVectorStore
from assistants_service.core.protocol.vector_stores.resources import (
    SearchResult,
    SearchResults,
    TextContent,
    VectorStore,
)
from assistants_service.core.resources import VECTOR_STORE
from assistants_service.core.search.request import Ranking, SearchVectorStore
from assistants_service.core.vector_stores.lookups import has_expired
from assistants_service.core.vector_stores.new import new_store

RESULTS = 10  # of a search without max_num_results
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
    return answer_stored(request, stored, headers=poll_headers(services.poll_after))


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, UpdateVectorStore)
    return answer(await services.vector_stores.update(context, path_id(request, VECTOR_STORE), body))


async def delete(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    store_id = path_id(request, VECTOR_STORE)
    await services.vector_stores.delete(context, store_id)
    return answer(Deleted(id=store_id, object="vector_store.deleted"))


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
