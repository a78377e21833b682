"""The storage engine on Azure Storage and its emulator, Azurite: blobs for all data, a queue for work."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import ClientSession
from azure.core.credentials_async import AsyncTokenCredential
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from assistants_service.core.names import ASSISTANTS, CONTAINERS, DEAD_LETTERS, WORK
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.infra.azure.calls import StoreRefused, Transport, call, new_session, require_open
from assistants_service.infra.azure.contents import AzureContents
from assistants_service.infra.azure.identity import new_credential
from assistants_service.infra.azure.logs import AzureLogs
from assistants_service.infra.azure.queue import AzureQueue

OPEN_TIMEOUT: Final = 5.0  # seconds
IDENTITY_TIMEOUT: Final = 30.0  # seconds; the first token may take a few
QUICK: Final = (0.2,)  # one more attempt, where a caller waits to know whether the store is available
MAX_DOWNLOAD: Final = 256 * 1024 * 1024  # bytes fetched by one request
EMULATOR_VERSION: Final = "2025-11-05"  # of the service's API; the SDK's own default is too new for the emulator
DEVELOPMENT = (  # the emulator's well-known account, the same everywhere
    "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr"
    "/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1"
)
NEEDS = "The storage connection string is not valid: {}. Copy it whole from the storage account's access keys."


@dataclass(frozen=True, slots=True)
class Account:
    """The account and its credentials: a connection string, or the URLs of its services (for an identity)."""

    connection_string: str = ""
    blob_url: str = ""
    queue_url: str = ""
    emulated: bool = False


class AzureStorage(AzureLogs, AzureContents, AzureQueue):
    """ports.storage.Storage. Created by `from_connection_string` or `with_identity`; tests replace `transport`."""

    def __init__(self, account: Account, transport: type[Transport] = Transport) -> None:
        super().__init__()
        self._account, self._transport = account, transport
        self._session: ClientSession | None = None
        self._queues: QueueServiceClient | None = None
        self._credential: AsyncTokenCredential | None = None

    @classmethod
    def from_connection_string(cls, text: str, transport: type[Transport] = Transport) -> AzureStorage:
        """`text` is an account's connection string, or `UseDevelopmentStorage=true`. One with two endpoints and no key
        is for an identity. Raises ValueError otherwise."""
        text = text.strip().rstrip(";")
        parts = [part.partition("=") for part in text.split(";")]
        settings = {name.strip().lower(): value for name, _, value in parts}
        if settings.get("usedevelopmentstorage", "").lower() == "true":
            return cls(Account(DEVELOPMENT, emulated=True), transport)
        emulated = _is_emulator(settings.get("blobendpoint", ""))
        if _for_identity(settings):
            account = Account("", settings["blobendpoint"], settings["queueendpoint"], emulated)
            return cls(account, transport)
        _check(settings)
        return cls(Account(text, emulated=emulated), transport)

    @classmethod
    def with_identity(cls, blob_account_url: str) -> AzureStorage:
        """`blob_account_url` is `https://ACCOUNT.blob.core.windows.net`. Raises ValueError for anything else."""
        url = urlsplit(blob_account_url)
        if url.scheme != "https" or ".blob." not in url.netloc or url.path.strip("/"):
            raise ValueError(
                f"'{blob_account_url}' is not a storage account: expected https://ACCOUNT.blob.core.windows.net."
            )
        blobs = f"https://{url.netloc}"
        return cls(Account(blob_url=blobs, queue_url=blobs.replace(".blob.", ".queue.", 1)))

    async def open(self) -> None:
        if self._service is not None:
            return
        seconds = OPEN_TIMEOUT if self._account.connection_string else IDENTITY_TIMEOUT
        try:
            self._connect()
            async with asyncio.timeout(seconds):
                await self._create_missing()
        except TimeoutError:
            await self.close()
            raise StorageUnavailable(f"Azure Storage did not respond within {seconds:.0f} seconds.") from None
        except BaseException:
            await self.close()
            raise

    def _connect(self) -> None:
        session = self._session = new_session(proxied=not self._account.emulated)
        options: dict[str, Any] = {"retry_total": 0}
        if self._account.emulated:
            options["api_version"] = EMULATOR_VERSION
        blob: dict[str, Any] = {
            "transport": self._transport(session, "blob", self.operations),
            "max_single_get_size": MAX_DOWNLOAD,
        }
        queue: dict[str, Any] = {"transport": self._transport(session, "queue", self.operations)}
        if text := self._account.connection_string:
            self._service = BlobServiceClient.from_connection_string(text, **blob, **options)
            self._queues = QueueServiceClient.from_connection_string(text, **queue, **options)
        else:
            credential = self._credential = new_credential()
            self._service = BlobServiceClient(self._account.blob_url, credential, **blob, **options)
            self._queues = QueueServiceClient(self._account.queue_url, credential, **queue, **options)
        self._work = self._queues.get_queue_client(WORK)
        self._dead_letters = self._queues.get_queue_client(DEAD_LETTERS)

    async def _create_missing(self) -> None:
        service = require_open(self._service)
        creations: list[Callable[[], Awaitable[object]]] = [
            *(service.get_container_client(name).create_container for name in CONTAINERS),
            require_open(self._work).create_queue,
            require_open(self._dead_letters).create_queue,
        ]
        # One first, alone: if the store does not respond, there is one error rather than nine.
        await _create(creations[0])
        for result in await asyncio.gather(*map(_create, creations[1:]), return_exceptions=True):
            if result is not None:
                raise result

    async def close(self) -> None:
        closing = (self._work, self._dead_letters, self._queues, self._service, self._credential, self._session)
        self._work = self._dead_letters = self._queues = self._service = self._credential = self._session = None
        self._clients.clear()
        for client in closing:
            if client is not None:
                await client.close()

    async def ping(self) -> None:
        container = require_open(self._service).get_container_client(ASSISTANTS)
        await call(container.get_container_properties, pauses=QUICK)


async def _create(creation: Callable[[], Awaitable[object]]) -> None:
    try:
        await call(creation, pauses=QUICK)
    except StoreRefused:
        pass  # exists


def _for_identity(settings: dict[str, str]) -> bool:
    """Both endpoints, with https (a token is never sent in clear), and no secret."""
    secret = settings.get("accountkey") or settings.get("sharedaccesssignature")
    return not secret and all(
        settings.get(name, "").startswith("https://") for name in ("blobendpoint", "queueendpoint")
    )


def _check(settings: dict[str, str]) -> None:
    if not settings.get("accountname") and not settings.get("blobendpoint"):
        raise ValueError(NEEDS.format("it names no account (AccountName=...)"))
    if settings.get("sharedaccesssignature"):
        return
    key = settings.get("accountkey", "")
    if not key:
        raise ValueError(NEEDS.format("it contains no key (AccountKey=... or SharedAccessSignature=...)"))
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise ValueError(NEEDS.format("its AccountKey is not Base64")) from None


def _is_emulator(endpoint: str) -> bool:
    """On this machine, or with the account's name in the path (Azure has it in the host name)."""
    url = urlsplit(endpoint)
    try:
        loopback = url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback
    except ValueError:
        loopback = False
    return loopback or bool(url.path.strip("/"))
