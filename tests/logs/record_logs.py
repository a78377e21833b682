"""Record the logs that this version of the service writes, so that the versions to come can be held to them.

    python tests/logs/record_logs.py

See tests/logs/README.md. Each case below is a thread or a vector store of its own, on a service of its own; ids and
times are the same ones each time. What is recorded already is left as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from assistants_service.composition import worker_of
from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.log.events import Commit
from assistants_service.core.log.state import View
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.models import Thought, Tokens, ToolCall
from assistants_service.core.ports.telemetry import Silence
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.threads import events as thread_events
from assistants_service.core.threads import projection
from assistants_service.core.threads.state import ThreadChange, ThreadState
from assistants_service.core.threads.view import ThreadView
from assistants_service.core.vector_stores import events as store_events
from assistants_service.core.vector_stores import repository
from assistants_service.core.vector_stores.reindex import Reindexer
from assistants_service.core.vector_stores.state import StoreChange, StoreState
from assistants_service.infra.version import VERSION
from inprocess_service import Act, Gate, InProcess, ManualClock, calls, fails, in_process, path_of, says
from multipart_forms import upload
from scripted_sandbox import CODE, FakeSandbox, python
from scripted_search import searching, stores, tool

Json = Any
PROJECT = "default"
LOGS = Path(__file__).parent
SUMS = LOGS / "SHA256SUMS"


# --- a log, its snapshot and its documents --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Of an aggregate: threads, or vector stores. `path` is where the API has it, `things` are all objects that have
    documents, `lists` the ids in the order of every list, `index` is what searches and workers go by, which no document
    shows."""

    path: str
    logs: str
    commits: Callable[[bytes], list[Commit[Any]]]
    view: Callable[[], View[Any, Any]]
    change: Callable[[int, str, Any], Any]
    documents: Callable[[str, Sequence[Any]], Sequence[Document]]
    things: Callable[[Any], Sequence[Any]]
    lists: Callable[[Any], dict[str, list[str]]]
    index: Callable[[Any], Json] = lambda _: {}


def _things_of_thread(state: ThreadState) -> list[Any]:
    steps = [step for run_state in state.runs for step in run_state.steps]
    files = [shown.file for run_state in state.runs for shown in run_state.files.values()]
    return [state.thread, *state.messages, *(run_state.run for run_state in state.runs), *steps, *files]


def _index_of_thread(state: ThreadState) -> Json:
    files = {path: [file.file_id, file.bytes] for path, file in state.files.items()}
    index = {"files": files, "shown": sorted(state.shown), "executed": state.executed} if state.executed else {}
    given = {"names": state.file_names, "removed": sorted(state.removed)} if state.file_names else {}
    return {**index, **given}


def _lists_of_thread(state: ThreadState) -> dict[str, list[str]]:
    steps = {f"steps of {run_state.id}": [step.id for step in run_state.steps] for run_state in state.runs}
    messages = [message.id for message in state.messages]
    if state.active_run and (in_progress := state.in_progress):
        steps[f"steps of {state.active_run.id}"].append(in_progress.step.id)
        messages += [in_progress.message.id] if in_progress.message else []
    return {"messages": messages, "runs": [run_state.id for run_state in state.runs], **steps}


def _documents_of_store(project: str, changes: Sequence[StoreChange]) -> list[Document]:
    """With those of files that were only attached, which are made when they are asked for."""
    return [repository._document(project, change) for change in changes]


def _things_of_store(state: StoreState) -> list[Any]:
    return [
        state.store,
        *(file_state.file for file_state in state.files),
        *(batch_state.batch for batch_state in state.batches),
    ]


def _lists_of_store(state: StoreState) -> dict[str, list[str]]:
    theirs = {
        f"files of {batch_state.id}": [key for key in batch_state.file_ids if state.files.get(key)]
        for batch_state in state.batches
    }
    return {"files": [file_state.id for file_state in state.files], **theirs}


def _index_of_store(state: StoreState) -> Json:
    return {
        "segments": {
            name: [segment_state.size, segment_state.model, segment_state.chunks, segment_state.sources]
            for name, segment_state in state.segments.items()
        },
        "homes": state.source_segments,
        "loose": state.orphaned,
        "attempt": state.attempt,
        "waiting": list(state.waiting),
        "files": {
            file_state.id: [
                file_state.filename,
                file_state.attempt,
                file_state.claims,
                file_state.item,
                *file_state.batches,
            ]
            for file_state in state.files
        },
    }


