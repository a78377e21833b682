"""Vector stores while processes die and the store fails, at storage calls of every scenario: every file ends once, no
chunk is missing or doubled, counts add up, and of what was deleted nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.vector_stores.resources import ExpiresAfter, FileCounts, VectorStore
from assistants_service.core.search.segment import passages
from assistants_service.core.tools.file_search.resources import stores_in
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.new import NewFile, NewStore
from assistants_service.core.vector_stores.reindex import Reindexer
from assistants_service.core.vector_stores.repository import StoreView
from assistants_service.core.vector_stores.state import DAY, StoreState
from assistants_service.core.work_items import MaintainStore, to_body
from assistants_service.worker.ingestion import CLAIMS
from assistants_service.worker.item_handler import WorkItemHandler
from faults import How, Mischief, Plan
from scripted_ingestion import Bag
from scripted_models import ASSISTANT
from simulated_clients import Client, Refused, Unanswered
from simulated_service import PROJECT, Process, World
from test_files_crash import Owner as Asker
from test_files_crash import days_pass, skip
from virtual_time import run

Json = Any
Scenario = Callable[["Owner"], Awaitable[None]]
THOROUGH = "SWEEP" in os.environ
LINES = 3  # of a file: its chunks


def text_of(filename: str) -> str:
    return "".join(f"{filename} line {number}\n" for number in range(LINES))


@dataclass
class Owner(Asker):
    """Knows what it was told."""

    stores: set[str] = field(default_factory=set)  # that were acknowledged, and not deleted
    deleted: set[str] = field(default_factory=set)  # stores that it asked to be deleted
    made: int = 0

    async def files(self, count: int, name: str = "text.txt") -> list[NewFile]:
        """Put there before anything can fail."""
        made = []
        for _ in range(count):
            self.made += 1
            file_id = f"file-{self.made:024}"
            filename = f"{self.made}-{name}" if name == "text.txt" else name
            data = text_of(filename).encode()
            place = names.document(PROJECT, file_id)
            part = await self.world.store.stage(names.CONTENTS, place, "whole", once(data))
            await self.world.store.commit(names.CONTENTS, place, [part])
            file = File(id=file_id, purpose="assistants", filename=filename, bytes=len(data), created_at=0)
            await self.world.store.create(names.FILES, place, encode(file))
            made.append(NewFile(file_id))
        return made

    async def create(self, files: list[NewFile], days: int | None = None) -> str:
        store_id = f"vs_{len(self.stores) + len(self.deleted):024}"
        after = ExpiresAfter(days=days) if days else None
        await self.ask(
            lambda p: p.services.vector_stores.create(p.request, store_id, NewStore(files, expires_after=after))
        )
        self.stores.add(store_id)
        return store_id

    async def attach(self, store_id: str, file: NewFile) -> None:
        await self.ask(lambda p: p.services.vector_stores.attach(p.request, store_id, [file]))

    async def batch(self, store_id: str, files: list[NewFile]) -> str:
        batch_id = f"vsfb_{self.made:024}"
        await self.ask(lambda p: p.services.vector_stores.create_batch(p.request, store_id, batch_id, files))
        return batch_id

    async def detach(self, store_id: str, file: NewFile) -> None:
        await self._ask_once(lambda p: p.services.vector_stores.detach(p.request, store_id, file.file_id))

    async def delete_file(self, file: NewFile) -> None:
        await self._ask_once(lambda p: p.services.files.delete(p.request, file.file_id))

    async def delete(self, store_id: str) -> None:
        self.stores.discard(store_id)
        self.deleted.add(store_id)
        await self._ask_once(lambda p: p.services.vector_stores.delete(p.request, store_id))

    async def reindex(self, store_id: str) -> None:
        """Every file, as it is asked for where the index is as it should be."""

        async def ask(process: Process) -> None:
            reindexer = Reindexer(process.stores, Bag(), self.world.clock, everything=True)
            await reindexer.begin([names.log(PROJECT, store_id)])

        await self.ask(ask)

    async def _ask_once(self, request: Callable[[Process], Any]) -> None:
        try:
            await self.ask(request)
        except ApiError:
            assert self.retries, "refused only if it came before"

    async def search(self, store_id: str, text: str) -> list[str]:
        found = await self.ask(lambda p: p.services.searcher.search_stores(PROJECT, [store_id], [text], limit=50))
        return [each.text for each in found]


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


# --- what owners do ---------------------------------------------------------------------------------------------------


async def create(owner: Owner) -> None:
    await owner.create([*await owner.files(2), *await owner.files(1, "broken.pdf")])


async def attach(owner: Owner) -> None:
    store_id = await owner.create([])
    for file in await owner.files(2):
        await owner.attach(store_id, file)


async def merge(owner: Owner) -> None:
    store_id = await owner.create(await owner.files(9))
    await asyncio.sleep(5)
    assert len(await owner.search(store_id, "line")) == 9 * LINES or owner.world.plan.hits


async def batch(owner: Owner) -> None:
    files = await owner.files(3)
    store_id = await owner.create(files[:1])
    await owner.batch(store_id, files)


async def cancel(owner: Owner) -> None:
    store_id = await owner.create([])
    batch_id = await owner.batch(store_id, await owner.files(3))
    await asyncio.sleep(0.01)
    await owner.ask(lambda p: p.services.vector_stores.cancel_batch(p.request, store_id, batch_id))


async def attach_again(owner: Owner) -> None:
    (file,) = await owner.files(1)
    store_id = await owner.create([file])
    await asyncio.sleep(0.01)
    await owner.detach(store_id, file)
    await owner.attach(store_id, file)


async def cancel_and_attach_again(owner: Owner) -> None:
    files = await owner.files(2)
    store_id = await owner.create([])
    batch_id = await owner.batch(store_id, files)
    await asyncio.sleep(0.02)
    await owner.ask(lambda p: p.services.vector_stores.cancel_batch(p.request, store_id, batch_id))
    for file in files:
        await owner.attach(store_id, file)


async def detach_while_it_is_read(owner: Owner) -> None:
    files = await owner.files(2)
    store_id = await owner.create(files)
    await asyncio.sleep(0.02)
    await owner.detach(store_id, files[0])


async def delete_a_file_while_it_is_read(owner: Owner) -> None:
    files = await owner.files(2)
    await owner.create(files)
    await owner.create(files[:1])
    await asyncio.sleep(0.02)
    await owner.delete_file(files[0])


async def delete_a_file_while_it_is_attached(owner: Owner) -> None:
    (file,) = await owner.files(1)
    store_id = await owner.create([])
    done = await asyncio.gather(owner.attach(store_id, file), owner.delete_file(file), return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException) and not isinstance(each, ApiError | Unanswered):
            raise each


async def delete_at_once(owner: Owner) -> None:
    await owner.delete(await owner.create(await owner.files(2)))


async def delete_while_files_are_read(owner: Owner) -> None:
    store_id = await owner.create(await owner.files(3))
    await asyncio.sleep(0.02)
    await owner.delete(store_id)


async def reindex(owner: Owner) -> None:
    """What is there is found all the time, and once."""
    store_id = await owner.create([*await owner.files(2), *await owner.files(1, "broken.pdf")])
    await asyncio.sleep(5)
    await owner.reindex(store_id)
    for _ in range(4):
        found = Counter(await owner.search(store_id, "line"))
        assert (set(found.values()) == {1} and len(found) == 2 * LINES) or owner.world.plan.hits
        await asyncio.sleep(0.03)


async def reindex_while_files_come_and_go(owner: Owner) -> None:
    files = await owner.files(3)
    store_id = await owner.create(files)
    await asyncio.sleep(5)
    await owner.reindex(store_id)
    await asyncio.sleep(0.02)
    await owner.detach(store_id, files[0])
    await owner.attach(store_id, files[0])
    await owner.delete_file(files[1])


async def reindex_and_delete(owner: Owner) -> None:
    store_id = await owner.create(await owner.files(2))
    await asyncio.sleep(5)
    await owner.reindex(store_id)
    await asyncio.sleep(0.02)
    await owner.delete(store_id)


async def reindex_and_expire(owner: Owner) -> None:
    store_id = await owner.create(await owner.files(1), days=1)
    await asyncio.sleep(5)
    skip(DAY - 5.05)
    await owner.reindex(store_id)


async def expire(owner: Owner) -> None:
    await owner.create(await owner.files(1), days=1)


SCENARIOS = [
    create,
    attach,
    merge,
    batch,
    cancel,
    attach_again,
    cancel_and_attach_again,
    detach_while_it_is_read,
    delete_a_file_while_it_is_read,
    delete_a_file_while_it_is_attached,
    delete_at_once,
    delete_while_files_are_read,
    reindex,
    reindex_while_files_come_and_go,
    reindex_and_delete,
    reindex_and_expire,
    expire,
]


# --- the sweep --------------------------------------------------------------------------------------------------------


async def play(scenario: Scenario, plan: Plan, *, retries: int = 0, **options: Any) -> World:
    world = World(plan=plan, **options)
    async with world.running():
        owner = Owner(world, retries)
        try:
            await scenario(owner)
        except (Unanswered, ApiError):
            assert plan.hits
        await asyncio.sleep(1)  # and what goes wrong after the last answer
        plan.end()
        await days_pass(world)
        await check(world, owner)
    return world


async def check(world: World, owner: Owner) -> None:
    assert not world.errors, world.errors
    assert world.queued(names.DEAD_LETTERS) == 0
    await check_stores(world, owner.stores)


async def check_stores(world: World, acknowledged: set[str], *, lenient: bool = False, tidied: bool = True) -> None:
    """All that the world has, at rest. `lenient`: an attach that dies while its file is deleted may leave its note.
    Not `tidied`: what an overtaken worker wrote before it died is there until the next work on its store."""
    logs = {name for container, name in await world.logs() if container == names.STORE_LOGS}
    there = {name.removeprefix(f"{PROJECT}/").partition(".")[0] for name in logs}
    assert acknowledged <= there, "an acknowledged store is lost"
    blobs = await contents(world, names.SEGMENTS)
    for store_id in there:
        state = await folded(world, store_id)
        if state.deleted:
            assert not world.queued()
            raise AssertionError("a deleted store is never emptied")
        await check_store(world, state)
        blobs -= {names.document(PROJECT, store_id, name) for name in state.segments}
        assert not state.orphaned, f"P9: {state.orphaned} is left of {store_id}"
    if not tidied:
        blobs = {blob for blob in blobs if blob.split("/")[1] not in there}
    assert not blobs, f"segments of nothing: {blobs}"
    for container in (names.VECTOR_STORES, names.STORE_FILES, names.STORE_BATCHES, names.SNAPSHOTS):
        for name in await documents(world, container):
            if name not in world.overtaken and "/vs_" in name:
                assert name.split("/")[1].partition(".")[0] in there, f"{container}/{name} is left of a store"
    for name in [] if lenient else await documents(world, names.FILE_STORES):
        file = names.document(*name.split("/")[:2])
        assert await world.store.get(names.FILES, file), f"a note is left of a file: {name}"


async def check_store(
    world: Any, state: StoreState, chunks: Callable[[str], list[str]] = lambda text: text.splitlines(keepends=True)
) -> None:
    """`chunks` of a file's text."""
    store = state.store
    assert store
    held = list(state.files)
    assert not any(state.unread()), "a file never ends"
    assert store.file_counts == counted(each.file.status for each in held)
    assert store.usage_bytes == (0 if store.status == "expired" else sum(each.file.usage_bytes for each in held))
    for each in held:
        if each.file.status == "cancelled":
            continue
        ends = {"failed" if await broken(world, each.id) else "completed"}
        if each.claims >= CLAIMS:  # its workers died, one after the other
            ends.add("failed")
        assert each.file.status in ends, each
    for each in state.batches:
        counts = each.batch.file_counts  # type: ignore[attr-defined]
        assert counts.in_progress == 0
        assert counts.total == len(each.file_ids) == counts.completed + counts.failed + counts.cancelled  # type: ignore[attr-defined]
        assert each.batch.status != "in_progress"  # type: ignore[attr-defined]
    found: Counter[tuple[str, str]] = Counter()
    for name, segment in state.segments.items():
        assert segment.sources
        for source, chunk in passages(await blob(world, names.document(PROJECT, store.id, name))):
            if state.source_segments.get(source) == name:
                found[source, chunk.text] += 1
    completed = [each for each in held if each.file.status == "completed" and store.status != "expired"]
    wanted = Counter((each.source, chunk) for each in completed for chunk in chunks(text_of(each.filename)))
    assert found == wanted, "a chunk is missing or doubled"
    shown = await world.store.get(names.VECTOR_STORES, names.document(PROJECT, store.id))
    assert shown and msgspec.json.decode(shown.body, type=VectorStore) == store, "the document is not what the log says"
    for each in state.batches:
        shown = await world.store.get(names.STORE_BATCHES, names.document(PROJECT, store.id, each.id))
        assert shown and shown.body == encode(each.batch)  # type: ignore[attr-defined]
    for each in held:
        shown = await world.store.get(names.STORE_FILES, names.document(PROJECT, store.id, each.id))
        assert shown is None or shown.body == encode(each.file)
        assert shown or each.file.status == "cancelled", "of a file that has ended there is a document"


