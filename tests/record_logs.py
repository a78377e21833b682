"""Record the logs that this version of the service writes, so that the versions to come can be held to them.

    python tests/record_logs.py

See tests/logs/README.md. Each case below is a thread of its own, on a service of its own; ids and times are the same
ones each time. What is recorded already is left as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inprocess import Act, Gate, InProcess, ManualClock, calls, fails, in_process, path_of, says

from core import events as e
from core import names
from core.fold import Change
from core.ids import Ids
from core.ports import Document, Silence, Tokens, ToolCall
from core.projection import documents
from core.view import ThreadView

Json = Any
PROJECT = "default"
LOGS = Path(__file__).parent / "logs"
SUMS = LOGS / "SHA256SUMS"


# --- a log, its snapshot and its documents --------------------------------------------------------------------------


def folded(log: bytes, snapshot: bytes | None) -> tuple[ThreadView, dict[str, bytes]]:
    """A thread from its recorded log, and what its documents show: by container and name, none left of what is gone."""
    view, shown = ThreadView(), {}
    if snapshot is not None:
        view.begin(snapshot)
        shown |= _bodies(documents(PROJECT, [Change(view.state.version, "", thing) for thing in _things(view)]))
    return view, shown | _bodies(documents(PROJECT, view.fold(e.from_lines(log))))


def _things(view: ThreadView) -> list[Any]:
    state = view.state
    steps = [step for held in state.runs for step in held.steps]
    return [state.thread, *state.messages, *(held.run for held in state.runs), *steps]


def _bodies(documents: Sequence[Document]) -> dict[str, bytes]:
    return {f"{each.container} {each.name}": each.body for each in documents}


def lists(view: ThreadView) -> dict[str, list[str]]:
    """Ids in the order of every list of the thread."""
    state = view.state
    runs = {f"steps of {held.id}": [step.id for step in held.steps] for held in state.runs}
    return {"messages": [m.id for m in state.messages], "runs": [held.id for held in state.runs], **runs}


# --- the cases ------------------------------------------------------------------------------------------------------

WEATHER = {"type": "function", "function": {"name": "get_weather"}}  # the worker's own with OWN
LOOKUP = {"type": "function", "function": {"name": "lookup"}}
PARIS = ToolCall("call_paris", "get_weather", '{"city":"Paris"}')
WORD = ToolCall("call_word", "lookup", '{"word":"fold"}')
OTHER = ToolCall("call_other", "lookup", '{"word":"snapshot"}')
OWN = "examples.weather"
DEAR = Tokens(prompt=100, completion=50, cached=20, reasoning=30)


@dataclass(frozen=True)
class Case:
    """`play` makes one thread and returns its id."""

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
    photo = {"type": "image_file", "image_file": {"file_id": "file-1", "detail": "high"}}
    attachment = {"file_id": "file-2", "tools": [{"type": "file_search"}, {"type": "code_interpreter"}]}
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "Grüße, 世界"}, picture, photo],
        "attachments": [attachment],
        "metadata": {"of": "the message"},
    }
    resources = {"code_interpreter": {"file_ids": ["file-3"]}, "file_search": {"vector_store_ids": ["vs_1"]}}
    thread = await service.api.post(
        "/threads",
        {"messages": [message], "metadata": {"of": "the thread"}, "tool_resources": resources},
    )
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    described = {"name": "get_weather", "description": "Weather.", "parameters": parameters, "strict": True}
    search = {"type": "file_search", "file_search": {"max_num_results": 5, "ranking_options": {"score_threshold": 0.5}}}
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
    await service.api.post(f"/threads/{thread}", {**news, "tool_resources": {"code_interpreter": {"file_ids": ["f"]}}})
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


@case(says("Hello."), worker=False)
async def deleted(service: InProcess) -> str:
    """Deleted while a run is queued, and before a worker has emptied it."""
    run = await service.start_run()
    await service.api.delete(f"/threads/{run['thread_id']}")
    return str(run["thread_id"])


@case(calls(PARIS), says("Streamed."), calls(WORD), says("A verb."), actions=OWN, log_roll_after=2)
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
        thread = await case.play(service)
        tail = await service.storage.read(names.THREADS, names.log(PROJECT, thread), None)
        assert tail is not None
        stored = None
        if tail.mark.generation:
            stored = await service.storage.get(names.SNAPSHOTS, names.snapshot(PROJECT, thread, tail.mark.generation))
        snapshot = stored.body if stored else None
        view, shown = folded(tail.data, snapshot)
        for place, body in shown.items():
            found = await service.storage.get(*place.split(" "))
            assert (found.body if found else b"") == body, place
        if not view.state.deleted:
            assert lists(view) == await listed(service, thread)
    expected = {
        "documents": {place: json.loads(body) if body else None for place, body in shown.items()},
        "lists": lists(view),
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


async def listed(service: InProcess, thread: str) -> dict[str, list[str]]:
    """As `lists`, asked of the API."""

    async def ids(path: str) -> list[str]:
        return [item["id"] for item in (await service.api.get(f"{path}?order=asc&limit=100"))["data"]]

    runs = await ids(f"/threads/{thread}/runs")
    steps = {f"steps of {run}": await ids(f"/threads/{thread}/runs/{run}/steps") for run in runs}
    return {"messages": await ids(f"/threads/{thread}/messages"), "runs": runs, **steps}


def main() -> None:
    version = tomllib.loads((LOGS.parent.parent / "pyproject.toml").read_text())["project"]["version"]
    folder = LOGS / version
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