THREAD = Kind(
    *("threads", names.THREADS, thread_events.from_lines, ThreadView, ThreadChange),
    *(projection.documents, _things_of_thread, _lists_of_thread, _index_of_thread),
)
STORE = Kind(
    *("vector_stores", names.STORE_LOGS, store_events.from_lines, repository.StoreView, StoreChange),
    *(_documents_of_store, _things_of_store, _lists_of_store, _index_of_store),
)


def kind_of(log: bytes) -> Kind:
    first = json.loads(log.splitlines()[0])["events"][0]
    return STORE if first["type"].startswith("vector_store") else THREAD


def folded(log: bytes, snapshot: bytes | None) -> tuple[View[Any, Any], dict[str, bytes]]:
    """An aggregate from its recorded log, and what its documents show: by container and name, none left of what is
    gone."""
    kind, shown = kind_of(log), {}
    view = kind.view()
    if snapshot is not None:
        view.begin(snapshot)
        things = kind.things(view.state)
        shown |= _bodies(kind.documents(PROJECT, [kind.change(view.state.version, "", thing) for thing in things]))
    return view, shown | _bodies(kind.documents(PROJECT, view.fold(kind.commits(log))))


def _bodies(documents: Sequence[Document]) -> dict[str, bytes]:
    return {f"{each.container} {each.name}": each.body for each in documents}


# --- the cases ------------------------------------------------------------------------------------------------------

WEATHER = {"type": "function", "function": {"name": "get_weather"}}  # the worker's own with OWN
LOOKUP = {"type": "function", "function": {"name": "lookup"}}
PARIS = ToolCall("call_paris", "get_weather", '{"city":"Paris"}')
WORD = ToolCall("call_word", "lookup", '{"word":"fold"}')
OTHER = ToolCall("call_other", "lookup", '{"word":"snapshot"}')
THOUGHT = Thought("acme", '{"message":{"reasoning_content":"A word."},"calls":{}}')
OWN = "examples.weather"
DEAR = Tokens(prompt=100, completion=50, cached=20, reasoning=30)


@dataclass(frozen=True)
class Case:
    """`play` makes one thread or vector store, and returns its id."""

    play: Callable[[InProcess], Awaitable[str]]
    script: Sequence[Act]
    settings: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(*script: Act, **settings: Any) -> Callable[[Callable[[InProcess], Awaitable[str]]], None]:
    def add(play: Callable[[InProcess], Awaitable[str]]) -> None:
        CASES[play.__name__] = Case(play, script, settings)

    return add


@case(says("All is said.", tokens=DEAR))
async def everything_given(service: InProcess) -> str:
    """Every field that a client can give: of a thread, its messages and a run."""
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    file_id = (await upload(service.api, b"All is said.", "all.txt"))["id"]
    photo_id = (await upload(service.api, b"A photo.", "photo.png"))["id"]
    photo = {"type": "image_file", "image_file": {"file_id": photo_id, "detail": "high"}}
    store = await service.api.post("/vector_stores", {})
    attachment = {"file_id": file_id, "tools": [{"type": "file_search"}, {"type": "code_interpreter"}]}
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "Grüße, 世界"}, picture, photo],
        "attachments": [attachment],
        "metadata": {"of": "the message"},
    }
    resources = {"code_interpreter": {"file_ids": [photo_id]}, **stores(store["id"])}
    thread = await service.api.post(
        "/threads",
        {"messages": [message], "metadata": {"of": "the thread"}, "tool_resources": resources},
    )
    await service.ingested(store)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    described = {"name": "get_weather", "description": "Weather.", "parameters": parameters, "strict": True}
    search = tool(max_num_results=5, ranking_options={"score_threshold": 0.5})
    assistant = await service.assistant(tools=[{"type": "code_interpreter"}], instructions="Be brief.")
    await service.finished(
        thread["id"],
        assistant,
        model="gpt-4.1",
        instructions="Be kind.",
        additional_instructions="And short.",
        additional_messages=[{"role": "assistant", "content": "Before."}, {"role": "user", "content": "Now."}],
        tools=[{"type": "function", "function": described}, search, {"type": "code_interpreter"}],
        metadata={"of": "the run"},
        temperature=0.5,
        top_p=0.25,
        reasoning_effort="low",
        max_prompt_tokens=5000,
        max_completion_tokens=500,
        truncation_strategy={"type": "last_messages", "last_messages": 7},
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    )
    return str(thread["id"])


