"""Limits of a project: what is beyond them is a 429 that the SDKs understand, and no other project notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from assistants_service.api.active_runs import FULL, LOOKS
from assistants_service.api.limits import ProjectLimits
from assistants_service.api.services import SERVICES
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.stored_bytes import COUNT_EVERY, COUNT_SHARE, COUNTS
from assistants_service.core.work_items import PurgeThread, to_body
from inprocess_service import Answer, Gate, InProcess, ManualClock, in_process, path_of, says

KEYS = "one:key-of-one,two:key-of-two"


def limits_of(service: InProcess) -> ProjectLimits:
    limits = service._server.app[SERVICES].limits
    assert limits
    return limits


async def asked(service: InProcess, key: str = "key-of-one", path: str = "/v1/assistants") -> Answer:
    return await service.client(key).send("GET", path)


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def six() -> AsyncIterator[InProcess]:
    """Six requests a minute."""
    clock = ManualClock()
    async with in_process(says("Hi."), clock=clock, api_keys=KEYS, project_requests_per_minute=6) as service:
        yield service


async def test_a_minutes_requests_may_come_at_once_and_then_one_each_ten_seconds(six: InProcess) -> None:
    answers = [await asked(six) for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 6 + [429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == list("5432100")
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"6"}
    assert answers[0].headers["x-ratelimit-reset-requests"] == "10.000s"
    refused = answers[-1]
    assert (refused.headers["Retry-After"], refused.headers["retry-after-ms"]) == ("10", "10000")
    assert refused.error == {
        "message": "Rate limit reached for project one on requests per min (RPM): Limit 6. Please try again in 10s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    six.advance(9.9)
    assert (await asked(six)).status == 429
    six.advance(0.2)
    assert [(await asked(six)).status for _ in range(2)] == [200, 429]
    six.advance(3600)
    assert [(await asked(six)).status for _ in range(7)] == [200] * 6 + [429]


async def test_a_project_takes_nothing_from_another_nor_do_unknown_callers(six: InProcess) -> None:
    for _ in range(10):
        assert (await asked(six, "key-of-nobody")).status == 401
        assert (await six.api.send("GET", "/health")).status == 200
    for _ in range(7):
        last = await asked(six)
    assert last.status == 429
    assert (await asked(six, "key-of-two")).status == 200


async def test_both_dialects_take_from_one_limit(six: InProcess) -> None:
    path = "/openai/assistants?api-version=2024-05-01-preview"
    answers = [await asked(six, path=path) for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 6 + [429]
    assert answers[-1].error["code"] == "429"
    assert answers[-1].headers["Retry-After"] == "10"
    assert (await asked(six)).status == 429


async def test_a_stream_tells_what_is_left(six: InProcess) -> None:
    client = six.client("key-of-one")
    assistant = (await client.post("/assistants", {"model": "gpt-4o"}))["id"]
    body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": "Hi"}]}, "stream": True}
    async with client.stream("POST", "/threads/runs", body) as stream:
        assert stream.response.headers["x-ratelimit-remaining-requests"] == "4"
        await stream.rest()


async def test_the_sdks_wait_as_they_are_told_and_try_again() -> None:
    async with in_process(api_keys=KEYS, project_requests_per_minute=600) as service:
        rate = limits_of(service).requests
        assert rate
        async with openai.AsyncOpenAI(base_url=f"{service.url}v1", api_key="key-of-one") as client:
            await client.models.list()
            with contextlib.suppress(ApiError):
                while True:
                    rate.take("one")
            raw = await client.models.with_raw_response.list()
        assert int(raw.http_request.headers["x-stainless-retry-count"]) > 0


async def test_without_limits_nothing_is_counted() -> None:
    async with in_process() as service:
        assert not [name for name in (await asked(service)).headers if "ratelimit" in name.lower()]


# --- active runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def two_runs() -> AsyncIterator[InProcess]:
    """Two active runs, on a service whose worker has not begun."""
    clock = ManualClock()
    async with in_process(says("Hi."), clock=clock, worker=False, project_active_runs=2) as service:
        yield service


async def refused(service: InProcess) -> Any:
    error = await service.api.refused("POST", "/threads/runs", await a_run(service), status=429)
    assert (error["type"], error["code"]) == ("runs", "rate_limit_exceeded")
    assert error["message"].startswith("Rate limit reached for project default on active runs: Limit 2. ")


async def begun(service: InProcess) -> Any:
    return await service.api.post("/threads/runs", await a_run(service))


async def a_run(service: InProcess) -> Any:
    thread = {"messages": [{"role": "user", "content": "Hi"}]}
    return {"assistant_id": await service.assistant(), "thread": thread}


async def test_a_run_that_is_cancelled_makes_room(two_runs: InProcess) -> None:
    first, _ = await begun(two_runs), await begun(two_runs)
    await refused(two_runs)
    thread = await two_runs.thread("Hi")
    body = {"assistant_id": await two_runs.assistant()}
    answer = await two_runs.api.send("POST", f"/v1/threads/{thread}/runs", body)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
    await two_runs.api.post(f"{path_of(first)}/cancel")
    two_runs.advance(FULL)
    await two_runs.api.post(f"/threads/{thread}/runs", body)
    await refused(two_runs)


async def test_a_run_that_completes_or_expires_makes_room(two_runs: InProcess) -> None:
    runs = [await begun(two_runs), await begun(two_runs)]
    await refused(two_runs)
    two_runs.start_worker()
    for run in runs:
        await two_runs.until(run)
    await two_runs.stop_worker()
    two_runs.advance(FULL)
    await begun(two_runs)
    await begun(two_runs)
    await refused(two_runs)
    two_runs.advance(600)
    await begun(two_runs)


async def test_a_client_that_asks_all_the_time_is_let_in_as_soon_as_there_is_room(two_runs: InProcess) -> None:
    first, _ = await begun(two_runs), await begun(two_runs)
    await refused(two_runs)
    await two_runs.api.post(f"{path_of(first)}/cancel")
    two_runs.advance(FULL / 2)
    await refused(two_runs)
    two_runs.advance(FULL / 2)
    await begun(two_runs)


async def test_a_clock_that_was_put_back_keeps_no_place(two_runs: InProcess) -> None:
    first, _ = await begun(two_runs), await begun(two_runs)
    await refused(two_runs)
    await two_runs.api.post(f"{path_of(first)}/cancel")
    two_runs.advance(-3_600)
    await begun(two_runs)


async def test_a_deleted_thread_makes_room(two_runs: InProcess) -> None:
    runs = [await begun(two_runs), await begun(two_runs)]
    await two_runs.api.delete(f"/threads/{runs[0]['thread_id']}")
    await begun(two_runs)
    await refused(two_runs)


async def test_what_was_refused_takes_no_place(two_runs: InProcess) -> None:
    for _ in range(5):
        await two_runs.api.refused("POST", "/threads/runs", {"assistant_id": "asst_unknown"}, status=404)
    run = await begun(two_runs)
    body = {"assistant_id": run["assistant_id"]}
    for _ in range(5):
        await two_runs.api.refused("POST", f"/threads/{run['thread_id']}/runs", body)
    await begun(two_runs)
    await refused(two_runs)


async def test_however_many_come_at_once_the_limit_holds() -> None:
    gate = Gate()
    async with in_process(says(gate, "Hi."), project_active_runs=5) as service:
        body = await a_run(service)
        answers = await asyncio.gather(*(service.api.send("POST", "/v1/threads/runs", body) for _ in range(20)))
        assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 15
        gate.open()


async def test_a_run_of_unknown_fate_keeps_its_place(two_runs: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store did not say whether the run began: a look tells, once the place is wanted."""
    body, start = await a_run(two_runs), two_runs.storage.start

    async def undecided(*args: Any) -> Any:
        await start(*args)
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(two_runs.storage, "start", undecided)
    assert (await two_runs.api.send("POST", "/v1/threads/runs", body)).status == 503
    monkeypatch.setattr(two_runs.storage, "start", start)
    await begun(two_runs)
    await refused(two_runs)


