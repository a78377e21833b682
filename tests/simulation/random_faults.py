"""What goes wrong in a random history, and when: faults of single calls, and what befalls whole processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from faults import How, Mischief
from simulated_service import Process, World

JUMP = 5.0  # seconds of a clock


class Weather:
    """Of one history: each kind of trouble is there or not, as often as the seed has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        calm = chance.random() < 0.1
        self.rates = {how: 0.0 if calm else chance.choice((0.0, 0.002, 0.01)) for how in How}
        self.left = chance.choice((1, 3, 8))  # faults of single calls, at most
        self.losing = 0.0 if calm else chance.choice((0.0, 0.03))
        self.tardy = 0.0 if calm else chance.choice((0.0, 0.1))
        self.kinds = [] if calm else [kind for kind in STORMS if chance.random() < 0.5]
        self.calm = calm

    def set_up(self, mischief: Mischief) -> None:
        if not self.calm:
            for trick in ("twice", "late", "early", "again"):
                setattr(mischief, trick, self.chance.choice((0.0, 0.2)))
            mischief.slow = self.chance.choice((0.0, 0.0, 0.03))
            mischief.lag = self.chance.choice((0.0, 0.3))

    def choose(self, number: int, name: str) -> How | None:
        toss = self.chance.random()
        for how, rate in self.rates.items():
            toss -= rate
            if toss < 0:
                self.left -= 1
                return how if self.left >= 0 else None
        return None

    async def storm(self, world: World) -> None:
        """What befalls whole processes, one thing after the other."""
        while self.kinds:
            await asyncio.sleep(self.chance.expovariate(0.15))
            if world.processes:
                STORMS[self.chance.choice(self.kinds)](self, world)

    def _dies(self, world: World) -> None:
        world.plan.trouble("killed")
        self._one(world).kill()

    def _stops(self, world: World) -> None:
        world.plan.trouble("told to stop")
        process = self._one(world)
        process.spawn(process.drain())

    def _is_cut_off(self, world: World) -> None:
        seconds = self.chance.choice((2.0, 60.0)) * self.chance.random()
        world.plan.trouble("cut off from the store", seconds)
        self._one(world).storage.cut_until = asyncio.get_running_loop().time() + seconds

    def _stands_still(self, world: World) -> None:
        seconds = self.chance.choice((2.0, 60.0)) * self.chance.random()
        world.plan.trouble("stands still", seconds)
        self._one(world).storage.still_until = asyncio.get_running_loop().time() + seconds

    def _outage(self, world: World) -> None:
        seconds = 8 * self.chance.random()
        world.plan.trouble("outage of the store", seconds)
        for process in world.processes:
            process.storage.cut_until = asyncio.get_running_loop().time() + seconds

    def _clock_jumps(self, world: World) -> None:
        clock = self.chance.choice(world.clocks)
        to = self.chance.choice([ahead for ahead in (-JUMP, 0.0, JUMP) if abs(ahead - clock.ahead) == JUMP])
        world.counts[f"fault: clock jumps {'forwards' if to > clock.ahead else 'backwards'}"] += 1
        clock.ahead = to

    def _one(self, world: World) -> Process:
        return self.chance.choice(world.processes)


STORMS: dict[str, Callable[[Weather, World], None]] = {
    "dies": Weather._dies,
    "stops": Weather._stops,
    "is cut off": Weather._is_cut_off,
    "stands still": Weather._stands_still,
    "outage": Weather._outage,
    "clock jumps": Weather._clock_jumps,
}
