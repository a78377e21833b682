"""A model provider that answers by script, over real HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from assistants_service.core.ports.models import Deltas, Function, ModelError, Prompt, Reply, ToolCall, Turn
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter

WEATHER = Function(
    "get_weather",
    "Get the current weather for a city",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Upstream:
    """Records requests and answers each with the next of the script; the last answer is repeated."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.url = ""

    @property
    def body(self) -> dict[str, Any]:
        return self.requests[-1][1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.requests.append((request.path, body, dict(request.headers)))
        return await (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Upstream]:
    one = Upstream()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    async with TestServer(app) as server:
        one.url = str(server.make_url("/v1"))
        yield one


def assembled(deltas: Deltas) -> list[ToolCall]:
    """Calls as a listener puts them together."""
    return [call.so_far for call in deltas.calls]


# --- answers ------------------------------------------------------------------------------------------------------


def whole(body: Any, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        # Retries wait this long instead of half a second.
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "text/html" if text.startswith("<") else "application/json"
        return web.Response(text=text, status=status, content_type=kind, headers={"retry-after-ms": "1", **headers})

    return answer


def events(*data: Any, then: str = "data: [DONE]\n\n") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in data:
            kind = f"event: {one['type']}\n" if "type" in one else ""
            await response.write(f"{kind}data: {json.dumps(one)}\n\n".encode())
        await response.write(then.encode())
        await response.write_eof()
        return response

    return answer


def broken(*data: Any) -> Answer:
    """Some events, then the connection is cut inside the chunked body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in data:
            await response.write(f"data: {json.dumps(one)}\n\n".encode())
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def choice(finish: str | None = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    body = {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}]}
    return body | ({"usage": usage} if usage else {})


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def fragment(index: int | None, call_id: str | None, name: str | None, text: str | None) -> dict[str, Any]:
    fields = {"index": index, "id": call_id, "function": {"name": name, "arguments": text}}
    return {name: value for name, value in fields.items() if value is not None}


def function(name: str, text: str, call_id: str | None = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def response(*output: Any, status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"object": "response", "status": status, "error": None, "output": list(output), **fields}


def message(*parts: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(parts)}


def said(text: str) -> dict[str, Any]:
    return message({"type": "output_text", "text": text, "annotations": []})


def function_call(name: str, text: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": text}


# --- asking -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def router(url: str, api: Any = "chat", *, retries: int = 0, **options: Any) -> AsyncIterator[ModelRouter]:
    timeout = options.pop("timeout", 5.0)
    provider = Provider(api=api, base_url=url, **options)
    async with closing(ModelRouter({"acme": provider}, "acme", timeout=timeout, max_retries=retries)) as models:
        yield models


@contextlib.asynccontextmanager
async def closing(models: ModelRouter) -> AsyncIterator[ModelRouter]:
    try:
        yield models
    finally:
        await models.close()


def prompt(*turns: Turn, **fields: Any) -> Prompt:
    return Prompt(fields.pop("model", "m"), fields.pop("instructions", None), turns or (Turn("user", "Hi"),), **fields)


async def ask(upstream: Upstream, asked: Prompt, deltas: Deltas | None = None, **options: Any) -> Reply:
    async with router(upstream.url, **options) as models:
        return await models.reply(asked, deltas)


async def fail(upstream: Upstream, deltas: Deltas | None = None, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await ask(upstream, prompt(), deltas, **options)
    return caught.value
