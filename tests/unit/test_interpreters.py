"""Which interpreter a call gets, and when an interpreter ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import virtual_time
from assistants_service.core.ids import Ids
from assistants_service.core.ports.sandbox import SandboxBusy
from assistants_service.core.tools.code_interpreter.interpreters import IDLE, Interpreters
from inprocess_service import ManualClock
from scripted_sandbox import FakeInterpreter, FakeSandbox


def made(sandbox: FakeSandbox, **options: Any) -> Interpreters:
    clock = ManualClock()
    return Interpreters(sandbox, clock, Ids(clock), **options)


async def call(interpreters: Interpreters, thread: str, at: str, then: str, project: str = "p") -> FakeInterpreter:
    """A call in a thread whose log says `at`; it leaves the state `then`."""
    async with interpreters.session(project, thread, at) as session:
        session.state = then
        interpreter: Any = session.interpreter
    return interpreter


async def test_a_session_goes_on_where_the_log_says_and_nowhere_else() -> None:
    sandbox = FakeSandbox()
    interpreters = made(sandbox)
    first = await call(interpreters, "a", "", "1")
    assert await call(interpreters, "a", "1", "2") is first
    # The call's commit did not come, or another worker's came instead: `first` stands where no log is.
    second = await call(interpreters, "a", "1", "3")
    assert second is not first
    assert sandbox.live == [second]
    assert await call(interpreters, "a", "3", "4", project="q") is not second, "another project's"
    assert await call(interpreters, "a", "3", "4") is second
    await interpreters.close()
    assert not sandbox.live


async def test_an_idle_interpreter_that_has_died_is_replaced_before_the_next_call() -> None:
    sandbox = FakeSandbox()
    interpreters = made(sandbox)
    first = await call(interpreters, "a", "", "1")
    await first.close()
    async with interpreters.session("p", "a", "1") as session:
        assert session.interpreter is not first
        assert session.state == "", "so that its variables are known to be gone"
    await interpreters.close()
    assert not sandbox.live


async def test_what_a_call_raises_ends_its_interpreter() -> None:
    sandbox = FakeSandbox()
    interpreters = made(sandbox)
    for fault in (ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(fault)):
            async with interpreters.session("p", "a", "") as session:
                session.state = "1"
                raise fault
        assert not sandbox.live


async def test_two_holders_of_one_thread_have_an_interpreter_each_and_one_stays() -> None:
    """One of them has lost the run, and does not know it yet."""
    sandbox = FakeSandbox()
    interpreters = made(sandbox)
    async with interpreters.session("p", "a", "") as old:
        async with interpreters.session("p", "a", "") as new:
            assert new.interpreter is not old.interpreter
            new.state = "new"
        old.state = "old"
    assert sandbox.live == [old.interpreter]
    assert await call(interpreters, "a", "new", "next") is not old.interpreter
    assert len(sandbox.live) == 1
    await interpreters.close()


async def test_the_interpreter_that_was_used_longest_ago_gives_way() -> None:
    sandbox = FakeSandbox()
    interpreters = made(sandbox, most=2)
    a, b = [await call(interpreters, thread, "", "1") for thread in "ab"]
    assert await call(interpreters, "a", "1", "2") is a
    c = await call(interpreters, "c", "", "1")
    assert (b.closed, sandbox.live) == (True, [a, c])
    async with interpreters.session("p", "a", "2"), interpreters.session("p", "d", ""):
        assert len(sandbox.live) == 2
        waiting = asyncio.create_task(call(interpreters, "e", "", "1"))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "a third one waits in turn"
    await waiting
    await interpreters.close()
    assert not sandbox.live


def test_an_idle_interpreter_ends() -> None:
    async def main() -> None:
        sandbox = FakeSandbox()
        interpreters = made(sandbox)
        await call(interpreters, "a", "", "1")
        await asyncio.sleep(IDLE - 1)
        await call(interpreters, "a", "1", "2")
        await asyncio.sleep(IDLE - 1)
        assert len(sandbox.live) == 1
        await asyncio.sleep(2)
        assert not sandbox.live

    virtual_time.run(main())


async def test_an_interpreter_ends_even_if_its_end_is_not_waited_for() -> None:
    sandbox, go = FakeSandbox(), asyncio.Event()
    interpreters = made(sandbox)
    first = await call(interpreters, "a", "", "1")
    close = first.close

    async def slowly() -> None:
        await go.wait()
        await close()

    first.close = slowly  # type: ignore[method-assign]
    calling = asyncio.create_task(call(interpreters, "a", "other", "2"))
    await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go.set()
    await interpreters.close()
    assert not sandbox.live


def test_a_sandbox_that_stays_busy_is_told() -> None:
    async def main() -> None:
        sandbox = FakeSandbox(busy=1_000)
        interpreters = made(sandbox)
        with pytest.raises(SandboxBusy):
            await call(interpreters, "a", "", "1")
        sandbox.busy = 3
        await call(interpreters, "a", "", "1")
        await interpreters.close()

    virtual_time.run(main())


async def test_names_of_sessions_tell_nothing_and_never_come_again() -> None:
    sandbox = FakeSandbox()
    interpreters = made(sandbox)
    for _ in range(3):
        await call(interpreters, "thread_1", "", "1")
    names = {each.name for each in sandbox.started}
    assert len(names) == 3
    assert not any("thread" in name for name in names)
    await interpreters.close()
