"""Actions: whatever an operator's function does, the model hears of it, and the worker goes on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from assistants_service.worker import calls
from assistants_service.worker.action_tasks import ActionTasks
from assistants_service.worker.action_threads import ActionThreads
from assistants_service.worker.actions import Actions
from assistants_service.worker.calls import CallOutcome, Hanging

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


async def answers_async() -> str:
    return "at once"


async def hangs_in_a_thread() -> str:
    return await asyncio.to_thread(hangs)


async def answers_from_threads() -> str:
    return " ".join(await asyncio.gather(*(asyncio.to_thread(str, number) for number in range(20))))


async def fails_in_a_thread() -> str:
    return await asyncio.to_thread(open, "nowhere")  # type: ignore[arg-type]


async def swallows() -> str:
    """A loop that many a consumer of a queue has."""
    while not released.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
    return "late"


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


async def finished(of: ActionThreads | ActionTasks) -> None:
    async with asyncio.timeout(10):
        while of.hanging.total:
            await asyncio.sleep(0.01)


async def of(run: Coroutine[Any, Any, CallOutcome]) -> Any:
    """What the function returned."""
    result, error = await run
    assert error is None
    return result


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Actions]:
    """Actions with 9 threads and 9 tasks, whose time is up soon. What hangs returns at the end."""
    released.clear()
    monkeypatch.setattr(calls, "CANCEL_GRACE", 0.05)
    functions = {"hangs": hangs, "answers": answers, "swallows": swallows, "answers_async": answers_async}
    functions |= {each.__name__: each for each in (hangs_in_a_thread, answers_from_threads, fails_in_a_thread)}
    actions = Actions(functions, timeout=0.05)
    actions.threads = ActionThreads(9)
    actions.tasks = ActionTasks(actions.threads, 9)
    yield actions
    released.set()


async def patient(actions: Actions, project: str, name: str) -> str:
    """The output of a function that returns, however slow the machine is."""
    timeout, actions._timeout = actions._timeout, 20
    try:
        return await actions.call(project, name, "{}")
    finally:
        actions._timeout = timeout


async def test_calls_that_hang_are_bounded_from_their_start(hanging: Actions, caplog: pytest.LogCaptureFixture) -> None:
    """However many begin before the first one's time is up. No thread can be ended, so their number is bounded."""
    before = set(threading.enumerate())
    said = await asyncio.gather(*(hanging.call("p", "hangs", "{}") for _ in range(200)))
    assert len(set(threading.enumerate()) - before) == 3
    assert all(text.startswith("Error: hangs ") for text in said)
    assert hanging.threads.hanging.kinds == {("p", "hangs"): 3}
    assert "3 calls of project p hang" in caplog.text
    async with asyncio.timeout(20):
        assert "not available now" in await hanging.call("p", "hangs", "{}")  # at once
    released.set()
    await finished(hanging.threads)
    assert await patient(hanging, "p", "hangs") == "late"


async def test_what_hangs_for_one_project_leaves_threads_to_others(hanging: Actions) -> None:
    await asyncio.gather(*(hanging.call("p", "hangs", "{}") for _ in range(200)))
    assert await patient(hanging, "p", "answers") == "at once"  # nor does it stop the project's other functions
    await asyncio.gather(*(hanging.call("q", "hangs", "{}") for _ in range(200)))
    assert hanging.threads.hanging.kinds == {("p", "hangs"): 3, ("q", "hangs"): 2}
    for project in ("p", "q", "r"):
        assert await patient(hanging, project, "answers") == "at once"


async def test_a_call_that_was_given_up_with_its_run_counts_until_it_returns(hanging: Actions) -> None:
    call = asyncio.create_task(hanging.call("p", "hangs", "{}"))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert hanging.threads.hanging.kinds == {("p", "hangs"): 1}
    released.set()
    await finished(hanging.threads)


async def test_calls_that_return_wait_for_each_other() -> None:
    actions = Actions({"answers": answers}, timeout=10)
    actions.threads = ActionThreads(3)
    said = await asyncio.gather(*(actions.call(f"p{n % 3}", "answers", "{}") for n in range(200)))
    assert set(said) == {"at once"}


async def test_calls_that_are_cancelled_while_they_wait_take_no_thread(hanging: Actions) -> None:
    slow = [asyncio.create_task(of(hanging.threads.run("p", "hangs", hangs))) for _ in range(9)]
    await asyncio.sleep(0)
    for call in slow[3:]:
        call.cancel()
    await asyncio.wait(slow[3:])
    released.set()
    assert await asyncio.gather(*slow[:3]) == ["late"] * 3
    assert not hanging.threads.hanging.total
    nine = [of(hanging.threads.run("p", "answers", answers)) for _ in range(9)]
    assert await asyncio.gather(*nine) == ["at once"] * 9


