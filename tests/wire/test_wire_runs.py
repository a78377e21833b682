"""What runs do, over HTTP, with a model that follows a script."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import to_builtins

from assistants_service.core.ports.models import Reply, Tokens, ToolCall, Turn
from assistants_service.core.threads.run_commands import RunCommands
from inprocess_service import Gate, ManualClock, calls, fails, in_process, path_of, says
from scripted_upstreams import choice, router, serving, whole

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
NEWS = {"type": "function", "function": {"name": "get_news", "description": "What happened", "strict": True}}
PARIS, ROME = (
    ToolCall("call_a", "get_weather", '{"city":"Paris"}'),
    ToolCall("call_b", "get_weather", '{"city":"Rome"}'),
)


# --- what the model is told -----------------------------------------------------------------------------------------


async def test_the_model_gets_the_assistants_configuration() -> None:
    configuration = {
        "model": "acme/one",
        "instructions": "Be brief.",
        "tools": [WEATHER],
        "temperature": 0.5,
        "top_p": 0.25,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
    }
    async with in_process() as service:
        run = await service.finished(assistant=await service.assistant(**configuration))
        (prompt,) = service.prompts
    assert (prompt.model, prompt.instructions) == ("acme/one", "Be brief.")
    assert (prompt.temperature, prompt.top_p, prompt.reasoning_effort) == (0.5, 0.25, "low")
    assert to_builtins(prompt.response_format) == {"type": "json_object"}
    assert [tool.name for tool in prompt.tools] == ["get_weather"]
    assert (prompt.tool_choice, prompt.parallel_tool_calls, prompt.max_completion_tokens) == ("auto", True, None)
    assert {key: run[key] for key in ("model", "instructions", "temperature", "top_p", "reasoning_effort")} == {
        key: configuration[key] for key in ("model", "instructions", "temperature", "top_p", "reasoning_effort")
    }


async def test_a_run_overrides_its_assistant() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    overrides = {
        "model": "two",
        "instructions": "Be long.",
        "tools": [NEWS],
        "temperature": 1.5,
        "top_p": 0.5,
        "reasoning_effort": "high",
        "response_format": schema,
        "metadata": {"for": "this run"},
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "max_completion_tokens": 50,
    }
    async with in_process() as service:
        assistant = await service.assistant(instructions="Be brief.", tools=[WEATHER], temperature=0.1)
        run = await service.finished(assistant=assistant, **overrides)
        (prompt,) = service.prompts
        assert (await service.api.get(f"/assistants/{assistant}"))["instructions"] == "Be brief."
    assert {key: run[key] for key in overrides if key != "tools"} == {
        k: v for k, v in overrides.items() if k != "tools"
    }
    assert (prompt.model, prompt.instructions, prompt.temperature, prompt.top_p) == ("two", "Be long.", 1.5, 0.5)
    assert (prompt.reasoning_effort, prompt.max_completion_tokens) == ("high", 50)
    assert to_builtins(prompt.response_format) == schema
    assert (prompt.parallel_tool_calls, prompt.tool_choice) == (False, "none")
    assert [tool.fields for tool in prompt.tools] == [
        {**NEWS["function"], "parameters": {"type": "object", "properties": {}}}
    ]


async def test_additional_instructions_are_appended() -> None:
    async with in_process() as service:
        assistant = await service.assistant(instructions="Be brief.")
        run = await service.finished(assistant=assistant, additional_instructions="Be kind.")
        await service.finished(assistant=assistant, instructions="Be long.", additional_instructions="Be kind.")
        await service.finished(additional_instructions="Be kind.")
        told = [prompt.instructions for prompt in service.prompts]
    assert told == ["Be brief.\n\nBe kind.", "Be long.\n\nBe kind.", "Be kind."]
    assert run["instructions"] == "Be brief.\n\nBe kind."


async def test_additional_messages_are_added_to_the_thread_first() -> None:
    more = [{"role": "user", "content": "two"}, {"role": "assistant", "content": "three", "metadata": {"n": "3"}}]
    async with in_process(says("four")) as service:
        run = await service.finished(await service.thread("one"), additional_messages=more)
        assert await service.said(run["thread_id"]) == ["one", "two", "three", "four"]
        (prompt,) = service.prompts
    assert prompt.turns == (Turn("user", "one"), Turn("user", "two"), Turn("assistant", "three"))


@pytest.mark.parametrize("command", ["create_run", "create_thread_and_run"])
async def test_the_rule_of_a_creation_is_evaluated_once(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """On the state that its commit is made on, and nowhere else on its way."""
    rule, evaluated = getattr(RunCommands, command), []

    def noting(*given: Any, **named: Any) -> Any:
        evaluated.append(command)
        return rule(*given, **named)

    monkeypatch.setattr(RunCommands, command, noting)
    messages = {"messages": [{"role": "user", "content": "Hello"}]}
    async with in_process() as service:
        body = {"assistant_id": await service.assistant()}
        if command == "create_run":
            await service.api.post(f"/threads/{(await service.api.post('/threads', messages))['id']}/runs", body)
        else:
            await service.api.post("/threads/runs", body | {"thread": messages})
    assert evaluated == [command]


async def test_a_running_run_keeps_the_configuration_of_its_creation() -> None:
    async with in_process(worker=False) as service:
        assistant = await service.assistant(instructions="Before.")
        run = await service.start_run(assistant=assistant)
        await service.api.post(f"/assistants/{assistant}", {"instructions": "After.", "model": "other"})
        service.start_worker()
        ended = await service.until(run)
        assert (ended["instructions"], ended["model"]) == ("Before.", "gpt-4o")
        assert service.prompts[0].instructions == "Before."


async def test_a_run_goes_on_when_its_assistant_is_deleted() -> None:
    async with in_process(worker=False) as service:
        run = await service.start_run()
        await service.api.delete(f"/assistants/{run['assistant_id']}")
        service.start_worker()
        assert (await service.until(run))["status"] == "completed"


async def test_history_comes_oldest_first_with_all_runs_of_the_thread() -> None:
    async with in_process(says("two"), says("four")) as service:
        run = await service.finished(await service.thread("one"))
        await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "three"})
        await service.finished(run["thread_id"])
        turns = service.prompts[1].turns
    assert [(turn.role, turn.text) for turn in turns] == [("user", "one"), ("assistant", "two"), ("user", "three")]


async def test_images_are_passed_to_the_model() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with in_process() as service:
        run = await service.finished(await service.thread(messages=[{"role": "user", "content": parts}]))
        (turn,) = service.prompts[0].turns
        stored = (await service.api.get(f"/threads/{run['thread_id']}/messages?order=asc"))["data"][0]["content"]
    assert turn.text == "What is this?"
    assert turn.images == (("https://example.com/cat.png", "low"), ("data:image/png;base64,AAAA", "auto"))
    assert stored[2] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}


async def test_last_messages_limits_what_the_model_sees() -> None:
    async with in_process() as service:
        thread = await service.thread("one", "two", "three")
        strategy = {"type": "last_messages", "last_messages": 2}
        run = await service.finished(thread, truncation_strategy=strategy)
        assert [turn.text for turn in service.prompts[0].turns] == ["two", "three"]
    assert run["truncation_strategy"] == strategy


async def test_what_does_not_fit_the_models_window_is_left_out_oldest_first() -> None:
    async with in_process() as service:
        thread = await service.thread("old " * 7_000, "middle", "new")
        await service.finished(thread, model="gpt-4")  # 8,192 tokens
        assert [turn.text for turn in service.prompts[0].turns] == ["middle", "new"]


# --- how runs end ---------------------------------------------------------------------------------------------------


async def test_usage_is_told_per_step_and_summed_over_the_run() -> None:
    script = [calls(PARIS, tokens=Tokens(100, 20, 30, 4)), says("Done.", tokens=Tokens(150, 10, 50, 6))]
    async with in_process(*script) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        assert run["usage"] is None
        run = await service.answered(run, call_a="sun")
        first, second = [step["usage"] for step in await service.steps(run)]
    assert first == usage(100, 20, 30, 4)
    assert second == usage(150, 10, 50, 6)
    assert run["usage"] == usage(250, 30, 80, 10)


def usage(prompt: int, completion: int, cached: int, reasoning: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_token_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


async def test_a_completed_run_is_stamped_and_no_longer_expires() -> None:
    clock = ManualClock()
    async with in_process(clock=clock) as service:
        run = await service.start_run()
        assert (run["status"], run["started_at"], run["expires_at"]) == ("queued", None, run["created_at"] + 600)
        run = await service.until(run)
        assert (run["started_at"], run["completed_at"], run["expires_at"]) == (clock.time, clock.time, None)
        (step,) = await service.steps(run)
        answer = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]
    assert (step["type"], step["status"], step["completed_at"]) == ("message_creation", "completed", clock.time)
    assert step["step_details"]["message_creation"]["message_id"] == answer["id"]
    assert (answer["run_id"], answer["assistant_id"], answer["status"]) == (run["id"], run["assistant_id"], "completed")


async def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    async with in_process(says("Half an ans", finish="length")) as service:
        run = await service.finished(max_completion_tokens=16)
        answer = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]
        assert service.prompts[0].max_completion_tokens == 16
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})
    assert run["completed_at"] is not None
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_tokens"})
    assert answer["content"][0]["text"]["value"] == "Half an ans"


async def test_completion_tokens_are_counted_over_all_turns() -> None:
    script = [calls(PARIS, tokens=Tokens(10, 20)), calls(ROME, tokens=Tokens(10, 20)), says("Never.")]
    async with in_process(*script) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]), max_completion_tokens=40)
        run = await service.answered(run, call_a="sun")
        run = await service.answered(run, call_b="rain")
        assert [prompt.max_completion_tokens for prompt in service.prompts] == [40, 20]
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})


async def test_prompt_tokens_are_counted_over_all_turns() -> None:
    async with in_process(calls(PARIS, tokens=Tokens(300, 20)), says("Never.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]), max_prompt_tokens=300)
        run = await service.answered(run, call_a="sun")
        assert len(service.prompts) == 1
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_prompt_tokens"})


async def test_a_message_that_exceeds_max_prompt_tokens_is_not_sent() -> None:
    async with in_process() as service:
        run = await service.finished(await service.thread("word " * 1_000), max_prompt_tokens=256)
        assert service.prompts == []
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_prompt_tokens"})
    assert run["usage"]["total_tokens"] == 0


async def test_a_refusal_is_a_part_of_the_message() -> None:
    async with in_process(says(refusal="I will not.")) as service:
        run = await service.finished()
        answer = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]
    assert run["status"] == "completed"
    assert answer["content"] == [{"type": "refusal", "refusal": "I will not."}]


async def test_a_filtered_answer_fails_the_run() -> None:
    async with in_process(says("Something b", finish="content_filter")) as service:
        run = await service.finished()
        answer = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]
        (step,) = await service.steps(run)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert (step["status"], step["last_error"]["code"]) == ("failed", "server_error")


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded", "invalid_prompt"])
async def test_a_failing_provider_fails_the_run_and_frees_the_thread(code: str) -> None:
    async with in_process(fails(code, "Sorry."), says("Again.")) as service:
        run = await service.finished()
        assert (run["status"], run["last_error"]) == ("failed", {"code": code, "message": "Sorry."})
        assert (run["failed_at"] is not None, run["expires_at"]) == (True, None)
        assert await service.steps(run) == []
        assert (await service.finished(run["thread_id"]))["status"] == "completed"


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (429, {"message": "You exceeded your quota.", "code": "insufficient_quota"}, "rate_limit_exceeded"),
        (500, {"message": "Oops."}, "server_error"),
        (400, {"message": "Not so.", "code": "content_filter"}, "invalid_prompt"),
        (401, {"message": "Incorrect API key provided: sk-abcdefgh."}, "server_error"),
    ],
)
async def test_a_providers_http_error_becomes_the_runs_last_error(status: int, error: Json, code: str) -> None:
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [whole({"error": error}, status)]
        async with in_process(models=models) as service:
            run = await service.finished()
    assert (run["status"], run["last_error"]["code"]) == ("failed", code)
    assert run["last_error"]["message"] == error["message"].replace("sk-abcdefgh", "sk-***")


async def test_a_run_over_http_to_the_provider() -> None:
    """All of it: what the provider gets, and what the client gets of its answer."""
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [whole(choice(content="Sunny.", usage={"prompt_tokens": 9, "completion_tokens": 2}))]
        async with in_process(models=models) as service:
            assistant = await service.assistant(instructions="Be brief.", temperature=0.5)
            run = await service.finished(assistant=assistant)
            assert await service.said(run["thread_id"]) == ["Hello", "Sunny."]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert upstream.body == {"model": "gpt-4o", "messages": messages, "temperature": 0.5}
    assert run["usage"]["total_tokens"] == 11


# --- expiry ---------------------------------------------------------------------------------------------------------


async def test_a_run_expires_while_its_model_works() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo"), clock=ManualClock(), run_expires_after=60) as service:
        run = await service.start_run()
        await gate.reached.wait()
        service.advance(60)
        run = await service.until(run)
        assert (run["status"], run["expires_at"], run["last_error"]) == ("expired", None, None)
        assert await service.said(run["thread_id"]) == ["Hello"]
        await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Again"})


async def test_a_run_expires_while_it_waits_for_its_client() -> None:
    async with in_process(calls(PARIS), says("Done."), clock=ManualClock()) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        service.advance(599)
        assert (await service.api.get(path_of(run)))["status"] == "requires_action"
        service.advance(1)
        run = await service.until(run, "expired")
        (step,) = await service.steps(run)
        assert (step["status"], step["expired_at"]) == ("expired", 1_800_000_600)
        assert run["required_action"] is None
        error = await service.api.refused(
            "POST", f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "call_a", "output": ""}]}
        )
        assert error["message"] == 'Runs in status "expired" do not accept tool outputs.'
        error = await service.api.refused("POST", f"{path_of(run)}/cancel")
        assert error["message"] == "Cannot cancel run with status 'expired'."


async def test_outputs_that_come_after_the_expiry_are_refused_even_if_no_worker_noticed_it() -> None:
    async with in_process(calls(PARIS), clock=ManualClock()) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        await service.stop_worker()
        service.advance(600)
        body = {"tool_outputs": [{"tool_call_id": "call_a", "output": "late"}]}
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)
        assert error["message"] == 'Runs in status "expired" do not accept tool outputs.'


async def test_the_expiry_is_fixed_at_creation() -> None:
    async with in_process(calls(PARIS), calls(ROME), clock=ManualClock()) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        service.advance(500)
        again = await service.answered(run, call_a="sun")
        assert again["expires_at"] == run["expires_at"]
        assert again["started_at"] == run["started_at"] + 500


async def test_a_run_that_no_worker_takes_expires_and_frees_its_thread() -> None:
    async with in_process(clock=ManualClock(), worker=False) as service:
        run = await service.start_run()
        service.advance(600)
        again = await service.start_run(run["thread_id"])
        assert (await service.api.get(path_of(run)))["status"] == "expired"
        service.start_worker()
        assert (await service.until(again))["status"] == "completed"
        assert len(service.prompts) == 1


# --- cancelling -----------------------------------------------------------------------------------------------------


async def test_a_queued_run_is_cancelled() -> None:
    async with in_process(worker=False) as service:
        run = await service.start_run()
        assert (await service.api.post(f"{path_of(run)}/cancel"))["status"] == "cancelling"
        assert (await service.api.get(path_of(run)))["status"] == "cancelled"
        service.start_worker()
        run = await service.until(run)
        assert (run["status"], run["cancelled_at"] is not None, run["expires_at"]) == ("cancelled", True, None)
        assert (await service.finished(run["thread_id"]))["status"] == "completed"
        assert len(service.prompts) == 1


async def test_a_run_in_progress_is_cancelled_while_its_model_works() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run = await service.start_run()
        await gate.reached.wait()
        assert (await service.api.post(f"{path_of(run)}/cancel"))["status"] == "cancelling"
        assert (await service.until(run))["status"] == "cancelled"
        assert await service.said(run["thread_id"]) == ["Hello"]


async def test_a_run_that_waits_for_its_client_is_cancelled() -> None:
    async with in_process(calls(PARIS)) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        cancelled = await service.api.post(f"{path_of(run)}/cancel")
        assert (cancelled["status"], cancelled["required_action"]) == ("cancelling", None)
        run = await service.until(run, "cancelled")
        (step,) = await service.steps(run)
        assert (step["status"], step["cancelled_at"]) == ("cancelled", run["cancelled_at"])


async def test_cancelling_twice_changes_nothing_more() -> None:
    gate = Gate()
    async with in_process(says(gate)) as service:
        run = await service.start_run()
        await gate.reached.wait()
        await service.stop_worker()
        told = [await service.api.post(f"{path_of(run)}/cancel") for _ in range(3)]
        assert told == [{**run, "status": "cancelling", "started_at": told[0]["started_at"]}] * 3
        service.start_worker()
        assert (await service.until(run))["status"] == "cancelled"
        await service.api.refused("POST", f"{path_of(run)}/cancel")
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            assert [event.name for event in await stream.rest()].count("thread.run.cancelling") == 1


async def test_a_model_call_ends_with_the_cancel_of_its_run() -> None:
    """An answer that no client will read is not paid for."""
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def act(*_: Any) -> Reply:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError

    async with in_process(act) as service:
        run = await service.start_run()
        await asked.wait()
        await service.api.post(f"{path_of(run)}/cancel")
        async with asyncio.timeout(30):
            await hung_up.wait()
        assert (await service.until(run))["status"] == "cancelled"


async def test_an_answer_that_no_commit_can_hold_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process(says("word " * 1000)) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant()
        monkeypatch.setattr("assistants_service.core.log.repository.MAX_BLOCK", 4000)
        run = await service.finished(thread, assistant)
        assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
        assert "too large" in run["last_error"]["message"]
        assert len(service.prompts) == 1


async def test_many_cancels_at_once_have_one_effect() -> None:
    gate = Gate()
    async with in_process(says(gate)) as service:
        run = await service.start_run()
        await gate.reached.wait()
        path = f"/v1{path_of(run)}/cancel"
        answers = await asyncio.gather(*(service.api.send("POST", path) for _ in range(10)))
        assert {answer.status for answer in answers} <= {200, 400}
        assert {answer.body["status"] for answer in answers if answer.status == 200} == {"cancelling"}
        assert (await service.until(run))["status"] == "cancelled"