@case(says("Hello. ", "How are you?"))
async def plain(service: InProcess) -> str:
    """Two runs, one after the other."""
    run = await service.finished()
    await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "And now?"})
    await service.finished(run["thread_id"], run["assistant_id"])
    return str(run["thread_id"])


@case(says("Hello."))
async def thread_and_run(service: InProcess) -> str:
    """A thread and its run in one commit."""
    body = {"assistant_id": await service.assistant(), "thread": {"messages": [{"role": "user", "content": "Hi"}]}}
    run = await service.until(await service.api.post("/threads/runs", body))
    return str(run["thread_id"])


@case(calls(WORD, OTHER), calls(WORD, first=["Once more."]), says("Both are verbs."))
async def client_tools(service: InProcess) -> str:
    """Parallel calls, then text and a call in one turn; all outputs are the client's."""
    run = await service.finished(assistant=await service.assistant(tools=[LOOKUP]))
    run = await service.answered(run, call_word="a verb", call_other="a noun")
    run = await service.answered(run, call_word="")
    return str(run["thread_id"])


@case(calls(PARIS), calls(WORD, PARIS), says("Both."), actions=OWN)
async def own_actions(service: InProcess) -> str:
    """The worker's own calls; then its own and the client's in one step."""
    run = await service.finished(assistant=await service.assistant(tools=[WEATHER, LOOKUP]))
    run = await service.answered(run, call_word="a verb")
    return str(run["thread_id"])


@case(says("Let ", "me see."), calls(WORD), says("A ", "verb."))
async def streamed(service: InProcess) -> str:
    """A streamed run; then one that is streamed from its submission on."""
    thread, assistant = await service.thread("Hello"), await service.assistant(tools=[LOOKUP])
    body = {"assistant_id": assistant, "stream": True}
    async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
        await stream.rest()
    run = await service.finished(thread, assistant)
    outputs = {"tool_outputs": [{"tool_call_id": "call_word", "output": "a verb"}], "stream": True}
    async with service.api.stream("POST", f"{path_of(run)}/submit_tool_outputs", outputs) as stream:
        await stream.rest()
    return thread


@case(calls(WORD))
async def cancelled_while_waiting(service: InProcess) -> str:
    run = await service.finished(assistant=await service.assistant(tools=[LOOKUP]))
    await service.api.post(f"{path_of(run)}/cancel")
    return str(run["thread_id"])


@case(says("Half", Gate()))
async def cancelled_at_work(service: InProcess) -> str:
    """The worker hears of it, and ends the run in a commit of its own."""
    run = await service.until(await service.start_run(), "in_progress")
    await service.api.post(f"{path_of(run)}/cancel")
    await service.until(run)
    return str(run["thread_id"])


@case(says("Half", Gate()), fails("server_error", "Gone.", "Ha"), says("Hello."), event_log_rollover=2)
async def cut_off_rolled_over(service: InProcess) -> str:
    """Streamed: what was said before a run was cancelled, or failed, is committed with its end."""
    thread, assistant = await service.thread("Hello"), await service.assistant()
    body = {"assistant_id": assistant, "stream": True}
    async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
        await stream.until("thread.message.delta")
        await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
        await stream.rest()
    async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
        await stream.rest()
    await service.finished(thread, assistant)
    return thread


@case(calls(WORD))
async def expired_while_waiting(service: InProcess) -> str:
    """The next message comes after the run's time: one commit ends the run and adds the message."""
    run = await service.finished(assistant=await service.assistant(tools=[LOOKUP]))
    await service.stop_worker()
    service.advance(601)
    await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Still there?"})
    return str(run["thread_id"])


@case(says(Gate()))
async def expired_at_work(service: InProcess) -> str:
    run = await service.until(await service.start_run(), "in_progress")
    service.advance(601)
    await service.until(run)
    return str(run["thread_id"])


@case(fails("rate_limit_exceeded", "Too much.", "Let me"))
async def failed(service: InProcess) -> str:
    return str((await service.finished())["thread_id"])


@case(says("I should", finish="content_filter"))
async def filtered(service: InProcess) -> str:
    """Message incomplete, step and run failed."""
    return str((await service.finished())["thread_id"])