async def test_a_thread_that_comes_as_its_call_is_cancelled_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, gate = ActionThreads(1), threading.Event()
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
    async with asyncio.timeout(30):
        assert await of(threads.run("p", "answers", answers)) == "at once"


async def test_where_everything_hangs_a_call_is_told_so_at_once(hanging: Actions) -> None:
    for project in range(9):
        await asyncio.gather(*(hanging.call(str(project), "hangs", "{}") for _ in range(9)))
    assert hanging.threads.hanging.total == 9
    async with asyncio.timeout(20):
        assert "not returned (9)" in await hanging.call("another", "answers", "{}")


async def test_a_call_that_waits_is_told_when_those_before_it_begin_to_hang() -> None:
    released.clear()
    threads = ActionThreads(1)
    first = asyncio.create_task(threads.run("p", "hangs", hangs))
    await asyncio.sleep(0)
    second = asyncio.create_task(threads.run("q", "answers", answers))
    await asyncio.sleep(0)
    first.cancel()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(Hanging):
                await second
    finally:
        released.set()


async def test_a_task_that_swallows_its_cancellation_is_given_up_and_counts(
    hanging: Actions, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(10):
        assert await hanging.call("p", "swallows", "{}") == "Error: swallows did not respond within 0.05 seconds."
        assert hanging.tasks.hanging.kinds == {("p", "swallows"): 1}
        assert "action swallows does not return: 1 calls of project p hang" in caplog.text
        released.set()
        await finished(hanging.tasks)
        assert await patient(hanging, "p", "swallows") == "late"


async def test_tasks_that_swallow_their_cancellation_are_bounded_as_threads_are(hanging: Actions) -> None:
    async with asyncio.timeout(20):
        before = asyncio.all_tasks()
        said = await asyncio.gather(*(hanging.call("p", "swallows", "{}") for _ in range(200)))
        assert len(asyncio.all_tasks() - before) == 3
        assert all(text.startswith("Error: swallows ") for text in said)
        assert "not available now" in await hanging.call("p", "swallows", "{}")
        assert await patient(hanging, "p", "answers_async") == "at once"
        await asyncio.gather(*(hanging.call("q", "swallows", "{}") for _ in range(200)))
        assert hanging.tasks.hanging.kinds == {("p", "swallows"): 3, ("q", "swallows"): 2}
        assert await patient(hanging, "r", "answers_async") == "at once"
        released.set()
        await finished(hanging.tasks)


async def test_what_tasks_hand_to_threads_is_bounded_and_takes_none_of_the_loops_own(
    hanging: Actions, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop has six threads, on two cores: that many calls would be the end of every search."""
    before, hanging.tasks = set(threading.enumerate()), ActionTasks(hanging.threads)
    said = await asyncio.gather(*(hanging.call("p", "hangs_in_a_thread", "{}") for _ in range(200)))
    assert len(set(threading.enumerate()) - before) == 3
    assert all(text.startswith("Error: hangs_in_a_thread ") for text in said)
    async with asyncio.timeout(20):
        while hanging.threads.hanging.total < 3:  # the thread hears of it a moment after its task
            await asyncio.sleep(0.01)
    assert hanging.threads.hanging.kinds == {("p", "hangs_in_a_thread"): 3}
    await finished(hanging.tasks)
    assert "3 calls of project p hang" in caplog.text
    async with asyncio.timeout(15):
        assert await asyncio.to_thread(answers) == "at once"
        assert "not available now" in await patient(hanging, "p", "hangs_in_a_thread")
        assert await patient(hanging, "q", "answers") == "at once"
    released.set()
    await finished(hanging.threads)
    assert await patient(hanging, "p", "hangs_in_a_thread") == "late"


async def test_what_a_task_hands_to_threads_waits_for_room_and_comes_back() -> None:
    actions = Actions({each.__name__: each for each in (answers_from_threads, fails_in_a_thread)}, timeout=10)
    actions.threads._most = 6
    assert await actions.call("p", "answers_from_threads", "{}") == " ".join(map(str, range(20)))
    assert (await actions.call("p", "fails_in_a_thread", "{}")).startswith("Error: FileNotFoundError: ")
    assert not actions.threads._working.total


def test_a_thread_that_a_task_has_left_keeps_no_loop_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CANCEL_GRACE", 0.05)
    released.clear()
    done = threading.Event()

    def process() -> None:
        asyncio.run(Actions({"act": hangs_in_a_thread}, timeout=0.05).call("p", "act", "{}"))
        done.set()

    threading.Thread(target=process, daemon=True).start()
    ended = done.wait(20)
    released.set()
    assert ended


async def test_a_task_has_a_moment_to_clean_up(caplog: pytest.LogCaptureFixture) -> None:
    cleaned = []

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    actions = Actions({"act": cleans_up}, timeout=0.01)
    assert "did not respond" in await actions.call("p", "act", "{}")
    assert cleaned
    assert not actions.tasks.hanging.total
    assert not caplog.text


async def test_a_task_that_is_cancelled_before_it_began_gives_its_place_back(hanging: Actions) -> None:
    for _ in range(9):
        run = asyncio.create_task(hanging.tasks.run("p", "answers_async", answers_async()))
        asyncio.get_running_loop().call_soon(run.cancel)  # right after it made the task
        await asyncio.wait([run])
    assert await patient(hanging, "p", "answers_async") == "at once"


async def test_a_call_that_finds_no_room_leaves_no_coroutine_behind(hanging: Actions) -> None:
    slow = [asyncio.create_task(hanging.call("p", "swallows", "{}")) for _ in range(4)]
    await asyncio.sleep(0)
    slow[3].cancel()  # it waits for its turn; a coroutine that never began would be an error here
    await asyncio.wait(slow)
    released.set()
    await finished(hanging.tasks)


RAISED: list[tuple[BaseException, str]] = [
    (SystemExit(3), "Error: SystemExit: 3"),
    (KeyboardInterrupt(), "Error: KeyboardInterrupt: "),
    (GeneratorExit(), "Error: GeneratorExit: "),
    (asyncio.CancelledError(), "Error: act was cancelled."),
    (StopIteration(1), "Error: StopIteration: 1"),
    (StopAsyncIteration(1), "Error: StopAsyncIteration: 1"),
    (BaseExceptionGroup("two", [SystemExit(1)]), "Error: BaseExceptionGroup: two (1 sub-exception)"),
    (ValueError("\ud800"), "Error: ValueError: ?"),
]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
@pytest.mark.parametrize(("error", "said"), RAISED, ids=[type(error).__name__ for error, _ in RAISED])
async def test_whatever_a_function_raises_is_an_output(plain: bool, error: BaseException, said: str) -> None:
    """At once, and its place is free again. What ends an interpreter, a thread, or an event loop is not to."""

    def act() -> None:
        raise error

    async def act_async() -> None:
        raise error

    actions = Actions({"act": act if plain else act_async}, timeout=2)
    actions.threads = ActionThreads(1)
    actions.tasks = ActionTasks(actions.threads, 1)
    if isinstance(error, StopIteration) and not plain:  # as Python itself makes of it
        said = "Error: RuntimeError: coroutine raised StopIteration"
    for _ in range(2):
        assert await actions.call("p", "act", "{}") == said


async def test_a_function_that_cancels_its_own_task_cancels_no_run() -> None:
    async def act() -> str:
        task = asyncio.current_task()
        assert task
        task.cancel()
        return "and returns"

    assert await Actions({"act": act}, timeout=2).call("p", "act", "{}") == "Error: act was cancelled."


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


UNSPEAKABLE = Unspeakable()
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: "\ud800", "?"),
        (lambda: UNSPEAKABLE, "Error: SystemExit: 4"),
        (lambda: CIRCLE, "Error: ValueError: Circular reference detected"),
    ],
    ids=["half a pair", "a result without text", "a result that is no JSON"],
)
async def test_whatever_a_function_returns_is_an_output(act: Callable[[], Any], said: str) -> None:
    assert await Actions({"act": act}).call("p", "act", "{}") == said


async def test_an_error_that_cannot_say_what_it_is_is_an_output() -> None:
    def act() -> None:
        raise Unspeakable

    assert await Actions({"act": act}).call("p", "act", "{}") == "Error: Unspeakable"


async def test_a_call_that_hangs_lets_others_wait_for_those_that_do_not() -> None:
    """Of a function's three threads one hangs: calls that wait for the others do not wait in vain."""
    released.clear()
    threads, gate = ActionThreads(9), threading.Event()
    try:
        first = asyncio.create_task(threads.run("p", "act", lambda: released.wait(60)))
        await asyncio.sleep(0)
        others = [asyncio.create_task(of(threads.run("p", "act", lambda: gate.wait(60)))) for _ in range(2)]
        await asyncio.sleep(0)
        waited = asyncio.create_task(of(threads.run("p", "act", answers)))  # before that hangs
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        waits = asyncio.create_task(of(threads.run("p", "act", answers)))  # and after
        await asyncio.sleep(0)
        assert threads.hanging.kinds == {("p", "act"): 1}
        gate.set()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*others, waited, waits) == [True, True, "at once", "at once"]
    finally:
        released.set()
        gate.set()
