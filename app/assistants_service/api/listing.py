"""Lists of documents, ordered by name, in pages of `limit` objects after or before an ID."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from assistants_service.api.handling import checked_id, page_query, services_of
from assistants_service.api.request_keys import PROJECT
from assistants_service.core.ports.documents import Stored
from assistants_service.core.protocol.objects import encode
from assistants_service.core.resources import Resource


def _as_stored(body: bytes) -> bytes:
    return body


async def list_documents(
    request: web.Request, resource: Resource, show: Callable[[bytes], bytes] = _as_stored
) -> web.Response:
    """A page of the project's documents of a `listed` resource; `show` turns a document into what is sent."""
    services, project = services_of(request), request[PROJECT]
    query = page_query(request)
    folder = f"{project}/"
    after = folder + checked_id(query.after, resource, "after") if query.after else None
    before = folder + checked_id(query.before, resource, "before") if query.before else None
    backwards = before is not None and after is None
    found = await services.storage.page(
        resource.container,
        folder,
        after=before if backwards else after,
        limit=query.limit + 1,
        newest_first=query.newest_first != backwards,
    )
    if after and before:  # between the two
        found = [stored for stored in found if stored.name != before and (stored.name > before) == query.newest_first]
    return web.Response(body=_page(found, query.limit, show, backwards=backwards), content_type="application/json")


def _page(found: list[Stored], limit: int, show: Callable[[bytes], bytes], *, backwards: bool) -> bytes:
    """The list envelope around the documents."""
    page = found[:limit]
    if backwards:
        page.reverse()
    ids = [stored.name.rpartition("/")[2] for stored in page]
    return encode(
        {
            "object": "list",
            "data": [msgspec.Raw(show(stored.body)) for stored in page],
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": len(found) > limit,
        }
    )
