"""Actions: whatever an operator's function does, the model hears of it, and the worker goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from worker.actions import Actions
from worker.threads import Hanging, Threads

released = threading.Event()


async def cancels_itself() -> str:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task
    return "never"


async def times_out_itself() -> str:
    raise TimeoutError("the database took too long")


def hangs() -> str:
    released.wait(60)
    return "late"


def answers() -> str:
    return "at once"


async def test_an_action_that_is_cancelled_from_within_is_an_output() -> None:
    assert await Actions({"act": cancels_itself}).call("p", "act", "{}") == "Error: act was cancelled."


async def test_the_worker_can_still_cancel_an_action() -> None:
    call = asyncio.create_task(Actions({"act": asyncio.Event().wait}).call("p", "act", "{}"))
    await asyncio.sleep(0)
    call.cancel()
    done, _ = await asyncio.wait([call])
    assert done.pop().cancelled()


async def test_a_timeout_within_an_action_is_not_taken_for_its_own() -> None:
    output = await Actions({"act": times_out_itself}).call("p", "act", "{}")
    assert output == "Error: TimeoutError: the database took too long"


async def finished(threads: Threads) -> None:
    async with asyncio.timeout(10):
        while threads.hanging:
            await asyncio.sleep(0.01)


@pytest.fixture
def hanging() -> Iterator[Actions]:
    """Actions with 9 threads, whose time is up soon. What hangs returns at the end."""
    released.clear()
    actions = Actions({"hangs": hangs, "answers": answers}, timeout=0.05)
    actions.threads = Threads(9)
    yield actions
    released.set()


async def test_calls_that_hang_are_bounded_from_their_start(hanging: Actions, caplog: pytest.LogCaptureFixture) -> None:
    """However many begin before the first one's time is up. No thread can be ended, so their number is bounded."""
    before = set(threading.enumerate())
    said = await asyncio.gather(*(hanging.call("p", "hangs", "{}") for _ in range(200)))
    assert len(set(threading.enumerate()) - before) == 3
    assert all(text.startswith("Error: hangs ") for text in said)
    assert hanging.threads.hanging == {("p", "hangs"): 3}
    assert "3 calls of project p hang" in caplog.text
    async with asyncio.timeout(1):
        assert "not available now" in await hanging.call("p", "hangs", "{}")  # at once
    released.set()
    await finished(hanging.threads)
    assert await hanging.call("p", "hangs", "{}") == "late"


async def test_what_hangs_for_one_project_leaves_threads_to_others(hanging: Actions) -> None:
    await asyncio.gather(*(hanging.call("p", "hangs", "{}") for _ in range(200)))
    assert await hanging.call("p", "answers", "{}") == "at once"  # nor does it stop the project's other functions
    await asyncio.gather(*(hanging.call("q", "hangs", "{}") for _ in range(200)))
    assert hanging.threads.hanging == {("p", "hangs"): 3, ("q", "hangs"): 2}
    for project in ("p", "q", "r"):
        assert await hanging.call(project, "answers", "{}") == "at once"


async def test_a_call_that_was_given_up_with_its_run_counts_until_it_returns(hanging: Actions) -> None:
    call = asyncio.create_task(hanging.call("p", "hangs", "{}"))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert hanging.threads.hanging == {("p", "hangs"): 1}
    released.set()
    await finished(hanging.threads)


async def test_calls_that_return_wait_for_each_other() -> None:
    actions = Actions({"answers": answers}, timeout=10)
    actions.threads = Threads(3)
    said = await asyncio.gather(*(actions.call(f"p{n % 3}", "answers", "{}") for n in range(200)))
    assert set(said) == {"at once"}


async def test_calls_that_are_cancelled_while_they_wait_take_no_thread(hanging: Actions) -> None:
    slow = [asyncio.create_task(hanging.threads.run("p", "hangs", hangs)) for _ in range(9)]
    await asyncio.sleep(0)
    for call in slow[3:]:
        call.cancel()
    await asyncio.wait(slow[3:])
    released.set()
    assert await asyncio.gather(*slow[:3]) == ["late"] * 3
    assert not hanging.threads.hanging
    assert await asyncio.gather(*(hanging.threads.run("p", "answers", answers) for _ in range(9))) == ["at once"] * 9


async def test_a_thread_that_comes_as_its_call_is_cancelled_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, gate = Threads(1), threading.Event()
    first = asyncio.create_task(threads.run("p", "waits", gate.wait))
    await asyncio.sleep(0)
    second = asyncio.create_task(threads.run("p", "answers", answers))
    await asyncio.sleep(0)
    returned = threads._returned

    def cancelled_at_this_moment(*args: Any) -> None:
        returned(*args)
        second.cancel()

    monkeypatch.setattr(threads, "_returned", cancelled_at_this_moment)
    gate.set()
    await asyncio.wait([first, second])
    assert second.cancelled()
    async with asyncio.timeout(5):
        assert await threads.run("p", "answers", answers) == "at once"


async def test_where_everything_hangs_a_call_is_told_so_at_once(hanging: Actions) -> None:
    for project in range(9):
        await asyncio.gather(*(hanging.call(str(project), "hangs", "{}") for _ in range(9)))
    assert hanging.threads.hanging.total() == 9
    async with asyncio.timeout(1):
        assert "not returned (9)" in await hanging.call("another", "answers", "{}")


async def test_a_call_that_waits_is_told_when_those_before_it_begin_to_hang() -> None:
    released.clear()
    threads = Threads(1)
    first = asyncio.create_task(threads.run("p", "hangs", hangs))
    await asyncio.sleep(0)
    second = asyncio.create_task(threads.run("q", "answers", answers))
    await asyncio.sleep(0)
    first.cancel()
    try:
        async with asyncio.timeout(5):
            with pytest.raises(Hanging):
                await second
    finally:
        released.set()
