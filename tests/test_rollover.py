"""P2, P3, P4: a log that was rolled over several times is the same thread, for readers and writers alike."""

from __future__ import annotations

import asyncio

import pytest
from clients import Client
from faults import Plan
from past import whole
from promises import all_documents, check, past_of
from scenarios import rolled_over
from simulation import PROJECT, World
from virtual import run

from core import names
from core.paging import PageQuery
from core.resources import encode

ROLLS = 3  # commits of one generation


async def talk(world: World) -> Client:
    client = Client(world)
    await client.open_thread()
    await rolled_over(client)
    return client


async def generation(world: World, client: Client) -> int:
    tail = await world.store.read(names.THREADS, names.thread_log(PROJECT, client.thread), None)
    assert tail is not None
    return tail.mark.generation


async def lists(world: World, client: Client) -> list[bytes]:
    """Every list of the thread, as its API gives it."""
    state = await (await world.api()).ledger.read(PROJECT, client.thread)
    pages = [
        state.messages.page(PageQuery(limit=100), "message"),
        state.messages.page(PageQuery(limit=2, newest_first=False), "message"),
        *(held.steps.page(PageQuery(limit=100), "run step") for held in state.runs),
    ]
    return [encode(page) for page in pages] + [encode(held.run) for held in state.runs]


async def told(roll_after: int, layout: tuple[str, ...]) -> tuple[int, list[bytes], dict[tuple[str, str], bytes]]:
    world = World(roll_after=roll_after, layout=layout)
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
        world = World(roll_after=ROLLS)
        async with world.running():
            client = await talk(world)
            there = await lists(world, client)
            world.processes[0].kill()
            assert await lists(world, client) == there
            past = past_of(world, client.thread)
            state = await (await world.api()).ledger.read(PROJECT, client.thread)
            assert whole(state) == whole(past.state), "the snapshot is not what the archived generations fold to"

    run(main())


def test_p4_nothing_is_added_to_streams_of_runs_that_lie_generations_back() -> None:
    """Their expiry doorbells ring long after."""

    async def main() -> None:
        world = World(roll_after=ROLLS, layout=("api", "worker"))
        async with world.running():
            client = await talk(world)
            before = await streams(world, client)
            assert world.queued(), "doorbells of the expiry are still to ring"
            await world.at_rest()
            assert await streams(world, client) == before
            await check(world)

    run(main())


async def streams(world: World, client: Client) -> list[bytes]:
    tails = [
        await world.store.read(names.STREAMS, names.document(PROJECT, client.thread, each.id), None)
        for each in client.runs
    ]
    return [tail.data for tail in tails if tail]


def test_p3_another_process_reads_and_writes_behind_a_roll() -> None:
    async def main() -> None:
        world = World(roll_after=ROLLS, layout=("api", "api", "api+worker"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            for _ in range(20):  # every process commits now and then, each behind the rolls of the others
                await client.say()
                await asyncio.gather(*(process.ledger.read(PROJECT, client.thread) for process in world.processes))
            await rolled_over(client)
            await world.at_rest()
            assert await generation(world, client) > 5
            await check(world)

    run(main())


def test_p3_racing_writers_that_roll_lose_and_double_nothing() -> None:
    async def main() -> None:
        world = World(roll_after=2, layout=("api", "api", "api"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await asyncio.gather(*(client.say() for _ in range(60)))
            await check(world)
            assert len([*past_of(world, client.thread).state.messages]) == 60

    run(main())


def test_the_sweep_meets_rolls() -> None:
    async def main() -> Plan:
        world = World(roll_after=ROLLS)
        async with world.running():
            await talk(world)
        return world.plan

    assert sum(call.name == "roll" for call in run(main()).calls) >= 4