@case(says("Too long", finish="length"), calls(WORD))
async def incomplete(service: InProcess) -> str:
    """Cut off by the model; then by the run's own limit, of which the first call leaves nothing."""
    thread, assistant = await service.thread("Hello"), await service.assistant(tools=[LOOKUP])
    await service.finished(thread, assistant)
    run = await service.finished(thread, assistant, max_completion_tokens=5)
    await service.answered(run, call_word="a verb")
    return thread


@case(says(refusal="I will not."))
async def refused(service: InProcess) -> str:
    return str((await service.finished())["thread_id"])


@case(says("Hello.", Gate()))
async def changed(service: InProcess) -> str:
    """Metadata of everything, resources, and a deleted message, while a run goes on."""
    thread = await service.thread("One", "Two")
    second = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
    first = (await service.api.get(f"/threads/{thread}/messages"))["last_id"]
    run = await service.until(await service.start_run(thread), "in_progress")
    news = {"metadata": {"new": "yes"}}
    resources = {"code_interpreter": {"file_ids": [(await upload(service.api, b"1,2"))["id"]]}}
    await service.api.post(f"/threads/{thread}", {**news, "tool_resources": resources})
    await service.api.post(f"/threads/{thread}/messages/{first}", news)
    await service.api.post(path_of(run), news)
    await service.api.delete(f"/threads/{thread}/messages/{second}")
    await service.api.post(f"{path_of(run)}/cancel")
    await service.until(run)
    return thread


@case(says("Hello.", Gate()), says("Hello again."))
async def taken_over(service: InProcess) -> str:
    """A worker hands a run back, and the next one claims it again."""
    run = await service.until(await service.start_run(stream=False), "in_progress")
    await service.stop_worker()
    service.start_worker()
    return str((await service.until(run))["thread_id"])


@case(says("Hello.", Gate()), says("Hello again."))
async def handed_back(service: InProcess) -> str:
    """The same of a streamed run; by now the log tells it from the death of a worker."""
    run = await service.until(await service.start_run(), "in_progress")
    await service.stop_worker()
    service.start_worker()
    return str((await service.until(run))["thread_id"])


@case(says("Half", Gate()), says("Ha", Gate()))
async def in_the_making(service: InProcess) -> str:
    """The log was told of a message of a worker who went, and then of the next one's."""
    run = await service.start_run()
    first = await service.in_progress(run)
    await service.stop_worker()
    service.start_worker()
    await service.in_progress(run, first.step.id)
    return str(run["thread_id"])


@case(says("Hello."), worker=False)
async def deleted(service: InProcess) -> str:
    """Deleted while a run is queued, and before a worker has emptied it."""
    run = await service.start_run()
    await service.api.delete(f"/threads/{run['thread_id']}")
    return str(run["thread_id"])


@case(calls(PARIS), says("Streamed."), calls(WORD), says("A verb."), actions=OWN, event_log_rollover=2)
async def rolled_over(service: InProcess) -> str:
    """Several generations; the last one begins with a snapshot of a deleted message, a run that ended right after the
    worker's own calls, and two streamed ones."""
    thread, assistant = await service.thread("One", "Two"), await service.assistant(tools=[WEATHER, LOOKUP])
    newest = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
    await service.api.delete(f"/threads/{thread}/messages/{newest}")
    await service.finished(thread, assistant, max_completion_tokens=5)
    body = {"assistant_id": assistant, "stream": True}
    for _ in range(2):
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
            run = (await stream.rest())[0].data
    outputs = {"tool_outputs": [{"tool_call_id": "call_word", "output": "a verb"}], "stream": True}
    async with service.api.stream("POST", f"{path_of(run)}/submit_tool_outputs", outputs) as stream:
        await stream.rest()
    await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "After a roll-over"})
    await service.api.post(f"/threads/{thread}", {"metadata": {"rolled": "over"}})
    return thread


@case(calls(WORD, thought=THOUGHT), says("A verb."), calls(WORD, thought=THOUGHT), says("Yes."), event_log_rollover=2)
async def thinking_rolled_over(service: InProcess) -> str:
    """What a model thought stands beside its calls, until the run has ended; temperature and top_p are 1 on purpose."""
    assistant = await service.assistant(tools=[LOOKUP], top_p=1)
    run = await service.finished(assistant=assistant, temperature=1)
    await service.answered(run, call_word="a verb")
    await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Sure?"})
    run = await service.finished(run["thread_id"], assistant)
    await service.answered(run, call_word="still a verb")
    return str(run["thread_id"])


