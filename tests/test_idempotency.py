"""Idempotency-Key on every POST that creates: the same request counts once, for a day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from inprocess import InProcess, ManualClock, in_process

Json = Any
DAY = 24 * 3600


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process(clock=ManualClock()) as one:
        yield one


async def requests(service: InProcess) -> dict[str, tuple[str, Json, Json]]:
    """Path, body and another body of each kind of creation."""
    thread, other, assistant = await service.thread("Hello"), await service.thread("Hello"), await service.assistant()
    run = {"assistant_id": assistant}
    return {
        "assistant": ("/assistants", {"model": "m"}, {"model": "n"}),
        "thread": ("/threads", {"metadata": {"a": "1"}}, {"metadata": {"a": "2"}}),
        "message": (f"/threads/{thread}/messages", {"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        "run": (f"/threads/{other}/runs", run, {**run, "instructions": "other"}),
        "thread and run": (
            "/threads/runs",
            {**run, "thread": {"messages": [{"role": "user", "content": "a"}]}},
            {**run, "thread": {"messages": [{"role": "user", "content": "b"}]}},
        ),
    }


KINDS = ["assistant", "thread", "message", "run", "thread and run"]


async def post(service: InProcess, path: str, body: Json, key: str) -> tuple[int, Json]:
    answer = await service.api.send("POST", f"/v1{path}", body, headers={"Idempotency-Key": key})
    return answer.status, answer.body


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_request_again_gets_the_same_answer(service: InProcess, kind: str) -> None:
    path, body, _ = (await requests(service))[kind]
    first = await post(service, path, body, "key")
    service.advance(DAY - 1)
    assert first[0] == 200
    assert await post(service, path, body, "key") == first


@pytest.mark.parametrize("kind", KINDS)
async def test_another_request_with_the_key_is_refused(service: InProcess, kind: str) -> None:
    path, body, other = (await requests(service))[kind]
    await post(service, path, body, "key")
    status, answer = await post(service, path, other, "key")
    assert (status, answer["error"]["code"]) == (400, "idempotency_key_reused")
    assert answer["error"]["param"] == "Idempotency-Key"


@pytest.mark.parametrize("kind", KINDS)
async def test_of_twenty_at_once_one_counts(service: InProcess, kind: str) -> None:
    path, body, _ = (await requests(service))[kind]
    service.take_turns()
    answers = await asyncio.gather(*(post(service, path, body, "key") for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["id"] for _, answer in answers}) == 1


async def test_another_key_and_another_day_create_anew(service: InProcess) -> None:
    first = (await post(service, "/threads", {}, "key"))[1]["id"]
    assert (await post(service, "/threads", {}, "another"))[1]["id"] != first
    service.advance(DAY)
    assert (await post(service, "/threads", {}, "key"))[1]["id"] != first


async def test_a_request_whose_answer_was_never_kept_is_answered_from_the_log(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: Any) -> None:
        raise RuntimeError("the process died before it kept the answer")

    everything = await requests(service)
    ids = {}
    with monkeypatch.context() as patch:
        patch.setattr("app.idempotency.Reserved.keep", crash)
        for kind, (path, body, _) in everything.items():
            assert (await post(service, path, body, kind))[0] == 500
    service.advance(10)
    for kind, (path, body, _) in everything.items():
        status, answer = await post(service, path, body, kind)
        assert (status, answer.get("created_at")) == (200, ManualClock.time), kind
        ids[kind] = answer["id"]
    listed = await service.api.get(everything["message"][0])
    assert [message["id"] for message in listed["data"]].count(ids["message"]) == 1
    assert len(listed["data"]) == 2
    assert [run["id"] for run in (await service.api.get(everything["run"][0]))["data"]] == [ids["run"]]


async def test_a_request_sent_again_brings_no_deleted_message_back(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was never kept, and the message was deleted since."""
    path, body, _ = (await requests(service))["message"]

    async def crash(*_: Any) -> None:
        raise RuntimeError("the process died before it kept the answer")

    with monkeypatch.context() as patch:
        patch.setattr("app.idempotency.Reserved.keep", crash)
        await post(service, path, body, "key")
    messages = (await service.api.get(path))["data"]
    await service.api.delete(f"{path}/{messages[0]['id']}")
    assert (await post(service, path, body, "key"))[0] == 404
    assert (await service.api.get(path))["data"] == messages[1:]


async def test_a_streamed_run_is_streamed_again(service: InProcess) -> None:
    path, body, _ = (await requests(service))["run"]
    said = []
    for _ in range(2):
        async with service.api.stream("POST", path, {**body, "stream": True}, key="key") as stream:
            said.append([(event.id, event.name) for event in await stream.rest()])
    assert said[0] == said[1]


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_of_the_wrong_length_is_refused(service: InProcess, key: str) -> None:
    status, answer = await post(service, "/threads", {}, key)
    assert (status, answer["error"]["param"]) == (400, "Idempotency-Key")
