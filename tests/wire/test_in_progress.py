"""Messages and steps in progress: what the API shows of them while the model generates them, and how they end. What
streams show of them is tested in test_wire_streams.py."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest

from assistants_service.api import in_progress
from assistants_service.core.ports.models import ContextExceeded, Deltas, Prompt, Reply, Tokens, ToolCall
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.threads.decide import CLOSING
from assistants_service.infra.models import providers
from assistants_service.worker import lease
from assistants_service.worker.partial_reply import PartialReply
from inprocess_service import Gate, InProcess, ManualClock, calls, fails, in_process, path_of, says
from provider_quirks import HABITS, Answer, Ask, Habit, function_item, item, refused, respond
from provider_quirks import serving as serving_habits
from scripted_upstreams import broken, chunk, events, response, router, said, serving

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
PARIS = ToolCall("call_a", "get_weather", '{"city":"Paris"}')


@pytest.fixture(autouse=True)
def _at_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a second: `InProcess.in_progress` makes the worker announce them at once."""
    monkeypatch.setattr(lease, "ANNOUNCE_AFTER", 0.0)


async def messages(service: InProcess, run: Json, query: str = "order=asc") -> list[Json]:
    return list((await service.api.get(f"/threads/{run['thread_id']}/messages?{query}"))["data"])


async def statuses(service: InProcess, run: Json) -> list[str]:
    """The statuses of the run's messages, then of its steps."""
    shown = [*await messages(service, run, f"order=asc&run_id={run['id']}"), *await service.steps(run)]
    return [each["status"] for each in shown]


async def version(service: InProcess, run: Json) -> int:
    """The number of commits of the thread."""
    return int((await service.threads.load("default", run["thread_id"])).state.version)


@pytest.mark.parametrize("tools", [[], [WEATHER]], ids=["whole", "in_deltas"])
@pytest.mark.parametrize("stream", [False, True], ids=["unheard", "streamed"])
async def test_a_message_in_the_making_is_shown_and_comes_whole_under_its_id(tools: list[Json], stream: bool) -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant(tools=tools)
        body = {"assistant_id": assistant, "stream": stream}
        if stream:
            async with service.api.stream("POST", f"/threads/{thread}/runs", body) as told:
                run = (await told.until("thread.run.created")).data
        else:
            run = await service.start_run(thread, assistant)
        begun = await service.in_progress(run)
        message, (step,) = (await messages(service, run))[-1], await service.steps(run)
        assert (message["id"], message["status"], message["content"]) == (begun.message.id, "in_progress", [])
        assert (message["completed_at"], message["run_id"], message["role"]) == (None, run["id"], "assistant")
        assert (step["id"], step["status"], step["usage"]) == (begun.step.id, "in_progress", None)
        assert step["step_details"]["message_creation"]["message_id"] == message["id"]
        assert await service.api.get(f"/threads/{thread}/messages/{message['id']}") == message
        assert await service.api.get(f"{path_of(run)}/steps/{step['id']}") == step
        assert [m["id"] for m in await messages(service, run, f"run_id={run['id']}")] == [message["id"]]
        before = await version(service, run)
        for _ in range(5):  # further checks of the worker commit nothing
            service.notifier.notify_all()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        gate.open()
        await service.until(run)
        assert await version(service, run) == before + 1
        (whole,), (done,) = await messages(service, run, f"run_id={run['id']}"), await service.steps(run)
        assert (whole["id"], whole["status"], done["id"], done["status"]) == (
            *(message["id"], "completed"),
            *(step["id"], "completed"),
        )
        assert await service.said(thread) == ["Hello", "Hello"]