async def search_and_cite(service: InProcess) -> str:
    """A streamed run whose client sees what was found, and one that finds the store gone."""
    foods = (await upload(service.api, b"Filip Carola: cake\n", "foods.txt"))["id"]
    store = await service.api.post("/vector_stores", {})
    await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": foods, "attributes": {"year": 2024}})
    await service.ingested(store)
    options = tool(ranking_options={"ranker": "auto", "score_threshold": 0.1})
    assistant = await service.assistant(tools=[options], tool_resources=stores(store["id"]))
    thread = await service.thread("What does Filip like?")
    path = f"/threads/{thread}/runs?include[]=step_details.tool_calls[*].file_search.results[*].content"
    async with service.api.stream("POST", path, {"assistant_id": assistant, "stream": True}) as stream:
        await stream.rest()
    await service.api.delete(f"/vector_stores/{store['id']}")
    await service.finished(thread, assistant)
    return thread


CAKE = searching("What does Filip like?", "cake")
SEARCHES = calls(CAKE), says("Filip likes cake【3:0†foods.txt】."), calls(CAKE), says("I cannot look it up.")


@case(*SEARCHES)
async def searched(service: InProcess) -> str:
    return await search_and_cite(service)


@case(*SEARCHES, event_log_rollover=2)
async def searched_rolled_over(service: InProcess) -> str:
    thread = await search_and_cite(service)
    await service.api.post(f"/threads/{thread}", {"metadata": {"rolled": "over"}})
    return thread


async def execute_and_link(service: InProcess) -> str:
    """Two calls of code in one reply, beside a function of the client's; an image, a file that the answer links, one
    that it does not, and one that was removed again."""
    thread = await service.thread("Count.")
    run = await service.finished(thread, await service.assistant(tools=[CODE, WEATHER]))
    await service.answered(run, call_paris="sun")
    return thread


COUNTING = python("print(1); show(b'PNG'); write('a.txt', 'A'); write('b.txt', 'B')", "call_count")
REMOVING = python("remove('b.txt'); write('c.txt', 'C')", "call_remove")
EXECUTIONS = calls(COUNTING, PARIS, REMOVING), says("See sandbox:/mnt/data/a.txt.")


@case(*EXECUTIONS, sandbox=FakeSandbox())
async def executed(service: InProcess) -> str:
    return await execute_and_link(service)


@case(*EXECUTIONS, sandbox=FakeSandbox(), event_log_rollover=2)
async def executed_rolled_over(service: InProcess) -> str:
    thread = await execute_and_link(service)
    await service.api.post(f"/threads/{thread}", {"metadata": {"rolled": "over"}})
    return thread


@case(calls(python("remove('a.txt')", "call_a")), says("Removed."), sandbox=FakeSandbox(), event_log_rollover=2)
async def users_file_removed(service: InProcess) -> str:
    """Of two that the user has given under one name, code has removed one."""
    given = await files(service, "a.txt", "a.txt")
    thread = await service.thread("Go.", tool_resources={"code_interpreter": {"file_ids": given}})
    await service.finished(thread, await service.assistant(tools=[CODE]))
    await service.api.post(f"/threads/{thread}", {"metadata": {"rolled": "over"}})
    return thread


@case(says('{"city": "Paris"}'))
async def objects_given(service: InProcess) -> str:
    """What a client can give as an object, each with all its fields; the resources of the thread in an order of their
    own."""
    store = await service.api.post("/vector_stores", {})
    asked = {"messages": [{"role": "user", "content": "Where?"}], "tool_resources": stores(store["id"])}
    thread = (await service.api.post("/threads", asked))["id"]
    resources = {"code_interpreter": {"file_ids": [(await upload(service.api, b"1,2"))["id"]]}}
    await service.api.post(f"/threads/{thread}", {"tool_resources": resources})
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "$defs": {"none": None}}
    answer = {"name": "place", "description": "A place.", "schema": schema, "strict": True}
    weights = {"embedding_weight": 0.25, "text_weight": 1}
    await service.finished(
        thread,
        await service.assistant(tools=[tool(ranking_options={"hybrid_search": weights})]),
        tool_choice={"type": "file_search"},
        response_format={"type": "json_schema", "json_schema": answer},
    )
    return str(thread)


# --- vector stores --------------------------------------------------------------------------------------------------


