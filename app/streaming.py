"""Server-sent events of a run: followed from the store, on any API process, whoever writes them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from aiohttp import web

from app.service import REQUEST_ID, Service
from core import frames, names
from core.errors import ApiError
from core.ports import Mark, StorageUnavailable
from core.resources import encode
from core.stream import replay

HEARTBEAT = b": keep-alive\n\n"
HEARTBEAT_EVERY = 15.0  # seconds without an event
POLL_FAST, POLL_SLOW = 0.02, 0.25  # seconds between looks at what another process writes
_ENDING = re.compile(rb"\nevent: thread\.run\.(?:completed|incomplete|failed|cancelled|expired)\ndata: [^\n]*\n\n")
_PAUSE = re.compile(
    rb"\nevent: thread\.run\.(?:requires_action|completed|incomplete|failed|cancelled|expired)\ndata: [^\n]*\n\n"
)

Source = Callable[[int], Awaitable[bytes | None]]  # from an offset: what is there, or None if the run is gone
STREAMS = web.AppKey("streams", set[asyncio.Task[Any]])


def stored(service: Service, project: str, thread_id: str, run_id: str) -> Source:
    """What was written for clients that asked to stream."""
    name = names.document(project, thread_id, run_id)

    async def source(offset: int) -> bytes | None:
        tail = await service.storage.read(names.STREAMS, name, Mark(0, offset))
        if tail is not None:
            return tail.data
        # Not there yet, since whoever creates it died before he did and a worker will; or not any more.
        state = (await service.ledger.look(project, thread_id)).state
        return None if state.deleted or state.thread is None else b""

    return source


def replayed(service: Service, project: str, thread_id: str, run_id: str) -> Source:
    """The events of a run that nobody streamed, from its thread's log."""

    async def source(offset: int) -> bytes | None:
        state = (await service.ledger.look(project, thread_id)).state
        if state.deleted or state.thread is None:
            return None
        return replay(await service.ledger.trail(project, thread_id, run_id))[offset:]

    return source


async def follow(
    service: Service, source: Source, topics: list[str], offset: int, *, to_the_end: bool
) -> AsyncGenerator[bytes, None]:
    """Whole events from `offset` on, until the run has ended (or waits for its client, unless `to_the_end`)."""
    stop, pause, quiet = (_ENDING if to_the_end else _PAUSE), POLL_FAST, 0.0
    while True:
        listeners = [service.bell.listen(topic) for topic in topics]
        try:
            data = await source(offset)
            if data is None:
                gone = {
                    "error": {"message": "The thread was deleted.", "type": "server_error", "param": None, "code": None}
                }
                yield b"event: error\ndata: " + encode(gone) + b"\n\n"
                return
            if data:
                end = stop.search(data)
                yield data[: end.end()] if end else data
                if end:
                    yield frames.DONE
                    return
                offset, pause, quiet = offset + len(data), POLL_FAST, 0.0
                continue
            done, _ = await asyncio.wait(
                [listener.future for listener in listeners], timeout=pause, return_when=asyncio.FIRST_COMPLETED
            )
            quiet += pause
            pause = POLL_FAST if done else min(pause * 1.5, POLL_SLOW)
            if quiet >= HEARTBEAT_EVERY:
                yield HEARTBEAT
                quiet = 0.0
        finally:
            for listener in listeners:
                listener.close()


async def start_offset(source: Source, last_event_id: str | None) -> int:
    """Where to go on after the event of this id: at the next one. Raises ApiError for an id that was never sent."""
    if not last_event_id:
        return 0
    found = re.fullmatch(r"(\d{1,12})\.(\d{1,12})", last_event_id)
    data = (await source(int(found[1])) or b"") if found else b""
    if not data.startswith(f"id: {last_event_id}\n".encode()):
        message = f"Invalid 'Last-Event-ID': '{last_event_id[:100]}' is not the id of an event of this run."
        raise ApiError(message, param="Last-Event-ID", code="invalid_value")
    assert found is not None  # noqa: S101
    return int(found[1]) + data.index(b"\n\n") + 2


async def send(request: web.Request, chunks: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Answer with the chunks as they come. A client that goes away ends this, and nothing else."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "x-request-id": request[REQUEST_ID],
        }
    )
    await response.prepare(request)
    task = asyncio.current_task()
    open_streams = request.app[STREAMS]
    if task:
        open_streams.add(task)
    try:
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                await response.write(chunk)
        await response.write_eof()
    except (ConnectionResetError, StorageUnavailable):
        pass  # the client comes back with Last-Event-ID, or not
    finally:
        if task:
            open_streams.discard(task)
    return response


async def end_streams(app: web.Application) -> None:
    """At shutdown: clients reconnect elsewhere with Last-Event-ID."""
    open_streams = app[STREAMS]
    for task in list(open_streams):
        task.cancel()