async def test_a_call_in_the_making_is_shown_and_comes_whole_under_its_id() -> None:
    gate = Gate()

    async def half_a_call(prompt: Prompt, deltas: Deltas | None) -> Reply:
        assert deltas
        deltas.call("call_a", "get_weather", '{"ci')
        await gate.pass_through()
        return await calls(PARIS)(prompt, None)

    async with in_process(half_a_call) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]))
        begun = await service.in_progress(run)
        (step,) = await service.steps(run)
        assert (begun.message, step["id"], step["status"]) == (None, begun.step.id, "in_progress")
        assert step["step_details"] == {"type": "tool_calls", "tool_calls": []}
        assert [m["role"] for m in await messages(service, run)] == ["user"]
        gate.open()
        assert (await service.until(run))["status"] == "requires_action"
        (step,) = await service.steps(run)
        assert (step["id"], step["step_details"]["tool_calls"][0]["id"]) == (begun.step.id, "call_a")
        state = (await service.threads.load("default", run["thread_id"])).state
        assert state.runs[run["id"]].in_progress is None  # it is complete


async def test_what_is_told_first_stays_in_its_place() -> None:
    """A model may send text before calls, or calls before text."""
    gate = Gate()

    async def mixed(prompt: Prompt, deltas: Deltas | None) -> Reply:
        assert deltas
        deltas.call(PARIS.id, PARIS.name, PARIS.arguments)
        deltas.text("Let me")
        await gate.pass_through()
        return await calls(PARIS, first=["Let me", " see."])(prompt, None)

    async with in_process(mixed) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]))
        begun = await service.in_progress(run)
        assert [step["id"] for step in await service.steps(run)] == [begun.step.id]
        gate.open()
        await service.until(run)
        assert {(step["id"], step["type"]) for step in await service.steps(run)} >= {(begun.step.id, "tool_calls")}
        assert await service.said(run["thread_id"]) == ["Hello", "Let me see."]


async def test_an_answer_that_comes_at_once_costs_no_commit_more() -> None:
    async with in_process(says("Hello.")) as service:
        run = await service.finished()
        assert await version(service, run) == 4  # the thread, the run, its claim, its end


async def test_a_short_model_call_costs_no_commit_more_whatever_the_worker_hears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    gate = Gate()
    async with in_process(says("Hel", gate, "lo.")) as service:
        run = await service.start_run()
        await gate.reached.wait()
        await service.api.post(f"/threads/{run['thread_id']}", {"metadata": {"a": "b"}})
        await asyncio.sleep(0.02)  # the worker reads the log in this time
        gate.open()
        await service.until(run)
        assert await version(service, run) == 5  # with the change of the thread


async def test_it_is_a_cursor_and_is_counted_like_any_other() -> None:
    async with in_process(says("Hel", Gate())) as service:
        run = await service.start_run(await service.thread("One", "Two"))
        first = await service.in_progress(run)
        begun = first.message.id
        page = await service.api.get(f"/threads/{run['thread_id']}/messages?limit=2")
        assert (page["first_id"], page["has_more"]) == (begun, True)
        two, one = [m["id"] for m in await messages(service, run, f"after={begun}")]
        assert [m["id"] for m in await messages(service, run, f"order=asc&after={two}")] == [begun]
        assert await messages(service, run, f"order=asc&after={begun}") == []
        assert [m["id"] for m in await messages(service, run, f"order=asc&before={begun}")] == [one, two]
        await service.stop_worker()
        service.start_worker()
        other = (await service.in_progress(run, first.step.id)).message.id
        assert [m["id"] for m in await messages(service, run, f"order=asc&after={begun}")] == [other]


async def test_it_cannot_be_changed_or_deleted_yet() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run = await service.start_run()
        path = f"/threads/{run['thread_id']}/messages/{(await service.in_progress(run)).message.id}"
        for method, body in (("POST", {"metadata": {"a": "b"}}), ("DELETE", None)):
            error = await service.api.refused(method, path, body)
            assert "is still in progress" in error["message"]
        gate.open()
        await service.until(run)
        await service.api.post(path, {"metadata": {"a": "b"}})
        await service.api.delete(path)
        assert await service.said(run["thread_id"]) == ["Hello"]


