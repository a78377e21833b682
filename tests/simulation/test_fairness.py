"""Neighbours: whatever one project has waiting, runs or vector stores, another project's run gets the next slot, and a
run that is to end waits for none."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from assistants_service.core import names
from assistants_service.core.ports.embeddings import TextRole
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.runs.requests import CreateThreadAndRun
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.vector_stores.resources import FileCounts, VectorStore
from assistants_service.core.vector_stores.new import NewFile, NewStore
from assistants_service.worker.main import POLL_SLOW, Worker
from assistants_service.worker.slots import CHORES, HOSTED_RUNS, HOSTED_WAITING, NoSlot, Slots
from assistants_service.worker.store_work import JOBS
from inprocess_service import Api, ScriptedModels, in_process, says
from multipart_forms import upload
from promise_checks import past_of
from scripted_ingestion import Bag
from scripted_models import ASSISTANT
from simulated_clients import Client
from simulated_service import OTHER_PROJECT, PROJECT, World
from test_stores_crash import once
from virtual_time import VirtualClock, run

MANY = 1_000
FUNCTIONS = 256  # that a host runs at once
SOON = 1.0  # seconds


async def runs_of(world: World, count: int, script: str = "hangs") -> list[Client]:
    """So many clients of one project, each with a run. They ask below HTTP, which takes most of the time."""
    process, clients = await world.api(), []
    for number in range(count):
        client, thread_id = Client(world), f"thread_{number:024}"
        body = CreateThreadAndRun(assistant_id=ASSISTANT.id, model=f"{script}/{world.new_mark()}")
        runs, context = process.services.runs, process.request
        client.thread = thread_id
        client.runs = [await process.spawn(runs.create_with_thread(context, thread_id, body))]
        clients.append(client)
    return clients


async def neighbours_run(world: World, script: str = "plain") -> tuple[Client, Run]:
    client = Client(world, key="other-key")
    return client, await client.run_in_new_thread(script)


async def begun(world: World, work: Run) -> None:
    """Until a model is asked."""
    while not world.models.calls[work.model]:
        await asyncio.sleep(0.01)


def ends(world: World, clients: Sequence[Client]) -> list[tuple[str, float]]:
    """Of each client's run the status and how late it came, in seconds after the run's expiry."""
    found = []
    for client in clients:
        past, (work,) = past_of(world, client.thread), client.runs
        assert work.expires_at
        found.append((past.state.runs[work.id].run.status, past.commits[-1].at - work.expires_at))
    return found


# --- slots that all are taken by one project ------------------------------------------------------------------------


@pytest.mark.parametrize(("waiting", "count"), [(2_000, MANY), (20, 200)], ids=["in_the_worker", "in_the_queue"])
def test_the_next_slot_is_another_projects_and_nothing_expires_late(waiting: int, count: int) -> None:
    """Of one project's runs two have all slots, and the others wait: all of them in the worker, or most of them in the
    queue, since the worker takes so many only."""

    async def main() -> None:
        world = World(layout=("api", "worker"), concurrency=2, waiting=waiting, lifetime=20)
        async with world.running():
            many = await runs_of(world, count)
            asks, asking = await neighbours_run(world, "tool")
            client, work = await neighbours_run(world)
            await asyncio.sleep(5)
            assert world.models.calls.total() == 2
            for each, wanted in ((many[0], asking), (many[1], work)):
                assert world.models.calls[each.runs[0].model]
                await each.cancel(each.runs[0])
                async with asyncio.timeout(SOON):
                    await begun(world, wanted)
            assert (await client.until(work)).status == "completed"
            assert (await asks.until(asking, "requires_action")).status == "requires_action"
            await asyncio.sleep(world.lifetime)
            assert {status for status, _ in ends(world, many[2:])} == {"expired"}
            assert max(late for _, late in ends(world, many[2:])) < SOON
            assert (await asks.look(asking)).status == "expired"

    run(main())


def test_what_waits_is_handed_back_uncounted_when_its_worker_stops() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"), concurrency=1)
        async with world.running():
            await runs_of(world, 20)
            await asyncio.sleep(1)
            await world.processes[1].drain(grace=1)
            deliveries = await world.store.receive(32, visibility_timeout=45)
            assert Counter(delivery.count for delivery in deliveries) == {1: 19, 2: 1}

    run(main())


def test_what_waits_comes_to_a_worker_that_has_slots() -> None:
    """One worker takes all that comes, and has one slot. Another one starts."""

    async def main() -> None:
        world = World(layout=("api", "worker"), concurrency=1, restless=True)
        async with world.running():
            many = await runs_of(world, 20)
            await asyncio.sleep(1)
            world.layout, world.concurrency = ("api", "worker", "worker"), 1000
            world.clocks.append(VirtualClock())
            world._up(2, "worker")
            async with asyncio.timeout(world.processes[1].context.runs.patience + SOON):
                for each in many:
                    await begun(world, each.runs[0])

    run(main())


def test_a_worker_leaves_what_it_gave_back_to_others_for_a_moment() -> None:
    """For longer than one that has nothing to do pauses between its looks."""

    async def main() -> None:
        world = World(layout=("api", "worker"), restless=True)
        async with world.running():
            await asyncio.sleep(30)
            storage: Any = world.processes[1].storage
            receive, times = storage.receive, []

            async def noted(limit: int, *, visibility_timeout: float) -> list[Delivery]:
                times.append(world.now())
                found: list[Delivery] = await receive(limit, visibility_timeout=visibility_timeout)
                return found

            storage.receive = noted
            await asyncio.sleep(2)
            world.processes[1].context.runs.given_back = True
            await asyncio.sleep(4)
            pauses = sorted(after - before for before, after in pairwise(times))
            assert pauses[-2] < POLL_SLOW + 0.05 < pauses[-1]

    run(main())


def test_a_run_of_a_dead_worker_is_not_put_back_under_another_id() -> None:
    """Its claim names the item, which no other worker could go on with. So it waits here, however many may."""

    async def main() -> None:
        world = World(layout=("api", "worker"), concurrency=1, waiting=0, lifetime=600)
        async with world.running():
            (dying,) = await runs_of(world, 1, "long")
            await begun(world, dying.runs[0])
            world.processes[1].kill()
            client, work = await neighbours_run(world, "long")
            await begun(world, work)
            assert (await client.until(work)).status == "completed"
            assert (await dying.until(dying.runs[0])).status == "completed"
            assert world.now() < 45 + 3 * 62

    run(main())


# --- where a host delivers the items ----------------------------------------------------------------------------------


def test_a_hosts_functions_are_enough_for_all_that_a_worker_has_in_hand() -> None:
    """So the host always has some left to deliver what comes next to."""
    queues = json.loads((Path(__file__).resolve().parents[2] / "worker" / "host.json").read_text())["extensions"][
        "queues"
    ]
    functions = queues["batchSize"] + queues["newBatchThreshold"]
    assert functions > HOSTED_RUNS + JOBS + CHORES + 3 * HOSTED_WAITING
    assert functions == FUNCTIONS


@pytest.mark.parametrize("kind", ["runs", "stores"])
def test_behind_a_host_the_next_slot_is_another_projects(kind: str) -> None:
    async def main() -> None:
        world = World(layout=("api", "idle"), concurrency=HOSTED_RUNS, waiting=HOSTED_WAITING, lifetime=600)
        async with world.running():
            process = world.processes[1]
            process.context.ingestion.embeddings = Slow()
            process.spawn(host(world, Worker(process.context)))
            many = (
                await runs_of(world, 400) if kind == "runs" else [await store_of(world, PROJECT, n) for n in range(400)]
            )
            _, work = await neighbours_run(world)
            if kind == "runs":
                await asyncio.sleep(5)
                assert not world.models.calls[work.model]
                await many[0].cancel(many[0].runs[0])
            async with asyncio.timeout(3 * SOON):  # it is put back meanwhile
                await begun(world, work)

    run(main())


async def host(world: World, worker: Worker) -> None:
    """The Azure Functions host's listener to the queue: batches of 32, as long as a batch more is allowed."""
    running: set[asyncio.Task[None]] = set()
    while True:
        found = await world.store.receive(32, visibility_timeout=600) if len(running) <= FUNCTIONS - 32 else []
        for delivery in found:
            running.add(task := asyncio.create_task(worker.take_over(delivery)))
            task.add_done_callback(running.discard)
        await asyncio.sleep(0 if found else 0.1)