async def test_a_project_at_its_limit_costs_a_few_looks_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with in_process(clock=clock, worker=False, project_active_runs=50) as service:
        body, looks, read = await a_run(service), [], service.storage.read
        for _ in range(50):
            await service.api.post("/threads/runs", body)

        async def look(container: str, *args: Any) -> Any:
            looks.append(container)
            return await read(container, *args)

        monkeypatch.setattr(service.storage, "read", look)
        for _ in range(20):
            await service.api.refused("POST", "/threads/runs", body, status=429)
        assert len(looks) == LOOKS
        service.advance(FULL)
        await service.api.refused("POST", "/threads/runs", body, status=429)
        assert len(looks) == 2 * LOOKS


# --- stored bytes ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def small() -> AsyncIterator[InProcess]:
    """10,000 bytes."""
    async with in_process(clock=ManualClock(), api_keys=KEYS, project_stored_bytes=10_000) as service:
        service.api = service.client("key-of-one")
        yield service


async def counted(service: InProcess, after: float = COUNT_EVERY) -> None:
    """A request came so many seconds later, and the count is over that it may have begun."""
    service.advance(after)
    await service.api.send("POST", "/v1/threads")
    stored = limits_of(service).stored
    assert stored
    while counting := stored._projects["one"].counting:
        await counting


