"""`make chaos`: kill -9 of real processes over Azurite, while clients work. Then every promise is held against the
store and against what the clients were told. Azurite itself is never killed.

1. At storage requests: a process dies before or after its n-th request that changes the store, in each kind of run.
   The places are those that an undisturbed course of the scenario shows; the chosen ones are spread over all of them.
2. At random moments.
3. A soak: many runs, while a worker dies every 0.5 to 3 seconds.
4. Vector stores: batches of files, while the workers that read them die.
5. Runs that kill their workers, while others go on beside them.

    python tests/chaos/chaos.py --points 150 --kills 40 --runs 500 --stores 8 --deadly 2 --seed 1
    python tests/chaos/chaos.py --only 'streamed: worker before 7'

A count of 0 leaves a part out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("support", "simulation"))
from assistants_service.core.protocol.runs.resources import TERMINAL, Run
from assistants_service.core.threads import sse
from assistants_service.core.threads.decide import CLAIMS, DEADLY
from azurite import Azurite
from commit_history import Past
from promise_checks import past_in
from real_processes import LOOK_AGAIN, Mortal, Reality, Visitor, reality
from scenarios import SCENARIOS, ask, listen
from simulated_service import PROJECT
from test_stores_crash import folded
from test_stores_kill import Filled

CLIENTS = 4
PATIENCE = 300.0  # seconds, for what takes ten
FILES, PIECE = 20, 5  # of a store; files that are read between two deaths
WORKERS = ("worker", "worker two", "worker three")
QUIET = 0.5  # seconds without a request, after which a process is taken to be done
NAMES = ("api", "worker")
TURNS = (  # one run each
    *("plain", "tool", "parallel_tools", "own_actions", "mixed_round", "streamed", "streamed_parallel_tools"),
    *("streamed_text_and_tools", "streamed_mixed_round", "streamed_from_submit_on"),
    *("cancel_in_progress", "cancel_streamed", "cancel_waiting"),
)


async def rolled_over(client: Visitor) -> None:
    """With EVENT_LOG_ROLLOVER=2 the log begins anew again and again."""
    for script in ("plain", "tools", "plain"):
        await listen(client, script)


PLAYED = {**SCENARIOS, "rolled_over": rolled_over}


# --- 2. at random moments -------------------------------------------------------------------------------------------


async def talk(visitor: Visitor, stop: asyncio.Event) -> None:
    """Until it is told to stop; then once more, undisturbed: the thread takes the next message."""
    await visitor.open_thread()
    last = False
    while not last:
        last = stop.is_set()
        await PLAYED[visitor.chance.choice(TURNS)](visitor)


async def talk_and_kill(storage: str, kills: int, seed: int, *names: str, **settings: str) -> Tally:
    chance = random.Random(seed)
    async with reality(storage, *names, **settings) as world:
        # Half of the clients send a request again under its key, the others look first.
        guests = [world.visitor(chance.random(), keyed=n % 2 == 0, restless=True) for n in range(CLIENTS)]
        stop = asyncio.Event()
        async with asyncio.timeout(PATIENCE + 5 * kills), asyncio.TaskGroup() as group:
            for guest in guests:
                group.create_task(talk(guest, stop))
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.1, 0.8))
                await spare(world, guests)
                await world.kill(chance.choice(names))
            stop.set()
        await world.check()
        return await Tally.of(world)


async def spare(world: Reality, visitors: Iterable[Visitor], most: int = CLAIMS - 2) -> None:
    """A run of whose workers a fifth dies in vain has failed, as it should. So before one more worker dies, something
    must come of those that have lost nearly so many."""
    for visitor in list(visitors):
        while visitor.thread and not visitor.gone:
            run_state = (await world.threads.load(PROJECT, visitor.thread)).state.active_run
            if run_state is None or run_state.run.status != "in_progress" or run_state.claims <= most:
                break
            await asyncio.sleep(LOOK_AGAIN)


# --- 1. at storage requests -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A process dies `when` (before or after) its `at`-th request, counted from the beginning of the scenario."""

    scenario: str
    process: str
    when: str
    at: int
    request: str = field(default="", compare=False)  # what was the `at`-th in an undisturbed course

    def __str__(self) -> str:
        return f"{self.scenario}: {self.process} {self.when} {self.at}"


@dataclass(frozen=True)
class Lane:
    """Scenarios, and what they need of the service's settings."""

    scenarios: Sequence[str]
    settings: dict[str, str]

    async def points(self, storage: str) -> list[Point]:
        """Every place to die at."""
        async with reality(storage, *NAMES, kind=Mortal, **self.settings) as world:
            return [point for scenario in self.scenarios for point in await rehearse(world, scenario)]


