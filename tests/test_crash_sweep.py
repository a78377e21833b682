"""Crash the service at every storage call of every scenario, before and after it; make the store fail there; restart;
and hold what is left against the promises of docs/reliability.md."""

from __future__ import annotations

import os
from typing import Any

import pytest
from faults import How, Plan
from promises import check
from scenarios import SCENARIOS, Scenario
from simulation import Client, Unanswered, World
from virtual import run

THOROUGH = int(os.environ.get("SWEEP", "1"))  # 100 sweeps every call of every scenario in every layout
LAYOUTS = {"together": ("api+worker",), "apart": ("api", "worker")}


async def play(scenario: Scenario, plan: Plan, *, retries: int = 0, **options: Any) -> World:
    """One scenario, one fault at most; then rest; then the thread's next message and run; then the promises."""
    world = World(plan=plan, worker_from=1.0 if scenario.__name__ == "cancel_queued" else 0.0, **options)
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
        await check(world, client)
    return world


async def go_on(client: Client) -> None:
    """P2, P5: whatever happened, the thread takes a message and a run."""
    if client.thread and client.deleted is False:
        await client.say("And now?")
        ended = await client.until(await client.run("plain"))
        assert ended.status == "completed"


def sweep(scenario: Scenario, how: How, *, every: int = 1, **options: Any) -> int:
    """Fail every n-th of the scenario's calls in turn; how many they were."""
    points = run(play(scenario, Plan(), **options)).plan.points(how)[:: max(1, every // THOROUGH)]
    for number in points:
        plan = Plan.at(number, how)
        try:
            run(play(scenario, plan, **options))
        except BaseException as error:
            error.add_note(f"{scenario.__name__}: {plan.hits}")
            raise
    return len(points)


@pytest.mark.parametrize("how", list(How), ids=lambda how: how.name.lower())
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_p1_to_p6_hold_whatever_storage_call_fails(scenario: Scenario, how: How) -> None:
    sweep(scenario, how)
