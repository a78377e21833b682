"""Logs tell what a line is about, and nothing of what was said."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from assistants_service.core import log_context
from assistants_service.infra.telemetry.logs import JsonLines, Lines
from captured_telemetry import Exported
from scripted_upstreams import choice, chunk, events, function, serving, whole
from service_process import Process

Json = Any
CANARY = "canary-5c1e"
KEY, PROVIDERS_KEY = f"{CANARY}-key", f"sk-{CANARY}"
ACTIONS = f"""
from assistants_service import action

@action
def look(word: str) -> str:
    raise ValueError("{CANARY}")
"""


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    found = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("app.x", logging.WARNING, __file__, 1, message, arguments, found)


async def test_a_line_tells_what_it_is_about() -> None:
    log_context.bind(lambda: {"request_id": "req_1", "project": "", "thread_id": "thread_1"})
    line = json.loads(JsonLines().format(record("%s slept", "it")))
    assert line.pop("time").endswith("+00:00")
    about = {"request_id": "req_1", "thread_id": "thread_1"}
    assert line == {"level": "WARNING", "logger": "app.x", "message": "it slept", **about}
    text = Lines().format(record("%s slept", "it"))
    assert text.endswith(" WARNING app.x: it slept (request_id=req_1, thread_id=thread_1)")


async def test_tasks_tell_what_the_task_that_started_them_is_about() -> None:
    async def one(number: int) -> str:
        log_context.bind(lambda: {"run_id": f"run_{number}"})
        return await asyncio.create_task(late())

    async def late() -> str:
        await asyncio.sleep(0)
        return str(json.loads(JsonLines().format(record("x")))["run_id"])

    assert await asyncio.gather(*map(one, range(3))) == ["run_0", "run_1", "run_2"]


async def test_a_line_names_the_trace_that_it_belongs_to() -> None:
    exported = Exported()
    with exported.telemetry.span("request", method="GET", route="/x"):
        line = json.loads(JsonLines().format(record("x")))
    (span,) = exported.spans
    assert line["trace_id"] == f"{span.context.trace_id:032x}"
    assert line["span_id"] == f"{span.context.span_id:016x}"


@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_a_message_stays_on_its_line(formatter: logging.Formatter) -> None:
    """What a caller chooses, such as a path, cannot pass for a line of ours or move a terminal's cursor."""
    message = formatter.format(record("GET /v1/%s failed", "a\r\n2026 ERROR app: all is lost\x1b[2J\x85\u2028"))
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message


def test_a_traceback_is_told() -> None:
    try:
        raise KeyError("name")
    except KeyError as error:
        failure = record("failed", error=error)
    assert "KeyError: 'name'" in json.loads(JsonLines().format(failure))["exception"]
    assert Lines().format(failure).splitlines()[-1] == "KeyError: 'name'"


async def test_all_that_a_service_logs_holds_neither_content_nor_keys(tmp_path: Path) -> None:
    """At its most talkative, over runs that succeed, call tools, stream and fail, and requests that are refused."""
    (tmp_path / "talking_actions.py").write_text(ACTIONS)
    async with serving() as upstream:
        environment = {
            "STORAGE": f"sqlite:///{tmp_path}/a.db",
            "API_KEYS": f"p:{KEY}",
            "OPENAI_BASE_URL": upstream.url,
            "OPENAI_API_KEY": PROVIDERS_KEY,
            "MODEL_RETRIES": "0",
            "ACTIONS": "talking_actions",
            "PYTHONPATH": str(tmp_path),
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "json",
        }
        process = await asyncio.to_thread(Process, "serve", environment)
        try:
            async with aiohttp.ClientSession(headers={"OpenAI-Beta": "assistants=v2"}) as session:
                await talk(session, process.url, upstream)
            assert await asyncio.to_thread(process.terminate) == 0
        finally:
            process.kill()
    said = "".join(process.log)
    assert CANARY not in said
    lines = [json.loads(line) for line in process.log]
    assert {"request_id", "project", "thread_id", "run_id"} <= {key for line in lines for key in line}
    refused, unreadable = [line for line in lines if " failed: provider=" in line["message"]]
    assert {refused["level"], unreadable["level"]} == {"WARNING"}
    assert unreadable["run_id"].startswith("run_")


async def talk(session: aiohttp.ClientSession, url: str, upstream: Any) -> None:
    numbers = itertools.count()

    async def ask(method: str, path: str, body: Json = None, key: str = KEY, **options: Any) -> Json:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"{CANARY}-{next(numbers)}"}
        async with session.request(method, f"{url}{path}", json=body, headers=headers, **options) as response:
            raw = await response.read()
            with contextlib.suppress(ValueError):
                return json.loads(raw)

    tools = [{"type": "function", "function": {"name": name, "description": CANARY}} for name in ("look", "ask")]
    assistant = await ask("POST", "/v1/assistants", {"model": "m", "instructions": CANARY, "tools": tools})
    calls = [function("look", f'{{"word":"{CANARY}"}}', "call_1"), function("ask", f'{{"a":"{CANARY}"}}', "call_2")]
    upstream.script = [
        whole(choice(tool_calls=calls)),
        whole(choice(content=CANARY)),
        events(chunk(content=CANARY), chunk(finish="stop")),
        whole({"error": {"message": f"{CANARY} {PROVIDERS_KEY}", "code": CANARY}}, 400),
        whole({"choices": [{"message": {"content": 7, "tool_calls": [CANARY]}}]}),
    ]
    for number in range(4):
        image = {"type": "image_url", "image_url": {"url": f"https://example.com/{CANARY}?sig={CANARY}"}}
        said = [{"type": "text", "text": CANARY}, image]
        body = {
            "assistant_id": assistant["id"],
            "stream": number == 1,
            "metadata": {CANARY: CANARY},
            "thread": {"messages": [{"role": "user", "content": said}]},
        }
        run = await ask("POST", "/v1/threads/runs", body)
        if run is None:
            continue
        path = f"/v1/threads/{run['thread_id']}/runs/{run['id']}"
        while (run := await ask("GET", path))["status"] in ("queued", "in_progress", "requires_action"):
            if run["status"] == "requires_action":
                output = [{"tool_call_id": "call_2", "output": CANARY}]
                await ask("POST", f"{path}/submit_tool_outputs", {"tool_outputs": output})
            await asyncio.sleep(0.02)
    await ask("GET", "/v1/assistants", key=f"{CANARY}-wrong")
    await ask("POST", "/v1/assistants", {"model": [CANARY], CANARY: CANARY})
    await ask("POST", "/v1/threads", {"metadata": {CANARY: {}}})
    await ask("GET", f"/v1/assistants?after={CANARY}")
    async with session.post(f"{url}/v1/threads", data=f'{{"{CANARY}"', headers={"Authorization": f"Bearer {KEY}"}):
        pass
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(f"GET / HTTP/1.1\r\n{CANARY} {CANARY}: {KEY}\r\n\r\n".encode())
    assert b"400" in await reader.readline()
    writer.close()
