"""The floor under the service on SQLite: a bare aiohttp handler that answers the same requests with one commit each.

It checks nothing, promises nothing and knows no events: a POST stores its body, a GET by id reads it back, a list reads
20 of them. A run is stored, the model called by a bare POST, and the run stored again. Prints its URL when it listens.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from itertools import count
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from helper import serve

Json = dict[str, Any]
TASKS: set[asyncio.Task[None]] = set()


class Store:
    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE things(id TEXT PRIMARY KEY, parent TEXT, body BLOB)")
        self._db.execute("CREATE INDEX parents ON things(parent, id)")
        self._numbers = count(1)

    def new_id(self) -> str:
        return f"thing_{next(self._numbers):020d}"

    def put(self, thing: Json, parent: str) -> bytes:
        body = msgspec.json.encode(thing)
        sql = "INSERT INTO things VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET body=excluded.body"
        self._db.execute(sql, (thing["id"], parent, body))
        return body

    def get(self, thing_id: str) -> bytes:
        return bytes(self._db.execute("SELECT body FROM things WHERE id=?", (thing_id,)).fetchone()[0])

    def page(self, parent: str) -> bytes:
        sql = "SELECT body FROM things WHERE parent=? ORDER BY id DESC LIMIT 20"
        return b'{"data":[' + b",".join(row[0] for row in self._db.execute(sql, (parent,))) + b"]}"


STORE: web.AppKey[Store] = web.AppKey("store", Store)
SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


def answer(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


async def create(request: web.Request) -> web.StreamResponse:
    store, parent = request.app[STORE], request.match_info.get("parent", "")
    thing = {"id": store.new_id(), "created_at": int(time.time()), **msgspec.json.decode(await request.read())}
    return answer(store.put(thing, parent))


async def retrieve(request: web.Request) -> web.Response:
    return answer(request.app[STORE].get(request.match_info["id"]))


async def page(request: web.Request) -> web.Response:
    return answer(request.app[STORE].page(request.match_info["parent"]))


async def start_run(request: web.Request) -> web.StreamResponse:
    store, parent = request.app[STORE], request.match_info["parent"]
    asked = msgspec.json.decode(await request.read())
    run: Json = {"id": store.new_id(), "status": "queued", "thread_id": parent}
    body = store.put(run, parent)
    if asked.get("stream"):
        return await stream(request, run)
    work(request.app, run, asked.get("tools"))
    return answer(body)


async def submit(request: web.Request) -> web.StreamResponse:
    store = request.app[STORE]
    run = {**msgspec.json.decode(store.get(request.match_info["id"])), "status": "queued", "required_action": None}
    body = store.put(run, run["thread_id"])
    work(request.app, run, None)
    return answer(body)


def work(app: web.Application, run: Json, tools: Any) -> None:
    task = asyncio.create_task(_ask(app, run, tools))
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


async def _ask(app: web.Application, run: Json, tools: Any) -> None:
    prompt: Json = {"model": "m", "messages": [{"role": "user", "content": run["id"]}]}
    if tools:
        prompt["tools"] = tools
    async with app[SESSION].post("v1/chat/completions", data=msgspec.json.encode(prompt)) as response:
        message = msgspec.json.decode(await response.read())["choices"][0]["message"]
    calls = message.get("tool_calls")
    status = "requires_action" if calls else "completed"
    action = {"submit_tool_outputs": {"tool_calls": calls}} if calls else None
    app[STORE].put({**run, "status": status, "required_action": action, "answer": message}, run["thread_id"])


async def stream(request: web.Request, run: Json) -> web.StreamResponse:
    """The model's words as they come, then the stored end."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    prompt = {"model": "m", "stream": True, "messages": [{"role": "user", "content": run["id"]}]}
    async with request.app[SESSION].post("v1/chat/completions", data=msgspec.json.encode(prompt)) as model:
        async for line in model.content:
            if line.startswith(b"data: {"):
                await response.write(b"event: thread.message.delta\n" + line + b"\n")
    body = request.app[STORE].put({**run, "status": "completed"}, run["thread_id"])
    await response.write(b"event: thread.run.completed\ndata: " + body + b"\n\n")
    await response.write_eof()
    return response


def application(path: str, model: str) -> web.Application:
    app = web.Application()
    app[STORE] = Store(path)

    async def session(app: web.Application) -> Any:
        app[SESSION] = aiohttp.ClientSession(model + "/", connector=aiohttp.TCPConnector(limit=0))
        yield
        await app[SESSION].close()

    app.cleanup_ctx.append(session)
    app.router.add_post("/v1/assistants", create)
    app.router.add_get("/v1/assistants/{id}", retrieve)
    app.router.add_post("/v1/threads", create)
    app.router.add_get("/v1/threads/{id}", retrieve)
    app.router.add_post("/v1/threads/{parent}/messages", create)
    app.router.add_get("/v1/threads/{parent}/messages", page)
    app.router.add_get("/v1/threads/{parent}/messages/{id}", retrieve)
    app.router.add_post("/v1/threads/{parent}/runs", start_run)
    app.router.add_get("/v1/threads/{parent}/runs/{id}", retrieve)
    app.router.add_post("/v1/threads/{parent}/runs/{id}/submit_tool_outputs", submit)
    return app


if __name__ == "__main__":
    serve(application(sys.argv[1], sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
