"""P2, P3, P4: a log that was rolled over several times is the same thread, for readers and writers alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.paging import PageQuery
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.logs import Mark
from assistants_service.core.protocol.objects import encode
from assistants_service.core.threads.stream import replay
from commit_history import whole
from faults import Plan
from inprocess_service import in_process
from promise_checks import all_documents, check, past_of
from scenarios import ask, rolled_over
from simulated_clients import Client
from simulated_service import PROJECT, World
from test_repository import say
from virtual_time import run

ROLLS = 3  # commits of one generation


async def talk(world: World) -> Client:
    client = Client(world)
    await client.open_thread()
    await rolled_over(client)
    return client


async def generation(world: World, client: Client) -> int:
    tail = await world.store.read(names.THREADS, names.log(PROJECT, client.thread), None)
    assert tail is not None
    return tail.mark.generation


async def lists(world: World, client: Client) -> list[bytes]:
    """Every list of the thread, as its API gives it."""
    state = await (await world.api()).threads.read(PROJECT, client.thread)
    pages = [
        state.messages.page(PageQuery(limit=100), "message"),
        state.messages.page(PageQuery(limit=2, newest_first=False), "message"),
        *(run_state.steps.page(PageQuery(limit=100), "run step") for run_state in state.runs),
    ]
    return [encode(page) for page in pages] + [encode(run_state.run) for run_state in state.runs]


async def told(rollover_after: int, layout: tuple[str, ...]) -> tuple[int, list[bytes], dict[tuple[str, str], bytes]]:
    world = World(rollover_after=rollover_after, layout=layout)
    async with world.running():
        client = await talk(world)
        await world.at_rest()
        await check(world)
        return await generation(world, client), await lists(world, client), await all_documents(world, client.thread)


@pytest.mark.parametrize("layout", [("api+worker",), ("api", "worker")], ids=["together", "apart"])
def test_p3_a_log_that_rolled_reads_as_one_that_did_not(layout: tuple[str, ...]) -> None:
    rolled, lists_rolled, documents_rolled = run(told(ROLLS, layout))
    whole, lists_whole, documents_whole = run(told(10_000, layout))
    assert rolled >= 4 and whole == 0
    # Ids and times differ, since a roll takes a moment: what remains is compared.
    assert [len(page) for page in lists_rolled] == [len(page) for page in lists_whole]
    assert len(documents_rolled) == len(documents_whole)


def test_p3_a_process_that_starts_reads_what_one_that_was_there_knows() -> None:
    async def main() -> None:
        world = World(rollover_after=ROLLS)
        async with world.running():
            client = await talk(world)
            there = await lists(world, client)
            world.processes[0].kill()
            assert await lists(world, client) == there
            past = past_of(world, client.thread)
            state = await (await world.api()).threads.read(PROJECT, client.thread)
            assert whole(state) == whole(past.state), "the snapshot is not what the archived generations fold to"
            kept = await world.store.page(names.SNAPSHOTS, "", after=None, limit=9, newest_first=False)
            last = names.snapshot(PROJECT, client.thread, await generation(world, client))
            assert [each.name for each in kept] == [last]

    run(main())


def test_p4_nothing_is_added_to_streams_of_runs_that_lie_generations_back() -> None:
    """The work items of their expiry come long after."""

    async def main() -> None:
        world = World(rollover_after=ROLLS, layout=("api", "worker"))
        async with world.running():
            client = await talk(world)
            before = await streams(world, client)
            assert world.queued(), "the work items of the expiry are still to come"
            await world.at_rest()
            assert await streams(world, client) == before
            await check(world)

    run(main())


def test_a_run_that_lies_generations_back_has_no_trail_once_a_purge_has_begun() -> None:
    async def main() -> None:
        world = World(rollover_after=ROLLS)
        async with world.running():
            client = await talk(world)
            await world.at_rest()
            threads, read = (await world.api()).threads, world.store.read

            async def purged(container: str, name: str, *given: Any, **limit: Any) -> Any:
                return None if name.endswith(".0") else await read(container, name, *given, **limit)

            assert await threads.run_history(PROJECT, client.thread, client.runs[0].id)
            world.store.read = purged  # type: ignore[method-assign]
            assert not await threads.run_history(PROJECT, client.thread, client.runs[0].id)

    run(main())


async def streams(world: World, client: Client) -> list[bytes]:
    tails = [
        await world.store.read(names.STREAMS, names.document(PROJECT, client.thread, each.id), None)
        for each in client.runs
    ]
    return [tail.data for tail in tails if tail]


def test_p3_another_process_reads_and_writes_behind_a_roll() -> None:
    async def main() -> None:
        world = World(rollover_after=ROLLS, layout=("api", "api", "api+worker"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            for _ in range(20):  # every process commits now and then, each behind the rolls of the others
                await client.say()
                await asyncio.gather(*(process.threads.read(PROJECT, client.thread) for process in world.processes))
            await rolled_over(client)
            await world.at_rest()
            assert await generation(world, client) > 5
            await check(world)

    run(main())


def test_p3_racing_writers_that_roll_lose_and_double_nothing() -> None:
    async def main() -> None:
        world = World(rollover_after=2, layout=("api", "api", "api"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await asyncio.gather(*(client.say() for _ in range(60)))
            await check(world)
            assert len([*past_of(world, client.thread).state.messages]) == 60

    run(main())


def test_the_sweep_meets_rolls() -> None:
    async def main() -> Plan:
        world = World(rollover_after=ROLLS)
        async with world.running():
            await talk(world)
        return world.plan

    assert sum(call.name == "roll_over" for call in run(main()).calls) >= 4


# --- races around a roll --------------------------------------------------------------------------------------------


def test_p1_of_two_snapshots_for_one_generation_the_later_counts() -> None:
    """A writer stands still between its snapshot and its roll; meanwhile another one goes on, and rolls."""

    async def main() -> None:
        world = World(rollover_after=3, layout=("api", "api"))
        async with world.running():
            slow, quick = world.processes
            quick.threads._generations._rollover_after = 4
            client = Client(world)
            await client.open_thread()
            for number in range(2):
                await say(slow, client.thread, f"Message {number}")
            storage: Any = slow.storage
            undisturbed = storage.roll_over

            async def roll_over(container: str, name: str, mark: Mark) -> Any:
                storage.roll_over = undisturbed
                for text in ("before its own roll", "after it"):
                    await say(quick, client.thread, text)
                assert await generation(world, client) == 1
                return await undisturbed(container, name, mark)

            storage.roll_over = roll_over
            await say(slow, client.thread, "the last one")
            await read_anew(world, client, messages=5)

    run(main())


def test_a_snapshot_that_is_stored_after_the_thread_was_purged_does_not_stay() -> None:
    """Its writer knew of no deletion."""

    async def main() -> None:
        world = World(rollover_after=ROLLS, layout=("api", "api", "worker"))
        async with world.running():
            slow, quick, _ = world.processes
            client = Client(world)
            await client.open_thread()
            for number in range(ROLLS - 1):
                await say(slow, client.thread, f"Message {number}")
            await quick.threads.read(PROJECT, client.thread)  # so that it sends one item: a second purge would clean up
            storage: Any = slow.storage
            undisturbed, log = storage.write_if_newer, names.log(PROJECT, client.thread)

            async def write_if_newer(document: Document) -> None:
                if document.container == names.SNAPSHOTS:
                    await quick.services.threads.delete(quick.request, client.thread)
                    while await world.store.read(names.THREADS, log, None):
                        await asyncio.sleep(0.1)
                await undisturbed(document)

            storage.write_if_newer = write_if_newer
            with pytest.raises(ApiError, match="No thread found"):
                await say(slow, client.thread, "the last one")
            await world.at_rest()
            assert not await world.store.page(names.SNAPSHOTS, "", after=None, limit=9, newest_first=False)

    run(main())


def test_p1_a_reader_that_two_rolls_overtake_reads_the_whole_thread() -> None:
    """Between the log and the snapshot of its generation, which is gone when it is asked for."""

    async def main() -> None:
        world = World(rollover_after=ROLLS, layout=("api", "api"))
        async with world.running():
            reader, writer = world.processes
            client = Client(world)
            await client.open_thread()
            for number in range(ROLLS):
                await say(writer, client.thread, f"Message {number}")
            assert await generation(world, client) == 1
            storage: Any = reader.storage
            undisturbed = storage.get

            async def get(container: str, name: str) -> Any:
                storage.get = undisturbed
                for number in range(ROLLS):
                    await say(writer, client.thread, f"Further message {number}")
                assert await generation(world, client) == 2
                return await undisturbed(container, name)

            storage.get = get
            state = await reader.threads.read(PROJECT, client.thread)
            assert whole(state) == whole(past_of(world, client.thread).state)

    run(main())


def test_p4_a_run_that_was_not_streamed_is_told_whole_by_a_process_that_starts() -> None:
    """Its log does not roll while it is active: of what lies behind a roll only the end would be told."""

    async def main() -> None:
        world = World(rollover_after=ROLLS)
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await ask(client, "own")
            world.processes[0].kill()
            (ended,) = client.runs
            history = await (await world.api()).threads.run_history(PROJECT, client.thread, ended.id)
            assert [*replay(history)] == [*replay(past_of(world, client.thread).of(ended.id))]

    run(main())


async def read_anew(world: World, client: Client, *, messages: int) -> None:
    """By a process that starts, from the newest snapshot on."""
    for process in list(world.processes):
        process.kill()
    state = await (await world.api()).threads.read(PROJECT, client.thread)
    assert len(list(state.messages)) == messages
    assert whole(state) == whole(past_of(world, client.thread).state)


@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_a_log_that_cannot_be_read_is_one_clear_error(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """As after a restore without the container of its snapshot. It is not read again and again."""
    async with in_process(event_log_rollover=ROLLS) as service:
        thread = await service.thread()
        for number in range(2 * ROLLS):
            await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": str(number)})
        (snapshot,) = await service.storage.page(names.SNAPSHOTS, "", after=None, limit=9, newest_first=False)
        await service.storage.remove(names.SNAPSHOTS, snapshot.name)
        if how == "damaged":
            await service.storage.create(names.SNAPSHOTS, snapshot.name, b'{"secret": 1}')
        service.threads._views.clear()
        reading = Reading(service.storage)
        service.threads._storage = service.threads._generations._storage = reading
        answer = await service.api.send("GET", f"/v1/threads/{thread}/messages")
    told = (answer.status, answer.error["code"], answer.headers["x-should-retry"])
    assert told == (500, "storage_unreadable", "false")
    assert "can retry" not in answer.error["message"]
    assert reading.counts["read"] <= 2 and reading.counts["get"] == 1
    (record,) = caplog.records
    why = {"missing": f"threads/default/{thread}.log lacks its snapshot, snapshots/{snapshot.name}"}
    why["damaged"] = f"snapshots/{snapshot.name} cannot be decoded: ValueError"
    assert record.getMessage() == f"GET /v1/threads/{thread}/messages failed: {why[how]}"
    assert not record.exc_info


class Reading:
    """A store that counts what is read of it."""

    def __init__(self, store: Any) -> None:
        self._store, self.counts = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.counts[name] += 1
        return getattr(self._store, name)
