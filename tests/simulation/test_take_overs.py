"""Runs whose workers die of them. Such a run fails after a few deaths in a row that left nothing, and takes no other
run with it; what has another cause does not count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

import simulated_service
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads import events as e
from assistants_service.core.threads.decide import CLAIMS, DEADLY
from assistants_service.core.threads.state import RunState
from assistants_service.worker.actions import Actions
from promise_checks import check, past_of
from scripted_models import ByName
from simulated_clients import Client
from simulated_service import PROCESS, PROJECT, World
from test_worker import deliver, started
from virtual_time import run

AGES = 36_000  # seconds of a run: it does not expire first
SPARED = 1_000.0  # seconds by which all has happened: deaths, each noticed 45 seconds later, and what had to wait


async def die() -> None:
    """The process dies, at once and without a word, as of a signal."""
    process = PROCESS.get()
    assert process is not None
    process.kill()
    await asyncio.sleep(3600)


@dataclass
class Deadly(ByName):
    """Some calls of `deadly` and of `own` kill the process: `kills` tells by their number, from 1."""

    kills: Callable[[int], bool] = lambda _: True
    asked: int = 0

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        if prompt.model.startswith(("deadly", "own")):
            self.asked += 1
            if self.kills(self.asked):
                self.calls[prompt.model] += 1
                if deltas:
                    deltas.text("Let me")
                await asyncio.sleep(0.5)
                await die()
        return await super().reply(prompt, deltas)


@dataclass
class Gated(ByName):
    """The first turn of a run waits for one gate, the second for another; `waiting` counts the waits."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    second: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        gate = self.second if prompt.turns[-1].role == "tool" else self.first
        self.waiting += not gate.is_set()
        await gate.wait()
        return await super().reply(prompt, deltas)


@dataclass
class Lookup:
    """An action of which some calls kill the process."""

    kills: Callable[[int], bool] = lambda _: True
    calls: int = 0

    async def lookup(self, word: str) -> str:
        self.calls += 1
        if self.kills(self.calls):
            await die()
        return word


@contextlib.contextmanager
def hearing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What workers log of runs, past the world's own ear."""
    logger = logging.getLogger("assistants_service.worker.run_executor")
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def world_of(models: ByName, *layout: str, **options: object) -> World:
    world = World(layout=layout or ("api", "worker"), lifetime=AGES, **options)  # type: ignore[arg-type]
    world.models = models
    return world


def held_of(world: World, client: Client, work: Run) -> RunState:
    return past_of(world, client.thread).state.runs[work.id]


async def ended(client: Client, work: Run) -> Run:
    async with asyncio.timeout(SPARED):
        return await client.until(work)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("cause", ["model", "action"])