# --- vector stores ----------------------------------------------------------------------------------------------------


class Slow(Bag):
    """Embeddings that take their time, until they are told to hurry. `done` are the projects whose they were."""

    def __init__(self, seconds: float = 3600) -> None:
        super().__init__()
        self.seconds = seconds

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        await asyncio.sleep(self.seconds)
        return await super().embed(texts)


async def store_of(world: World, project: str, number: int, files: int = 1) -> str:
    """The id of a new vector store, with so many files."""
    made = []
    for place in range(files):
        file_id = f"file-{number:012}{place:012}"
        name = names.document(project, file_id)
        part = await world.store.stage(names.CONTENTS, name, "whole", once(b"a line\n"))
        await world.store.commit(names.CONTENTS, name, [part])
        file = File(id=file_id, purpose="assistants", filename="a.txt", bytes=7, created_at=0)
        await world.store.create(names.FILES, name, encode(file))
        made.append(NewFile(file_id))
    process, store_id = await world.api(), f"vs_{number:024}"
    await process.spawn(
        process.services.vector_stores.create(process.services.context(project), store_id, NewStore(made))
    )
    return store_id


async def counts(world: World, project: str, store_id: str) -> FileCounts:
    stored = await world.store.get(names.VECTOR_STORES, names.document(project, store_id))
    assert stored
    return msgspec.json.decode(stored.body, type=VectorStore).file_counts