def counted(statuses: Any) -> FileCounts:
    counts = Counter(statuses)
    return FileCounts(**counts, total=counts.total())


async def broken(world: Any, file_id: str) -> bool:
    stored = await world.store.get(names.FILES, names.document(PROJECT, file_id))
    assert stored, "a file that was deleted is in a store"
    return b"broken" in stored.body


async def folded(world: Any, store_id: str) -> StoreState:
    log = names.log(PROJECT, store_id)
    tail = await world.store.read(names.STORE_LOGS, log, None)
    assert tail
    view = StoreView()
    if tail.mark.generation:
        snapshot = await world.store.get(names.SNAPSHOTS, names.snapshot(PROJECT, store_id, tail.mark.generation))
        assert snapshot
        view.begin(snapshot.body)
    view.fold(e.from_lines(tail.data))
    return view.state


async def documents(world: World, container: str) -> list[str]:
    """With the tombstones."""
    rows = world.store._sql.execute("SELECT name FROM documents WHERE container=?", (container,)).fetchall()
    return [name for (name,) in rows]


async def contents(world: World, container: str) -> set[str]:
    rows = world.store._sql.execute("SELECT DISTINCT name FROM chunks WHERE container=?", (container,)).fetchall()
    return {name for (name,) in rows}


async def blob(world: Any, name: str) -> bytes:
    return b"".join([piece async for piece in world.store.download(names.SEGMENTS, name)])


