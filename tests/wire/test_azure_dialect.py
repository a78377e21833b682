"""Azure OpenAI's dialect: its paths, key header, api-version and errors lead to the same resources.

What the service answered is taken from reports of its users; whole programs of `AzureOpenAI` are in tests/clients.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from assistants_service.api.main import ROUTES
from inprocess_service import Answer, InProcess, in_process, says

KEY = "key-of-project-one"
VERSION = "api-version=2024-05-01-preview"
NOTHING_FOUND = {"code": "404", "message": "Resource not found"}


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process(says("Hi."), api_keys=f"one:{KEY},two:key-of-project-two") as service:
        yield service


async def send(service: InProcess, method: str, path: str, *body: Any, **headers: str | None) -> Answer:
    """As `AzureOpenAI` does: the key in its own header, and no beta header."""
    given = {"OpenAI-Beta": None, "api-key": KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await service.api.send(method, f"/openai{path}", *body, headers=given)


async def test_both_dialects_reach_the_same_objects(service: InProcess) -> None:
    made = await send(service, "POST", f"/assistants?{VERSION}", {"model": "gpt-4o"})
    assert made.status == 200
    path = f"/assistants/{made.body['id']}"
    assert await service.client(KEY).get(path) == made.body
    assert (await send(service, "GET", f"{path}?{VERSION}")).body == made.body
    assert (await send(service, "GET", f"{path}?{VERSION}", api_key="key-of-project-two")).status == 404


async def test_a_stream_by_azures_paths(service: InProcess) -> None:
    assistant = (await service.client(KEY).post("/assistants", {"model": "gpt-4o"}))["id"]
    thread = {"messages": [{"role": "user", "content": "Hello"}]}
    body = {"assistant_id": assistant, "thread": thread, "stream": True}
    answer = await send(service, "POST", f"/threads/runs?{VERSION}", body)
    assert answer.status == 200
    assert answer.raw.endswith(b"event: done\ndata: [DONE]\n\n")


@pytest.mark.parametrize("headers", [{"api-key": KEY}, {"Authorization": f"Bearer {KEY}"}])
async def test_the_key_comes_in_either_header(service: InProcess, headers: dict[str, str]) -> None:
    answer = await send(service, "GET", f"/assistants?{VERSION}", **{"api-key": None, **headers})
    assert answer.status == 200


async def test_azures_key_header_is_none_of_openais(service: InProcess) -> None:
    answer = await service.api.send("GET", "/v1/assistants", headers={"api-key": KEY})
    assert (answer.status, answer.error["type"]) == (401, "invalid_request_error")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (None, "Access denied due to missing subscription key. "),
        ("", "Access denied due to missing subscription key. "),
        ("0123456789abcdef", "Access denied due to invalid subscription key or wrong API endpoint. "),
    ],
)
async def test_without_a_key_no_request_is_served(service: InProcess, key: str | None, text: str) -> None:
    for path in (f"/assistants?{VERSION}", "/assistants", "/nothing"):
        answer = await send(service, "GET", path, api_key=key)
        assert (answer.status, answer.error["code"], set(answer.error)) == (401, "401", {"code", "message"})
        assert answer.error["message"].startswith(text)
        assert "0123456789" not in answer.raw.decode()


@pytest.mark.parametrize(
    "query", ["", "api-version=", "api-version=v1", "api-version=2024-05", "api_version=2024-05-01"]
)
async def test_without_an_api_version_there_is_no_resource(service: InProcess, query: str) -> None:
    answer = await send(service, "GET", f"/assistants?{query}")
    assert (answer.status, answer.error["code"]) == (404, "404")
    assert answer.error["message"].startswith("Resource not found")
    assert "api-version" in answer.error["message"]


@pytest.mark.parametrize("version", ["2024-02-15-preview", "2024-05-01-preview", "2025-04-01-preview", "2024-10-21"])
async def test_any_date_is_a_version(service: InProcess, version: str) -> None:
    assert (await send(service, "GET", f"/assistants?api-version={version}")).status == 200


async def test_what_the_gateway_refused_has_azures_shape(service: InProcess) -> None:
    answer = await send(service, "GET", f"/assistants/asst_x/files?{VERSION}")
    assert (answer.status, answer.error) == (404, NOTHING_FOUND)
    answer = await send(service, "GET", f"/deployments/gpt-4o/assistants?{VERSION}")
    assert (answer.status, answer.error) == (404, NOTHING_FOUND)
    answer = await send(service, "PUT", f"/assistants?{VERSION}")
    assert (answer.status, answer.error["code"]) == (405, "405")


async def test_what_the_api_refused_has_openais_shape(service: InProcess) -> None:
    wrong = await send(service, "POST", f"/assistants?{VERSION}", {"model": "gpt-4o", "file_ids": []})
    message = "Unknown parameter: 'file_ids'."
    assert (wrong.status, wrong.error["message"], wrong.error["code"]) == (400, message, "unknown_parameter")
    unknown = await send(service, "GET", f"/threads/thread_0123456789?{VERSION}")
    assert (unknown.status, unknown.error["type"]) == (404, "invalid_request_error")
    assert unknown.error["message"] == "No thread found with id 'thread_0123456789'."


async def test_every_operation_is_there() -> None:
    async with in_process() as service:
        for route in ROUTES:
            path = re.sub(r"\{.*?\}", "x", route.path.removeprefix("/v1"))
            answer = await send(service, route.method, path)
            assert "'api-version' must be a date" in answer.error["message"], route
