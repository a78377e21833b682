"""A model that says what the user's message tells it to: real HTTP, streamed in small pieces, always the same.

The last user message is a script, JSON like {"turns": [...]}: the model's first turn after it is the first of them, and
so on. A turn is an object:
* `say`: text; `{outputs}` in it becomes what the tools said, `{instructions}` the instructions
* `calls`: [[function, arguments], ...]
* `finish`: a finish reason, such as `length`
* `pause`: seconds before each piece
* `status`: an HTTP error instead
Any other message is answered with the instructions and itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from scripted_upstreams import chunk, fragment, serving, whole

Messages = list[dict[str, Any]]
PIECE = 4  # characters


@contextlib.contextmanager
def scripted_model() -> Iterator[str]:
    """The base URL of the model, which runs in a thread of its own."""
    loop, up, address = asyncio.new_event_loop(), threading.Event(), []

    async def run() -> None:
        async with serving() as upstream:
            upstream.script = [answer]
            address.append(upstream.url)
            up.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert up.wait(60), "the model does not start"
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path.endswith("/models"):
        return web.json_response({"object": "list", "data": [{"id": "scripted", "created": 1, "owned_by": "tests"}]})
    body = await request.json()
    messages: Messages = body["messages"]
    turn = _turn(messages)
    if status := turn.get("status"):
        return await whole({"error": {"message": turn.get("say", "no"), "code": None}}, status)(request)
    pieces = [*_said(turn, messages), *_called(turn, messages)]
    usage = {"prompt_tokens": 10 * len(messages), "completion_tokens": len(pieces)}
    usage["total_tokens"] = sum(usage.values())
    finish = turn.get("finish") or ("tool_calls" if turn.get("calls") else "stop")
    if not body.get("stream"):
        await asyncio.sleep(turn.get("pause", 0) * len(pieces))
        return web.json_response(_message(pieces, finish) | {"usage": usage})
    return await _stream(request, pieces, finish, usage, turn.get("pause", 0))


def _turn(messages: Messages) -> dict[str, Any]:
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    content = messages[last]["content"]
    asked = content if isinstance(content, str) else content[0]["text"]
    number = sum(message["role"] == "assistant" for message in messages[last:])
    try:
        # What was joined of several messages is a paragraph each: the last one counts.
        turn: dict[str, Any] = json.loads(asked.rpartition("\n\n")[2])["turns"][number]
    except (ValueError, TypeError):
        turn = {"say": "{instructions} | " + asked}
    return turn


def _said(turn: dict[str, Any], messages: Messages) -> list[dict[str, Any]]:
    outputs = ", ".join(message["content"] for message in messages if message["role"] == "tool")
    instructions = "".join(message["content"] for message in messages if message["role"] == "system")
    text = turn.get("say", "").replace("{outputs}", outputs).replace("{instructions}", instructions)
    return [{"content": text[at : at + PIECE]} for at in range(0, len(text), PIECE)]


def _called(turn: dict[str, Any], messages: Messages) -> list[dict[str, Any]]:
    """Each call as OpenAI streams it: first its id, name and no arguments, then the arguments in fragments."""
    pieces = []
    for index, (name, arguments) in enumerate(turn.get("calls", ())):
        text = json.dumps(arguments)
        seed = hashlib.sha256(f"{len(messages)} {index} {name} {text}".encode()).hexdigest()
        pieces.append(fragment(index, f"call_{seed[:24]}", name, "") | {"type": "function"})
        pieces += [fragment(index, None, None, text[at : at + PIECE]) for at in range(0, len(text), PIECE)]
    return [{"tool_calls": [piece]} for piece in pieces]


def _message(pieces: list[dict[str, Any]], finish: str) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    for piece in (piece for delta in pieces for piece in delta.get("tool_calls", ())):
        if "id" in piece:
            calls.append(piece)
        else:
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    text = "".join(piece.get("content", "") for piece in pieces)
    message = {"role": "assistant", "content": text or None} | ({"tool_calls": calls} if calls else {})
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


async def _stream(
    request: web.Request, pieces: list[dict[str, Any]], finish: str, usage: dict[str, int], pause: float
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for each in [chunk(role="assistant", content=""), *(chunk(**piece) for piece in pieces), chunk(finish)]:
        await asyncio.sleep(pause)
        await response.write(f"data: {json.dumps(each)}\n\n".encode())
    last = {"choices": [], "usage": usage}
    await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
    await response.write_eof()
    return response
