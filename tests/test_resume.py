"""`assistants resume`: whatever storage call a process dies at, a copy of the truth alone goes on, though it has no
queue, no projections and no streams."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from client import Client, Unanswered
from faults import How, Plan
from promises import past_in
from scenarios import SCENARIOS, WORLDS
from simulation import PROJECT, RESTART, Process, World
from test_crash_sweep import THOROUGH, go_on
from test_files_crash import days_pass
from test_stores_crash import SCENARIOS as STORES
from test_stores_crash import Owner, check
from virtual import run

from core import events as e
from core import names
from core.errors import ApiError
from core.resources import TERMINAL
from core.resume import Resumption

POINTS = 3 * THOROUGH  # of each scenario
LATE = [SCENARIOS[name] for name in SCENARIOS if "expire" in name or "settle" in name]  # runs are to expire in these
Play = Callable[[Any, Plan], Coroutine[Any, Any, World]]


class Restored(World):
    """Once its process has died, it begins again with such a copy."""

    def down(self, process: Process) -> None:
        self.processes.remove(process)
        apart = contextvars.Context()  # else the task would die with the process
        self.resuming = asyncio.get_running_loop().create_task(self._resume(process), context=apart)

    async def _resume(self, process: Process) -> None:
        await asyncio.sleep(RESTART)
        sql = self.store._sql
        sql.execute("DELETE FROM queue")
        for container in (*names.PROJECTIONS, *names.PASSING):
            for table in ("documents", "logs", "blocks"):
                sql.execute(f"DELETE FROM {table} WHERE container=?", (container,))
        command = Process(self, process.place, "", "resume")
        await Resumption(command.storage, command.ledger, command.stores, self.clock).run()
        self._up(process.place, process.roles)


def sweep(play: Play, scenario: Any) -> None:
    calls = run(play(scenario, Plan())).plan.points(How.CRASH_AFTER)
    for number in calls[:: math.ceil(len(calls) / POINTS)]:
        plan = Plan.at(number, How.CRASH_AFTER)
        try:
            run(play(scenario, plan))
        except BaseException as error:
            error.add_note(f"{scenario.__name__}: {plan.hits}")
            raise
        assert plan.hits


async def talk(scenario: Any, plan: Plan) -> World:
    """The client asks no more after the restore, until every run has ended."""
    world = Restored(plan=plan, **WORLDS.get(scenario.__name__, {}))
    async with world.running():
        client = Client(world, 0)

        async def talking() -> None:
            with contextlib.suppress(Unanswered):
                if scenario.__name__ != "thread_and_run":
                    await client.open_thread()
                await scenario(client)

        task = asyncio.create_task(talking())
        while not task.done() and not plan.hits:
            await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.sleep(2 * RESTART)
        plan.end()
        await world.at_rest()
        past = await past_in(world.store, client.thread)
        paused = {event.run_id for _, event in past.events(e.RunRequiresAction)}  # its client gave no outputs
        for held in past.state.runs:
            assert held.run.status in TERMINAL
            assert held.run.status != "expired" or held.id in paused or scenario in LATE
        if past.commits and not past.deleted:
            await go_on(client)
        assert not world.errors, world.errors
    return world


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_p2_every_run_of_a_restored_copy_ends(scenario: Any) -> None:
    sweep(talk, scenario)


async def keep_files(scenario: Any, plan: Plan) -> World:
    world = Restored(plan=plan)
    async with world.running():
        owner = Owner(world, 0)
        try:
            await scenario(owner)
        except (Unanswered, ApiError):
            assert plan.hits
        await asyncio.sleep(2 * RESTART)
        plan.end()
        await days_pass(world)
        await ask_for_everything(world)
        await check(world, owner)
    return world


async def ask_for_everything(world: World) -> None:
    """What is made from the logs is made when it is asked for."""
    for container, name in await world.logs():
        if container == names.STORE_LOGS:
            store_id = name.removeprefix(f"{PROJECT}/").removesuffix(".log")
            stores = world.processes[0].stores
            state = (await stores.look(PROJECT, store_id)).state
            for file in state.files:
                await stores.fetch(names.STORE_FILES, PROJECT, store_id, file.id)
            for batch in state.batches:
                await stores.fetch(names.STORE_BATCHES, PROJECT, store_id, batch.id)


@pytest.mark.parametrize("scenario", STORES, ids=lambda scenario: scenario.__name__)
def test_p9_every_vector_store_of_a_restored_copy_is_whole(scenario: Any) -> None:
    sweep(keep_files, scenario)