async def test_a_project_that_keeps_too_much_can_read_cancel_and_delete(small: InProcess) -> None:
    assistant = await small.assistant()
    thread = await small.thread("x" * 6000)
    await counted(small)
    await small.thread("x" * 6000)
    answer = await small.api.send("POST", "/v1/threads", {})
    assert (answer.status, answer.error["type"], answer.error["code"]) == (429, *["insufficient_quota"] * 2)
    assert answer.error["message"].startswith("You exceeded your current quota: project one stores ")
    assert (answer.headers["Retry-After"], answer.headers["x-should-retry"]) == ("60", "false")
    await small.api.refused("POST", f"/threads/{thread}/runs", {"assistant_id": assistant}, status=429)
    await small.api.get(f"/threads/{thread}/messages")
    await small.api.refused("POST", f"/threads/{thread}/runs/run_unknown/cancel", status=404)
    assert (await small.client("key-of-two").send("POST", "/v1/threads", {})).status == 200
    await small.api.delete(f"/threads/{thread}")
    item = PurgeThread(project="one", thread_id=thread, sent_at=0, tombstones=True)  # which is due in ten minutes
    await small.storage.send(to_body(item))
    small.notifier.notify("work")
    while await small.storage.read(names.THREADS, names.log("one", thread), None):
        await asyncio.sleep(0)
    await counted(small)
    await small.thread("Hi")


async def test_what_was_stored_before_the_process_began_counts(small: InProcess) -> None:
    await small.storage.start(names.THREADS, "one/thread_old.log", b"x" * 20_000)
    await small.storage.start(names.THREADS, "two/thread_old.log", b"x" * 9_000)
    await counted(small)
    await small.api.refused("POST", "/threads", {}, status=429)
    assert (await small.client("key-of-two").send("POST", "/v1/threads", {})).status == 200


async def test_no_request_waits_for_a_count_and_a_long_one_is_rare(
    small: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, release = [], asyncio.Event()

    async def weigh(container: str, prefix: str) -> int:
        counts.append((container, prefix))
        await release.wait()
        return 9_999

    monkeypatch.setattr(small.storage, "weigh", weigh)
    for _ in range(5):
        await small.thread()
    assert counts == [(names.THREADS, "one/")]
    small.advance(10)
    release.set()
    await counted(small, after=0)
    await small.api.refused("POST", "/threads", {}, status=429)
    await counted(small, after=10 * COUNT_SHARE - 1)
    assert len(counts) == len(names.WEIGHED)
    await counted(small, after=1)
    assert len(counts) == 2 * len(names.WEIGHED)


async def test_a_count_that_failed_leaves_the_one_before(small: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    await small.storage.start(names.THREADS, "one/thread_old.log", b"x" * 20_000)
    await counted(small)

    async def away(*_: str) -> int:
        raise StorageUnavailable("away")

    monkeypatch.setattr(small.storage, "weigh", away)
    await counted(small)
    await small.api.refused("POST", "/threads", {}, status=429)


async def test_a_count_that_failed_is_tried_again_after_a_minute(
    small: InProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the store took to fail, and whatever the error was, which the log tells."""
    asked, errors = 0, [StorageUnavailable("away"), ValueError("a fault")]

    async def away(*_: str) -> int:
        nonlocal asked
        asked += 1
        small.advance(60)
        raise errors.pop(0)

    monkeypatch.setattr(small.storage, "weigh", away)
    await counted(small)
    await counted(small)
    assert asked == 2
    told = [each for each in caplog.records if "cannot count the stored bytes" in each.message]
    assert [bool(each.exc_info and each.exc_info[0]) for each in told] == [False, True]


async def test_a_clock_that_was_put_back_holds_up_no_count(small: InProcess) -> None:
    await counted(small)
    await small.storage.start(names.THREADS, "one/thread_old.log", b"x" * 20_000)
    await counted(small, after=-7_200)
    await small.api.refused("POST", "/threads", {}, status=429)


async def test_a_few_projects_are_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ",".join(f"p{number}:key-{number}" for number in range(3 * COUNTS))
    now = most = 0

    async def weigh(*_: str) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(20):
            await asyncio.sleep(0)
        now -= 1
        return 0

    async with in_process(api_keys=keys, project_stored_bytes=10_000) as service:
        monkeypatch.setattr(service.storage, "weigh", weigh)
        stored = limits_of(service).stored
        assert stored
        for number in range(3 * COUNTS):
            stored.check(f"p{number}")
        await asyncio.gather(*(usage.counting for usage in stored._projects.values() if usage.counting))
    assert most == COUNTS