def test_p2_a_run_that_kills_each_of_its_workers_fails(
    cause: str, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        models, tool = Deadly(kills=lambda _: cause == "model"), Lookup()
        monkeypatch.setattr(simulated_service, "ACTIONS", Actions({"lookup": tool.lookup}))
        world = world_of(models)
        async with world.running():
            with hearing(caplog):
                client, work = await started(world, "deadly" if cause == "model" else "own", stream=stream)
                failed = await ended(client, work)
            assert (failed.status, failed.last_error) == ("failed", DEADLY)
            assert held_of(world, client, work).attempt == (models.asked if cause == "model" else tool.calls) == CLAIMS
            (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
            assert work.id in warning and DEADLY.message in warning
            if stream:
                assert await client.follow(work) == "thread.run.failed"
            await client.say()  # the thread goes on
            assert (await client.until(await client.run("plain"))).status == "completed"
            await world.at_rest()
            await check(world)

    run(main())


@pytest.mark.parametrize("first", ["deadly", "long"])
def test_a_run_that_kills_its_workers_takes_no_other_with_it(first: str) -> None:
    """Another one needs a minute for its answer, in which the first would kill its worker. They come back together each
    time, until the first has failed or each of them is worked on alone."""

    async def main() -> None:
        world = world_of(Deadly())
        async with world.running():
            begun = [await started(world, script) for script in sorted(("deadly", "long"), key=lambda x: x != first)]
            begun += [await started(world, "long") for _ in range(2)]
            statuses = {work.model.partition("/")[0]: (await ended(client, work)).status for client, work in begun}
            assert statuses == {"deadly": "failed", "long": "completed"}
            assert {(await client.look(work)).status for client, work in begun[2:]} == {"completed"}
            await world.at_rest()
            await check(world)

    run(main())


def test_what_makes_progress_may_lose_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four in its first turn, four in its action, and four in its second turn."""

    async def main() -> None:
        models, tool = Deadly(kills=lambda number: number % CLAIMS != 0), Lookup(kills=lambda number: number < CLAIMS)
        monkeypatch.setattr(simulated_service, "ACTIONS", Actions({"lookup": tool.lookup}))
        world = world_of(models)
        async with world.running():
            client, work = await started(world, "own")
            assert (await ended(client, work)).status == "completed"
            assert held_of(world, client, work).attempt == 3 * (CLAIMS - 1) + 1
            await world.at_rest()
            await check(world)

    run(main())


def test_workers_that_stop_in_good_order_do_not_count() -> None:
    async def main() -> None:
        world = world_of(ByName())
        async with world.running():
            client, work = await started(world, "long")
            for _ in range(2 * CLAIMS):
                await asyncio.sleep(5)
                await world.processes[1].drain(grace=0.1)
            held = held_of(world, client, work)
            assert (held.attempt, held.claims) == (2 * CLAIMS, 1)
            assert (await ended(client, work)).status == "completed"
            await world.at_rest()
            await check(world)

    run(main())


def test_an_outage_that_outlasts_the_hold_on_an_item_is_no_death() -> None:
    """The worker can neither hide the item any longer nor say that it lets go of it, but it gets it again itself."""

    async def main() -> None:
        world = world_of(ByName(pace=5))  # it answers in the outage
        async with world.running():
            client, work = await started(world, "plain")
            for attempt in range(1, 2 * CLAIMS):
                async with asyncio.timeout(SPARED):
                    while held_of(world, client, work).attempt < attempt:
                        await asyncio.sleep(1)
                world.processes[1].storage.cut_until = asyncio.get_running_loop().time() + 70
            assert (await ended(client, work)).status == "completed"
            assert held_of(world, client, work).attempt == 2 * CLAIMS
            await world.at_rest()
            await check(world)

    run(main())


def test_a_death_counts_whose_run_was_handed_back_before() -> None:
    """What one worker says of itself does not hold for the next."""

    async def main() -> None:
        models = Deadly(kills=lambda number: number > 1)
        world = world_of(models)
        async with world.running():
            client, work = await started(world, "deadly")
            models.pace = 3600  # the first call hangs
            await asyncio.sleep(1)
            await world.processes[1].drain(grace=0.1)
            assert (await ended(client, work)).status == "failed"
            assert models.asked == 1 + CLAIMS

    run(main())


def test_a_last_try_is_alone_until_something_came_of_it() -> None:
    """Then the next one goes on, however long the first still takes."""

    async def main() -> None:
        models = Gated()
        world = world_of(models, "api", "idle")
        async with world.running():
            begun = [await started(world, "own") for _ in range(2)]
            for client, work in begun:
                delivery = await deliver(world, visibility_timeout=5)
                claims = [e.RunClaimed(run_id=work.id, attempt=n, item=delivery.id) for n in range(1, CLAIMS)]
                await world.processes[0].threads.commit(PROJECT, client.thread, lambda _, claims=claims: claims)
            world.layout = ("worker",)
            world.start()
            await asyncio.sleep(10)
            assert models.waiting == 1
            models.first.set()
            await asyncio.sleep(10)
            assert models.waiting == 3  # both at their second turn, one after the other's first
            models.second.set()
            for client, work in begun:
                assert (await ended(client, work)).status == "completed"
            await world.at_rest()
            await check(world)

    run(main())