async def files(service: InProcess, *filenames: str) -> list[str]:
    return [(await upload(service.api, f"This is {name}.\n".encode(), name))["id"] for name in filenames]


async def work(service: InProcess, items: int = 100) -> None:
    """A worker does what there is to do, one item after the other, and so many at most."""
    worker = worker_of(service.parts, service.threads, service.stores, service.search)
    for _ in range(items):
        for delivery in await service.storage.receive(1, visibility_timeout=45):
            await worker.take_over(delivery)


async def leave(service: InProcess, call: str, segment: str) -> None:
    """A worker takes up what there is to do, and goes before this call to the store, `stage` or `discard`, for such a
    segment: the work item is delivered again."""
    gate, undisturbed = Gate(), getattr(service.storage, call)

    async def stuck(container: str, name: str, *rest: Any) -> Any:
        if segment in name:
            await gate.pass_through()
        return await undisturbed(container, name, *rest)

    setattr(service.storage, call, stuck)
    service.start_worker()
    await gate.reached.wait()
    await service.stop_worker()
    setattr(service.storage, call, undisturbed)


@case(worker=False)
async def store_with_files(service: InProcess) -> str:
    """Files are read, fail, change, are taken out and attached again."""
    one, two, broken = await files(service, "one.txt", "two.txt", "broken.txt")
    chunking = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}}
    body = {
        "name": "A store",
        "description": "Of files",
        "metadata": {"of": "the store"},
        "expires_after": {"anchor": "last_active_at", "days": 7},
        "file_ids": [one],
        "chunking_strategy": chunking,
    }
    store = await service.api.post("/vector_stores", body)
    path = f"/vector_stores/{store['id']}"
    await work(service)
    for _ in range(2):
        await service.api.post(f"{path}/files", {"file_id": broken, "attributes": {"broken": True}})
        await work(service)
    await service.api.post(f"{path}/files/{one}", {"attributes": {"year": 2024, "share": 0.5, "of": "the file"}})
    await service.api.post(f"{path}/files", {"file_id": two})
    await service.api.delete(f"{path}/files/{two}")
    await service.api.delete(f"{path}/files/{one}")
    await work(service)
    await service.api.post(f"{path}/files", {"file_id": one, "chunking_strategy": chunking})
    await work(service)
    news = {"name": "Another", "metadata": {"new": "yes"}, "expires_after": {"anchor": "last_active_at", "days": 30}}
    await service.api.post(path, news)
    service.advance(3601)
    await service.api.post(f"{path}/search", {"query": "one"})
    return str(store["id"])


@case(worker=False)
async def store_with_batches(service: InProcess) -> str:
    """One that is completed, one that fails, one that is cancelled, and one that is at work; the store loses its name,
    and does not expire any more."""
    one, two, three, broken = await files(service, "one.txt", "two.txt", "three.txt", "broken.txt")
    body = {"file_ids": [one], "name": "Batches", "expires_after": {"anchor": "last_active_at", "days": 7}}
    store = await service.api.post("/vector_stores", body)
    path = f"/vector_stores/{store['id']}"
    await work(service)
    await service.api.post(f"{path}/file_batches", {"file_ids": [one, two], "attributes": {"year": 2024}})
    await work(service)
    await service.api.post(f"{path}/file_batches", {"file_ids": [broken]})
    await work(service)
    batch = await service.api.post(f"{path}/file_batches", {"files": [{"file_id": three}, {"file_id": broken}]})
    await service.api.post(f"{path}/file_batches/{batch['id']}/cancel")
    await service.api.post(path, {"name": None, "expires_after": None})
    await service.api.post(f"{path}/file_batches", {"file_ids": [two, three]})
    return str(store["id"])


@case(worker=False)
async def store_taken_over(service: InProcess) -> str:
    """A worker goes while it reads two files. The next one reads the first, and has just released the other."""
    store = await service.api.post("/vector_stores", {"file_ids": await files(service, "one.txt", "two.txt")})
    await leave(service, "stage", "file-")
    await work(service, 1)
    return str(store["id"])


async def about_to_merge(service: InProcess) -> tuple[str, str]:
    """A new store, and the last of its files: a worker goes while it merges them."""
    store = await service.api.post("/vector_stores", {})
    for name in "abcdefgh":
        await work(service)
        (file_id,) = await files(service, f"{name}.txt")
        await service.api.post(f"/vector_stores/{store['id']}/files", {"file_id": file_id})
    await leave(service, "stage", "merged.")
    return store["id"], file_id


