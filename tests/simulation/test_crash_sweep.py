"""Crash the service at every storage call of every scenario, before and after it; make the store fail there; restart;
and hold what is left against the promises of docs/reliability.md."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import random
from typing import Any

import pytest

from assistants_service.worker.item_handler import WorkItemHandler
from faults import How, Mischief, Plan
from promise_checks import check, nothing_is_left
from scenarios import SCENARIOS, WORLDS, Scenario, ask
from simulated_clients import Client, Unanswered
from simulated_service import World
from virtual_time import run

THOROUGH = int(os.environ.get("SWEEP", "1"))  # 100 sweeps every call of every scenario in every layout
PART = 3 * THOROUGH  # points of a sweep that takes a part of them; of a layout beyond the first, a third of that
LAYOUTS = (("api", "worker", "worker"), ("api+worker", "worker"), ("api+worker", "api+worker"))


async def play(scenario: Scenario, plan: Plan, *, retries: int = 0, **options: Any) -> World:
    """One scenario, one fault at most; then rest; then the thread's next message and run; then the promises."""
    world = World(plan=plan, **{**WORLDS.get(scenario.__name__, {}), **options})
    async with world.running():
        client = Client(world, retries)
        try:
            if scenario.__name__ != "thread_and_run":
                await client.open_thread()
            await scenario(client)
        except Unanswered:
            pass
        await world.at_rest()
        plan.end()
        await go_on(client)
        await world.at_rest()
        await check(world)
    return world


async def go_on(client: Client) -> None:
    """P2, P5: whatever happened, the thread takes a message and a run."""
    if client.thread and not client.gone:
        await client.say()
        ended = await client.until(await client.run("plain"))
        assert ended.status == "completed"


@functools.cache
def undisturbed(scenario: Scenario, **options: Any) -> Plan:
    """The plan of a play without a fault: its calls."""
    return run(play(scenario, Plan(), **options)).plan


def sweep(scenario: Scenario, how: How, most: int | None = None, **options: Any) -> None:
    """Fail each of the scenario's calls in turn, or `most` of them, evenly spread."""
    points = undisturbed(scenario, **options).points(how)
    whole = most is None or THOROUGH >= 100
    for number in points if whole else points[:: math.ceil(len(points) / most)]:
        plan = Plan.at(number, how)
        try:
            run(play(scenario, plan, **options))
        except BaseException as error:
            error.add_note(f"{scenario.__name__}: {plan.hits}")
            raise


def faulted(scenario: str, how: How) -> Any:
    return pytest.param(SCENARIOS[scenario], how, id=f"{scenario}-{how.name.lower()}")


WHOLE = {"plain", "streamed"}  # every crash point of these, always
EVERYTHING = [faulted(scenario, how) for scenario in SCENARIOS for how in How]


@pytest.mark.parametrize(("scenario", "how"), EVERYTHING)
def test_p1_to_p6_hold_whatever_storage_call_fails(scenario: Scenario, how: How) -> None:
    """API and worker in one process, which dies; the client with it, so to speak: it never asks again."""
    if scenario.__name__ in WHOLE and how in (How.CRASH_BEFORE, How.CRASH_AFTER):
        sweep(scenario, how)
    else:
        sweep(scenario, how, PART)


@pytest.mark.parametrize(("scenario", "how"), EVERYTHING)
def test_p1_to_p6_hold_if_clients_ask_again(scenario: Scenario, how: How) -> None:
    """API and worker are two processes, of which one dies; clients retry as the SDKs do."""
    sweep(scenario, how, PART // 3, layout=("api", "worker"), retries=2)


@pytest.mark.parametrize(("scenario", "how"), EVERYTHING)
def test_p1_to_p6_hold_where_a_commit_and_its_documents_are_one(scenario: Scenario, how: How) -> None:
    sweep(scenario, how, PART // 3, apart=False)


def test_p6_a_run_that_takes_longer_than_an_item_is_hidden_stays_with_its_worker() -> None:
    async def long(client: Client) -> None:
        await ask(client, "long")

    world = run(play(long, Plan(), layout=("api", "worker", "worker"), restless=True))
    assert sum(count for model, count in world.models.calls.items() if model.startswith("long/")) == 1


def test_p2_a_take_over_by_an_old_delivery_that_dies_leaves_no_run_behind() -> None:
    """A worker that stood still takes the run from the holder of its item, and dies. The item must still be there."""

    async def main() -> None:
        world = World(layout=("api", "idle", "idle"))
        async with world.running():
            client, (_, slept, holder) = Client(world), world.processes
            await client.open_thread()
            await client.say()
            ended = await client.run("slow", stream=True)
            (old,), (new,) = (
                await world.store.receive(1, visibility_timeout=0),
                await world.store.receive(1, visibility_timeout=45),
            )
            answering = holder.spawn(WorkItemHandler(holder.context).handle(new))
            await asyncio.sleep(0.5)
            slept.spawn(WorkItemHandler(slept.context).handle(old))
            await answering
            slept.kill()
            world.layout = ("worker",)
            world.start()
            assert (await client.until(ended)).status == "completed"
            await world.at_rest()
            await check(world)

    run(main())


@pytest.mark.parametrize("stall", [70.0, 100.0])
def test_p2_a_commit_that_comes_minutes_after_its_work_item_is_found(stall: float) -> None:
    """As of a store that answers at last, or of a machine that slept in between."""
    layout = ("api", "worker")
    calls = run(play(SCENARIOS["plain"], Plan(), layout=layout)).plan.calls
    names = [call.name for call in calls]
    create = names.index("append threads", names.index("send")) + 1
    plan = Plan(lambda number, _: How.STALLED if number == create else None, stall=stall)
    run(play(SCENARIOS["plain"], plan, layout=layout))
    assert len(plan.hits) == 1


def test_documents_that_outlast_their_thread_bring_nothing_back() -> None:
    """The store refuses one process its documents for longer than the thread lives, and its tombstones."""

    async def main() -> None:
        refused = Plan(lambda _, name: How.REFUSED if name.startswith("write_if_newer") else None)
        world = World(plan=refused, layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await client.say()
            late = world.processes[0].storage
            late._plan, world.plan = refused, Plan()
            world.processes.clear()  # it lives, and is not asked any more
            world.layout = ("api", "worker")
            world.start()
            await client.delete()
            await world.at_rest()
            refused.end()
            calls = len(refused.calls)
            await asyncio.sleep(100)
            assert calls
            await nothing_is_left(world, client.thread)
            late.alive = False

    run(main())


@pytest.mark.parametrize("number", range(40))
def test_p1_to_p6_hold_whatever_happens_to_several_processes(number: int) -> None:
    """Up to three faults at random moments, a store that answers slowly at times, and a queue that delivers twice,
    late, early, and again while a worker has the item."""
    for seed in range(number, 40 * min(PART, 10), 40):
        try:
            run(play_at_random(random.Random(seed), seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def play_at_random(chance: random.Random, seed: int) -> None:
    faults = chance.choices(list(How), k=chance.randint(0, 3))
    plan = Plan(lambda number, name: faults.pop() if faults and chance.random() < 0.02 else None)
    await play(
        chance.choice(list(SCENARIOS.values())),
        plan,
        retries=chance.choice((0, 2)),
        seed=seed,
        layout=chance.choice(LAYOUTS),
        apart=chance.random() < 0.7,
        rollover_after=chance.choice((3, 10_000)),
        mischief=Mischief(chance, twice=0.2, late=0.2, again=0.1, slow=chance.choice((0.0, 0.05))),
    )
