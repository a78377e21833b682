"""Requests to Azure Storage: counted, retried without a response, and their errors in the port's terms.

The SDK's own retries are off: a write that was stored, but whose response was lost, would be refused by its own
condition. Here a refusal says whether the request had been sent before, so that a writer can look for its own work.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, Final, TypeVar

from aiohttp import ClientConnectorError, ClientSession, DummyCookieJar
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobClient, BlobServiceClient
from azure.storage.queue.aio import QueueClient
from cachetools import LRUCache

from assistants_service.core.ports.storage import Conflict, StorageUnavailable, Unsent
from assistants_service.infra.azure.breaker import Breaker

T = TypeVar("T")

PAUSES: Final = (0.0, 0.2, 1.0)  # seconds before further attempts, with jitter; the first is for a stale connection
CONNECT_TIMEOUT: Final = 3.0
READ_TIMEOUT: Final = 10.0  # seconds without a byte
LARGE_BODY: Final = 256 * 1024  # bytes; sent in pieces, so that the event loop is not blocked
BLOB_CLIENTS: Final = 500  # cached, since creating one takes 0.1 ms, a sixth of a request

# Responses when a condition does not hold, or when the object itself (not its container) is missing or exists.
REFUSALS: Final = {204, 304, 412, 416}  # 204: the SDK's error for a queue that exists
CODES: Final = {
    *("BlobNotFound", "MessageNotFound", "BlobAlreadyExists", "ContainerAlreadyExists", "QueueAlreadyExists"),
    *("PopReceiptMismatch", "InvalidBlockList"),
}
# No response about the request: it may have been executed, or may still be.
UNDECIDED: Final = {408, 429, 500, 502, 503, 504}
RETRIES: Final[Counter[str]] = Counter()  # of this process, by status or "connection"


class StoreRefused(Exception):
    """The store refused the request. With `resent`, the cause may be an earlier sending of the same request."""

    def __init__(self, status: int, code: str, size: int | None, resent: bool) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code, self.resent = status, code, resent
        self.size = size  # of the blob, if the requested range was beyond its end


class Resting(ServiceRequestError):
    """Not sent: the service has not responded for a while, and another request tests whether it does."""


class Transport(AioHttpTransport):  # type: ignore[misc]  # the SDK resolves the name at run time
    """The transport of one service over a shared session. Counts requests by service, method and operation."""

    def __init__(self, session: ClientSession, service: str, operations: Counter[str]) -> None:
        super().__init__(
            session=session, session_owner=False, connection_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT
        )
        self._service, self._operations = service, operations
        self._breaker = Breaker(asyncio.get_running_loop().time)

    async def send(self, request: Any, **config: Any) -> Any:
        if not self._breaker.admits():
            raise Resting(f"the {self._service} service has not responded for a while")
        operation = request.url.partition("comp=")[2].partition("&")[0]
        self._operations[f"{self._service} {request.method} {operation}".rstrip()] += 1
        if isinstance(request.data, bytes) and len(request.data) > LARGE_BODY:
            request.data = BytesIO(request.data)
        try:
            response = await super().send(request, **config)
        except AzureError as error:
            # A dropped connection does not count: it may have been idle for too long.
            if isinstance(error.inner_exception, TimeoutError | ClientConnectorError):
                self._breaker.record_failure()
            raise
        if response.status_code in UNDECIDED:
            self._breaker.record_failure()
        else:
            self._breaker.record_success()
        return response


class AzureClients:
    """The clients of an open store, shared by the parts of the engine."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()  # requests sent, by kind
        self.retries = RETRIES
        self._service: BlobServiceClient | None = None
        self._work: QueueClient | None = None
        self._dead_letters: QueueClient | None = None
        self._clients: LRUCache[tuple[str, str], BlobClient] = LRUCache(BLOB_CLIENTS)

    def _blob(self, container: str, name: str) -> BlobClient:
        client = self._clients.get((container, name))
        if client is None:
            client = self._clients[container, name] = require_open(self._service).get_blob_client(container, name)
        return client


def require_open(client: T | None) -> T:
    if client is None:
        raise StorageUnavailable("The Azure store is closed.")
    return client


def new_session(*, proxied: bool) -> ClientSession:
    """`proxied`: through the proxy that the environment names, if any."""
    session = ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False, trust_env=proxied)
    # aiohttp repeats a PUT by itself when a reused connection drops. There is no public switch (its own test client
    # uses this one), and that retry would hide from `call` that a refusal may be caused by the request itself.
    session._retry_connection = False
    return session


async def call(send: Callable[[], Awaitable[T]], *, pauses: tuple[float, ...] = PAUSES) -> T:
    """Send until there is a response. Raises StoreRefused for a refusal, StorageUnavailable without a response, and
    Unsent if nothing was sent."""
    resent = False
    for pause in (*pauses, None):
        try:
            return await send()
        except AzureError as error:
            if isinstance(error, HttpResponseError) and is_refusal(error):
                raise _refused(error, resent) from None
            if isinstance(error, Resting):
                raise (StorageUnavailable if resent else Unsent)(describe(error)) from None
            if pause is None or not is_undecided(error):
                raise StorageUnavailable(describe(error)) from error
            RETRIES[str(getattr(error, "status_code", None) or "connection")] += 1
        resent = True
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    raise AssertionError("unreachable")


async def write(send: Callable[[], Awaitable[T]], mine: Callable[[], Awaitable[T | None]]) -> T:
    """A conditional write. A refusal after a lost response counts as success if `mine` finds the new data in place.

    Raises Conflict otherwise.
    """
    try:
        return await call(send)
    except StoreRefused as refusal:
        try:
            found = await mine() if refusal.resent else None
        except Unsent as error:  # the check was not sent, but the write was
            raise StorageUnavailable(str(error)) from None
        if found is None:
            raise Conflict(str(refusal)) from None
        return found


def is_refusal(error: HttpResponseError) -> bool:
    return error.status_code in REFUSALS or _code(error) in CODES


def is_undecided(error: AzureError) -> bool:
    if isinstance(error, ClientAuthenticationError):
        return False
    # An error without a status is a broken connection: at any point, even if the SDK calls it an error of the request.
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return status is None or status in UNDECIDED


def describe(error: BaseException) -> str:
    """One line for the operator's log."""
    if isinstance(error, HttpResponseError) and error.status_code:
        return f"Azure Storage refuses the request: {error.status_code} {_code(error)}".rstrip() + "."
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
    if isinstance(error, ClientAuthenticationError):
        return f"Azure Storage cannot be reached with this identity: {reason}."
    return f"Azure Storage does not respond: {reason}."


def _refused(error: HttpResponseError, resent: bool) -> StoreRefused:
    size = _header(error, "Content-Range").rpartition("/")[2]
    return StoreRefused(error.status_code or 0, _code(error), int(size) if size.isdigit() else None, resent)


def _code(error: HttpResponseError) -> str:
    return _header(error, "x-ms-error-code")


def _header(error: HttpResponseError, name: str) -> str:
    return str(getattr(error.response, "headers", {}).get(name, ""))