LANES = (
    Lane(
        ("plain", "tool", "parallel_tools", "mixed_round", "streamed", "streamed_parallel_tools"),
        {"RUN_EXPIRES_AFTER": "40"},
    ),
    Lane(
        ("cancel_in_progress", "cancel_streamed", "cancel_waiting", "delete_during_a_run", "delete_while_waiting"),
        {"RUN_EXPIRES_AFTER": "40"},
    ),
    Lane(("expire_waiting", "expire_in_progress"), {"RUN_EXPIRES_AFTER": "5"}),
    Lane(("rolled_over",), {"RUN_EXPIRES_AFTER": "40", "EVENT_LOG_ROLLOVER": "2"}),
)


async def play(visitor: Visitor, scenario: str) -> None:
    await visitor.open_thread()
    await PLAYED[scenario](visitor)


async def rehearse(world: Reality, scenario: str) -> list[Point]:
    visitor = world.visitor(0)
    for process in world.processes.values():
        await process.order()  # type: ignore[attr-defined]
    await play(visitor, scenario)
    found = []
    for name, process in world.processes.items():
        await done(process)
        for at, request in enumerate(process.requests, 1):  # type: ignore[attr-defined]
            found += [Point(scenario, name, when, at, request) for when in ("before", "after")]
    return found


async def done(process: Mortal) -> None:
    """Until it is dead, or has nothing more to ask of the store."""
    known, since = -1, 0.0
    while process.alive and (len(process.requests) != known or time.monotonic() - since < QUIET):
        if len(process.requests) != known:
            known, since = len(process.requests), time.monotonic()
        await asyncio.sleep(0.05)


async def strike(world: Reality, point: Point) -> bool:
    """Whether the process died there. It comes back at once; the scenario goes on."""
    visitor, doomed = world.visitor(0), world.processes[point.process]
    await doomed.order(point.at, point.when)  # type: ignore[attr-defined]
    reviving = asyncio.create_task(world.revive(point.process))
    try:
        async with asyncio.timeout(PATIENCE):
            await play(visitor, point.scenario)
            await done(doomed)
            if doomed.alive:
                await doomed.order()  # type: ignore[attr-defined]
                return False
            await reviving
            if not visitor.gone:
                await ask(visitor, "plain")  # P2, P5: the thread takes a message and a run
    except BaseException as error:
        error.add_note(f"--only '{point}'\n{await world.story(visitor)}")
        raise
    finally:
        reviving.cancel()
    return True


async def strike_all(storage: str, lane: Lane, points: deque[Point], spare: deque[Point], progress: Progress) -> Tally:
    """A point that the scenario does not reach this time is replaced by another one."""
    async with reality(storage, *NAMES, kind=Mortal, **lane.settings) as world:
        while points:
            point = points.popleft()
            if await strike(world, point):
                progress.show(f"{point} ({point.request})")
            elif spare:
                points.append(spare.popleft())
        async with asyncio.timeout(PATIENCE):
            await world.at_rest()
        await world.check()
        return await Tally.of(world)


def spread(points: Sequence[Point], count: int, seed: int) -> tuple[list[Point], list[Point]]:
    """`count` of them at even distances, and the rest. The seed shifts them."""
    step = max(1.0, len(points) / count)
    chosen = {int(n * step + seed) % len(points) for n in range(min(count, len(points)))}
    return [points[n] for n in sorted(chosen)], [point for n, point in enumerate(points) if n not in chosen]


# --- 3. the soak ----------------------------------------------------------------------------------------------------


async def soak(server: Azurite, runs: int, seed: int) -> Tally:
    chance, progress = random.Random(seed), Progress("run", runs)
    to_do, talking = iter(range(runs)), dict[int, Visitor]()

    async def work(world: Reality, number: int) -> None:
        visitor, count = None, 0
        for _ in to_do:
            if visitor is None or count == 5:  # a new thread
                visitor, count = world.visitor(chance.random(), keyed=chance.random() < 0.5, restless=True), 0
                talking[number] = visitor
                await visitor.open_thread()
            await PLAYED[chance.choice(TURNS)](visitor)
            count += 1
            progress.show(f"{world.kills} workers killed", every=25)

    async with reality(server.account(), "api", *WORKERS, RUN_EXPIRES_AFTER="120") as world:

        async def pause() -> None:
            await asyncio.sleep(chance.uniform(0.5, 3))
            await spare(world, talking.values())

        async with killing(world, chance, pause), asyncio.TaskGroup() as working:
            for number in range(3 * CLIENTS):
                working.create_task(work(world, number))
        await world.check()
        return await Tally.of(world)


