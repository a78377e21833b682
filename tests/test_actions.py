"""Actions: whatever an operator's function does, the model hears of it, and the worker goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from worker.actions import MOST_HANGING, Actions

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
    assert await Actions({"act": cancels_itself}).call("act", "{}") == "Error: act was cancelled."


async def test_the_worker_can_still_cancel_an_action() -> None:
    call = asyncio.create_task(Actions({"act": asyncio.Event().wait}).call("act", "{}"))
    await asyncio.sleep(0)
    call.cancel()
    done, _ = await asyncio.wait([call])
    assert done.pop().cancelled()


async def test_a_timeout_within_an_action_is_not_taken_for_its_own() -> None:
    output = await Actions({"act": times_out_itself}).call("act", "{}")
    assert output == "Error: TimeoutError: the database took too long"


async def test_plain_functions_that_hang_keep_no_other_waiting() -> None:
    actions = Actions({"hang": hangs, "answer": answers}, timeout=0.05)
    try:
        outputs = await asyncio.gather(*(actions.call("hang", "{}") for _ in range(40)))
        assert set(outputs) == {"Error: hang did not answer within 0.05 seconds."}
        assert await actions.call("answer", "{}") == "at once"
    finally:
        released.set()


async def test_what_hangs_is_counted_and_bounded_until_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    """No thread can be ended, so their number is what can be bounded."""
    released.clear()
    actions = Actions({"hangs": hangs, "answers": answers}, timeout=0.05)
    try:
        said = await asyncio.gather(*(actions.call("hangs", "{}") for _ in range(MOST_HANGING)))
        assert {text.partition(": ")[2] for text in said} == {"hangs did not answer within 0.05 seconds."}
        assert actions.hanging["hangs"] == MOST_HANGING
        assert f"{MOST_HANGING} calls of it hang" in caplog.text
        threads = threading.active_count()
        assert "not available now" in await actions.call("hangs", "{}")
        assert threading.active_count() == threads
        assert await actions.call("answers", "{}") == "at once"
    finally:
        released.set()
    async with asyncio.timeout(10):
        while actions.hanging["hangs"]:
            await asyncio.sleep(0.01)
    assert await actions.call("hangs", "{}") == "late"