async def test_what_a_dead_worker_was_at_is_gone_once_another_one_goes_on() -> None:
    gate = Gate()
    async with in_process(says("Hel", Gate()), says("Hi", gate, ".")) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]))
        dead = await service.in_progress(run)
        await service.stop_worker()
        assert await statuses(service, run) == ["in_progress", "in_progress"]  # for all that is known
        service.start_worker()
        await gate.reached.wait()
        alive = await service.in_progress(run, dead.step.id)
        assert [m["id"] for m in (await messages(service, run))[1:]] == [alive.message.id]
        assert [step["id"] for step in await service.steps(run)] == [alive.step.id]
        await service.api.refused("GET", f"/threads/{run['thread_id']}/messages/{dead.message.id}", status=404)
        await service.api.refused("GET", f"{path_of(run)}/steps/{dead.step.id}", status=404)
        gate.open()
        await service.until(run)
        assert await statuses(service, run) == ["completed", "completed"]
        assert await service.said(run["thread_id"]) == ["Hello", "Hi."]


async def test_what_a_dead_worker_was_at_is_not_in_the_next_prompt() -> None:
    async with in_process(calls(PARIS, first=[Gate()]), calls(PARIS)) as service:
        assistant = await service.assistant(tools=[WEATHER])
        run = await service.start_run(assistant=assistant, tool_choice=FORCED)
        await service.in_progress(run)
        await service.stop_worker()
        service.start_worker()
        assert (await service.until(run))["status"] == "requires_action"
        first, second = service.prompts
        assert (second.turns, second.tool_choice) == (first.turns, first.tool_choice)


async def test_what_a_dead_worker_was_at_ends_on_its_stream() -> None:
    """They are closed like objects that were on the stream only."""
    async with in_process(says("Hel", Gate()), says("Hi.")) as service:
        body = {"assistant_id": await service.assistant(), "stream": True}
        async with service.api.stream("POST", f"/threads/{await service.thread('Hello')}/runs", body) as stream:
            run = (await stream.until("thread.run.created")).data
            dead = await service.in_progress(run)
            await service.stop_worker()
            service.start_worker()
            await stream.rest()
        ended = {each.data["id"]: each.name for each in stream.heard if each.name.endswith((".incomplete", ".failed"))}
        begun_again = [each.name for each in stream.heard].index("thread.run.step.completed")
        assert "thread.run.step.failed" in [each.name for each in stream.heard[:begun_again]]
        assert ended == {dead.message.id: "thread.message.incomplete", dead.step.id: "thread.run.step.failed"}
        shown = await service.api.get(f"/threads/{run['thread_id']}/messages/{dead.message.id}")
        assert (shown["status"], shown["content"][0]["text"]["value"]) == ("incomplete", "Hel")
        assert await statuses(service, run) == ["completed", "completed"]


async def test_a_model_is_asked_for_deltas_only_if_they_tell_something() -> None:
    """A complete reply costs less than a streamed one."""
    asked = []

    async def act(prompt: Prompt, deltas: Deltas | None) -> Reply:
        asked.append(deltas is not None)
        return await says("Hello.")(prompt, deltas)

    async with in_process(act) as service:
        await service.finished()
        assistant = await service.assistant(tools=[WEATHER])
        for choice in ("auto", "none", "required", FORCED):
            await service.finished(assistant=assistant, tool_choice=choice)
    assert asked == [False, True, False, False, False]


async def test_a_model_whose_streams_have_no_usage_is_asked_for_whole_replies() -> None:
    async def act(prompt: Prompt, deltas: Deltas | None) -> Reply:
        return await says("Hello.", tokens=Tokens() if deltas else Tokens(10, 5))(prompt, deltas)

    async with in_process(act) as service:
        assistant = await service.assistant(tools=[WEATHER])
        runs = [await service.finished(assistant=assistant) for _ in range(3)]
    assert [run["usage"]["total_tokens"] for run in runs[1:]] == [15, 15]
    assert 0 < runs[0]["usage"]["prompt_tokens"] < 100  # an estimate, of a short prompt
    assert runs[0]["usage"]["completion_tokens"] == 2  # "Hello" and "."