def test_stores_of_one_project_keep_no_run_waiting() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"), lifetime=20)
        async with world.running():
            world.processes[1].context.ingestion.embeddings = Slow()
            for number in range(MANY):
                await store_of(world, PROJECT, number)
            client, work = await neighbours_run(world, "tool")
            async with asyncio.timeout(SOON):
                await begun(world, work)
            await asyncio.sleep(world.lifetime + SOON)
            assert (await client.look(work)).status == "expired"

    run(main())


@pytest.mark.parametrize(("stores", "files"), [(100, 1), (JOBS, 20)], ids=["many", "large"])
def test_vector_stores_of_projects_take_turns(stores: int, files: int) -> None:
    """One project's come first, and are more than are in work at once, or so large that they take long. What another
    project's store waits for is what was begun: a file of each store that is in work."""

    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            context = world.processes[1].context.ingestion
            context.embeddings = Slow(1.0)
            many = [await store_of(world, PROJECT, number, files) for number in range(stores)]
            await asyncio.sleep(1)
            theirs = await store_of(world, OTHER_PROJECT, stores)
            async with asyncio.timeout(60):
                while not (await counts(world, OTHER_PROJECT, theirs)).completed:
                    await asyncio.sleep(0.1)
            before = sum([(await counts(world, PROJECT, each)).completed for each in many])
            assert before <= context.at_once * (3 if files == 1 else JOBS)
            async with asyncio.timeout(600):
                while sum([(await counts(world, PROJECT, each)).completed for each in many]) < stores * files:
                    await asyncio.sleep(1)

    run(main())


