"""Headers that come twice: what has one value is refused, what is a list is read as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from assistants_service.api.repeated_headers import ONCE
from inprocess_service import in_process
from test_connections import answered, served

Json = Any
KEY = "Bearer key"
VALUES = {"Authorization": KEY, "Content-Type": "application/json", "Host": "localhost", "Range": "bytes=0-"}


async def posted(port: int, *lines: str, beta: bool = True) -> tuple[int, Json]:
    sent = {line.partition(":")[0] for line in lines}
    also = {"Host": "localhost", "Content-Type": "application/json", "Authorization": KEY}
    also |= {"OpenAI-Beta": "assistants=v2"} if beta else {}
    head = [*(f"{name}: {value}" for name, value in also.items() if name not in sent), *lines]
    return await answered(port, "\r\n".join(["POST /v1/threads HTTP/1.1", *head, TAIL]).encode())


TAIL = "Connection: close\r\nContent-Length: 1\r\n\r\n{"  # refused as JSON, if not before


@pytest.mark.parametrize("name", ONCE)
async def test_what_has_one_value_is_refused_if_it_comes_twice(name: str) -> None:
    """Alike or not, and with whatever name its letters are written."""
    value = VALUES.get(name, "100-continue" if name == "Expect" else "x")
    async with served(api_keys="p:key") as (_, port):
        for second in (f"{name}: {value}", f"{name.upper()}: other"):
            status, error = await posted(port, f"{name}: {value}", second)
            assert status == 400
            assert "duplicate" in error["message"].lower()
            assert name in error["message"]


async def test_of_two_origins_none_is_believed() -> None:
    async with served(cors_origins="https://ours.example") as (_, port):
        origins = ("Origin: https://ours.example", "Origin: https://evil.example")
        assert await posted(port, *origins) == (
            400,
            {
                "message": "Duplicate 'Origin' header. Send it only once.",
                "type": "invalid_request_error",
                "param": "Origin",
                "code": "duplicate_header",
            },
        )


async def test_a_list_in_several_lines_is_read_as_a_whole() -> None:
    async with served(api_keys="p:key") as (_, port):
        status, error = await posted(port, "Content-Encoding: identity", "Content-Encoding: gzip")
        assert (status, error["code"]) == (415, "unsupported_content_encoding")
        status, error = await posted(port, "OpenAI-Beta: realtime=v1", "OpenAI-Beta: assistants=v2", beta=False)
        assert (status, error["code"]) != (400, "invalid_beta")


async def test_a_version_that_the_caller_has_is_found_in_any_line() -> None:
    async with in_process() as service:
        made = await service.api.post("/threads")
        path = f"/v1/threads/{made['id']}"
        tag = (await service.api.send("GET", path)).headers["ETag"]
        for known, status in ((f'"other", {tag}', 304), ("*", 304), ('"other"', 200), ("", 200)):
            assert (await service.api.send("GET", path, headers={"If-None-Match": known})).status == status
