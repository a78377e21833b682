"""Malformed requests by the thousand, the same ones each time: every one is refused with a 4xx in the error envelope,
and the service goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from assistants_service.core.ports.models import ToolCall
from captured_telemetry import Exported
from inprocess_service import Api, InProcess, calls, in_process, path_of, says
from malformed_requests import REQUESTS, UPLOAD, WEATHER, Bad, malformed, valid, with_parameters, with_schema
from multipart_forms import add_part, download, field, file_form, form, send_form

Json = Any
SEED, AT_ONCE = 20261121, 16
IN_PIECES = 0.1  # of the requests
LARGE = 1024 * 1024  # bytes: what is refused for its length may be cut off while it is still sent


async def test_5000_malformed_requests_are_refused_and_nothing_breaks() -> None:
    async with in_process() as service:
        ids = await one_of_each(service)
        before = await snapshot(service, ids)
        requests = iter(malformed(random.Random(SEED), ids))
        problems: list[str] = []
        await asyncio.gather(*(send_all(service.api, requests, problems) for _ in range(AT_ONCE)))
        assert not problems, "\n".join(problems[:20])
        assert await snapshot(service, ids) == before
        assert (await service.finished())["status"] == "completed"


async def send_all(api: Api, requests: Iterator[Bad], problems: list[str]) -> None:
    for bad in requests:
        chance = random.Random(str(bad))
        pieces = chance.random() < IN_PIECES and len(bad.data or b"") < LARGE
        try:
            if pieces:
                answer = await api.send_in_pieces(bad.method, bad.path, bad.data, bad.headers, chance)
            else:
                answer = await api.send(bad.method, bad.path, data=bad.data, headers=bad.headers)
        except (AssertionError, aiohttp.ClientError, OSError) as error:
            problems.append(f"{bad}: {error!r}")
        else:
            if not 400 <= answer.status < 500:
                problems.append(f"{bad}{', in pieces' if pieces else ''}: {answer.status} {answer.raw[:200]!r}")


async def one_of_each(service: InProcess) -> dict[str, str]:
    """An assistant, a thread that is free, and one whose run waits for its client."""
    assistant = await service.assistant(tools=[WEATHER])
    thread = await service.thread("Hello")
    service.models.script = [calls(ToolCall("call_1", "get_weather", "{}")), says("Done.")]
    run = await service.finished(assistant=assistant)
    upload = (await service.api.post("/uploads", UPLOAD))["id"]
    file = (await send_form(service.api, "/files", file_form(b"words"))).body["id"]
    store = await service.api.post("/vector_stores", {"file_ids": [file]})
    await service.ingested(store)
    return {
        "assistant": assistant,
        "thread": thread,
        "message": (await service.api.get(f"/threads/{thread}/messages"))["first_id"],
        "busy": run["thread_id"],
        "run": run["id"],
        "step": (await service.steps(run))[0]["id"],
        "upload": upload,
        "file": file,
        "store": store["id"],
        "part": await add_part(service.api, upload, b"part"),
    }


async def snapshot(service: InProcess, ids: dict[str, str]) -> list[Json]:
    """All that there is: nothing may have been changed or made."""
    paths = [
        "/assistants?limit=100",
        "/files",
        "/vector_stores?limit=100",
        f"/vector_stores/{ids['store']}/files",
        f"/threads/{ids['thread']}",
        f"/threads/{ids['thread']}/messages",
        f"/threads/{ids['thread']}/runs",
        f"/threads/{ids['busy']}/messages",
        f"/threads/{ids['busy']}/runs/{ids['run']}",
        f"/threads/{ids['busy']}/runs/{ids['run']}/steps",
    ]
    return [await service.api.get(path) for path in paths]


def test_the_requests_are_spoiled_from_valid_ones_and_each_way_is_taken_often() -> None:
    ids = dict.fromkeys(
        ("assistant", "thread", "message", "busy", "run", "step", "upload", "part", "file", "store"), "asst_x"
    )
    ways = [bad.way for bad in malformed(random.Random(SEED), ids)]
    assert len(ways) == REQUESTS
    assert min(ways.count(way) for way in set(ways) if way != "oversized") > 100


async def test_the_bodies_that_are_spoiled_are_valid() -> None:
    async with in_process() as service:
        ids = await one_of_each(service)
        for path, body in valid(ids):
            answer = await service.api.send("POST", path, body)
            assert answer.status == 200, (path, answer.raw)


async def test_what_is_right_comes_to_the_same_in_pieces() -> None:
    chance = random.Random(SEED)
    async with in_process() as service:
        ids = await one_of_each(service)
        for path, body in valid(ids):
            answer = await service.api.send_in_pieces("POST", path, json.dumps(body).encode(), {}, chance)
            assert answer.status == 200, (path, answer.raw)


async def test_500_spoiled_forms_are_refused_or_mean_something_else_and_nothing_breaks() -> None:
    chance = random.Random(SEED)
    fields = (field("purpose", "assistants"), field("expires_after[anchor]", "created_at"))
    good = form(*fields, field("expires_after[seconds]", "3600"), field("file", b"content\r\n--a", "a.txt"))
    taken = 0
    async with in_process() as service:
        for _ in range(500):
            data = bytearray(good)
            for _ in range(chance.randint(1, 2)):
                start = chance.randrange(len(data))
                spoil = chance.choice(
                    [b"", b"\r\n", b"\0", b"\xff", b'"', b";", b"--", bytes(chance.choices(good, k=9))]
                )
                data[start : start + chance.choice((0, 1, 1, 20))] = spoil
            answer = await send_form(service.api, "/files", bytes(data))
            assert answer.status in (200, 400), (bytes(data), answer.raw)
            if answer.status == 200:
                taken += 1
                found = await download(service.api, answer.body["id"])
                assert found.raw in data
        assert 10 < taken < 400
        assert len((await service.api.get("/files"))["data"]) == taken


# --- what JSON allows, but only just --------------------------------------------------------------------------------


async def test_whatever_depth_is_accepted_can_be_stored_read_and_run() -> None:
    async with in_process() as service:
        accepted = 0
        for depth in (1, 10, 50, 100, 120, 126, 128, 150, 190, 200, 250):
            body = with_parameters('{"a":' * depth + "1" + "}" * depth).encode()
            answer = await service.api.send("POST", "/v1/assistants", data=body)
            assert answer.status in (200, 400), depth
            if answer.status == 200:
                accepted += 1
                await service.api.get(f"/assistants/{answer.body['id']}")
                assert (await service.finished(assistant=answer.body["id"]))["status"] == "completed", depth
        assert accepted >= 4


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "1e300", "0.1"])
async def test_every_number_that_is_accepted_comes_back_as_it_was(number: str) -> None:
    async with in_process() as service:
        for text in (with_parameters(number), with_schema(number)):
            made = (await service.api.send("POST", "/v1/assistants", data=text.encode())).body
            run = await service.finished(assistant=made["id"])
            assert (run["status"], run["tools"], run["response_format"]) == (
                "completed",
                made["tools"],
                made["response_format"],
            )
            assert json.loads(number) in (at_a(made["tools"]), at_a(made["response_format"]))


def at_a(node: Json) -> Json:
    """The value of the key `a`, wherever it is."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "a" in node:
        return node["a"]
    return next((found for each in inner if (found := at_a(each)) is not None), None)


