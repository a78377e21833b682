"""No path of the service fetches a URL that a caller chose: a server that is named everywhere is never asked."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from assistants_service.infra.configuration import read_settings
from assistants_service.infra.wiring import models_of
from inprocess_service import InProcess, in_process, path_of
from malformed_requests import UPLOAD, valid
from multipart_forms import add_part, upload
from scripted_upstreams import choice, closing, function, serving, whole

Json = Any
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = re.compile(
    r"\b(ClientSession|AsyncClient|urlopen|HTTPS?Connection|create_connection|open_connection)\b"
    r"|^(import|from) (requests|httpx2?|urllib3|http\.client|urllib\.request)\b",
    re.MULTILINE,
)
HEADERS = ("Origin", "Referer", "Forwarded", "X-Forwarded-Host", "Link", "SourceMap", "Idempotency-Key", "traceparent")


@pytest.mark.parametrize("package", ["core", "app", "worker"])
def test_only_infra_has_clients_of_the_network(package: str) -> None:
    """What those ask is in the settings: the store, model providers, collectors of telemetry."""
    assert not [str(module) for module in (ROOT / package).rglob("*.py") if CLIENTS.search(module.read_text())]


async def test_a_server_that_callers_name_everywhere_is_never_asked() -> None:
    asked: list[bytes] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(canary, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/canary.png"
    async with server, serving() as upstream:
        models = models_of(read_settings({"openai_base_url": upstream.url, "openai_api_key": "sk-x"}))
        call = function("fetch", f'{{"url": "{url}"}}')
        upstream.script = [whole(choice(tool_calls=[call])), whole(choice(content=f"![]({url})"))]
        # With another setting the origin is refused, unread.
        async with closing(models), in_process(models=models, cors_origins="*") as service:
            run = await talk(service, url)
            await spoil(service, run, url)
    first, second = (body["messages"] for _, body, _ in upstream.requests[:2])
    # The model's provider gets the URL as it came. Whether it fetches it is between the caller and the provider.
    assert {"type": "image_url", "image_url": {"url": url, "detail": "auto"}} in first[1]["content"]
    assert second[-1]["content"] == url
    assert not asked


async def talk(service: InProcess, url: str) -> Json:
    """A run that is full of it, and ends."""
    schema = {"type": "object", "$ref": url, "properties": {"a": {"$ref": f"{url}#/a"}}}
    tools = [{"type": "function", "function": {"name": "fetch", "description": url, "parameters": schema}}]
    answers = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    fields = {"name": url, "description": url, "instructions": url, "metadata": {"url": url}}
    assistant = await service.assistant(**fields, tools=tools, response_format=answers)
    content = [{"type": "text", "text": url}, {"type": "image_url", "image_url": {"url": url}}]
    thread = (await service.api.post("/threads", {"messages": [{"role": "user", "content": content}]}))["id"]
    run = await service.finished(thread, assistant, additional_instructions=url, metadata={"url": url})
    ended = await service.answered(run, call_1=url)
    assert ended["status"] == "completed"
    async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
        assert url in str([event.data for event in await stream.rest()])
    return ended


async def spoil(service: InProcess, run: Json, url: str) -> None:
    """Bodies and headers of every operation in which every string is the URL: most are refused, some are taken."""
    thread = run["thread_id"]
    ids = {"assistant": run["assistant_id"], "thread": thread, "busy": thread, "run": run["id"]}
    ids["message"] = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
    ids["upload"] = (await service.api.post("/uploads", UPLOAD))["id"]
    ids["part"] = await add_part(service.api, ids["upload"], b"part")
    ids["file"] = (await upload(service.api, b"words"))["id"]
    ids["store"] = (await service.api.post("/vector_stores", {"file_ids": [ids["file"]]}))["id"]
    statuses = set()
    for path, body in valid(ids):
        for sent in (body, everywhere(body, url)):
            answer = await service.api.send("POST", path, sent, headers=dict.fromkeys(HEADERS, url + path))
            statuses.add(answer.status)
    assert statuses >= {200, 400}


def everywhere(node: Json, url: str) -> Json:
    """Every string is the URL."""
    if isinstance(node, dict):
        return {key: everywhere(value, url) for key, value in node.items()}
    if isinstance(node, list):
        return [everywhere(value, url) for value in node]
    return url if isinstance(node, str) else node
