"""What the sandbox costs: `python tests/bench/code_interpreter.py`. Half a minute; not part of `make bench`.

The first call of an interpreter that was ready, and a further call, each beside a bare Python process that has loaded
the same libraries and executes the same cell.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from assistants_service.core.ports.sandbox import SandboxBusy
from assistants_service.infra.sandbox.limits import LIBRARIES, InterpreterLimits
from assistants_service.infra.sandbox.local import LocalSandbox

CELL = "import pandas as pd\npd.DataFrame({'a': range(1000)}).a.sum()"
BARE = f"""
import sys
for name in {LIBRARIES!r}:
    try:
        __import__(name)
    except ImportError:
        pass
print('ready', flush=True)
for line in sys.stdin:
    *statements, last = eval(line).splitlines()
    exec('\\n'.join(statements))
    print(repr(eval(last)), flush=True)
"""


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return 1000 * (time.perf_counter() - began)


class Bare:
    async def start(self) -> None:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", BARE, **pipes)
        await self.process.stdout.readline()

    async def run(self) -> None:
        self.process.stdin.write(f"{CELL!r}\n".encode())
        assert await self.process.stdout.readline() == b"np.int64(499500)\n"

    async def close(self) -> None:
        self.process.stdin.close()
        await self.process.wait()


async def first_and_further(rounds: int) -> None:
    """Each first call is that of an interpreter of its own, which is forked for it."""
    first, further, bare_first, bare_further, bare_cold = [], [], [], [], []
    sandbox = LocalSandbox()
    print(f"self-test {await timed(sandbox.unavailable_reason):.0f} ms")
    cold = [await timed(sandbox._servers.get)]
    for _ in range(rounds):
        held = []

        async def begin() -> None:
            held.append(await sandbox.start("bench"))  # noqa: B023
            assert (await held[0].run(CELL)).value == "np.int64(499500)"  # noqa: B023

        first.append(await timed(begin))
        further += [await timed(lambda: held[0].run(CELL)) for _ in range(20)]  # noqa: B023
        await held[0].close()
        bare = Bare()
        bare_cold.append(await timed(bare.start))
        bare_first.append(await timed(bare.run))
        bare_further += [await timed(bare.run) for _ in range(20)]
        await bare.close()
    await memory(sandbox)
    await sandbox.close()
    for name, ours, others in (
        ("import of the libraries", cold, bare_cold),
        ("first call", first, bare_first),
        ("further call", further, bare_further),
    ):
        print(f"{name}: {statistics.median(ours):.1f} ms, bare {statistics.median(others):.1f} ms")


async def memory(sandbox: LocalSandbox) -> None:
    """Of the fork server alone, and with four interpreters after a call of each. Shared pages count once (PSS)."""
    server = (await sandbox._servers.get()).pid
    print(f"memory of the fork server: {pss(server):.0f} MiB")
    held = [await sandbox.start("bench") for _ in range(4)]
    for each in held:
        await each.run(CELL)
    pool = sum(pss(pid) for pid in (server, *(each._process.pid for each in held)))
    print(f"memory with 4 interpreters: {pool:.0f} MiB")
    for each in held:
        await each.close()


def pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def many(sessions: int) -> None:
    sandbox = LocalSandbox(InterpreterLimits())

    async def one(number: int) -> None:
        while True:
            try:
                interpreter = await sandbox.start(str(number))
            except SandboxBusy:
                await asyncio.sleep(0.05)
                continue
            assert (await interpreter.run(f"{number} + 1")).value == str(number + 1)
            return await interpreter.close()

    took = await timed(lambda: asyncio.gather(*map(one, range(sessions))))
    print(f"{sessions} sessions at once with 4 interpreters: {took / 1000:.1f} s")
    await sandbox.close()


if __name__ == "__main__":
    asyncio.run(first_and_further(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    asyncio.run(many(100))