def refusing(monkeypatch: pytest.MonkeyPatch, api: str, answer: Callable[[Ask], Answer]) -> list[bool]:
    """Add a server `refusing` that answers with `answer`. Returns a list that gets, for each request, whether it asked
    for a stream."""
    asked: list[bool] = []

    def heard(ask: Ask) -> Answer:
        asked.append(ask.streamed)
        return answer(ask)

    monkeypatch.setitem(HABITS, "refusing", Habit("refusing", "", heard, api))
    return asked


RANDOM = random.Random(7)
WORDS = " ".join("".join(RANDOM.choices(string.ascii_lowercase, k=6)) for _ in range(5))


def text_delta(text: str) -> Json:
    return {"type": "response.output_text.delta", "output_index": 0, "delta": text}


ONCE, EACH_TIME = [True, False, False], [True, False, True, False]


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(
    ("said", "status", "streamed"),
    [
        (WORDS, 400, ONCE),
        (WORDS, 422, ONCE),
        (WORDS, 500, EACH_TIME),  # the error may have been temporary
        (WORDS, 200, EACH_TIME),  # in the stream
        ("Streaming with tools is not supported", 422, ONCE),
        ("stream is not supported", 400, ONCE),
        ("Function calling is not supported in stream mode", 400, ONCE),
        ("tools param requires stream to be false", 400, ONCE),
        ("Streaming is not supported when tools are provided", 500, ONCE),
    ],
)
async def test_a_stream_that_no_client_asked_for_fails_no_run(
    api: str, said: str, status: int, streamed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(ask: Ask) -> Answer:
        if not ask.streamed:
            return ask.says() if api == "chat" else respond(ask, item())
        return refused(said, status) if status != 200 else Answer(events=[{"error": {"message": said}}])

    asked = refusing(monkeypatch, api, answer)
    async with (
        serving_habits() as url,
        router(f"{url}/refusing/v1", api) as models,
        in_process(models=models) as service,
    ):
        assistant = await service.assistant(tools=[WEATHER])
        for _ in range(2):
            assert (await service.finished(assistant=assistant))["status"] == "completed"
    assert asked == streamed


@pytest.mark.parametrize(
    ("status", "asked_for"), [(400, [True, False]), (401, [True]), (404, [True]), (429, [True]), (502, [True])]
)
async def test_a_refusal_that_the_stream_is_not_to_blame_for_is_told(
    status: int, asked_for: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run shows the error of the last request. An error that has nothing to do with streaming is not retried."""
    asked = refusing(monkeypatch, "chat", lambda ask: refused(f"{WORDS} {ask.streamed}", status))
    async with serving_habits() as url, router(f"{url}/refusing/v1") as models, in_process(models=models) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
    assert (run["status"], run["last_error"]["message"]) == ("failed", f"{WORDS} {asked_for[-1]}")
    assert asked == asked_for


FAILED = {"object": "response", "status": "failed", "error": {"code": "server_error", "message": WORDS}, "output": []}


@pytest.mark.parametrize(
    ("api", "error"),
    [
        ("chat", {"error": {"message": WORDS}}),
        ("responses", {"error": {"message": WORDS}}),
        ("responses", {"type": "error", "code": "server_error", "message": WORDS, "param": None}),
        ("responses", {"type": "response.failed", "response": FAILED}),
    ],
    ids=["chat", "envelope", "event", "failed"],
)
async def test_half_a_reply_that_an_error_ended_is_forgotten_for_the_whole_one(
    api: str, error: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(ask: Ask) -> Answer:
        if not ask.streamed:
            return ask.calls() if api == "chat" else respond(ask, function_item())
        return Answer(events=[chunk(content="It ") if api == "chat" else text_delta("It "), error])

    refusing(monkeypatch, api, answer)
    async with (
        serving_habits() as url,
        router(f"{url}/refusing/v1", api) as models,
        in_process(models=models) as service,
    ):
        run = await service.start_run(await service.thread("Hello"), await service.assistant(tools=[WEATHER]))
        assert (await service.until(run))["status"] == "requires_action"
        assert [step["type"] for step in await service.steps(run)] == ["tool_calls"]
        assert await service.said(run["thread_id"]) == ["Hello"]


@pytest.mark.parametrize("choice", ["required", "none"])
async def test_a_model_that_does_something_else_than_it_was_told(choice: str) -> None:
    """The expected step, which was shown, is gone, and there is no empty message."""
    gate = Gate()
    act = says("Hello", gate, ".") if choice == "required" else calls(PARIS, first=[gate])
    async with in_process(act) as service:
        assistant = await service.assistant(tools=[WEATHER])
        run = await service.start_run(assistant=assistant, tool_choice=choice)
        begun = await service.in_progress(run)
        assert [step["type"] for step in await service.steps(run)] == [begun.step.type]
        gate.open()
        assert (await service.until(run))["status"] == ("completed" if choice == "required" else "requires_action")
        (step,) = await service.steps(run)
        assert step["id"] != begun.step.id
        assert await service.said(run["thread_id"]) == ["Hello", *(["Hello."] if choice == "required" else [])]


async def test_a_call_that_was_expected_ends_visibly_with_its_run() -> None:
    async with in_process(calls(PARIS, first=[Gate()])) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]), tool_choice=FORCED)
        await service.in_progress(run)
        await service.api.post(f"{path_of(run)}/cancel")
        await service.until(run)
        assert await statuses(service, run) == ["cancelled"]


async def test_a_claim_forgets_it_at_once() -> None:
    """The objects of the dead worker disappear with the claim, since the next model call may begin much later."""
    async with in_process(says("Hel", Gate()), says(Gate())) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]))
        await service.in_progress(run)
        await service.stop_worker()
        service.start_worker()
        while len(service.prompts) < 2:
            await service.threads.listen("default", run["thread_id"]).wait(0.01)
        assert await statuses(service, run) == []


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_what_was_shown_ends_visibly_with_its_run(ending: str) -> None:
    gate = Gate()
    act = says("Hel", gate) if ending == "cancelled" else fails("server_error", "Gone.", "Hel", gate)
    async with in_process(act, says("Hi.")) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[WEATHER]))
        begun = await service.in_progress(run)
        if ending == "cancelled":
            await service.api.post(f"{path_of(run)}/cancel")
        else:
            gate.open()
        assert (await service.until(run))["status"] == ending
        assert await statuses(service, run) == ["incomplete", ending]
        message = (await messages(service, run))[-1]
        assert (message["id"], message["content"][0]["text"]["value"]) == (begun.message.id, "Hel")
        assert message["incomplete_details"] == {"reason": f"run_{ending}"}


async def test_what_was_heard_of_in_no_word_goes_with_its_run() -> None:
    async with in_process(says("Hel", Gate())) as service:
        run = await service.start_run()
        begun = await service.in_progress(run)
        await service.api.post(f"{path_of(run)}/cancel")
        await service.until(run)
        assert await statuses(service, run) == []
        await service.api.refused("GET", f"/threads/{run['thread_id']}/messages/{begun.message.id}", status=404)


@pytest.mark.parametrize("stream", [False, True], ids=["unheard", "streamed"])
async def test_what_a_dead_worker_was_at_ends_with_its_run(stream: bool) -> None:
    async with in_process(says("Hel", Gate()), says("Hi."), clock=ManualClock(), event_log_rollover=2) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant(tools=[WEATHER])
        body = {"assistant_id": assistant, "stream": stream}
        if stream:
            async with service.api.stream("POST", f"/threads/{thread}/runs", body) as told:
                run = (await told.until("thread.run.created")).data
        else:
            run = await service.api.post(f"/threads/{thread}/runs", body)
        await service.in_progress(run)
        await service.stop_worker()
        await service.api.post(f"{path_of(run)}/cancel")
        service.advance(CLOSING)
        service.start_worker()
        assert (await service.until(run))["status"] == "cancelled"
        assert await statuses(service, run) == []
        await service.finished(thread, assistant)  # rolls the log over; the snapshot has gaps in their places
        service.threads._views.clear()
        assert await service.said(thread) == ["Hello", "Hi."]
        assert await statuses(service, run) == []


async def test_a_prompt_that_was_too_long_is_asked_again_though_its_message_was_shown() -> None:
    gate = Gate()

    async def too_long(*_: Any) -> Reply:
        await gate.pass_through()
        raise ContextExceeded("invalid_prompt", "Too long.")

    async with in_process(too_long, says("Hi.")) as service:
        run = await service.start_run(await service.thread(*["Hello"] * 4))
        await service.in_progress(run)
        gate.open()
        assert (await service.until(run))["status"] == "completed"
        assert await statuses(service, run) == ["completed", "completed"]
        assert (await service.said(run["thread_id"]))[-1] == "Hi."


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(("breaks", "status"), [(2, "completed"), (3, "failed")])
async def test_a_run_that_is_not_streamed_survives_a_stream_that_breaks_off(
    breaks: int, status: str, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is retried as often as the SDK retries, and the reply contains nothing of the broken ones."""
    monkeypatch.setattr(providers, "_FIRST_PAUSE", 0.0)
    whole = events(chunk(content="It is "), chunk("stop", content="sunny."))
    if api == "responses":
        done = {"type": "response.completed", "response": response(said("It is sunny."))}
        whole = events(text_delta("It is "), text_delta("sunny."), done)
    async with serving() as upstream, router(upstream.url, api, retries=2) as models:
        upstream.script = [*[broken(chunk(content="It ") if api == "chat" else text_delta("It "))] * breaks, whole]
        async with in_process(models=models) as service:
            run = await service.finished(await service.thread("Hello"), await service.assistant(tools=[WEATHER]))
            assert (run["status"], len(upstream.requests)) == (status, 3)
            assert (await service.said(run["thread_id"]))[1:] == (["It is sunny."] if status == "completed" else [])


async def test_what_comes_whole_between_two_looks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run = await service.start_run()
        begun, find = await service.in_progress(run), in_progress.find

        async def late(*given: Any) -> Any:
            gate.open()
            await service.until(run)
            return await find(*given)

        monkeypatch.setattr(in_progress, "find", late)
        path = f"/threads/{run['thread_id']}/messages/{begun.message.id}"
        assert (await service.api.get(path))["status"] == "completed"


async def test_a_store_that_fails_for_a_moment_is_told_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run, commit = await service.start_run(), service.threads.commit
        await gate.reached.wait()
        refused = []

        async def refusing(*given: Any, **more: Any) -> Any:
            if not refused:
                refused.append(given)
                raise StorageUnavailable("for a moment")
            return await commit(*given, **more)

        monkeypatch.setattr(service.threads, "commit", refusing)
        await service.in_progress(run)
        assert refused
        gate.open()
        assert (await service.until(run))["status"] == "completed"


def test_half_a_text_goes_with_its_stream() -> None:
    partial = PartialReply(run=ANY, ids=ANY)
    partial.deltas = deltas = Deltas(lambda: partial.open_first(0.0), final=False)
    partial.message = partial.message_step = ANY  # it was begun, and may have been shown so
    deltas.text("It ")
    deltas.refusal("No")
    assert deltas.restart() and not partial.deltas.speaks
