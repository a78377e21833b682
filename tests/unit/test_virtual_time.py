"""The event loop of the simulations."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from virtual_time import run


class SlowToEnd(ThreadPoolExecutor):
    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        super().shutdown(*args, **kwargs)


def test_a_run_ends_however_slowly_the_threads_of_the_machine_run() -> None:
    """A worker has an executor of its own for the loop, whose end a loop waits for in a thread."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(SlowToEnd())
        return await asyncio.to_thread(lambda: 7)

    assert run(main()) == 7