def test_a_store_of_a_dead_worker_is_not_put_back_under_another_id() -> None:
    """As of runs: its files are claimed by the item, and another one would not take them up for an hour."""

    async def main() -> None:
        world = World(layout=("api", "worker"), waiting=0)
        async with world.running():
            world.processes[1].context.ingestion.embeddings = Slow()
            first = await store_of(world, PROJECT, 0)
            await asyncio.sleep(1)
            world.processes[1].kill()
            await asyncio.sleep(1)
            world.processes[1].context.ingestion.embeddings = Slow(60.0)
            others = [await store_of(world, OTHER_PROJECT, number) for number in range(1, JOBS + 1)]
            await asyncio.sleep(600)
            assert all([(await counts(world, OTHER_PROJECT, each)).completed for each in others])
            assert (await counts(world, PROJECT, first)).completed

    run(main())


# --- slots ------------------------------------------------------------------------------------------------------------


@dataclass
class Queue:
    """What takes slots, and in which order it got them."""

    slots: Slots
    order: list[str] = field(default_factory=list)
    gave_way: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, name: str, since: float = 0, **options: Any) -> asyncio.Task[None]:
        """Its first letter is its project."""
        return asyncio.ensure_future(self._take(name, since, options))

    async def _take(self, name: str, since: float, options: dict[str, Any]) -> None:
        try:
            async with self.slots.slot(name[0], since, **options):
                self.order.append(name)
                await self.go_on.wait()
                await asyncio.sleep(1)
        except NoSlot:
            self.gave_way.append(name)


def test_who_has_the_fewest_is_next_and_of_a_projects_items_the_oldest() -> None:
    async def main() -> None:
        queue = Queue(Slots(2))
        for number, name in enumerate(("a1", "a2", "a3", "a4", "b1", "c1", "a5", "b2")):
            queue.add(name, 10 - number if name == "a5" else number)
            await asyncio.sleep(0)
        queue.go_on.set()
        await asyncio.sleep(10)
        assert queue.order == ["a1", "a2", "b1", "a3", "c1", "b2", "a4", "a5"]
        assert (queue.slots.item_count, queue.slots.taken) == (0, {})

    run(main())


def test_of_too_many_the_newest_of_the_largest_project_gives_way_and_never_what_was_begun() -> None:
    async def main() -> None:
        queue = Queue(Slots(1, most_waiting=3))
        for name, options in (("a1", {}), ("a2", {}), ("a3", {}), ("a4", {}), ("b1", {}), ("a5", {"stays": True})):
            queue.add(name, **options)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert queue.gave_way == ["a4", "a3"]
        queue.slots.close()
        queue.add("c1")
        await asyncio.sleep(1)
        assert queue.gave_way == ["a4", "a3", "a2", "b1", "c1"]
        queue.go_on.set()
        await asyncio.sleep(5)
        assert queue.order == ["a1", "a5"]
        assert queue.slots.item_count == 0

    run(main())


@pytest.mark.parametrize("moment", [0.0, 2.0], ids=["before", "with_a_slot"])
@pytest.mark.parametrize("how", ["cancelled", "impatient"])
def test_no_slot_is_lost_with_who_waits_for_it(how: str, moment: float) -> None:
    async def main() -> None:
        queue = Queue(Slots(1))
        queue.go_on.set()
        queue.add("a1")
        await asyncio.sleep(0)
        waits = queue.add("a2", within=moment if how == "impatient" else 9)
        await asyncio.sleep(0)
        if how == "cancelled":
            asyncio.get_running_loop().call_later(moment, waits.cancel)
        await asyncio.sleep(5)
        assert waits.done()
        await all_is_free(queue)

    run(main())


def test_no_slot_is_lost_with_who_is_cancelled_when_it_is_granted() -> None:
    async def main() -> None:
        queue = Queue(Slots(1))
        async with queue.slots.slot("a"):
            waits = queue.add("a1")
            await asyncio.sleep(0)
        waits.cancel()
        await asyncio.wait((waits,))
        assert not queue.order
        await all_is_free(queue)

    run(main())


