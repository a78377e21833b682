"""A model provider for benchmarks: answers at once, or after a set time, and costs little.

  POST /v1/chat/completions, POST /v1/responses    whole or streamed; a function call if there are tools, and none ran
  POST /config    {"delay_ms": before the first byte, "tokens": words of an answer, "itl_ms": between two of them}
  GET  /arrivals  when each call came (monotonic seconds), by the text of its last user message; then forgets them

Prints its URL when it listens. Not streamed, the waits between words are spent before the answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import msgspec
from aiohttp import web

from helper import serve

Json = dict[str, Any]


class Script:
    """What the model does, and what it saw."""

    def __init__(self) -> None:
        self.delay, self.tokens, self.pause = 0.1, 20, 0.0
        self.arrivals: dict[str, float] = {}
        self._numbers = count(1)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers):08d}"

    @property
    def words(self) -> list[str]:
        return [f"word{number} " for number in range(self.tokens)]


SCRIPT = Script()


def function_to_call(body: Json, items: list[Json]) -> str | None:
    """The first tool's name, if nothing was called since the last user message."""
    if not body.get("tools"):
        return None
    for item in reversed(items):
        if item.get("role") == "tool" or item.get("type") == "function_call_output":
            return None
        if item.get("role") == "user":
            break
    tool = body["tools"][0]
    return str(tool.get("name") or tool["function"]["name"])


def last_words(items: list[Json]) -> str:
    content = items[-1].get("content") if items else ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


# --- chat completions ---------------------------------------------------------------------------------------------


def chat_usage() -> Json:
    return {"prompt_tokens": 10, "completion_tokens": SCRIPT.tokens, "total_tokens": 10 + SCRIPT.tokens}


def chat_call(name: str) -> Json:
    return {"id": SCRIPT.new_id("call_"), "type": "function", "function": {"name": name, "arguments": '{"x": 1}'}}


def chat_whole(body: Json, function: str | None) -> Json:
    message: Json = {"role": "assistant", "content": None if function else "".join(SCRIPT.words).strip()}
    if function:
        message["tool_calls"] = [chat_call(function)]
    return {
        "id": SCRIPT.new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "usage": chat_usage(),
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if function else "stop"}],
    }


async def chat_stream(body: Json, function: str | None) -> AsyncIterator[bytes]:
    head = {"id": SCRIPT.new_id("chatcmpl-"), "object": "chat.completion.chunk", "model": body.get("model")}

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    if function:
        yield chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **chat_call(function)}]})
    else:
        async for word in spoken():
            yield chunk({"content": word})
    yield chunk({}, "tool_calls" if function else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _data({**head, "choices": [], "usage": chat_usage()})
    yield b"data: [DONE]\n\n"


# --- responses ----------------------------------------------------------------------------------------------------


def response_item(function: str | None) -> Json:
    if function:
        names = {"id": SCRIPT.new_id("fc_"), "call_id": SCRIPT.new_id("call_"), "name": function}
        return {"type": "function_call", **names, "arguments": '{"x": 1}', "status": "completed"}
    text = {"type": "output_text", "text": "".join(SCRIPT.words).strip(), "annotations": []}
    return {
        "type": "message",
        "id": SCRIPT.new_id("msg_"),
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }


def response_whole(body: Json, function: str | None, output: list[Json] | None = None, status: str = "") -> Json:
    return {
        "id": SCRIPT.new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": status or "completed",
        "model": body.get("model"),
        "output": [response_item(function)] if output is None else output,
        "error": None,
        "incomplete_details": None,
        "usage": {"input_tokens": 10, "output_tokens": SCRIPT.tokens, "total_tokens": 10 + SCRIPT.tokens},
    }


async def response_stream(body: Json, function: str | None) -> AsyncIterator[bytes]:
    numbers = count()

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + _data({"type": kind, "sequence_number": next(numbers), **fields})

    item = response_item(function)
    at = {"output_index": 0, "item_id": item["id"]}
    yield event("response.created", response=response_whole(body, function, [], "in_progress"))
    yield event("response.output_item.added", output_index=0, item=item)
    if function:
        yield event("response.function_call_arguments.done", **at, arguments=item["arguments"])
    else:
        async for word in spoken():
            yield event("response.output_text.delta", **at, content_index=0, delta=word)
    yield event("response.output_item.done", output_index=0, item=item)
    yield event("response.completed", response=response_whole(body, function, [item]))


# --- serving ------------------------------------------------------------------------------------------------------


async def spoken() -> AsyncIterator[str]:
    for number, word in enumerate(SCRIPT.words):
        if number and SCRIPT.pause:
            await asyncio.sleep(SCRIPT.pause)
        yield word


def _data(payload: Json) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


Whole = Callable[[Json, str | None], Json]
Stream = Callable[[Json, str | None], AsyncIterator[bytes]]


def answering(whole: Whole, stream: Stream) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        body = msgspec.json.decode(await request.read())
        items = body.get("messages") or body.get("input") or []
        SCRIPT.arrivals[last_words(items)] = arrived
        function = function_to_call(body, items)
        if not body.get("stream"):
            await asyncio.sleep(SCRIPT.delay + (0 if function else SCRIPT.pause * SCRIPT.tokens))
            return web.Response(body=msgspec.json.encode(whole(body, function)), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(SCRIPT.delay)
        async for chunk in stream(body, function):
            await response.write(chunk)
        await response.write_eof()
        return response

    return handler


async def configure(request: web.Request) -> web.Response:
    given = json.loads(await request.read())
    SCRIPT.delay, SCRIPT.tokens = given.get("delay_ms", 100) / 1000, given.get("tokens", 20)
    SCRIPT.pause = given.get("itl_ms", 0) / 1000
    return web.json_response({})


async def arrivals(_: web.Request) -> web.Response:
    seen, SCRIPT.arrivals = SCRIPT.arrivals, {}
    return web.json_response(seen)


def application() -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", answering(chat_whole, chat_stream))
    app.router.add_post("/v1/responses", answering(response_whole, response_stream))
    app.router.add_post("/config", configure)
    app.router.add_get("/arrivals", arrivals)
    return app


if __name__ == "__main__":
    serve(application())
