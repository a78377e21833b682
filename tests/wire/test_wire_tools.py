"""Runs with tools, over HTTP: calls that the client answers, and actions that the worker executes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from assistants_service import action
from assistants_service.core.ports.models import ForcedFunction, ToolCall, Turn
from inprocess_service import Gate, InProcess, calls, in_process, path_of, says
from scripted_upstreams import choice, function, router, serving, whole

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
PARIS, ROME = (
    ToolCall("call_a", "get_weather", '{"city":"Paris"}'),
    ToolCall("call_b", "get_weather", '{"city":"Rome"}'),
)


async def test_several_rounds_of_several_calls() -> None:
    script = [calls(PARIS, ROME), calls(ToolCall("call_c", "get_weather", "{}"), first=["One more."]), says("Done.")]
    async with in_process(*script) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        assert asked == [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in (PARIS, ROME)
        ]
        run = await service.answered(run, call_a="sun", call_b="rain")
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_c"]
        run = await service.answered(run, call_c="snow")
        assert (run["status"], run["required_action"]) == ("completed", None)
        turns = [(turn.role, turn.text, turn.call_id) for turn in service.prompts[2].turns]
        kinds = [(step["type"], step["status"]) for step in await service.steps(run)]
        assert await service.said(run["thread_id"]) == ["Hello", "One more.", "Done."]
    assert turns == [
        ("user", "Hello", ""),
        ("assistant", "", ""),
        ("tool", "sun", "call_a"),
        ("tool", "rain", "call_b"),
        ("assistant", "One more.", ""),
        ("tool", "snow", "call_c"),
    ]
    assert kinds == [
        (kind, "completed") for kind in ("tool_calls", "message_creation", "tool_calls", "message_creation")
    ]


async def test_a_step_shows_its_calls_and_then_their_outputs() -> None:
    async with in_process(calls(PARIS), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        (step,) = await service.steps(run)
        assert (step["status"], step["usage"], step["expires_at"]) == ("in_progress", None, run["expires_at"])
        function = {"name": "get_weather", "arguments": '{"city":"Paris"}', "output": None}
        assert step["step_details"]["tool_calls"] == [{"id": "call_a", "type": "function", "function": function}]
        await service.answered(run, call_a="sun")
        step = await service.api.get(f"{path_of(run)}/steps/{step['id']}")
    assert (step["status"], step["usage"]["total_tokens"]) == ("completed", 15)
    assert step["step_details"]["tool_calls"][0]["function"] == {**function, "output": "sun"}


@pytest.mark.parametrize("forced", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_tool_choice_holds_for_the_first_turn_only(forced: Json) -> None:
    async with in_process(calls(PARIS), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]), tool_choice=forced)
        assert run["tool_choice"] == forced
        await service.answered(run, call_a="sun")
        assert [prompt.tool_choice for prompt in service.prompts] == [
            forced if isinstance(forced, str) else ForcedFunction("get_weather"),
            "auto",
        ]


async def test_outputs_submitted_twice_have_one_effect() -> None:
    gate = Gate()
    async with in_process(calls(PARIS), says(gate, "Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        body = {"tool_outputs": [{"tool_call_id": "call_a", "output": "sun"}]}
        path = f"/v1{path_of(run)}/submit_tool_outputs"
        answers = await asyncio.gather(*(service.api.send("POST", path, body) for _ in range(10)))
        gate.open()
        assert sorted(answer.status for answer in answers) == [200, *[400] * 9]
        assert "do not accept tool outputs" in next(a for a in answers if a.status == 400).error["message"]
        await service.until(run, "completed")
        assert len(service.prompts) == 2
        assert [step["type"] for step in await service.steps(run)] == ["tool_calls", "message_creation"]


async def test_an_output_may_be_left_empty() -> None:
    async with in_process(calls(PARIS), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        await service.api.post(f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "call_a"}]})
        await service.until(run, "completed")
        assert service.prompts[1].turns[-1] == Turn("tool", "", call_id="call_a")


# --- custom actions: this module is the one that ACTIONS names ------------------------------------------------------


@action
async def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": a + b}


@action
def shout(text: str) -> str:
    return text.upper()


@action
async def explode() -> None:
    raise RuntimeError("boom")


hanging = asyncio.Event()  # set when `hang` was called


@pytest.fixture(autouse=True)
def nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "hanging", asyncio.Event())  # of the test's own loop


@action
async def hang() -> None:
    hanging.set()
    await asyncio.Event().wait()


OWN = [{"type": "function", "function": {"name": name}} for name in ("add", "shout", "explode", "hang")]


def with_actions(*script: Any, **settings: Any) -> Any:
    return in_process(*script, actions=__name__, **settings)


async def test_actions_run_in_the_worker_and_no_client_is_asked() -> None:
    asked = [ToolCall("call_1", "add", '{"a":1,"b":2}'), ToolCall("call_2", "shout", '{"text":"hi"}')]
    async with with_actions(calls(*asked), says("Three.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=OWN))
        assert run["status"] == "completed"
        offered = {tool.name: tool for tool in service.prompts[0].tools}
        assert offered["add"].description == "Add two numbers."
        assert offered["add"].parameters["required"] == ["a", "b"]
        assert [turn.text for turn in service.prompts[1].turns[2:]] == ['{"sum": 3}', "HI"]
        step = (await service.steps(run))[0]
        assert [call["function"]["output"] for call in step["step_details"]["tool_calls"]] == ['{"sum": 3}', "HI"]


async def test_in_a_mixed_round_the_client_is_asked_for_its_own_calls_only() -> None:
    async with with_actions(calls(ToolCall("call_1", "shout", '{"text":"hi"}'), PARIS), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[*OWN, WEATHER]))
        assert run["status"] == "requires_action"
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_a"]
        error = await service.api.refused(
            "POST", f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "call_1", "output": "x"}]}
        )
        assert error["message"] == "Expected tool outputs for call_ids ['call_a'], got ['call_1']"
        run = await service.answered(run, call_a="sun")
        assert run["status"] == "completed"
        assert [turn.text for turn in service.prompts[1].turns[2:]] == ["HI", "sun"]


async def test_what_goes_wrong_in_an_action_is_told_to_the_model() -> None:
    asked = [
        ToolCall("call_1", "explode", "{}"),
        ToolCall("call_2", "hang", "{}"),
        ToolCall("call_3", "add", '{"a":"x"}'),
        ToolCall("call_4", "add", "not JSON"),
    ]
    async with with_actions(calls(*asked), says("Sorry."), action_timeout=0.05) as service:
        run = await service.finished(assistant=await service.assistant(tools=OWN))
        outputs = [turn.text for turn in service.prompts[1].turns[2:]]
    assert run["status"] == "completed"
    assert outputs[0] == "Error: RuntimeError: boom"
    assert outputs[1] == "Error: hang did not respond within 0.05 seconds."
    assert all(output.startswith("Error: the arguments do not fit add: ") for output in outputs[2:])


async def test_call_ids_may_come_again_in_later_turns() -> None:
    """Some providers number the calls of each turn anew."""
    own, theirs = ToolCall("call_1", "shout", '{"text":"hi"}'), ToolCall("call_1", "get_weather", "{}")
    async with with_actions(calls(own), calls(theirs), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[*OWN, WEATHER]))
        assert run["status"] == "requires_action"
        run = await service.answered(run, call_1="sun")
        assert [turn.text for turn in service.prompts[2].turns if turn.role == "tool"] == ["HI", "sun"]


async def test_calls_of_one_turn_that_share_an_id_are_told_apart() -> None:
    async with serving() as upstream, router(upstream.url) as models:
        asked = [function("get_weather", '{"city":"Paris"}', "call_0"), function("get_weather", "{}", "call_0")]
        upstream.script = [whole(choice("tool_calls", tool_calls=asked))]
        async with in_process(models=models) as service:
            run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
    first, second = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert first["id"] == "call_0" != second["id"]


async def test_outputs_that_come_while_an_action_works_are_refused() -> None:
    """The client can see its call on the open step, but the run does not ask for it yet."""
    async with with_actions(calls(ToolCall("call_1", "hang", "{}"), PARIS)) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[*OWN, WEATHER]))
        await hanging.wait()
        outputs = {"tool_outputs": [{"tool_call_id": "call_a", "output": "sun"}]}
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", outputs)
        assert error["message"] == 'Runs in status "in_progress" do not accept tool outputs.'


async def test_a_run_is_cancelled_while_an_action_works() -> None:
    async with with_actions(calls(ToolCall("call_1", "hang", "{}"))) as service:
        run = await service.start_run(assistant=await service.assistant(tools=OWN))
        await hanging.wait()
        await service.api.post(f"{path_of(run)}/cancel")
        run = await service.until(run)
        (step,) = await service.steps(run)
    assert (run["status"], step["status"]) == ("cancelled", "cancelled")


async def test_a_model_that_answers_nothing_completes_with_an_empty_message() -> None:
    async with in_process(says()) as service:
        run = await service.finished()
        assert (run["status"], await service.said(run["thread_id"])) == ("completed", ["Hello", ""])


# --- rounds ---------------------------------------------------------------------------------------------------------

ENDLESS = {
    "code": "server_error",
    "message": "The model still called tools after 3 rounds of tool calls, which is the limit (MAX_TOOL_ROUNDS).",
}


def for_ever(name: str) -> list[Any]:
    return [calls(ToolCall(f"call_{n}", name, '{"a":1,"b":2}'), first=("Once more.",)) for n in range(10)]


async def test_a_model_that_calls_actions_for_ever_is_stopped() -> None:
    async with with_actions(*for_ever("add"), max_tool_rounds=3) as service:
        run = await service.finished(assistant=await service.assistant(tools=OWN))
        assert len(service.prompts) == 4
        assert [step["type"] for step in await service.steps(run)] == ["message_creation", "tool_calls"] * 3
        assert {step["status"] for step in await service.steps(run)} == {"completed"}
        assert (await service.finished(run["thread_id"], max_completion_tokens=100_000))["status"] == "failed"
    assert (run["status"], run["last_error"]) == ("failed", ENDLESS)


@pytest.mark.parametrize(("many", "status"), [(512, "requires_action"), (513, "failed")])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_more_calls_at_once_than_can_be_answered_fail_the_run(many: int, status: str, stream: bool) -> None:
    made = calls(*(ToolCall(f"call_{n}", "get_weather", "{}") for n in range(many)))
    async with in_process(made, says("Sun.")) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant(tools=[WEATHER])
        run = await (streamed if stream else InProcess.finished)(service, thread, assistant)
        assert run["status"] == status
        if status == "failed":
            assert run["last_error"] == {
                "code": "server_error",
                "message": "The model called 513 tools at once; 512 are the most whose outputs can be submitted.",
            }
            return
        outputs = {f"call_{n}": "sun" for n in range(many)}
        assert (await service.answered(run, **outputs))["status"] == "completed"


async def streamed(service: InProcess, thread: str, assistant: str) -> Json:
    body = {"assistant_id": assistant, "stream": True}
    async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
        await stream.rest()
    return (await service.api.get(f"/threads/{thread}/runs"))["data"][0]


async def test_a_model_that_answers_after_the_last_round_is_heard() -> None:
    async with with_actions(*for_ever("add")[:3], says("Three."), max_tool_rounds=3) as service:
        run = await service.finished(assistant=await service.assistant(tools=OWN))
        assert (await service.said(run["thread_id"]))[-1] == "Three."
    assert run["status"] == "completed"


async def test_rounds_of_the_client_count_as_well_whichever_worker_sees_them() -> None:
    async with in_process(*for_ever("get_weather"), max_tool_rounds=3) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        for n in range(3):
            assert run["status"] == "requires_action"
            await service.stop_worker()
            service.start_worker()
            run = await service.answered(run, **{f"call_{n}": "sun"})
    assert (run["status"], run["last_error"]) == ("failed", ENDLESS)


async def test_what_a_client_heard_of_the_round_that_is_one_too_many_is_closed() -> None:
    async with with_actions(*for_ever("add"), max_tool_rounds=3) as service:
        body = {"assistant_id": await service.assistant(tools=OWN), "stream": True}
        thread = await service.thread("Hello")
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
            await stream.rest()
    opened = stream.names.count("thread.run.step.created")
    assert opened == stream.names.count("thread.run.step.completed") + stream.names.count("thread.run.step.failed")
    assert stream.names[-2:] == ["thread.run.failed", "done"]
