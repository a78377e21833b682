"""/v1/threads/{thread_id}/runs and /v1/threads/runs."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec.structs import replace

from assistants_service.api import assistants, references, streaming
from assistants_service.api.idempotency import reserve
from assistants_service.api.service import (
    answer,
    answer_stored,
    checked_id,
    includes_contents,
    page_query,
    path_id,
    read_body,
    service_of,
)
from assistants_service.core import names
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputs
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.requests import UpdateMetadata
from assistants_service.core.threads.lookups import run_of


async def create(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    body = await read_body(request, CreateRun)
    checked_id(body.assistant_id, "assistant_id", "asst")
    contents = includes_contents(request)
    reserved = await reserve(request, "run", body)
    if reserved.known:
        return await _again(request, reserved.known, stream=bool(body.stream))
    assistant = await assistants.load(service, project, body.assistant_id)
    await references.check_model(service, body.model or assistant.model)
    async with service.beginning(project, thread_id):
        filing = None
        if any(message.attachments for message in body.additional_messages or ()):
            state = await service.threads.read(project, thread_id)
            service.commands().create_run(state, body, assistant, reserved.id)  # what is refused is filed nowhere
            filing = await service.helpers.for_messages(project, reserved.id, state, body.additional_messages)
        run = await service.thread_service.create_run(
            project, thread_id, reserved.id, body, assistant, filing, contents=contents
        )
    kept = await reserved.keep(answer(run))
    return await _stream(request, run) if body.stream else kept


async def create_with_thread(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    body = await read_body(request, CreateThreadAndRun)
    checked_id(body.assistant_id, "assistant_id", "asst")
    reserved = await reserve(request, "thread", body)
    if reserved.known:
        return await _again(request, reserved.known, stream=bool(body.stream))
    assistant = await assistants.load(service, project, body.assistant_id)
    await references.check_model(service, body.model or assistant.model)
    run_id = reserved.id.replace("thread", "run", 1)  # one key stands for both
    async with service.beginning(project, reserved.id):
        if body.thread:
            service.commands().create_thread_and_run(
                body, assistant, reserved.id, run_id
            )  # what is refused has no store
            thread = await service.helpers.for_new_thread(project, reserved.id, body.thread)
            body = body.model_copy(update={"thread": thread})
        run = await service.thread_service.create_thread_and_run(project, reserved.id, run_id, body, assistant)
    kept = await reserved.keep(answer(run))
    return await _stream(request, run) if body.stream else kept


async def _again(request: web.Request, known: web.Response, *, stream: bool) -> web.StreamResponse:
    """The answer that was given before; of a streamed run that was the stream, and what is kept is the run."""
    if not stream:
        return known
    assert isinstance(known.body, bytes)  # noqa: S101
    return await _stream(request, msgspec.json.decode(known.body, type=Run))


async def _stream(request: web.Request, run: Run, seen: int = 0) -> web.StreamResponse:
    """Follow the run's stream from the first event after version `seen` of its thread on."""
    service, project = service_of(request)
    source = streaming.stored(service, project, run.thread_id, run.id)
    topics = [f"{names.STREAMS}/{names.document(project, run.thread_id, run.id)}"]
    watchers = request.app[streaming.STREAMS]
    events = streaming.follow(service, source, topics, seen=seen, watchers=watchers)
    return await streaming.send(request, events)


async def list_all(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id = path_id(request, "thread_id", "thread")
    query = page_query(request)
    page = (await service.threads.read(project, thread_id)).runs.page(query, "run")
    return answer(replace(page, data=tuple(held.run for held in page.data)))


async def retrieve(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    stored = await service.threads.fetch(names.RUNS, project, thread_id, run_id)
    return answer_stored(request, stored, headers={"openai-poll-after-ms": str(int(service.poll_after * 1000))})


async def update(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    body, commands = await read_body(request, UpdateMetadata), service.commands()
    changes = await service.threads.command(project, thread_id, lambda state: commands.update_run(state, run_id, body))
    if changes:  # what this request made of it, whatever others do to it by now
        return answer(changes[-1].object)
    return answer(run_of(await service.threads.recall(project, thread_id), run_id).run)


async def cancel(request: web.Request) -> web.Response:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    return answer(await service.thread_service.cancel_run(project, thread_id, run_id))


async def submit_tool_outputs(request: web.Request) -> web.StreamResponse:
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    body = await read_body(request, SubmitToolOutputs)
    run, seen = await service.thread_service.submit_tool_outputs(project, thread_id, run_id, body)
    return await _stream(request, run, seen) if body.stream else answer(run)


async def events(request: web.Request) -> web.StreamResponse:
    """Watch a run from its start, or go on after Last-Event-ID: an addition to the protocol."""
    service, project = service_of(request)
    thread_id, run_id = path_id(request, "thread_id", "thread"), path_id(request, "run_id", "run")
    run_of(await service.threads.read(project, thread_id), run_id)
    source = streaming.watched(service, project, thread_id, run_id)
    offset = await streaming.start_offset(source, request.headers.get("Last-Event-ID"))
    if offset is None:
        return await streaming.send(request, streaming.over())
    topics = [f"{names.STREAMS}/{names.document(project, thread_id, run_id)}", f"{names.THREADS}/{project}/{thread_id}"]
    watchers = request.app[streaming.STREAMS]
    found = streaming.follow(service, source, topics, offset, to_the_end=True, watchers=watchers)
    return await streaming.send(request, found)