@contextlib.asynccontextmanager
async def killing(world: Reality, chance: random.Random, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Meanwhile workers die, one after each pause, and come back."""
    finished = asyncio.Event()

    async def kill() -> None:
        async with asyncio.TaskGroup() as returning:
            while not finished.is_set():
                await pause()
                if alive := [name for name in WORKERS if world.processes[name].alive]:
                    returning.create_task(world.kill(chance.choice(alive)))

    async with asyncio.TaskGroup() as group:  # one that cannot start a worker again ends it all
        group.create_task(kill())
        yield
        finished.set()


# --- 4. vector stores -----------------------------------------------------------------------------------------------


async def stores(server: Azurite, count: int, seed: int) -> Tally:
    """Two at a time. A worker dies after each piece of progress, however fast the machine is: were it faster than a
    worker can read a file, the fifth death in vain would fail that file, as it should."""
    chance, progress, tally = random.Random(seed), Progress("store", count), Tally()
    to_do, open_ = iter(range(count)), dict[int, Filled]()

    async def fill(world: Reality) -> None:
        for number in to_do:
            async with asyncio.timeout(PATIENCE):
                open_[number] = filled = await Filled.begin(world, FILES)
                state = await filled.end()
            del open_[number]
            tally.files += len(state.files.order)
            tally.read_again += sum(file_state.claims > 1 for file_state in state.files)
            progress.show(f"{world.kills} workers killed, {tally.read_again} files read again")

    async def read() -> int:
        states = [await folded(each.world, each.store_id) for each in list(open_.values())]
        return tally.files + sum(len(state.files.order) - len(state.waiting) for state in states)

    async def progressed() -> None:
        before = await read()
        while open_ and await read() < before + PIECE:
            await asyncio.sleep(0.05)
        await asyncio.sleep(chance.uniform(0, 1))

    async with reality(server.account(), "api", *WORKERS) as world:
        async with killing(world, chance, progressed), asyncio.TaskGroup() as filling:
            for _ in range(2):
                filling.create_task(fill(world))
        await world.check()
        tally.kills = world.kills
        return tally


# --- 5. runs that kill their workers --------------------------------------------------------------------------------


async def deadly(server: Azurite, count: int, seed: int) -> Tally:
    """One after the other, by an action. Each fails in the end, and what one worker does beside it is done."""
    progress, stop, beside = Progress("run", count), asyncio.Event(), list[Visitor]()

    async def kill(world: Reality) -> None:
        for _ in range(count):
            await spare(world, beside, 1)  # several different ones could together make another run fail
            visitor = world.visitor(0)
            await visitor.open_thread()
            async with asyncio.timeout(PATIENCE):
                await ask(visitor, "own")
            ended = await visitor.look(visitor.runs[0])
            assert ended.last_error == DEADLY, ended
            progress.show(f"{world.kills} workers have died")
        stop.set()

    async def talk_beside(visitor: Visitor) -> None:
        await visitor.open_thread()
        while not stop.is_set():
            await PLAYED[visitor.chance.choice(("plain", "parallel_tools", "streamed", "rolled_over"))](visitor)

    async def revive(world: Reality) -> None:
        while True:
            await world.revive("worker")

    async with reality(server.account(), *NAMES, ACTIONS="crashing_action") as world:
        reviving = asyncio.create_task(revive(world))
        beside += [world.visitor(seed + n) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            group.create_task(kill(world))
            for visitor in beside:
                group.create_task(talk_beside(visitor))
        reviving.cancel()
        await world.check()
        for visitor in beside:
            ended = [await visitor.look(run) for run in visitor.runs]
            assert all(run.status == "completed" for run in ended), ended
        return await Tally.of(world, deadly=count)


# --- figures --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was counted in the logs and by the clients; the checks are those of tests/support/promise_checks.py."""

    kills: int = 0
    runs: int = 0
    ended: int = 0
    lost: int = 0
    doubled: int = 0
    take_overs: int = 0
    given_up: int = 0  # runs of which too many workers died
    files: int = 0  # in vector stores, all of them read to the end, and found
    read_again: int = 0

    @classmethod
    async def of(cls, world: Reality, *, deadly: int = 0) -> Tally:
        """So many runs have killed their workers; that others were taken for such is no chance, but a fault."""
        whole = cls(kills=world.kills)
        for visitor in world.visitors:
            if visitor.thread and not visitor.gone:
                whole += cls._thread(visitor, await past_in(world.store, visitor.thread))
        assert whole.given_up == deadly, whole
        return whole

    @classmethod
    def _thread(cls, visitor: Visitor, past: Past) -> Tally:
        known = [change.object.id for change in past.changes if change.name == "thread.message.created"]
        ends = Counter(
            change.object.id for change in past.changes if isinstance(change.object, Run) and change.name in sse.ENDINGS
        )
        told = [*(run.id for run in visitor.runs if not past.state.runs.get(run.id))]
        told += [message for message in visitor.messages if message not in known]
        return cls(
            runs=len(past.state.runs.items),
            ended=sum(run_state.run.status in TERMINAL for run_state in past.state.runs),
            lost=len(told),
            doubled=len(known) - len(visitor.messages) + sum(count - 1 for count in ends.values()),
            take_overs=sum(past.claims.values()),
            given_up=sum(run_state.run.last_error == DEADLY for run_state in past.state.runs),
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in Tally.__dataclass_fields__))

    def __str__(self) -> str:
        return (
            f"{self.kills} kills; {self.ended} of {self.runs} runs ended, {self.lost} lost, {self.doubled} doubled;"
            f" {self.take_overs} take-overs, {self.given_up} given up; {self.files} files in stores,"
            f" {self.read_again} read again"
        )