@case(worker=False)
async def store_merged(service: InProcess) -> str:
    """Then a file is taken out of what was merged."""
    store_id, file_id = await about_to_merge(service)
    await work(service)
    await service.api.delete(f"/vector_stores/{store_id}/files/{file_id}")
    await work(service)
    return store_id


@case(worker=False, event_log_rollover=2)
async def store_merged_rolled_over(service: InProcess) -> str:
    """The snapshot says when the last merge was claimed."""
    store_id, _ = await about_to_merge(service)
    await work(service)
    for number in "123":
        await service.api.post(f"/vector_stores/{store_id}", {"metadata": {"number": number}})
    return store_id


@case(worker=False)
async def store_with_beginnings(service: InProcess) -> str:
    """The segments' words are of the second format (core.search.words)."""
    store_id, _ = await about_to_merge(service)
    await work(service)
    return store_id


@case(worker=False, event_log_rollover=2)
async def store_with_beginnings_rolled_over(service: InProcess) -> str:
    store_id, _ = await about_to_merge(service)
    await work(service)
    for number in "123":
        await service.api.post(f"/vector_stores/{store_id}", {"metadata": {"number": number}})
    return store_id


@case(worker=False)
async def store_merge_taken(service: InProcess) -> str:
    """From a worker that may still write, by one that dies before it removes that."""
    store_id, _ = await about_to_merge(service)
    await leave(service, "discard", "merged.")
    return store_id


async def expired(service: InProcess) -> tuple[str, str]:
    """With a file that was read, and one that was not read to its end."""
    one, two = await files(service, "one.txt", "two.txt")
    body = {"file_ids": [one], "expires_after": {"anchor": "last_active_at", "days": 1}}
    store = await service.api.post("/vector_stores", body)
    await work(service)
    await service.api.post(f"/vector_stores/{store['id']}/file_batches", {"file_ids": [one, two]})
    await leave(service, "stage", "file-")
    service.advance(24 * 3600)
    await service.stores.expire(PROJECT, store["id"])
    await work(service)
    return store["id"], one


@case(worker=False)
async def store_expired(service: InProcess) -> str:
    store_id, _ = await expired(service)
    return store_id


@case(worker=False)
async def store_expired_then_less(service: InProcess) -> str:
    """The file that was read is taken out: the store had none of its bytes any more."""
    store_id, file_id = await expired(service)
    await service.api.delete(f"/vector_stores/{store_id}/files/{file_id}")
    await work(service)
    return store_id


@case(worker=False)
async def store_deleted(service: InProcess) -> str:
    """Deleted while a file waits, and before a worker has emptied it."""
    one, two = await files(service, "one.txt", "two.txt")
    store = await service.api.post("/vector_stores", {"file_ids": [one]})
    await work(service)
    path = f"/vector_stores/{store['id']}"
    await service.api.post(f"{path}/files", {"file_id": two})
    await service.api.get(f"{path}/files/{two}")  # which makes its document
    await service.api.delete(path)
    return str(store["id"])


@case(worker=False, event_log_rollover=2)
async def store_rolled_over(service: InProcess) -> str:
    """Several generations; the last one begins with a snapshot of files that were read, taken out and attached again,
    and of a batch with one that was not read to its end."""
    one, two, three = await files(service, "one.txt", "two.txt", "three.txt")
    store = await service.api.post("/vector_stores", {"file_ids": [one], "name": "A store"})
    path = f"/vector_stores/{store['id']}"
    await work(service)
    await service.api.delete(f"{path}/files/{one}")
    await work(service)
    for file_id in (two, one):
        await service.api.post(f"{path}/files", {"file_id": file_id})
        await work(service)
    await service.api.delete(f"{path}/files/{two}")
    await service.api.post(f"{path}/file_batches", {"file_ids": [one, three]})
    await leave(service, "stage", "file-")
    await service.api.post(path, {"metadata": {"rolled": "over"}})
    await service.api.post(f"{path}/files/{three}", {"attributes": {"year": 2024}})
    return str(store["id"])


@case(worker=False, event_log_rollover=2)
async def store_taken_over_rolled_over(service: InProcess) -> str:
    """The snapshot says which delivery took over."""
    store = await service.api.post("/vector_stores", {"file_ids": await files(service, "one.txt", "two.txt")})
    await leave(service, "stage", "file-")
    await work(service, 1)
    for number in "123":
        await service.api.post(f"/vector_stores/{store['id']}", {"metadata": {"number": number}})
    return str(store["id"])


