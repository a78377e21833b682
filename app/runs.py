"""/v1/threads/{thread_id}/runs and /v1/threads/runs."""

from __future__ import annotations

from aiohttp import web
from msgspec.structs import replace

from app import assistants, streaming
from app.service import Service, answer, answer_stored, checked_id, page_query, path_id, read_body, service_of
from core import names
from core.commands import run_of
from core.fold import Change
from core.ledger import Ring
from core.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputs, UpdateMetadata
from core.resources import Run
from core.stream import StreamWriter
from core.work import WorkItem


def _ring(service: Service, project: str, thread_id: str, run_id: str) -> Ring:
    now = service.clock.now()
    return lambda seen: WorkItem(project=project, thread_id=thread_id, run_id=run_id, seen=seen, sent_at=now)


def _run_in(changes: list[Change], name: str) -> Run:
    return next(change.object for change in changes if change.name == name and isinstance(change.object, Run))


async def create(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    body, scribe = await read_body(request, CreateRun), service.scribe()
    assistant = await assistants.load(service, project, checked_id(body.assistant_id, "assistant_id", "asst"))
    run_id = service.ids.new("run")
    changes = await service.ledger.command(
        project,
        thread_id,
        lambda state: scribe.create_run(state, body, assistant, run_id),
        _ring(service, project, thread_id, run_id),
    )
    if body.stream:
        return await _stream(request, project, thread_id, run_id, 0)
    return answer(_run_in(changes, "thread.run.created"))


async def create_with_thread(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    body, scribe = await read_body(request, CreateThreadAndRun), service.scribe()
    assistant = await assistants.load(service, project, checked_id(body.assistant_id, "assistant_id", "asst"))
    thread_id, run_id = service.ids.new("thread"), service.ids.new("run")
    events = scribe.create_thread_and_run(body, assistant, thread_id, run_id)
    changes = await service.ledger.start(project, thread_id, events, _ring(service, project, thread_id, run_id))
    if body.stream:
        return await _stream(request, project, thread_id, run_id, 0)
    return answer(_run_in(changes, "thread.run.created"))


async def _catch_up(service: Service, project: str, thread_id: str, run_id: str) -> StreamWriter:
    """Bring the run's stream up to what was just committed."""
    writer = StreamWriter(service.storage, service.bell, project, thread_id, run_id)
    await writer.catch_up(await service.ledger.trail(project, thread_id, run_id))
    return writer


async def _stream(request: web.Request, project: str, thread_id: str, run_id: str, seen: int) -> web.StreamResponse:
    """Follow the run's stream from the first event after version `seen` of its thread on."""
    service, _ = service_of(request)
    writer = await _catch_up(service, project, thread_id, run_id)
    offset = await writer.offset_after(seen) if seen else 0
    source = streaming.stored(service, project, thread_id, run_id)
    topics = [f"{names.STREAMS}/{writer.name}"]
    return await streaming.send(request, streaming.follow(service, source, topics, offset, to_the_end=False))


async def list_all(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    query = page_query(request)
    page = (await service.ledger.read(project, thread_id)).runs.page(query, "run")
    return answer(replace(page, data=tuple(held.run for held in page.data)))


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    stored = await service.ledger.fetch(names.RUNS, project, thread_id, run_id)
    return answer_stored(request, stored, headers={"openai-poll-after-ms": str(int(service.poll_after * 1000))})


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    body, scribe = await read_body(request, UpdateMetadata), service.scribe()
    await service.ledger.command(project, thread_id, lambda state: scribe.update_run(state, run_id, body))
    return answer(run_of(await service.ledger.read(project, thread_id), run_id).run)


async def cancel(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    scribe = service.scribe()
    changes = await service.ledger.command(
        project,
        thread_id,
        lambda state: scribe.cancel_run(state, run_id),
        _ring(service, project, thread_id, run_id),
    )
    held = run_of(await service.ledger.recall(project, thread_id), run_id)
    if held.stream:
        await _catch_up(service, project, thread_id, run_id)
    return answer(_run_in(changes, "thread.run.cancelling") if changes else held.run)


async def submit_tool_outputs(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    body, scribe = await read_body(request, SubmitToolOutputs), service.scribe()
    changes = await service.ledger.command(
        project,
        thread_id,
        lambda state: scribe.submit_tool_outputs(state, run_id, body),
        _ring(service, project, thread_id, run_id),
    )
    if body.stream:
        return await _stream(request, project, thread_id, run_id, changes[0].version - 1)
    held = run_of(await service.ledger.recall(project, thread_id), run_id)
    if held.stream:
        await _catch_up(service, project, thread_id, run_id)
    return answer(_run_in(changes, "thread.run.queued"))


async def events(request: web.Request) -> web.StreamResponse:
    """Watch a run from its start, or go on after Last-Event-ID: an addition to the protocol."""
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    held = run_of(await service.ledger.read(project, thread_id), run_id)
    kind = streaming.stored if held.stream else streaming.replayed
    source = kind(service, project, thread_id, run_id)
    offset = await streaming.start_offset(source, request.headers.get("Last-Event-ID"))
    topics = [f"{names.STREAMS}/{names.document(project, thread_id, run_id)}", f"{names.THREADS}/{project}/{thread_id}"]
    return await streaming.send(request, streaming.follow(service, source, topics, offset, to_the_end=True))