@dataclass
class Progress:
    what: str
    of: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def show(self, line: str, every: int = 1) -> None:
        self.done += 1
        if self.done % every == 0 or self.done == self.of:
            print(f"{self.what} {self.done:>3}/{self.of}  {time.monotonic() - self.began:4.0f} s  {line}", flush=True)


async def at_points(server: Azurite, count: int, seed: int) -> Tally:
    print("looking for places to die at ...", flush=True)
    found = await asyncio.gather(*(lane.points(server.account()) for lane in LANES))
    chosen, rest = spread([point for points in found for point in points], count, seed)
    print(f"{len(chosen)} of {len(chosen) + len(rest)} are chosen", flush=True)
    progress = Progress("point", len(chosen))
    lanes = [
        strike_all(
            server.account(),
            lane,
            deque(point for point in chosen if point.scenario in lane.scenarios),
            deque(point for point in rest if point.scenario in lane.scenarios),
            progress,
        )
        for lane in LANES
    ]
    return sum(await asyncio.gather(*lanes), Tally())


async def at_one(server: Azurite, point: str) -> Tally:
    scenario, process, when, at = re.fullmatch(r"(\w+): (\w+) (before|after) (\d+)", point).groups()
    lane = next(lane for lane in LANES if scenario in lane.scenarios)
    points = deque([Point(scenario, process, when, int(at))])
    return await strike_all(server.account(), lane, points, deque(), Progress("point", 1))


async def at_random(server: Azurite, kills: int, seed: int) -> Tally:
    return await talk_and_kill(server.account(), kills, seed, *NAMES)


@contextlib.contextmanager
def fresh() -> Iterator[Azurite]:
    """It slows down, and may even stall, with every blob it holds."""
    server = Azurite()
    try:
        yield server
    finally:
        server.stop()


async def main(options: argparse.Namespace) -> None:
    began, whole = time.monotonic(), Tally()
    if options.only:
        with fresh() as server:
            return print(await at_one(server, options.only))
    for what, count, phase in (
        ("at storage requests", options.points, at_points),
        ("at random moments", options.kills, at_random),
        ("soak", options.runs, soak),
        ("vector stores", options.stores, stores),
        ("runs that kill their workers", options.deadly, deadly),
    ):
        if count:
            start = time.monotonic()
            with fresh() as server:
                tally = await phase(server, count, options.seed)
            whole += tally
            print(f"{what}: {tally}; {time.monotonic() - start:.0f} s\n", flush=True)
    print(f"chaos: {whole}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=150, help="kills at storage requests")
    parser.add_argument("--kills", type=int, default=40, help="kills at random moments")
    parser.add_argument("--runs", type=int, default=500, help="runs of the soak")
    parser.add_argument("--stores", type=int, default=8, help="vector stores that are filled")
    parser.add_argument("--deadly", type=int, default=2, help="runs that kill their workers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one point, as a failure names it")
    asyncio.run(main(parser.parse_args()))