async def read_again(service: InProcess, store_id: str) -> None:
    reindexer = Reindexer(service.stores, service.parts.embeddings, service.parts.clock, everything=True)
    await reindexer.begin([names.log(PROJECT, store_id)])


@case(worker=False)
async def store_read_again(service: InProcess) -> str:
    """Two files, after they were completed."""
    store = await service.api.post("/vector_stores", {"file_ids": await files(service, "one.txt", "two.txt")})
    await work(service)
    await read_again(service, store["id"])
    await work(service)
    return str(store["id"])


@case(worker=False, event_log_rollover=2)
async def store_read_again_rolled_over(service: InProcess) -> str:
    """The snapshot says which file a worker reads again, and which it could not."""
    one, two = await files(service, "one.txt", "two.txt")
    store = await service.api.post("/vector_stores", {"file_ids": [one, two]})
    await work(service)
    await read_again(service, store["id"])
    await leave(service, "stage", "file-")
    failed = store_events.FileFailed(file_id=two, error=LastError(code="server_error", message="No vectors."))
    await service.stores.commit(PROJECT, store["id"], lambda _: [failed])
    for number in "123":
        await service.api.post(f"/vector_stores/{store['id']}", {"metadata": {"number": number}})
    return str(store["id"])


# --- the recording --------------------------------------------------------------------------------------------------


class Ticking(Ids):
    """The same ids each time; and a second passes with each, so that no two things are of one time."""

    def __init__(self, clock: ManualClock, name: str) -> None:
        super().__init__(clock, random.Random(name))
        self._manual = clock

    def new(self, prefix: str) -> str:
        self._manual.time += 1
        return super().new(prefix)


class Traced(Silence):
    def trace(self) -> str:
        return "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def record(name: str, folder: Path) -> list[Path]:
    """The files of one case. Raises AssertionError if the service shows anything else than what the log folds to."""
    case, clock = CASES[name], ManualClock()
    same: dict[str, Any] = {"clock": clock, "ids": Ticking(clock, name), "telemetry": Traced()}
    async with in_process(*case.script, **same, **case.settings) as service:
        key = await case.play(service)
        kind = STORE if key.startswith("vs_") else THREAD
        tail = await service.storage.read(kind.logs, names.log(PROJECT, key), None)
        assert tail is not None
        stored = None
        if tail.mark.generation:
            stored = await service.storage.get(names.SNAPSHOTS, names.snapshot(PROJECT, key, tail.mark.generation))
        snapshot = stored.body if stored else None
        view, shown = folded(tail.data, snapshot)
        for place, body in shown.items():
            container, document = place.split(" ")
            found = await service.storage.get(container, document)
            if body and not found:  # of a file that was only attached: it is made for who asks first
                found = await service.stores.fetch(container, *document.split("/"))
            assert (found.body if found else b"") == body, place
        lists = kind.lists(view.state)
        if not view.state.deleted:
            assert lists == {each: await listed(service, f"/{kind.path}/{key}", each) for each in lists}
    expected = {
        "documents": {place: json.loads(body) if body else None for place, body in shown.items()},
        "lists": lists,
        "index": kind.index(view.state),
        "version": view.state.version,
        "deleted": view.state.deleted,
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    files = {f"{name}.jsonl": tail.data, f"{name}.json": text.encode()}
    if snapshot is not None:
        files[f"{name}.snapshot"] = snapshot
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return [folder / file for file in files]


async def listed(service: InProcess, path: str, name: str) -> list[str]:
    """The ids of a list, such as `runs` or `steps of run_1`, asked of the API."""
    what, _, whose = name.partition(" of ")
    inner = {"steps": f"runs/{whose}/steps", "files": f"file_batches/{whose}/files"}[what] if whose else what
    return [item["id"] for item in (await service.api.get(f"{path}/{inner}?order=asc&limit=100"))["data"]]


def main() -> None:
    folder = LOGS / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        if not (folder / f"{name}.jsonl").exists():
            files = asyncio.run(record(name, folder))
            with SUMS.open("a") as sums:
                sums.writelines(f"{digest(file)}  {file.relative_to(LOGS).as_posix()}\n" for file in files)
            print(f"recorded {name}")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
