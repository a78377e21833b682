"""Idempotency-Key on every POST that creates: the same request counts once, for a day."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from assistants_service.api.idempotency import Reserved
from assistants_service.core.ports.models import ToolCall
from inprocess_service import Gate, InProcess, ManualClock, calls, in_process, says
from multipart_forms import upload

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


@pytest.mark.parametrize("kind", KINDS)
async def test_of_two_at_once_both_get_the_answer_that_was_kept_first(
    service: InProcess, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Even if the second one comes so late that the object has changed meanwhile."""
    path, body, _ = (await requests(service))[kind]
    keep = Reserved.keep
    second: list[tuple[int, Json]] = []

    async def overtaken(reserved: Reserved, response: web.Response) -> web.Response:
        monkeypatch.setattr(Reserved, "keep", keep)
        second.append(await post(service, path, body, "key"))
        earlier = json.loads(cast(bytes, response.body)) | {"created_at": 1}
        return await keep(reserved, web.json_response(earlier))

    monkeypatch.setattr(Reserved, "keep", overtaken)
    first = await post(service, path, body, "key")
    assert first == second[0] == await post(service, path, body, "key")


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
        patch.setattr("assistants_service.api.idempotency.Reserved.keep", crash)
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


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_is_free_after_a_request_that_named_what_is_not_there(service: InProcess, kind: str) -> None:
    path, body, _ = (await requests(service))[kind]
    wrong = with_file(kind, body, "file-none")
    for _ in range(2):
        assert (await post(service, path, wrong, "key"))[0] == 404
    right = with_file(kind, body, (await upload(service.api, b"x"))["id"])
    assert (await post(service, path, right, "key"))[0] == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_done_is_answered_though_the_file_that_it_named_is_gone_since(
    service: InProcess, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, body, _ = (await requests(service))[kind]
    file = (await upload(service.api, b"x"))["id"]
    body = with_file(kind, body, file)

    async def crash(*_: Any) -> None:
        raise RuntimeError("the process died before it kept the answer")

    with monkeypatch.context() as patch:
        patch.setattr("assistants_service.api.idempotency.Reserved.keep", crash)
        assert (await post(service, path, body, "key"))[0] == 500
    await service.api.delete(f"/files/{file}")
    first = await post(service, path, body, "key")
    assert first[0] == 200
    assert await post(service, path, body, "key") == first


def with_file(kind: str, body: Json, file: str) -> Json:
    """The request of this kind, which names the file."""
    resources = {"tool_resources": {"code_interpreter": {"file_ids": [file]}}}
    attached = {"attachments": [{"file_id": file, "tools": [{"type": "code_interpreter"}]}]}
    if kind == "message":
        return {**body, **attached}
    if kind == "run":
        return {**body, "additional_messages": [{"role": "user", "content": "Look", **attached}]}
    return {**body, **resources}


async def test_a_request_sent_again_brings_no_deleted_message_back(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was never kept, and the message was deleted since."""
    path, body, _ = (await requests(service))["message"]

    async def crash(*_: Any) -> None:
        raise RuntimeError("the process died before it kept the answer")

    with monkeypatch.context() as patch:
        patch.setattr("assistants_service.api.idempotency.Reserved.keep", crash)
        await post(service, path, body, "key")
    messages = (await service.api.get(path))["data"]
    await service.api.delete(f"{path}/{messages[0]['id']}")
    assert (await post(service, path, body, "key"))[0] == 404
    assert (await service.api.get(path))["data"] == messages[1:]


@pytest.mark.parametrize("kind", ["run", "thread and run"])
async def test_a_streamed_run_is_streamed_again(service: InProcess, kind: str) -> None:
    path, body, _ = (await requests(service))[kind]
    said = []
    for _ in range(2):
        async with service.api.stream("POST", path, {**body, "stream": True}, key="key") as stream:
            said.append([(event.id, event.name) for event in await stream.rest()])
    assert said[0] == said[1]


async def test_a_key_is_its_projects_own() -> None:
    async with in_process(api_keys="one:key-of-one,two:key-of-two") as service:
        made = set()
        for client in (service.client("key-of-one"), service.client("key-of-two")):
            answer = await client.send("POST", "/v1/threads", {}, headers={"Idempotency-Key": "key"})
            made.add(answer.body["id"])
        assert len(made) == 2


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_of_the_wrong_length_is_refused(service: InProcess, key: str) -> None:
    status, answer = await post(service, "/threads", {}, key)
    assert (status, answer["error"]["param"]) == (400, "Idempotency-Key")


# --- what an SDK does when it gets no answer ------------------------------------------------------------------------


@dataclass
class Torn:
    """A proxy that passes every request on, and breaks the connection in place of the answer, the first time; `late`:
    once the run that it answers with has ended."""

    service: InProcess
    late: bool = False
    keys: list[str | None] = field(default_factory=list)
    answers: list[tuple[int, Json]] = field(default_factory=list)  # of the service

    async def pass_on(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Idempotency-Key"))
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        url = self.service.url.with_path(request.path)
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=await request.read(), headers=headers) as answer,
        ):
            self.answers.append((answer.status, json.loads(await answer.read())))
        if len(self.answers) == 1:
            if self.late:
                await self.service.until(self.answers[0][1])
            assert request.transport
            request.transport.abort()
        status, body = self.answers[-1]
        return web.json_response(body, status=status)


@contextlib.asynccontextmanager
async def torn(
    service: InProcess, monkeypatch: pytest.MonkeyPatch, *, late: bool = False
) -> AsyncIterator[tuple[AsyncOpenAI, Torn]]:
    """The official SDK, with its own settings, behind such a proxy."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    proxy, app = Torn(service, late), web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.pass_on)
    async with TestServer(app) as server, AsyncOpenAI(base_url=str(server.make_url("/v1")), api_key="x") as client:
        yield client, proxy


@pytest.fixture
async def busy() -> AsyncIterator[InProcess]:
    """Runs stay active."""
    async with in_process(says(Gate())) as one:
        yield one


async def ask(client: AsyncOpenAI, service: InProcess, kind: str, **options: Any) -> Json:
    thread, assistant = await service.thread("Hello"), await service.assistant()
    beta: Any = client.beta
    create: dict[str, Callable[[], Any]] = {
        "assistant": lambda: beta.assistants.create(model="gpt-4o", **options),
        "thread": lambda: beta.threads.create(**options),
        "message": lambda: beta.threads.messages.create(thread, role="user", content="Hi", **options),
        "run": lambda: beta.threads.runs.create(thread, assistant_id=assistant, **options),
        "thread and run": lambda: beta.threads.create_and_run(
            assistant_id=assistant, thread={"messages": [{"role": "user", "content": "Hi"}]}, **options
        ),
    }
    return await create[kind]()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
async def test_the_sdk_sends_a_lost_request_again_without_a_key_and_doubles_all_but_runs(
    busy: InProcess, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with torn(busy, monkeypatch) as (client, proxy):
        if kind == "run":
            with pytest.raises(BadRequestError, match="already has an active run"):
                await ask(client, busy, kind)
            assert [status for status, _ in proxy.answers] == [200, 400]
        else:
            await ask(client, busy, kind)
            assert [status for status, _ in proxy.answers] == [200, 200]
            assert len({answer["id"] for _, answer in proxy.answers}) == 2
    assert proxy.keys == [None, None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_run_that_has_ended_when_its_request_is_sent_again_is_doubled(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with torn(service, monkeypatch, late=True) as (client, proxy):
        await ask(client, service, "run")
    assert len({answer["id"] for _, answer in proxy.answers}) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("by_itself", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_with_a_key_a_lost_request_counts_once(
    busy: InProcess, kind: str, by_itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with torn(busy, monkeypatch) as (client, proxy):
        if by_itself:
            client._idempotency_header = "Idempotency-Key"
            made = await ask(client, busy, kind)
        else:
            made = await ask(client, busy, kind, extra_headers={"Idempotency-Key": "key"})
    assert [(status, answer["id"]) for status, answer in proxy.answers] == [(200, made.id)] * 2
    first, second = proxy.keys
    assert first == second
    assert by_itself != (first == "key")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_of_what_creates_nothing_a_lost_request_does_the_same_again_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = calls(ToolCall("call_a", "f", "{}"))
    outputs: Any = [{"tool_call_id": "call_a", "output": "x"}]
    async with in_process(call, says("Done."), call) as service:
        run = await service.finished()
        thread, assistant = run["thread_id"], run["assistant_id"]
        async with torn(service, monkeypatch) as (client, proxy):
            await client.beta.assistants.update(assistant, name="New")
            assert [answer["name"] for _, answer in proxy.answers] == ["New", "New"]
        async with torn(service, monkeypatch) as (client, _):
            with pytest.raises(BadRequestError, match="do not accept tool outputs"):
                await client.beta.threads.runs.submit_tool_outputs(run["id"], thread_id=thread, tool_outputs=outputs)
        await service.until(run, "completed")
        run = await service.finished(thread, assistant)
        async with torn(service, monkeypatch) as (client, _):
            with pytest.raises(BadRequestError, match="Cannot cancel run with status 'cancelled'"):
                await client.beta.threads.runs.cancel(run["id"], thread_id=thread)
        async with torn(service, monkeypatch) as (client, _):
            with pytest.raises(NotFoundError):
                await client.beta.threads.delete(thread)