@pytest.mark.parametrize(
    "text", ["\x00", "\u2028", "é\u0301", "𝄞", "\ufeff", "\\", '"', "\x7f", "\n\n", "data: x\n\n", "</script>"]
)
async def test_every_text_that_json_can_hold_comes_back_as_it_was(text: str) -> None:
    async with in_process(says(text or "x")) as service:
        thread = await service.thread(text, metadata={text: text})
        assistant = await service.assistant(name=text)
        assert (await service.api.get(f"/threads/{thread}"))["metadata"] == {text: text}
        body = {"assistant_id": assistant, "stream": True}
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
            await stream.rest()
        assert await service.said(thread) == [text, text]
        assert service.prompts[0].turns[0].text == text


async def test_an_oversized_body_in_chunks_is_refused() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 65_536

    async with in_process() as service:
        answer = await service.api.send("POST", "/v1/threads", data=chunks())
        assert answer.status == 413


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/assistants HTTP/9.9\r\n\r\n",
        b"FOO /v1/assistants HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/assistants HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /v1/assistants?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /v1/threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"GET /v1/assistants HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(text: bytes) -> None:
    async with in_process() as service:
        reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
        writer.write(text)
        answer = await reader.read(2000)
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer
        writer.close()
        await writer.wait_closed()
        assert (await service.finished())["status"] == "completed"


HEADERS = (
    "Last-Event-ID",
    "Origin",
    "If-None-Match",
    "Idempotency-Key",
    "Authorization",
    "OpenAI-Beta",
    "traceparent",
    "Content-Type",
    "Access-Control-Request-Headers",
)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_header_that_is_no_text_is_borne(header: str, method: str) -> None:
    """aiohttp keeps its bytes as surrogates, which nothing can encode that is not told how."""
    async with in_process(cors_origins="*", telemetry=Exported().telemetry) as service:
        run = path_of(await service.finished())
        for path in (f"{run}/events", f"{run}/cancel", "/threads", "/threads/\xff"):
            reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
            lines = [
                f"{method} /v1{path} HTTP/1.1",
                "Host: localhost",
                "OpenAI-Beta: assistants=v2",
                "Connection: close",
            ]
            writer.write("\r\n".join([*lines, f"{header}: Bearer \xff\xfe", "", ""]).encode("latin-1"))
            assert 200 <= int((await reader.read()).split()[1]) < 500
            writer.close()
            await writer.wait_closed()


async def test_head_of_a_stream_has_no_body() -> None:
    """Else its bytes would pass for the answer to the connection's next request."""
    async with in_process() as service:
        path = f"/v1{path_of(await service.finished())}/events"
        reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
        for method, where in (("HEAD", path), ("GET", "/health/live")):
            writer.write(f"{method} {where} HTTP/1.1\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\n\r\n".encode())
        first = await reader.readuntil(b"\r\n\r\n")
        second = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 OK\r\n") and b"text/event-stream" in first
        assert second.startswith(b"HTTP/1.1 200 OK\r\n") and b"application/json" in second
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/assistants", b"Authorization: Bearer "),
        ("/openai/assistants", b"Authorization: Bearer "),
        ("/openai/assistants", b"api-key: "),
        ("/v1/assistants", b"OpenAI-Beta: "),
        ("/v1{run}/events", b"Last-Event-ID: "),
    ],
)
async def test_bytes_that_are_no_text_are_refused_in_any_header(path: str, header: bytes) -> None:
    async with in_process(api_keys="default:key") as service:
        service.api = service.client("key")
        line = f"GET {path.replace('{run}', path_of(await service.start_run()))} HTTP/1.1".encode()
        good = [b"Authorization: Bearer key", b"OpenAI-Beta: assistants=v2"]
        kept = [each for each in good if each.split()[0] != header.split()[0]]
        status, body = await service.raw(line, *kept, header + b"\xff\xfe\xfd are bytes and no text")
    assert 400 <= status < 500, body
