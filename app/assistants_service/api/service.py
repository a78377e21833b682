"""What the handlers work with, and how they read a request and answer it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from assistants_service.api.heads import listed
from assistants_service.api.validation import parse_body, parse_include, parse_page
from assistants_service.core.errors import ApiError, invalid_id, no_such
from assistants_service.core.files.service import Files
from assistants_service.core.files.uploads import Uploads
from assistants_service.core.ids import SAFE_ID, Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.paging import PageQuery
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.models import Models
from assistants_service.core.ports.storage import Storage, Stored
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.objects import encode
from assistants_service.core.threads.commands import ThreadCommands
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.service import ThreadService
from assistants_service.core.vector_stores.helpers import Helpers
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Searcher
from assistants_service.core.vector_stores.service import VectorStoreService

if TYPE_CHECKING:
    from assistants_service.api.limits import Limits

B = TypeVar("B", bound=Body)
NOUNS = {
    "asst": "assistant",
    "thread": "thread",
    "msg": "message",
    "run": "run",
    "step": "run step",
    "vs": "vector store",
    "vsfb": "file batch",
}


@dataclass(frozen=True, slots=True)
class Service:
    """`threads` has the threads, `stores` the vector stores. `lifetime` of a run and `poll_after` (what pollers should
    wait) in seconds; `file_limit` and `upload_limit` (of a file that comes by one request, or by an upload) in
    bytes."""

    storage: Storage
    threads: ThreadRepository
    stores: VectorStoreRepository
    searcher: Searcher
    models: Models
    clock: Clock
    ids: Ids
    notifier: Notifier
    lifetime: int = 600
    poll_after: float = 0.1
    file_limit: int = 512 * 1024**2
    upload_limit: int = 8 * 1024**3
    telemetry: Telemetry = SILENCE
    limits: Limits | None = None

    @property
    def thread_service(self) -> ThreadService:
        return ThreadService(
            self.storage, self.threads, self.clock, self.ids, self.notifier, self.lifetime, self.telemetry
        )

    @property
    def files(self) -> Files:
        return Files(self.storage, self.clock, self.notifier)

    @property
    def store_service(self) -> VectorStoreService:
        return VectorStoreService(self.storage, self.stores, self.files, self.clock)

    @property
    def helpers(self) -> Helpers:
        return Helpers(self.store_service, self.ids)

    @property
    def uploads(self) -> Uploads:
        return Uploads(self.files, self.ids, self.upload_limit)

    def commands(self) -> ThreadCommands:
        return self.thread_service.commands()

    def beginning(self, project: str, thread_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Around the beginning of a run, which the project's limits may refuse."""
        runs = self.limits.runs if self.limits else None
        return runs.beginning(project, thread_id) if runs else contextlib.nullcontext()


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
PROJECT = web.RequestKey("project", str)
REQUEST_ID = web.RequestKey("request_id", str)


def service_of(request: web.Request) -> tuple[Service, str]:
    """The service, and the project of the caller's key."""
    return request.app[SERVICE], request[PROJECT]


def checked_id(value: str, param: str, prefix: str) -> str:
    """An id of the right shape. Raises the 400 of a wrong prefix, or the 404 of what cannot exist."""
    if not value.startswith(prefix):
        raise invalid_id(param, value[:200], prefix)
    if not SAFE_ID.fullmatch(value):
        raise no_such(NOUNS[prefix], value[:200])
    return value


def path_id(request: web.Request, param: str, prefix: str) -> str:
    return checked_id(request.match_info[param], param, prefix)


async def read_body(request: web.Request, kind: type[B]) -> B:
    """The request's JSON; no body at all counts as an empty object. Raises ApiError naming what is wrong."""
    body = await request.read()
    if body:
        _check_type(request)
    return parse_body(kind, body or b"{}")


def _check_type(request: web.Request) -> None:
    """Raises the 400 of a body that does not say that it is JSON, in the original's words
    (github.com/openai/openai-openapi/issues/194). It also keeps pages of other sites from having a browser
    send one unasked, which they can only if it is called text, a form, or nothing."""
    sent = request.headers.get("Content-Type", "")[:200]
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            f"Unsupported content type: '{sent}'. This API method only accepts 'application/json' requests, but you"
            f" specified the header 'Content-Type: {sent}'. Please try again with a supported content type.",
            code="unsupported_content_type",
        )


def page_query(request: web.Request, *, most: int = 100, default: int = 20) -> PageQuery:
    """`most` and `default` are of `limit`."""
    return parse_page(request.query, most=most, default=default)


def includes_contents(request: web.Request) -> bool:
    """Whether the caller wants to see the contents of search results. Raises the 400 of any other include[]."""
    return parse_include(request.query)


def answer(resource: object, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(resource), content_type="application/json", headers=headers)


def answer_stored(request: web.Request, stored: Stored, *, headers: dict[str, str] | None = None) -> web.Response:
    """The document's bytes, or 304 if the caller has them."""
    found = {"ETag": stored.etag, **(headers or {})}
    known = listed(request, "If-None-Match")
    if stored.etag in known or known == ["*"]:
        return web.Response(status=304, headers=found)
    return web.Response(body=stored.body, content_type="application/json", headers=found)
