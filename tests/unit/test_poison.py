"""Work items that cannot be done: they end their run, and are buried, for people to look at."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from assistants_service.api.services import Services, services_over
from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.runs.requests import CreateThreadAndRun
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads import sse
from assistants_service.core.threads.decide import CLOSING
from assistants_service.core.threads.events import RunClaimed
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Searcher
from assistants_service.core.work_items import AdvanceRun, MaintainStore, PurgeStore, PurgeThread, to_body
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.worker.actions import Actions
from assistants_service.worker.context import WorkerContext
from assistants_service.worker.item_handler import DELIVERIES, WorkItemHandler
from assistants_service.worker.poison import PoisonItem
from captured_telemetry import Exported
from scripted_ingestion import Bag, PlainText
from scripted_models import BareModels
from scripted_search import FakeSearch

ASSISTANT = StoredAssistant(id="asst_1", created_at=1, model="m")
BODY = CreateThreadAndRun.model_validate(
    {"assistant_id": "asst_1", "thread": {"messages": [{"role": "user", "content": "Hello"}]}}
)


class ManualClock:
    time = 1_000_000.0

    def now(self) -> float:
        return self.time


class Broken(BareModels):
    """A model adapter with a bug, until it is mended."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls = 0

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        self.calls += 1
        if self.error:
            raise self.error
        return Reply(text="Hello.")


@dataclass
class Bench:
    store: SqliteStorage
    clock: ManualClock
    models: Broken
    services: Services
    handler: WorkItemHandler

    async def deliver(self) -> int:
        """Let time pass until an item is visible, and answer it. How often it was delivered by then."""
        for _ in range(600):
            for delivery in await self.store.receive(1, visibility_timeout=45):
                await self.handler.handle(delivery)
                return delivery.count
            self.clock.time += 1
        raise AssertionError("nothing was delivered")

    def queued(self, name: str) -> list[Any]:
        return self.store._sql.execute("SELECT body FROM queue WHERE name=?", (name,)).fetchall()

    async def run(self, *, stream: bool = False) -> Run:
        context = self.services.context("p")
        body = BODY.model_copy(update={"stream": stream})
        return await self.services.runs.create_with_thread(context, context.ids.new("thread"), body)

    async def now(self, run: Run) -> Any:
        return (await self.services.thread_repository.read("p", run.thread_id)).runs.items[run.id].run


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = ManualClock()
    store, ids, notifier, models = SqliteStorage(":memory:", clock), Ids(clock), Notifier(), Broken(request.param)
    await store.open()
    threads = ThreadRepository(store, clock, ids, notifier)
    stores = VectorStoreRepository(store, clock, ids, notifier)
    parts = (store, threads, stores, models, Actions({}), PlainText(), Bag(), clock, ids, notifier)
    context = WorkerContext(*parts, searcher=FakeSearch(), tokenizer=Tiktoken())
    await store.create(names.ASSISTANTS, names.document("p", ASSISTANT.id), encode(ASSISTANT))
    searcher = Searcher(stores, Bag(), clock)
    services = services_over(store, threads, stores, searcher, models, clock, ids, notifier)
    yield Bench(store, clock, models, services, WorkItemHandler(context))
    await store.close()


@pytest.mark.parametrize("bench", [RuntimeError("long " * 100_000)], indirect=True)
async def test_of_a_long_error_a_message_of_the_queue_keeps_what_it_takes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await bench.run()
    for _ in range(DELIVERIES):
        await bench.deliver()
    ((kept,),) = bench.queued("work-buried")
    assert len(kept) < 16_384


