"""Server-sent events of a run, read from the store by any API process, whichever process writes them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

from aiohttp import web

from assistants_service.api.request_keys import REQUEST_ID
from assistants_service.api.services import Services
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.notifier import Listener
from assistants_service.core.ports.logs import Mark
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.protocol.objects import encode
from assistants_service.core.threads import sse
from assistants_service.core.threads.lookups import run_of
from assistants_service.core.threads.stream import replay

# One line: an empty line after it would make the SDK see an event without data, and it keeps the last `id`.
HEARTBEAT = b": keep-alive\n"
HEARTBEAT_EVERY = 15.0  # seconds without an event
OUTAGE = 60.0  # seconds without a response from the store after which a stream ends with an error
POLL_FAST, POLL_SLOW, POLL_SLOWEST = 0.02, 0.25, 5.0  # seconds between reads of what another process writes
LOOKS = 200  # reads per second of all idle streams of a process: with more than 50 of them, each reads less often
POLL_OUTAGE = 1.0  # seconds between reads while the store does not respond
PIECE = 256 * 1024  # bytes buffered for one reader, plus the rest of the event that reaches beyond
_ENDING = re.compile(rb"\nevent: thread\.run\.(?:completed|incomplete|failed|cancelled|expired)\ndata: [^\n]*\n\n")
_PAUSE = re.compile(
    rb"\nevent: thread\.run\.(?:requires_action|completed|incomplete|failed|cancelled|expired)\ndata: [^\n]*\n\n"
)

Source = Callable[[int], Awaitable[bytes | None]]  # from an offset: the next whole events, or None if the run is gone
STREAMS = web.AppKey("streams", set[asyncio.Task[Any]])


def stream_source(services: Services, project: str, thread_id: str, run_id: str) -> Source:
    """The events that were stored for clients that asked to stream."""
    name, mark = names.document(project, thread_id, run_id), Mark(0, 0)

    async def source(offset: int) -> bytes | None:
        nonlocal mark
        # With the mark of the last read, the store need not send what has not changed.
        since, limit = mark if mark.offset == offset else Mark(0, offset), PIECE
        while tail := await services.storage.read(names.STREAMS, name, since, limit=limit):
            mark, data = tail.mark, tail.data
            end = data.rfind(b"\n\n", 0, PIECE)
            if end < 0:  # a single event is longer
                end = data.find(b"\n\n")
            if end >= 0 or len(data) < limit:
                return data[: end + 2]
            limit *= 8
        # Missing: its creator died before writing it and a worker will, or it has been deleted.
        state = (await services.thread_repository.load(project, thread_id)).state
        return None if state.deleted or state.thread is None else b""

    return source


def run_source(services: Services, project: str, thread_id: str, run_id: str) -> Source:
    """The events of any run, as streamed or from its thread's log. If a client asks to stream it later, the stream
    begins with exactly these bytes, so an offset in one is an offset in the other."""
    streamed, log = stream_source(services, project, thread_id, run_id), names.log(project, thread_id)
    is_streamed = False
    idle: tuple[int, Mark] | None = None  # an offset after which nothing came, as of this end of the log
    served = 0
    rest: Iterator[bytes] = iter(())  # the events from there on, as the last read found them

    async def source(offset: int) -> bytes | None:
        nonlocal is_streamed, idle, served, rest
        if is_streamed:
            return await streamed(offset)
        if served == offset and (data := _piece(rest)):
            served += len(data)
            return data
        if idle and idle[0] == offset:
            # Read only the log's end: folding the thread for each idle watcher costs too much.
            tail = await services.storage.read(names.THREADS, log, idle[1])
            if tail and not tail.data and not tail.restarted:
                return b""
        view = await services.thread_repository.load(project, thread_id)
        if view.state.deleted or view.mark is None:
            return None
        run_state, mark = run_of(view.state, run_id), view.mark
        if run_state.stream:
            found = await streamed(offset)
            # Empty from the start although the run is over: streams are deleted after some days.
            is_streamed = found != b"" or run_state.run.active or bool(await streamed(0))
            if is_streamed:
                return found
        rest = _without(offset, replay(await services.thread_repository.run_history(project, thread_id, run_id)))
        data = _piece(rest)
        served, idle = offset + len(data), None if data else (offset, mark)
        return data

    return source


def _without(size: int, events: Iterator[bytes]) -> Iterator[bytes]:
    """Skip the first `size` bytes."""
    for event in events:
        if size < len(event):
            yield event[size:]
        size = max(size - len(event), 0)


def _piece(events: Iterator[bytes]) -> bytes:
    """The next events, up to PIECE bytes."""
    piece: list[bytes] = []
    size = 0
    while size < PIECE and (event := next(events, b"")):
        piece.append(event)
        size += len(event)
    return b"".join(piece)


async def follow(
    services: Services,
    source: Source,
    topics: list[str],
    offset: int = 0,
    *,
    seen: int = 0,
    to_the_end: bool = False,
    watchers: Collection[object] = (),
) -> AsyncGenerator[bytes, None]:
    """Whole events from `offset` on, of those after version `seen` of the thread, until the run has ended (or waits for
    its client, unless `to_the_end`); empty bytes if a read found nothing. `watchers` are the open streams of this
    process."""
    stop, pause, now = (_ENDING if to_the_end else _PAUSE), POLL_FAST, asyncio.get_running_loop().time
    answered = now()
    while True:
        listeners = [services.notifier.listen(topic) for topic in topics]
        try:
            try:
                data = await source(offset)
                answered = now()
            except StorageUnavailable:
                if now() - answered > OUTAGE:
                    yield _error("The storage of this service is not responding. The run continues.")
                    return
                data, pause = b"", POLL_OUTAGE
            if data is None:
                yield _error("The thread was deleted.")
                return
            if data:
                start, offset, pause = offset, offset + len(data), POLL_FAST
                if seen:  # a stream may lag: its end may still be before version `seen`
                    unseen = (place for place, version, _, _ in sse.parse(data) if version > seen)
                    if (first := next(unseen, None)) is None:
                        continue
                    data, seen = data[first - start :], 0
                end = stop.search(data)
                yield data[: end.end()] if end else data
                if end:
                    yield sse.DONE
                    return
                continue
            yield b""
            pause = await _wait(listeners, pause, len(watchers))
        finally:
            for listener in listeners:
                listener.close()


async def _wait(listeners: Sequence[Listener], pause: float, watchers: int) -> float:
    """Wait for news, `pause` seconds at most. Returns the next pause: longer if nothing came, and the longer the more
    streams are open."""
    done, _ = await asyncio.wait(
        [listener.future for listener in listeners], timeout=pause, return_when=asyncio.FIRST_COMPLETED
    )
    slowest = min(max(POLL_SLOW, watchers / LOOKS), POLL_SLOWEST)
    return POLL_FAST if done else min(pause * 1.5, slowest)


def _error(message: str) -> bytes:
    """An event that makes the SDKs raise: they look for `error` in its data."""
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return b"event: error\ndata: " + encode({"error": error}) + b"\n\n"


async def end_of_stream() -> AsyncGenerator[bytes, None]:
    """The rest of a stream whose last event the reader already has."""
    yield sse.DONE


async def start_offset(source: Source, last_event_id: str | None) -> int | None:
    """The offset after the event with this id; None if it was the last. Raises ApiError for an id that was never
    sent."""
    if not last_event_id:
        return 0
    found = re.fullmatch(r"(\d{1,12})\.(\d{1,12})", last_event_id)
    data = await source(int(found[1])) if found else b""
    if data is None:
        return 0  # the thread was deleted: `follow` says so
    if not found or not data.startswith(f"id: {last_event_id}\n".encode()):
        shown = last_event_id[:100].encode(errors="replace").decode()
        message = f"Invalid 'Last-Event-ID': '{shown}' is not the id of an event of this run."
        raise ApiError(message, param="Last-Event-ID", code="invalid_value")
    end = data.index(b"\n\n") + 2
    return None if _ENDING.search(data[:end]) else int(found[1]) + end


async def send(request: web.Request, chunks: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send the chunks as they come. A disconnecting client ends this, and nothing else."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "x-request-id": request[REQUEST_ID],
        }
    )
    await response.prepare(request)
    if request.method == "HEAD":
        return response  # whatever followed would be read as the response to the next request
    task, now = asyncio.current_task(), asyncio.get_running_loop().time
    open_streams, wrote = request.app[STREAMS], now()
    if task:
        open_streams.add(task)
    try:
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if request.transport is None:
                    break
                if chunk or now() - wrote >= HEARTBEAT_EVERY:
                    await response.write(chunk or HEARTBEAT)
                    wrote = now()
                    await asyncio.sleep(0)  # else a fast reader on SQLite would block other requests
        await response.write_eof()
    except ConnectionError:
        pass  # the client may reconnect with Last-Event-ID
    finally:
        if task:
            open_streams.discard(task)
    return response


async def end_streams(app: web.Application) -> None:
    """Ends all streams at shutdown: clients reconnect elsewhere with Last-Event-ID."""
    open_streams = app[STREAMS]
    for task in list(open_streams):
        task.cancel()
