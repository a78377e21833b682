"""/v1/threads/{thread_id}/runs and /v1/threads/runs."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from assistants_service.api import streaming
from assistants_service.api.handling import (
    answer,
    answer_stored,
    checked_id,
    context_of,
    ignore_body,
    includes_results,
    page_query,
    path_id,
    read_body,
    services_of,
)
from assistants_service.api.idempotency import create_once
from assistants_service.api.request_keys import PROJECT
from assistants_service.core import names
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputsBody
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.requests import UpdateMetadata
from assistants_service.core.resources import ASSISTANT, RUN, THREAD
from assistants_service.core.threads.lookups import run_of


class RunIds(Struct, frozen=True):
    """What a stream needs of a run whose creation was answered before."""

    id: str
    thread_id: str


async def create(request: web.Request) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    thread_id = path_id(request, THREAD)
    body = await read_body(request, CreateRun)
    checked_id(body.assistant_id, ASSISTANT, "assistant_id")
    with_results = includes_results(request)
    created = await create_once(
        request,
        RUN,
        lambda run_id: services.runs.create(context, thread_id, run_id, body, with_results=with_results),
        body,
    )
    return await _stream_of(request, created) if body.stream else created


async def create_with_thread(request: web.Request) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CreateThreadAndRun)
    checked_id(body.assistant_id, ASSISTANT, "assistant_id")
    created = await create_once(
        request, THREAD, lambda thread_id: services.runs.create_with_thread(context, thread_id, body), body
    )
    return await _stream_of(request, created) if body.stream else created


async def _stream_of(request: web.Request, created: web.Response) -> web.StreamResponse:
    """A streamed run is answered with its stream. The Idempotency-Key keeps the run."""
    assert isinstance(created.body, bytes)  # noqa: S101
    return await _stream(request, msgspec.json.decode(created.body, type=RunIds))


async def _stream(request: web.Request, run: Run | RunIds, seen: int = 0) -> web.StreamResponse:
    """Follow the run's stream from the first event after version `seen` of its thread."""
    services, project = services_of(request), request[PROJECT]
    source = streaming.stream_source(services, project, run.thread_id, run.id)
    topics = [f"{names.STREAMS}/{names.document(project, run.thread_id, run.id)}"]
    watchers = request.app[streaming.STREAMS]
    events = streaming.follow(services, source, topics, seen=seen, watchers=watchers)
    return await streaming.send(request, events)


async def list_all(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    thread_id = path_id(request, THREAD)
    query = page_query(request)
    page = (await services.thread_repository.read(project, thread_id)).runs.page(query, "run")
    return answer(replace(page, data=tuple(run_state.run for run_state in page.data)))


async def retrieve(request: web.Request) -> web.Response:
    services, project = services_of(request), request[PROJECT]
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    stored = await services.thread_repository.fetch(names.RUNS, project, thread_id, run_id)
    return answer_stored(request, stored, headers={"openai-poll-after-ms": str(int(services.poll_after * 1000))})


async def update(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    body = await read_body(request, UpdateMetadata)
    return answer(await services.runs.update(context, thread_id, run_id, body))


async def cancel(request: web.Request) -> web.Response:
    services, context = services_of(request), context_of(request)
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    await ignore_body(request)
    return answer(await services.runs.cancel(context, thread_id, run_id))


async def submit_tool_outputs(request: web.Request) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    body = await read_body(request, SubmitToolOutputsBody)
    run, seen = await services.runs.submit_tool_outputs(context, thread_id, run_id, body)
    return await _stream(request, run, seen) if body.stream else answer(run)


async def events(request: web.Request) -> web.StreamResponse:
    """Watch a run from its start, or continue after Last-Event-ID: an addition to the protocol."""
    services, project = services_of(request), request[PROJECT]
    thread_id, run_id = path_id(request, THREAD), path_id(request, RUN)
    run_of(await services.thread_repository.read(project, thread_id), run_id)
    source = streaming.run_source(services, project, thread_id, run_id)
    offset = await streaming.start_offset(source, request.headers.get("Last-Event-ID"))
    if offset is None:
        return await streaming.send(request, streaming.end_of_stream())
    topics = [f"{names.STREAMS}/{names.document(project, thread_id, run_id)}", f"{names.THREADS}/{project}/{thread_id}"]
    watchers = request.app[streaming.STREAMS]
    found = streaming.follow(services, source, topics, offset, to_the_end=True, watchers=watchers)
    return await streaming.send(request, found)
