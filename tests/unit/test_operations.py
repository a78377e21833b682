"""What a run costs in storage operations on Azure: they are money there, and most of a run's overhead."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from assistants_service.api.main import create_app
from assistants_service.api.services import services_over
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Searcher
from assistants_service.infra.azure.store import AzureStorage
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.infra.wiring import SystemClock
from assistants_service.worker.actions import Actions
from assistants_service.worker.context import VISIBILITY_TIMEOUT, WorkerContext
from assistants_service.worker.item_handler import WorkItemHandler
from scripted_ingestion import Bag, PlainText

LIMIT = 16
HEADERS = {"OpenAI-Beta": "assistants=v2"}


class Separate:
    """API and worker as two processes would be: each with a store, repositories and a notifier of its own."""

    def __init__(self, account: str) -> None:
        clock = SystemClock()
        self.stores = [AzureStorage.from_connection_string(account) for _ in range(2)]
        models = ModelRouter({"offline": Provider(api="offline")}, "offline")
        ids = Ids(clock)
        api, worker = self.stores
        notifier = Notifier()
        stores = VectorStoreRepository(api, clock, ids, notifier)
        searcher = Searcher(stores, Bag(), clock)
        services = services_over(
            api, ThreadRepository(api, clock, ids, notifier), stores, searcher, models, clock, ids, notifier
        )
        self.app = create_app(services, keys={})
        notifier = Notifier()
        repositories = (
            ThreadRepository(worker, clock, ids, notifier),
            VectorStoreRepository(worker, clock, ids, notifier),
        )
        context = (worker, *repositories, models, Actions({}), PlainText(), Bag(), clock, ids, notifier)
        self.handler = WorkItemHandler(WorkerContext(*context, searcher=searcher, tokenizer=Tiktoken()))

    async def delivery(self) -> Delivery:
        """The next work item. Looks that found nothing are polling, and are not counted."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            before = Counter(self.stores[1].operations)
            if found := await self.stores[1].receive(1, visibility_timeout=VISIBILITY_TIMEOUT):
                return found[0]
            self.stores[1].operations = before
        raise AssertionError("no work item came")

    def counted(self) -> Counter[str]:
        return Counter(self.stores[0].operations) + Counter(self.stores[1].operations)


@pytest.fixture
async def separate(azure_account: str) -> AsyncIterator[Separate]:
    one = Separate(azure_account)
    for store in one.stores:
        await store.open()
    yield one
    for store in one.stores:
        await store.close()


async def test_a_run_of_one_message_costs_at_most_sixteen_storage_operations(
    separate: Separate, capsys: pytest.CaptureFixture[str]
) -> None:
    async with TestClient(TestServer(separate.app)) as client:
        assistant = await (await client.post("/v1/assistants", json={"model": "offline"}, headers=HEADERS)).json()
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        thread = await (await client.post("/v1/threads", json=body, headers=HEADERS)).json()
        path = f"/v1/threads/{thread['id']}/runs"

        before = separate.counted()
        run = await (await client.post(path, json={"assistant_id": assistant["id"]}, headers=HEADERS)).json()
        await separate.handler.handle(await separate.delivery())
        spent = separate.counted() - before

        done = await (await client.get(f"{path}/{run['id']}", headers=HEADERS)).json()
    assert done["status"] == "completed"
    with capsys.disabled():
        print(f"\n  storage operations of a run: {spent.total()} ({dict(spent)})")
    assert spent.total() <= LIMIT
    manual = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    assert {kind: number for kind, number in spent.items() if f"\n| {kind} | {number} |" not in manual} == {}