@pytest.mark.parametrize("bench", [RuntimeError("a bug")], indirect=True)
async def test_p2_the_fifth_failed_delivery_ends_the_run(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    assert [await bench.deliver() for _ in range(DELIVERIES)] == [1, 2, 3, 4, 5]
    ended = await bench.now(run)
    assert (ended.status, ended.last_error.code) == ("failed", "server_error")
    assert "bug" not in ended.last_error.message
    assert not bench.queued("work")
    ((kept,),) = bench.queued("work-buried")
    assert run.id in kept.decode()
    assert "a bug" in kept.decode()
    document = await bench.store.get(names.RUNS, names.document("p", run.thread_id, run.id))
    assert document
    assert b'"status":"failed"' in document.body


@pytest.mark.parametrize("bench", [RuntimeError("a passing bug")], indirect=True)
async def test_a_delivery_that_succeeds_after_failures_ends_well(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    for _ in range(DELIVERIES - 1):
        await bench.deliver()
    bench.models.error = None
    await bench.deliver()
    assert (await bench.now(run)).status == "completed"
    assert not bench.queued("work")
    assert not bench.queued("work-buried")


@pytest.mark.parametrize("bench", [StorageUnavailable("a storm")], indirect=True)
async def test_a_store_that_fails_for_long_poisons_no_item(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    for _ in range(2 * DELIVERIES):
        await bench.deliver()
    bench.models.error = None
    await bench.deliver()
    assert (await bench.now(run)).status == "completed"
    assert not bench.queued("work-buried")


@pytest.mark.parametrize("bench", [RuntimeError("a bug")], indirect=True)
async def test_p2_a_poison_item_is_dead_lettered_when_its_run_has_ended(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between leaves an item that finds nothing to do, and not a run that no worker looks at."""
    caplog.set_level(logging.CRITICAL)
    run, whole, statuses = await bench.run(), bench.store.dead_letter, []

    async def dead_letter(delivery: Delivery, reason: str) -> None:
        statuses.append((await bench.now(run)).status)
        await whole(delivery, reason)

    monkeypatch.setattr(bench.store, "dead_letter", dead_letter)
    for _ in range(DELIVERIES):
        await bench.deliver()
    assert statuses == ["failed"]


@pytest.mark.parametrize("bench", [RuntimeError("a bug")], indirect=True)
async def test_p4_the_stream_of_a_poisoned_run_ends(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run(stream=True)
    for _ in range(DELIVERIES):
        await bench.deliver()
    tail = await bench.store.read(names.STREAMS, names.document("p", run.thread_id, run.id), None)
    assert tail
    assert [name for _, _, name, _ in sse.parse(tail.data)][-1] == "thread.run.failed"


async def poison(bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A work item more for the run, whose every delivery fails though there is nothing to do."""

    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.services.thread_repository, "project", fail)
    item = AdvanceRun(project="p", thread_id=run.thread_id, run_id=run.id, sent_at=bench.clock.now())
    await bench.store.send(to_body(item))
    assert [await bench.deliver() for _ in range(DELIVERIES)] == [1, 2, 3, 4, 5]
    assert len(bench.queued("work-buried")) == 1


@pytest.mark.parametrize("bench", [None], indirect=True)
async def test_p2_a_poison_item_ends_no_run_that_has_ended(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    await bench.deliver()
    await poison(bench, run, monkeypatch)
    assert (await bench.now(run)).status == "completed"


@pytest.mark.parametrize("bench", [None], indirect=True)
async def test_a_poison_item_ends_no_run_that_is_another_items(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    (mine,) = await bench.store.receive(1, visibility_timeout=100_000)
    claim = RunClaimed(run_id=run.id, attempt=1, item=mine.id)
    await bench.services.thread_repository.commit("p", run.thread_id, lambda state: [claim])
    await poison(bench, run, monkeypatch)
    assert (await bench.now(run)).status == "in_progress"


@pytest.mark.parametrize("bench", [None], indirect=True)
@pytest.mark.parametrize("status", ["queued", "in_progress"])
async def test_p2_a_run_whose_item_its_host_gives_up_ends(
    bench: Bench, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, or when it expires: it may be in progress by another item, which only its host knows."""
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    (lost,) = await bench.store.receive(1, visibility_timeout=1)
    await bench.store.delete(lost)
    if status == "in_progress":
        claim = RunClaimed(run_id=run.id, attempt=1, item=lost.id)
        await bench.services.thread_repository.commit("p", run.thread_id, lambda state: [claim])
    for _ in range(2):  # the host delivers at least once
        await bench.handler.give_up(replace(lost, id="0"))
    assert len(bench.queued("work-buried")) == 2
    if status == "in_progress":
        assert (await bench.now(run)).status == "in_progress"
        for later in (600, CLOSING):  # its holder may still be there
            bench.clock.time += later
            await bench.deliver()
    ended = await bench.now(run)
    assert ended.status == ("failed" if status == "queued" else "expired")
    assert not bench.models.calls


NOT_FITTING = (
    b'{"id": "1", "at": 1, "events": [{"type": "thread.run.step.completed", "run_id": "r", "step_id": "s"}]}\n'
)


async def damage(bench: Bench, container: str, log_id: str, line: bytes) -> None:
    log = names.log("p", log_id)
    tail = await bench.store.read(container, log, None)
    if tail is None:
        await bench.store.start(container, log, line)
    else:
        await bench.store.append(container, log, tail.mark, line)
    bench.services.thread_repository._views.clear()


def only_dead_lettered(bench: Bench) -> None:
    assert not bench.queued("work")
    assert len(bench.queued("work-buried")) == 1


@pytest.mark.parametrize("bench", [None], indirect=True)
@pytest.mark.parametrize("item", [AdvanceRun, PurgeThread, MaintainStore, PurgeStore])
async def test_an_item_whose_log_cannot_be_read_is_dead_lettered(
    bench: Bench, item: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It would come for ever, and cost a delivery each time. The log says in one line which one it is."""
    if item is AdvanceRun:
        damaged = (await bench.run()).thread_id
    else:
        damaged, store = "damaged_1", item in (MaintainStore, PurgeStore)
        body = {"project": "p", "store_id" if store else "thread_id": damaged, "sent_at": bench.clock.now()}
        await bench.store.send(to_body(item(**body)))
    container = names.STORE_LOGS if item in (MaintainStore, PurgeStore) else names.THREADS
    await damage(bench, container, damaged, b"{secret\n")
    assert [await bench.deliver() for _ in range(DELIVERIES)] == [1, 2, 3, 4, 5]
    only_dead_lettered(bench)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    (message,) = (record.getMessage() for record in errors)
    assert message.endswith(f"after 5 deliveries: {container}/p/{damaged}.log cannot be decoded: DecodeError")
    assert not any(record.exc_info for record in caplog.records)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("bench", [None], indirect=True)
async def test_an_item_whose_log_has_events_that_do_not_fit_is_dead_lettered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    await damage(bench, names.THREADS, run.thread_id, NOT_FITTING)
    assert [await bench.deliver() for _ in range(DELIVERIES)] == [1, 2, 3, 4, 5]
    only_dead_lettered(bench)


@pytest.mark.parametrize("bench", [None], indirect=True)
async def test_a_log_whose_events_do_not_fit_is_never_shown_half_folded(bench: Bench) -> None:
    run, threads = await bench.run(), bench.services.thread_repository
    await damage(bench, names.THREADS, run.thread_id, NOT_FITTING)
    for look in (threads.load, threads.cached):
        with pytest.raises(KeyError):
            await look("p", run.thread_id)


@pytest.mark.parametrize("bench", [None], indirect=True)
async def test_an_item_that_its_host_gives_up_is_dead_lettered_though_its_log_cannot_be_read(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    await damage(bench, names.THREADS, run.thread_id, b"{\n")
    (lost,) = await bench.store.receive(1, visibility_timeout=1)
    await bench.handler.give_up(lost)
    only_dead_lettered(bench)


@pytest.mark.parametrize("bench", [RuntimeError("a bug")], indirect=True)
@pytest.mark.parametrize("error", [StorageUnavailable("a storm"), Conflict()], ids=["storm", "conflict"])
async def test_p2_no_item_is_dead_lettered_while_its_run_cannot_be_ended(
    bench: Bench, error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.CRITICAL)
    run = await bench.run()
    for _ in range(DELIVERIES - 1):
        await bench.deliver()
    with monkeypatch.context() as patch:

        async def fail(*_: object) -> None:
            raise error

        patch.setattr(PoisonItem, "_end", fail)
        for _ in range(DELIVERIES):
            with pytest.raises(type(error)):
                await bench.deliver()
        assert not bench.queued("work-buried")
    await bench.deliver()
    assert (await bench.now(run)).status == "failed"
    only_dead_lettered(bench)


@pytest.mark.parametrize("bench", [RuntimeError("unused")], indirect=True)
@pytest.mark.parametrize("body", [b"not json", b"{}", b'{"kind": "other"}', b"\xff"])
async def test_what_is_no_work_item_is_dead_lettered(
    bench: Bench, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await bench.store.send(body)
    assert await bench.deliver() == 1
    assert not bench.queued("work")
    assert len(bench.queued("work-buried")) == 1


@pytest.mark.parametrize("bench", [RuntimeError("a bug")], indirect=True)
async def test_a_poison_item_shows_in_metrics_and_logs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    exported = Exported()
    bench.handler.context.telemetry = exported.telemetry
    await bench.store.send(b"no work item")
    await bench.deliver()
    run = await bench.run()
    for _ in range(DELIVERIES):
        await bench.deliver()
    buried = [
        record.getMessage() for record in caplog.records if "moved to the dead-letter queue" in record.getMessage()
    ]
    assert [message.partition("after ")[2] for message in buried] == ["1 deliveries", f"{DELIVERIES} deliveries"]
    assert exported.metric("assistants.work.deliveries", assistants__work__outcome="poison") == 2
    assert exported.metric("assistants.work.deliveries", assistants__work__outcome="failed") == DELIVERIES - 1
    failing = [span for span in exported.spans if (span.attributes or {}).get("error.type") == "RuntimeError"]
    assert {(span.attributes or {})["assistants.run.id"] for span in failing} == {run.id}
