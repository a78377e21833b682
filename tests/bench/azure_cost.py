"""What the service costs in requests to Azure Storage, and the floor under a run: the same requests, bare.

The requests of a run are counted on a real one, of an API and a worker with a store each. Bare means: the SDK's clients
over one session, one call after another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, DummyCookieJar
from aiohttp.test_utils import TestClient, TestServer
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueServiceClient

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("support", "unit"))
from assistants_service.composition import searcher_of, stores_of, threads_of, worker_of
from assistants_service.infra.azure.store import EMULATOR_VERSION
from assistants_service.infra.configuration import read_settings
from assistants_service.parts import open_parts
from test_operations import HEADERS, Separate

BLOCK, DOCUMENT = b"x" * 600, b"x" * 900  # bytes, about those of a run's commits and documents
DAY = 86_400


async def operations_of_a_run(account: str) -> Counter[str]:
    """One run, not streamed, of a process that has seen others: its requests by kind, without looks that found none."""
    one = Separate(account)
    for store in one.stores:
        await store.open()
    try:
        async with TestClient(TestServer(one.app)) as client:
            assistant = await (await client.post("/v1/assistants", json={"model": "offline"}, headers=HEADERS)).json()
            spent: Counter[str] = Counter()
            for _ in range(2):
                body: Any = {"messages": [{"role": "user", "content": "Hello"}]}
                thread = await (await client.post("/v1/threads", json=body, headers=HEADERS)).json()
                before, body = one.counted(), {"assistant_id": assistant["id"]}
                await (await client.post(f"/v1/threads/{thread['id']}/runs", json=body, headers=HEADERS)).read()
                await one.handler.handle(await one.delivery())
                spent = one.counted() - before
        return spent
    finally:
        for store in one.stores:
            await store.close()


async def idle_operations_a_day(account: str, seconds: float) -> float:
    """Of a worker that found nothing for a while, with the settings that users get."""
    async with open_parts(read_settings({"storage": account})) as parts:
        stores = stores_of(parts)
        worker = worker_of(parts, threads_of(parts), stores, searcher_of(parts, stores))
        working = asyncio.create_task(worker.run())
        await asyncio.sleep(5)
        operations: Counter[str] = parts.storage.operations  # type: ignore[attr-defined]
        before = operations.total()
        await asyncio.sleep(seconds)
        spent = operations.total() - before
        await worker.stop(0)
        await working
    return spent * DAY / seconds


class Bare:
    """Storage calls without the service: `seconds(operations)` makes them one after another."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._names = (f"bare{number}" for number in count())

    async def __aenter__(self) -> Bare:
        self._session = ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False)
        options: dict[str, Any] = {"api_version": EMULATOR_VERSION, "retry_total": 0}

        def transport() -> AioHttpTransport:
            return AioHttpTransport(session=self._session, session_owner=False)

        self._blobs = BlobServiceClient.from_connection_string(self._account, transport=transport(), **options)
        queues = QueueServiceClient.from_connection_string(self._account, transport=transport(), **options)
        self._queue, self._container = queues.get_queue_client("bare"), self._blobs.get_container_client("bare")
        await self._container.create_container()
        await self._queue.create_queue()
        self._kept = self._container.get_blob_client("kept")
        await self._kept.upload_blob(DOCUMENT)
        self._log = self._container.get_blob_client("log")
        await self._log.create_append_blob()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def seconds(self, operations: Counter[str]) -> float:
        await self._log.create_append_blob()  # a log as short as that of a new thread
        await self._log.append_block(BLOCK)
        await self._queue.send_message("x" * 200)
        held = [message async for message in self._queue.receive_messages(messages_per_page=1)]
        calls = [call for kind, number in operations.items() for call in [self._call(kind, held)] * number]
        begun = time.perf_counter()
        for call in calls:
            await call()
        taken = time.perf_counter() - begun
        await self._queue.clear_messages()
        return taken

    def _call(self, kind: str, held: list[QueueMessage]) -> Callable[[], Awaitable[object]]:
        async def receive() -> None:
            async for page in self._queue.receive_messages(messages_per_page=32, visibility_timeout=45).by_page():
                [message async for message in page]
                break

        async def download() -> None:
            await (await self._log.download_blob()).readall()

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "blob GET": download,
            "blob HEAD": self._kept.get_blob_properties,
            "blob PUT": lambda: self._container.get_blob_client(next(self._names)).upload_blob(DOCUMENT),
            "blob PUT appendblock": lambda: self._log.append_block(BLOCK),
            "queue POST": lambda: self._queue.send_message("x" * 200),
            "queue GET": receive,
            "queue PUT": lambda: self._queue.update_message(held[0], visibility_timeout=45),
            "queue DELETE": lambda: self._queue.delete_message(held[0]),
        }
        return calls[kind]
