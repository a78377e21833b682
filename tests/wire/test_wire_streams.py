"""Streams of server-sent events: the recorded orders, and what happens to readers who come late,
come again or go away."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from assistants_service import action
from assistants_service.api import streaming
from assistants_service.core.names import STREAMS, THREADS, document
from assistants_service.core.ports.models import Deltas, Prompt, Reply, ToolCall
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.threads.decide import Done
from assistants_service.core.threads.stream import replay
from assistants_service.core.work_items import AdvanceRun
from assistants_service.worker.run_executor import RunExecutor
from inprocess_service import Event, Gate, InProcess, ManualClock, Stream, calls, fails, in_process, path_of, says

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
PARIS, ROME = (
    ToolCall("call_a", "get_weather", '{"city":"Paris"}'),
    ToolCall("call_b", "get_weather", '{"city":"Rome"}'),
)

BEGINNING = ["run.created", "run.queued", "run.in_progress"]
MESSAGE = ["step.created", "step.in_progress", "message.created", "message.in_progress", "message.delta"]
COMPLETED = ["message.completed", "step.completed"]
CALLS = ["step.created", "step.in_progress", "step.delta"]


@action
async def add(a: int, b: int) -> int:
    return a + b


def short(events: list[Event]) -> list[str]:
    """The names as this file writes them; deltas that follow each other are one."""
    names = [event.name.removeprefix("thread.").replace("run.step.", "step.") for event in events]
    return [name for name, _ in itertools.groupby(names)]


def text_of(events: list[Event]) -> str:
    deltas = (event.data["delta"]["content"] for event in events if event.name == "thread.message.delta")
    return "".join(part["text"]["value"] for content in deltas for part in content)


async def streamed(service: InProcess, **fields: Json) -> Any:
    """The stream of a new run on a new thread."""
    thread, assistant = await service.thread("Hello"), await service.assistant(tools=[WEATHER])
    return service.api.stream("POST", f"/threads/{thread}/runs", {"assistant_id": assistant, "stream": True, **fields})


async def submitted(service: InProcess, run: Json, **outputs: str) -> Any:
    given = [{"tool_call_id": call, "output": output} for call, output in outputs.items()]
    body = {"tool_outputs": given, "stream": True}
    return service.api.stream("POST", f"{path_of(run)}/submit_tool_outputs", body)


async def whole_stream(service: InProcess, **fields: Json) -> list[Event]:
    async with await streamed(service, **fields) as stream:
        return await stream.rest()


# --- orders ---------------------------------------------------------------------------------------------------------


async def test_a_text_streams_in_the_recorded_order() -> None:
    async with in_process(says("Hel", "lo ", "there.")) as service:
        events = await whole_stream(service)
        run = events[0].data
        assert await service.said(run["thread_id"]) == ["Hello", "Hello there."]
    assert short(events) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
    assert text_of(events) == "Hello there."
    assert events[-4].data["content"][0]["text"]["value"] == "Hello there."


async def test_a_thread_with_a_run_streams_from_the_thread_on() -> None:
    async with in_process() as service:
        thread = {"messages": [{"role": "user", "content": "Hello"}], "metadata": {"of": "thread"}}
        body = {"assistant_id": await service.assistant(), "thread": thread, "metadata": {"of": "run"}, "stream": True}
        async with service.api.stream("POST", "/threads/runs", body) as stream:
            events = await stream.rest()
    assert short(events) == ["created", *BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
    assert (events[0].data["metadata"], events[1].data["metadata"]) == ({"of": "thread"}, {"of": "run"})


async def test_calls_stream_until_the_client_is_asked_and_on_from_its_outputs() -> None:
    async with in_process(calls(PARIS, ROME), calls(ROME), says("Done.")) as service:
        first = await whole_stream(service)
        assert short(first) == [*BEGINNING, *CALLS, "run.requires_action", "done"]
        assert accumulated(first) == [PARIS, ROME]
        run = first[-2].data
        async with await submitted(service, run, call_a="sun", call_b="rain") as stream:
            second = await stream.rest()
        again = ["step.completed", "run.queued", "run.in_progress"]
        assert short(second) == [*again, *CALLS, "run.requires_action", "done"]
        assert [c["function"]["output"] for c in second[0].data["step_details"]["tool_calls"]] == ["sun", "rain"]
        async with await submitted(service, run, call_b="snow") as stream:
            third = await stream.rest()
        assert short(third) == [*again, *MESSAGE, *COMPLETED, "run.completed", "done"]


def accumulated(events: list[Event]) -> list[ToolCall]:
    """Calls as the SDKs put them together: strings are concatenated, by index."""
    found: dict[int, list[str]] = {}
    for event in events:
        if event.name == "thread.run.step.delta":
            for call in event.data["delta"]["step_details"]["tool_calls"]:
                parts = found.setdefault(call["index"], ["", "", ""])
                parts[0] += call.get("id", "")
                parts[1] += call["function"].get("name", "")
                parts[2] += call["function"].get("arguments", "")
    return [ToolCall(*parts) for _, parts in sorted(found.items())]


async def test_a_text_before_calls_is_a_step_of_its_own() -> None:
    async with in_process(calls(PARIS, first=["Let me ", "look."])) as service:
        events = await whole_stream(service)
    assert short(events) == [*BEGINNING, *MESSAGE, *COMPLETED, *CALLS, "run.requires_action", "done"]
    assert text_of(events) == "Let me look."


async def test_actions_stream_as_steps_that_complete() -> None:
    asked = ToolCall("call_1", "add", '{"a":1,"b":2}')
    tools = [{"type": "function", "function": {"name": "add"}}]
    async with in_process(calls(asked), says("Three."), actions=__name__) as service:
        events = await whole_stream(service, tools=tools)
    assert short(events) == [*BEGINNING, *CALLS, "step.completed", *MESSAGE, *COMPLETED, "run.completed", "done"]


async def test_in_a_mixed_round_all_calls_stream_and_the_client_is_asked_for_its_own() -> None:
    asked = ToolCall("call_1", "add", '{"a":1,"b":2}')
    tools = [{"type": "function", "function": {"name": "add"}}, WEATHER]
    async with in_process(calls(asked, PARIS), says("Done."), actions=__name__) as service:
        events = await whole_stream(service, tools=tools)
        assert short(events) == [*BEGINNING, *CALLS, "run.requires_action", "done"]
        assert accumulated(events) == [asked, PARIS]
        run = events[-2].data
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_a"]
        async with await submitted(service, run, call_a="sun") as stream:
            events = await stream.rest()
    outputs = [call["function"]["output"] for call in events[0].data["step_details"]["tool_calls"]]
    assert (events[0].name, outputs) == ("thread.run.step.completed", ["3", "sun"])


async def test_an_answer_that_was_cut_off_ends_incomplete() -> None:
    async with in_process(says("Half an ans", finish="length")) as service:
        events = await whole_stream(service)
    assert short(events) == [*BEGINNING, *MESSAGE, "message.incomplete", "step.completed", "run.incomplete", "done"]
    assert events[-4].data["incomplete_details"] == {"reason": "max_tokens"}


async def test_a_filtered_answer_ends_failed() -> None:
    async with in_process(says("Something b", finish="content_filter")) as service:
        events = await whole_stream(service)
    assert short(events) == [*BEGINNING, *MESSAGE, "message.incomplete", "step.failed", "run.failed", "done"]


async def test_a_refusal_streams_as_a_part() -> None:
    async with in_process(says(refusal="I will not.")) as service:
        events = await whole_stream(service)
    assert short(events) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
    (delta,) = [event.data["delta"]["content"] for event in events if event.name == "thread.message.delta"]
    assert delta == [{"index": 0, "type": "refusal", "refusal": "I will not."}]


async def test_a_stream_that_cannot_begin_is_refused_like_anything_else() -> None:
    async with in_process(calls(PARIS)) as service:
        run = (await whole_stream(service))[-2].data
        body = {"assistant_id": run["assistant_id"], "stream": True}
        error = await service.api.refused("POST", f"/threads/{run['thread_id']}/runs", body)
        assert error["message"] == f"Thread {run['thread_id']} already has an active run {run['id']}."
        body = {"tool_outputs": [{"tool_call_id": "call_x", "output": ""}], "stream": True}
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)
        assert error["message"] == "Expected tool outputs for call_ids ['call_a'], got ['call_x']"


@pytest.mark.parametrize("stream", [True, False])
async def test_without_parallel_tool_calls_a_step_has_one(stream: bool) -> None:
    """Whatever the provider thinks of it."""
    async with in_process(calls(PARIS, ROME), says("Both.")) as service:
        if stream:
            events = await whole_stream(service, parallel_tool_calls=False)
            run = events[-2].data
            deltas = [e.data["delta"]["step_details"]["tool_calls"] for e in events if e.name.endswith("step.delta")]
            assert {call["index"] for made in deltas for call in made} == {0}
        else:
            assistant = await service.assistant(tools=[WEATHER])
            run = await service.finished(assistant=assistant, parallel_tool_calls=False)
        (call,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        assert call["id"] == "call_a"
        assert (await service.answered(run, call_a="sunny"))["status"] == "completed"
        assert [len(turn.calls) for turn in service.prompts[-1].turns] == [0, 1, 0]


async def test_a_long_run_that_was_not_streamed_is_rendered_once_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def once(history: Any) -> Any:
        rendered.append(history)
        return replay(history)

    monkeypatch.setattr(streaming, "replay", once)
    monkeypatch.setattr(streaming, "PIECE", 1000)
    async with in_process(calls(PARIS), says("x" * 100_000)) as service:
        run = await service.finished()
        await service.answered(run, call_a="y" * 10_000)
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            events = await stream.rest()
        assert text_of(events) == "x" * 100_000
        assert len(rendered) == 1
        for number, known in enumerate(events[:-2]):
            async with service.api.stream("GET", f"{path_of(run)}/events", after=known.id) as stream:
                assert await stream.rest() == events[number + 1 :]


async def test_an_item_that_comes_when_its_run_has_long_ended_reads_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process(calls(PARIS), says("Hi")) as service:
        run = (await whole_stream(service))[-2].data
        await service.answered(run, call_a="x")
        thread = run["thread_id"]
        for _ in range(5):
            await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "y" * 100_000})
        for _ in range(2):  # until no memory is left of what the wire heard of the first run
            await service.finished(thread)
        undisturbed, sizes = service.storage.read, []

        async def read(container: str, *given: Any, **limit: Any) -> Any:
            tail = await undisturbed(container, *given, **limit)
            if container == THREADS and tail:
                sizes.append(len(tail.data))
            return tail

        monkeypatch.setattr(service.storage, "read", read)
        item = AdvanceRun(project="default", thread_id=thread, run_id=run["id"], sent_at=0, seen=-1)
        assert isinstance(await RunExecutor(service._worker._context, item, "9", -1).run(), Done)
        assert sum(sizes) < 100_000


# --- ends in the middle ---------------------------------------------------------------------------------------------


async def check_torn(service: InProcess, events: list[Event], ending: str, *before: str, said: str = "Hel") -> None:
    """Section 5.2 (8): the open message and step are closed before the run ends; what was streamed of them stays."""
    closing = ["message.incomplete", f"step.{ending}", f"run.{ending}", "done"]
    assert short(events) == [*BEGINNING, *MESSAGE, *before, *closing]
    message, step, run = (event.data for event in events[-4:-1])
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": f"run_{ending}"})
    assert message["content"][0]["text"]["value"] == text_of(events) == said
    assert step["status"] == run["status"] == ending
    assert await service.api.get(f"/threads/{run['thread_id']}/messages/{message['id']}") == message
    assert await service.said(run["thread_id"]) == ["Hello", said]
    assert [(each["id"], each["status"]) for each in await service.steps(run)] == [(step["id"], ending)]


async def test_cancelling_in_the_middle_of_a_message_closes_all_that_is_open() -> None:
    async with in_process(says("Hel", Gate(), "lo")) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
        await check_torn(service, await stream.rest(), "cancelled", "run.cancelling")


async def test_what_was_not_streamed_yet_when_a_run_is_cancelled_is_told_at_its_end() -> None:
    first, second = Gate(), Gate()
    pieces = says("Hel", first, "lo", second, " there.")
    async with in_process(pieces, stream_flush_ms=10_000) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        first.open()
        await second.reached.wait()
        await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
        await check_torn(service, await stream.rest(), "cancelled", "run.cancelling", "message.delta", said="Hello")


async def test_the_model_knows_what_it_said_before_a_run_was_cancelled() -> None:
    async with in_process(says("Hel", Gate(), "lo"), says("Yes.")) as service:
        async with await streamed(service) as stream:
            await stream.until("thread.message.delta")
            run = stream.heard[0].data
            await service.api.post(f"{path_of(run)}/cancel")
            await stream.rest()
        await service.finished(run["thread_id"])
        assert [(turn.role, turn.text) for turn in service.prompts[-1].turns] == [
            ("user", "Hello"),
            ("assistant", "Hel"),
        ]


async def test_a_run_whose_half_message_is_too_large_to_store_is_cancelled_without_it() -> None:
    async with in_process(says("x" * 5_000_000, Gate())) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        run = stream.heard[0].data
        await service.api.post(f"{path_of(run)}/cancel")
        assert short(await stream.rest())[-3:] == ["step.cancelled", "run.cancelled", "done"]
        assert await service.said(run["thread_id"]) == ["Hello"]


async def test_a_call_that_is_cut_off_is_a_cancelled_step_without_calls() -> None:
    async with in_process(begins_to_call(PARIS)) as service, await streamed(service) as stream:
        await stream.until("thread.run.step.delta")
        await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
        events = await stream.rest()
        assert short(events) == [*BEGINNING, *CALLS, "run.cancelling", "step.cancelled", "run.cancelled", "done"]
        step, run = events[-3].data, events[-2].data
        assert step["step_details"] == {"type": "tool_calls", "tool_calls": []}
        assert await service.steps(run) == [step | {"expires_at": None}]
        assert await service.said(run["thread_id"]) == ["Hello"]


def begins_to_call(call: ToolCall) -> Any:
    async def act(_: Prompt, deltas: Deltas | None) -> Reply:
        assert deltas
        deltas.call(call.id, call.name, call.arguments[:4])
        await asyncio.Event().wait()
        raise AssertionError("cancelled by then")

    return act


async def test_expiring_in_the_middle_of_a_message_closes_all_that_is_open() -> None:
    async with in_process(says("Hel", Gate(), "lo"), clock=ManualClock()) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        service.advance(600)
        await check_torn(service, await stream.rest(), "expired")


async def test_failing_in_the_middle_of_a_message_closes_all_that_is_open() -> None:
    gate = Gate()
    async with in_process(fails("server_error", "Gone.", "Hel", gate)) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        gate.open()
        events = await stream.rest()
        await check_torn(service, events, "failed")
    assert events[-2].data["last_error"] == {"code": "server_error", "message": "Gone."}


async def test_failing_before_the_first_word_ends_the_stream_at_once() -> None:
    async with in_process(fails("rate_limit_exceeded", "Slow down.")) as service:
        events = await whole_stream(service)
    assert short(events) == [*BEGINNING, "run.failed", "done"]


async def test_cancelling_a_queued_run_ends_its_stream() -> None:
    async with in_process(worker=False) as service, asyncio.timeout(30), await streamed(service) as stream:
        await stream.until("thread.run.queued")
        await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
        assert short(await stream.rest()) == ["run.created", "run.queued", "run.cancelling", "run.cancelled", "done"]


@pytest.mark.parametrize("ending", ["cancelled", "expired"])
async def test_a_run_that_ends_while_it_waits_for_its_client_ends_on_the_stream(ending: str) -> None:
    async with in_process(calls(PARIS), clock=ManualClock()) as service:
        run = (await whole_stream(service))[-2].data
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            await stream.until("thread.run.requires_action")
            if ending == "cancelled":
                await service.api.post(f"{path_of(run)}/cancel")
            else:
                service.advance(600)
            events = await stream.rest()
    asked = ["run.cancelling"] if ending == "cancelled" else []
    end = [*asked, f"step.{ending}", f"run.{ending}", "done"]
    assert short(events) == [*BEGINNING, *CALLS, "run.requires_action", *end]


async def test_deleting_the_thread_ends_the_stream_with_an_error() -> None:
    async with in_process(says("Hel", Gate(), "lo")) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        run = stream.heard[0].data
        async with service.api.stream("GET", f"{path_of(run)}/events") as watcher, asyncio.timeout(30):
            await watcher.until("thread.message.delta")
            await service.api.delete(f"/threads/{run['thread_id']}")
            for events in (await stream.rest(), await watcher.rest()):
                assert events[-1].name == "error"
                assert events[-1].data["error"]["message"] == "The thread was deleted."


async def test_deleting_the_thread_ends_what_is_watched_of_a_run_that_is_not_streamed() -> None:
    async with in_process(worker=False) as service, asyncio.timeout(30):
        run = await service.start_run()
        async with service.api.stream("GET", f"{path_of(run)}/events") as watcher:
            await watcher.until("thread.run.queued")
            await service.api.delete(f"/threads/{run['thread_id']}")
            assert (await watcher.rest())[-1].data["error"]["message"] == "The thread was deleted."


# --- the events of a run, from anywhere -----------------------------------------------------------------------------


async def watched(service: InProcess, run: Json, after: str | None = None) -> Stream:
    async with service.api.stream("GET", f"{path_of(run)}/events", after=after) as stream:
        await stream.rest()
        return stream


async def run_with_a_call(service: InProcess, *, stream: bool) -> Json:
    """A completed run of two turns."""
    if stream:
        run = (await whole_stream(service))[-2].data
        async with await submitted(service, run, call_a="sun") as rest:
            await rest.rest()
        return run
    run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
    body = {"tool_outputs": [{"tool_call_id": "call_a", "output": "sun"}]}
    await service.api.post(f"{path_of(run)}/submit_tool_outputs", body)
    return await service.until(run)


@pytest.mark.parametrize("stream", [True, False])
async def test_every_event_of_a_finished_run_is_a_place_to_go_on_from(stream: bool) -> None:
    async with in_process(calls(PARIS, first=["Let me look."]), says("Done ", "and ", "done.")) as service:
        run = await run_with_a_call(service, stream=stream)
        whole = await watched(service, run)
        turns = [*MESSAGE, *COMPLETED, *CALLS, "run.requires_action", "step.completed", "run.queued", "run.in_progress"]
        assert short(whole.heard) == [*BEGINNING, *turns, *MESSAGE, *COMPLETED, "run.completed", "done"]
        assert len({event.id for event in whole.heard}) == len(whole.heard)
        for place, event in enumerate(whole.heard[:-1]):
            rest = await watched(service, run, event.id)
            assert rest.heard == whole.heard[place + 1 :]
            assert whole.raw.endswith(rest.raw)


async def test_both_ways_to_hear_of_a_run_tell_the_same() -> None:
    """A run that was not streamed, replayed from its log; and one that was streamed while it was made."""
    async with in_process(calls(PARIS, first=["Let me look."]), says("Done.")) as service:
        made = await watched(service, await run_with_a_call(service, stream=True))
        service.models.script = [calls(PARIS, first=["Let me look."]), says("Done.")]
        replayed = await watched(service, await run_with_a_call(service, stream=False))
    assert short(made.heard) == short(replayed.heard)
    for mine, theirs in zip(landmarks(made.heard), landmarks(replayed.heard), strict=True):
        assert without_names(mine.data) == without_names(theirs.data)


def landmarks(events: list[Event]) -> list[Event]:
    return [event for event in events if not event.name.endswith(".delta") and event.name != "done"]


def without_names(node: Json) -> Json:
    if isinstance(node, list):
        return [without_names(item) for item in node]
    if isinstance(node, dict):
        return {k: without_names(v) for k, v in node.items() if not k.endswith(("_at", "_id")) and k != "id"}
    return node


async def test_what_the_requester_heard_is_what_watchers_hear() -> None:
    async with in_process(says("Hel", "lo")) as service:
        async with await streamed(service) as stream:
            await stream.rest()
        again = await watched(service, stream.heard[0].data)
    assert again.raw == stream.raw


async def test_the_events_of_a_run_can_be_watched_while_it_works() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run = await service.start_run()
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            await stream.until("thread.run.in_progress")
            gate.open()
            assert short(await stream.rest()) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]


# --- what is in the making ------------------------------------------------------------------------------------------


async def opened(stream: Stream) -> tuple[str, str]:
    """The paths of the message and of the step that the stream has just begun."""
    await stream.until("thread.message.delta")
    begun = {event.name: event.data for event in stream.heard if event.name.endswith(".created")}
    message, step = begun["thread.message.created"], begun["thread.run.step.created"]
    thread = f"/threads/{message['thread_id']}"
    return f"{thread}/messages/{message['id']}", f"{thread}/runs/{step['run_id']}/steps/{step['id']}"


CONTENTS = "include[]=step_details.tool_calls[*].file_search.results[*].content"


async def test_a_message_and_a_step_in_the_making_can_be_fetched() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service, await streamed(service) as stream:
        message_path, step_path = await opened(stream)
        message, step = await service.api.get(message_path), await service.api.get(step_path)
        assert (message["status"], message["content"], message["completed_at"]) == ("in_progress", [], None)
        assert (step["status"], step["usage"]) == ("in_progress", None)
        assert step["step_details"]["message_creation"]["message_id"] == message["id"]
        assert await service.api.get(f"{step_path}?{CONTENTS}") == step
        for path in (message_path, step_path):
            await service.api.refused("GET", path[:-1] + "?", status=404)
            await service.api.refused("GET", path + "x", status=404)
            await service.api.refused("GET", path.rpartition("_")[0] + "_x", status=404)
        gate.open()
        await stream.rest()
        assert [(await service.api.get(path))["status"] for path in (message_path, step_path)] == ["completed"] * 2


async def test_a_call_in_the_making_can_be_fetched() -> None:
    gate = Gate()

    async def half_a_call(prompt: Prompt, deltas: Deltas | None) -> Reply:
        assert deltas
        deltas.call("call_a", "get_weather", '{"ci')
        return await says(gate)(prompt, None)

    async with in_process(half_a_call) as service, await streamed(service) as stream:
        step_id = (await stream.until("thread.run.step.delta")).data["id"]
        shown = await service.api.get(f"{path_of(stream.heard[0].data)}/steps/{step_id}")
        assert (shown["status"], shown["step_details"]) == ("in_progress", {"type": "tool_calls", "tool_calls": []})
        gate.open()


async def test_what_a_dead_worker_left_in_the_making_ends_visibly() -> None:
    async with in_process(says("Hel", Gate(), "lo"), says("Hi.")) as service, await streamed(service) as stream:
        message_path, step_path = await opened(stream)
        await service.stop_worker()
        service.start_worker()
        await stream.rest()
        message, step = await service.api.get(message_path), await service.api.get(step_path)
        assert (message["status"], message["content"][0]["text"]["value"]) == ("incomplete", "Hel")
        assert message["incomplete_details"] == {"reason": "run_failed"}
        assert (step["status"], step["last_error"]["code"]) == ("failed", "server_error")
        thread = stream.heard[0].data["thread_id"]
        assert await service.said(thread) == ["Hello", "Hi."]
        await service.finished(thread)  # and another run does not hide it
        assert await service.api.get(message_path) == message
        await service.api.delete(f"/threads/{thread}")
        await service.api.refused("GET", message_path, status=404)


async def test_a_deleted_message_does_not_come_back_from_its_stream() -> None:
    async with in_process(says("Hello.")) as service:
        (message,) = [e.data for e in await whole_stream(service) if e.name == "thread.message.completed"]
        path = f"/threads/{message['thread_id']}/messages/{message['id']}"
        await service.api.delete(path)
        await service.api.refused("GET", path, status=404)


async def test_a_watcher_stays_while_the_client_is_asked() -> None:
    async with in_process(calls(PARIS), says("Done.")) as service:
        run = (await whole_stream(service))[-2].data
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            await stream.until("thread.run.requires_action")
            body = {"tool_outputs": [{"tool_call_id": "call_a", "output": "sun"}]}
            await service.api.post(f"{path_of(run)}/submit_tool_outputs", body)
            assert short(await stream.rest())[-1] == "done"
            assert stream.names[-2] == "thread.run.completed"


async def test_a_reader_that_was_cut_off_goes_on_where_it_was() -> None:
    gate = Gate()
    async with in_process(says("Hel", "lo ", gate, "there.")) as service:
        async with await streamed(service) as stream:
            last = await stream.until("thread.message.delta")
        heard, run = stream.heard, stream.heard[0].data
        async with service.api.stream("GET", f"{path_of(run)}/events", after=last.id) as stream:
            gate.open()
            heard += await stream.rest()
        assert short(heard) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
        assert text_of(heard) == "Hello there."


async def test_a_watcher_of_a_run_that_is_streamed_half_way_keeps_its_place() -> None:
    gate = Gate()
    async with in_process(calls(PARIS), says("Do", gate, "ne.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        async with service.api.stream("GET", f"{path_of(run)}/events") as watcher:
            await watcher.until("thread.run.requires_action")
            async with await submitted(service, run, call_a="sun") as stream:
                assert (await stream.until("thread.run.queued")).data["id"] == run["id"]
                assert "thread.run.requires_action" not in stream.names
                gate.open()
                await stream.rest()
            await watcher.rest()
        whole = await watched(service, run)
        assert watcher.raw == whole.raw
        for place, event in enumerate(whole.heard[:-1]):
            assert (await watched(service, run, event.id)).heard == whole.heard[place + 1 :]


async def test_a_store_that_fails_for_a_while_ends_neither_streams_nor_model_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("assistants_service.worker.lease.LOOK_EVERY", 0.01)
    gate, failed = Gate(), asyncio.Event()
    async with in_process(says("Hel", gate, "lo")) as service:
        async with await streamed(service) as stream:
            await stream.until("thread.message.delta")
            whole, refused = service.storage.read, 0

            async def read(*given: Any, **limit: Any) -> Any:
                nonlocal refused
                refused += 1
                if refused < 20:
                    raise StorageUnavailable("a storm")
                failed.set()
                return await whole(*given, **limit)

            monkeypatch.setattr(service.storage, "read", read)
            await failed.wait()
            gate.open()
            assert short(await stream.rest())[-2:] == ["run.completed", "done"]
        assert len(service.prompts) == 1


async def test_a_stream_that_the_api_cannot_write_is_written_by_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is in its log, so its client is not told that it failed."""
    async with in_process() as service:
        thread, assistant, whole = await service.thread("Hello"), await service.assistant(), service.storage.start

        async def start(container: str, *given: Any) -> Any:
            monkeypatch.setattr(service.storage, "start", whole)
            raise StorageUnavailable("a storm")

        monkeypatch.setattr(service.storage, "start", start)
        body = {"assistant_id": assistant, "stream": True}
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
            assert short(await stream.rest()) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]