async def all_is_free(queue: Queue) -> None:
    assert (queue.slots.item_count, queue.slots.full) == (0, False)
    queue.go_on.set()
    await queue.add("b1")
    assert queue.order[-1] == "b1"


# --- on Azure's own queue and logs, by way of Azurite ---------------------------------------------------------------


class Turns:
    """A model, and embeddings, that take the first letter of what they are asked for its project, and let the loud
    project's wait for `turn`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.turn = asyncio.Semaphore(0)

    async def _take(self, project: str) -> None:
        self.begun.append(project)
        if project == "l":
            await self.turn.acquire()

    async def until(self, count: int) -> list[str]:
        """Those that began, when there are so many."""
        while len(self.begun) < count:
            await asyncio.sleep(0.01)
        return self.begun


class TakingTurns(Turns, ScriptedModels):
    def __init__(self) -> None:
        Turns.__init__(self)
        ScriptedModels.__init__(self, [])

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        await self._take(prompt.model[0])
        return await super().reply(prompt, deltas)


class EmbeddingInTurns(Turns, Bag):
    def __init__(self) -> None:
        Turns.__init__(self)
        Bag.__init__(self)

    async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> NDArray[np.float32]:
        await self._take(texts[0][0])
        return await super().embed(texts, kind)


KEYS = "loud:key-of-loud,quiet:key-of-quiet"


async def test_on_azurite_the_next_slot_is_another_projects(azure_account: str) -> None:
    models = TakingTurns()
    settings = {"storage": azure_account, "api_keys": KEYS, "worker_concurrency": 2}
    async with in_process(models=models, **settings) as service:
        loud, quiet = service.client("key-of-loud"), service.client("key-of-quiet")

        async def begin(api: Api, model: str) -> Any:
            assistant = (await api.post("/assistants", {"model": model}))["id"]
            thread = {"messages": [{"role": "user", "content": "Hi"}]}
            return await api.post("/threads/runs", {"assistant_id": assistant, "thread": thread})

        many = await asyncio.gather(*(begin(loud, "loud") for _ in range(12)))
        assert await models.until(2) == ["l", "l"]
        work = await begin(quiet, "quiet")
        while sum(map(len, (lines := service.context.runs._lines).values())) < 11:
            await asyncio.sleep(0.01)
        assert len(lines["loud"]) == 10
        models.turn.release()
        assert (await models.until(3))[2] == "q"
        await service.until(work, "completed", project="quiet")
        for _ in many:
            models.turn.release()
        for each in many:
            await service.until(each, "completed", project="loud")


async def test_on_azurite_stores_keep_no_run_and_no_other_store_waiting(azure_account: str) -> None:
    embeddings, many = EmbeddingInTurns(), 14
    settings = {"storage": azure_account, "api_keys": KEYS}
    async with in_process(says("Hello."), embeddings=embeddings, **settings) as service:
        loud, quiet = service.client("key-of-loud"), service.client("key-of-quiet")

        async def fill(api: Api, text: str) -> Any:
            file = await upload(api, text.encode(), "a.txt")
            return await api.post("/vector_stores", {"file_ids": [file["id"]]})

        stores = await asyncio.gather(*(fill(loud, f"loud {number}\n") for number in range(many)))
        at_once = service.context.ingestion.at_once
        assert await embeddings.until(at_once) == ["l"] * at_once
        assistant = (await quiet.post("/assistants", {"model": "gpt-4o"}))["id"]
        thread = {"messages": [{"role": "user", "content": "Hi"}]}
        work = await quiet.post("/threads/runs", {"assistant_id": assistant, "thread": thread})
        await service.until(work, "completed", project="quiet")

        theirs = await fill(quiet, "quiet\n")
        for _ in range(many):
            embeddings.turn.release()
        await service.ingested(theirs, project="quiet")
        assert embeddings.begun.index("q") <= 3 * at_once
        for store in stores:
            await service.ingested(store, project="loud")