@pytest.mark.parametrize("how", How, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_whatever_storage_call_fails_every_file_ends_once_and_nothing_is_left(scenario: Scenario, how: How) -> None:
    layouts: list[dict[str, Any]] = [{}, {"layout": ("api", "worker", "worker"), "retries": 2, "rollover_after": 5}]
    for options in layouts:
        points = run(play(scenario, Plan(), **options)).plan.points(how)
        for number in points if THOROUGH else points[len(options) :: 24]:
            plan = Plan.at(number, how)
            try:
                run(play(scenario, plan, **options))
            except BaseException as error:
                error.add_note(f"{scenario.__name__}, {options}: {plan.hits}")
                raise


def test_a_store_that_expired_has_no_bytes_whatever_is_taken_out_of_it() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            owner = Owner(world)
            files = await owner.files(2)
            store_id = await owner.create(files, days=1)
            await days_pass(world)
            await owner.detach(store_id, files[0])
            await days_pass(world)
            await check(world, owner)

    run(main())


def test_a_merge_whose_item_its_host_gave_up_keeps_none_from_merging_for_ever() -> None:
    """In the poison queue the item has another id."""

    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            owner = Owner(world)
            store_id = await owner.create(await owner.files(2))
            await asyncio.sleep(5)
            api, working = world.processes
            # The fifth delivery of an item claims a merge, and its worker is killed.
            await api.stores.commit(PROJECT, store_id, lambda s: [e.MergeClaimed(attempt=s.attempt + 1, item="x/5")])
            item = MaintainStore(project=PROJECT, store_id=store_id, sent_at=world.clock.now())
            poison = Delivery("99999", to_body(item), 6, "0")
            await working.spawn(WorkItemHandler(working.context).give_up(poison))
            await owner.batch(store_id, await owner.files(20))
            await asyncio.sleep(60)
            state = await folded(world, store_id)
            assert (len(state.segments), list(state.orphaned.values())) == (22, ["x/5"]), "it may still be at it"
            await days_pass(world)
            state = await folded(world, store_id)
            assert len(state.segments) < 20 and not state.orphaned

    run(main())


# --- the store of a thread --------------------------------------------------------------------------------------------


async def show(client: Client, file: NewFile, by: str = "messages") -> None:
    """In a message, until it is taken: the second request is told to ask again."""
    attachment = {"file_id": file.file_id, "tools": [{"type": "file_search"}]}
    body: Json = {"role": "user", "content": "Look", "attachments": [attachment]}
    if by == "runs":
        body = {"assistant_id": ASSISTANT.id, "model": "plain/m", "additional_messages": [body]}
    while True:
        with contextlib.suppress(Refused):
            await client.ask("show a file", "POST", f"/threads/{client.thread}/{by}", body)
            return


async def store_of(world: World, client: Client) -> str:
    process = await world.api()
    thread = (await process.threads.load(PROJECT, client.thread)).state.thread
    return next(iter(stores_in(thread.tool_resources if thread else {})), "")


def test_of_two_messages_at_once_that_are_the_first_with_files_both_are_in_the_store() -> None:
    async def main() -> None:
        plan = Plan(stall=0.05)
        world = World(plan=plan, layout=("api", "worker"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            files = await Owner(world).files(2)
            # The request that made its store first is slow to go on: the other one's message comes first.
            slow = "write_if_newer vector-stores"
            plan.choose = lambda _, name: How.STALLED if name == slow and not plan.hits else None
            await asyncio.gather(*(show(client, file) for file in files))
            assert plan.hits
            held = (await folded(world, await store_of(world, client))).files
            assert {each.id for each in held} == {file.file_id for file in files}

    run(main())


@pytest.mark.parametrize("by", ["messages", "runs"])
def test_the_id_of_a_threads_store_never_comes_again(by: str) -> None:
    """Another process may remember what was deleted, and take the new store's log for the rest of the old one's."""

    async def main() -> None:
        world = World(layout=("api", "api", "worker"))
        async with world.running():
            client, owner = Client(world), Owner(world)
            await client.open_thread()
            files = await owner.files(2)
            await show(client, files[0], by)
            await asyncio.sleep(5)
            old = await store_of(world, client)
            for process in world.processes:
                await process.stores.load(PROJECT, old)
            await owner.delete(old)
            await asyncio.sleep(3 * world.tombstones)
            assert await world.store.read(names.STORE_LOGS, names.log(PROJECT, old), None) is None
            await show(client, files[1], by)
            await asyncio.sleep(5)
            new = await store_of(world, client)
            assert new != old
            assert not (await folded(world, new)).waiting
            for process in world.processes:
                assert [each.id for each in (await process.stores.read(PROJECT, new)).files] == [files[1].file_id]

    run(main())


# --- a batch, while processes die all the time ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100 if THOROUGH else 6))
def test_a_batch_ends_whole_however_often_workers_die(seed: int) -> None:
    chance = random.Random(seed)
    count = 200 if THOROUGH else 40
    faults = [*How, *[None] * chance.choice((50, 100, 300))]
    plan = Plan()
    mischief = Mischief(random.Random(seed), twice=0.1, late=0.1, again=0.05, slow=0.01)

    async def main() -> None:
        world = World(plan=plan, layout=("api", "worker", "worker"), mischief=mischief, rollover_after=30, seed=seed)
        async with world.running():
            owner = Owner(world, retries=20)
            files = await owner.files(count)
            store_id = await owner.create([])
            await owner.batch(store_id, files)
            plan.choose = lambda number, name: chance.choice(faults)
            with contextlib.suppress(Unanswered, ApiError):
                for file in chance.sample(files, 5):
                    await asyncio.sleep(chance.random())
                    await chance.choice((owner.detach, lambda _, file: owner.delete_file(file)))(store_id, file)
            await asyncio.sleep(60)
            assert plan.hits
            plan.end()
            mischief.twice = mischief.late = mischief.again = mischief.slow = 0
            await days_pass(world)
            await check(world, owner)

    run(main())