async def test_a_streamed_submission_hears_its_own_news_however_far_the_stream_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not the pause that it answers, which is shown only now."""
    async with in_process(calls(PARIS), says("Sunny.")) as service:
        whole, stormy = service.storage.append, True

        async def append(container: str, name: str, mark: Any, block: bytes, *given: Any) -> Any:
            if container == STREAMS and stormy and b"thread.run.requires_action" in block:
                raise StorageUnavailable("a storm")
            return await whole(container, name, mark, block, *given)

        monkeypatch.setattr(service.storage, "append", append)
        async with await streamed(service) as behind:
            await behind.until("thread.run.step.delta")
            run = await service.until(behind.heard[0].data, "requires_action")
            async with await submitted(service, run, call_a="sun") as stream:
                stormy = False
                beginning = ["step.completed", "run.queued", "run.in_progress"]
                assert short(await stream.rest()) == [*beginning, *MESSAGE, *COMPLETED, "run.completed", "done"]
            assert short(await behind.rest())[-2:] == ["run.requires_action", "done"]


async def test_a_client_that_goes_away_does_not_stop_its_run() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        async with await streamed(service) as stream:
            await stream.until("thread.message.delta")
            stream.response.close()
        gate.open()
        run = await service.until(stream.heard[0].data)
        assert run["status"] == "completed"
        assert await service.said(run["thread_id"]) == ["Hello", "Hello"]


@pytest.mark.parametrize("after", ["0", "x", "1.1", "0.0", "99999.1", "-1.0", "9" * 50, "0.1.2", "é"])
async def test_an_event_id_that_was_never_sent_is_refused(after: str) -> None:
    async with in_process() as service:
        run = await service.finished()
        headers = {"Last-Event-ID": after}
        answer = await service.api.send("GET", f"/v1{path_of(run)}/events", headers=headers)
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == ("Last-Event-ID", "invalid_value")


async def test_a_quiet_stream_has_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_EVERY", 0.01)
    gate = Gate()
    async with in_process(says(gate, "Hello.")) as service, await streamed(service) as stream:
        await stream.until("thread.run.in_progress")
        assert [await stream.comment() for _ in range(3)] == [": keep-alive"] * 3
        gate.open()
        assert short(await stream.rest()) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
    heard = list(SSEDecoder().iter_bytes(iter([bytes(stream.raw)])))  # as the stock SDK reads it
    assert [event.event for event in heard] == [event.name for event in stream.heard]
    assert all(event.data for event in heard)


async def test_many_readers_hear_the_same() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service, await streamed(service) as stream:
        await stream.until("thread.message.delta")
        run = stream.heard[0].data
        readers = [asyncio.create_task(watched(service, run)) for _ in range(20)]
        gate.open()
        await stream.rest()
        assert {(await reader).raw for reader in readers} == {stream.raw}


async def test_after_the_log_was_rolled_over_old_runs_are_still_heard_whole() -> None:
    """Whether they were streamed or not."""
    async with in_process(event_log_rollover=2) as service:
        streamed = (await whole_stream(service))[0].data
        polled = await service.finished(streamed["thread_id"])
        for _ in range(3):
            await service.finished(streamed["thread_id"])
        for old in (streamed, polled):
            heard = await watched(service, old)
            assert short(heard.heard) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]


async def test_a_stream_that_was_kept_long_enough_is_told_from_the_log() -> None:
    async with in_process() as service:
        run = (await whole_stream(service))[0].data
        before = await watched(service, run)
        await service.storage.drop(STREAMS, document("default", run["thread_id"], run["id"]))
        after = await watched(service, run)
        assert short(after.heard) == [*BEGINNING, *MESSAGE, *COMPLETED, "run.completed", "done"]
        assert text_of(after.heard) == text_of(before.heard)
        async with service.api.stream("GET", f"{path_of(run)}/events", after=after.heard[3].id) as stream:
            assert await stream.rest() == after.heard[4:]
