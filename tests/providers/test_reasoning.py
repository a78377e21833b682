"""What a thinking model thought goes back to it within its run, and to no other one; and what a failed run leaves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import provider_quirks
from assistants_service.core import names
from assistants_service.core.ports.models import Thought, Tokens, ToolCall, Turn
from assistants_service.core.threads import events as e
from assistants_service.infra.models.thoughts import MOST
from inprocess_service import InProcess, in_process, path_of, says
from scripted_upstreams import choice, function, prompt, router, serving, whole

WEATHER = {"type": "function", "function": provider_quirks.WEATHER.fields}
THINKERS = {
    "gemini_thought_signature": "c2lnbmF0dXJl",
    "deepseek_reasoning_content": "Paris, then.",
    "openai_reasoning_items": "gAAAA",
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("habit", "thought"), THINKERS.items())
async def test_a_thought_outlives_its_process_and_is_never_on_the_wire(
    habit: str, thought: str, streamed: bool, tmp_path: Path
) -> None:
    """The model of each habit refuses the outputs without it. The process that asked is gone when they come."""
    storage, seen, api = f"sqlite:///{tmp_path}/a.db", "", provider_quirks.HABITS[habit].api
    async with provider_quirks.serving() as url:
        async with router(f"{url}/{habit}/v1", api) as models, in_process(models=models, storage=storage) as service:
            thread, assistant = await service.thread("How is the weather?"), await service.assistant(tools=[WEATHER])
            body = {"assistant_id": assistant, "stream": streamed}
            if streamed:
                async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
                    heard = await stream.rest()
                run, seen = heard[0].data, json.dumps([each.data for each in heard])
            else:
                run = await service.api.post(f"/threads/{thread}/runs", body)
            run = await service.until(run, "requires_action")
            seen += await everything(service, run)
            await service.stop_worker()
        async with router(f"{url}/{habit}/v1", api) as models, in_process(models=models, storage=storage) as service:
            run = await service.answered(run, call_1="sunny")
            seen += await everything(service, run)
            said = await service.said(thread)
            run_state = (await service.threads.load("default", thread)).state.runs[run["id"]]
            log = await service.storage.read(names.THREADS, names.log("default", thread), None)
    assert (run["status"], said[-1]) == ("completed", provider_quirks.DONE)
    assert thought not in seen
    assert run_state.thoughts == {}
    (kept,) = [
        event.thought
        for commit in e.from_lines(log.data)
        for event in commit.events
        if isinstance(event, e.StepCreated) and event.thought
    ]
    assert kept.provider == "acme"
    assert thought in kept.data


async def everything(service: InProcess, run: Any) -> str:
    """All that clients can get of a run."""
    steps, events = await service.api.get(f"{path_of(run)}/steps"), []
    async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
        if run["status"] not in ("requires_action", "queued"):
            events = [each.data for each in await stream.rest()]
    return json.dumps([await service.api.get(path_of(run)), steps, events])


async def test_a_thought_goes_to_no_other_provider() -> None:
    data = json.dumps({"message": {"reasoning_content": "Paris, then."}, "calls": {}})
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [whole(choice(content="a"))]
        for provider in ("other", "acme"):
            turn = Turn("assistant", calls=(ToolCall("call_1", "f", "{}"),), thought=Thought(provider, data))
            await models.reply(prompt(Turn("user", "Hi"), turn, Turn("tool", "", call_id="call_1")), None)
    sent = [body["messages"][1].get("reasoning_content") for _, body, _ in upstream.requests]
    assert sent == [None, "Paris, then."]


async def test_a_thought_that_is_too_long_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as upstream, router(upstream.url) as models:
        made = [function("f", "{}")]
        upstream.script = [whole(choice(content=None, tool_calls=made, reasoning_content="x" * (MOST + 1)))]
        assert (await models.reply(prompt(), None)).thought is None
    assert "the reasoning of a model of 'acme' is not stored: it is too long" in caplog.text


# --- what a run leaves that fails, or says too much -------------------------------------------------------------------


async def test_every_failed_run_leaves_a_line_without_content(caplog: pytest.LogCaptureFixture) -> None:
    error = {"message": "You said: my secret.", "type": "invalid_request_error", "code": "bad_words"}
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [whole({"error": error}, 400)]
        async with in_process(models=models) as service:
            run = await service.finished()
    (line,) = [each for each in caplog.records if each.levelno == logging.WARNING and "failed" in each.getMessage()]
    assert run["last_error"]["message"] == "You said: my secret."
    assert line.getMessage() == (
        f"run {run['id']} failed: provider=acme model=gpt-4o status=400 code=server_error"
        " reason=bad_words invalid_request_error"
    )


async def test_a_filtered_answer_leaves_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [whole(choice("SAFETY", content=""))]
        async with in_process(models=models) as service:
            run = await service.finished()
    assert run["status"] == "failed"
    assert (
        f"run {run['id']} failed: provider=acme model=gpt-4o status=- code=invalid_prompt reason=The model"
        in caplog.text
    )


async def test_a_server_that_heeds_no_limit_leaves_the_run_incomplete() -> None:
    async with in_process(says("Much more.", tokens=Tokens(10, 17))) as service:
        run = await service.finished(max_completion_tokens=16)
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})


# --- temperature and top_p of 1: on purpose, or since no other was asked for ------------------------------------------


async def test_what_is_1_on_purpose_is_sent() -> None:
    async with in_process(*[says("Hi.")] * 5) as service:
        plain, chosen = await service.assistant(), await service.assistant(temperature=1, top_p=1)
        updated = await service.assistant(temperature=0.5)
        await service.api.post(f"/assistants/{updated}", {"temperature": 1})
        for assistant, given in (
            (plain, {}),
            (plain, {"top_p": 1}),
            (chosen, {}),
            (chosen, {"temperature": 0.5}),
            (updated, {}),
        ):
            await service.finished(assistant=assistant, **given)
        asked = [(each.temperature, each.top_p) for each in service.prompts]
    assert asked == [(None, None), (None, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, None)]


async def test_the_wire_shows_1_either_way() -> None:
    async with in_process() as service:
        await service.assistant()
        made = await service.api.post("/assistants", {"model": "m", "temperature": 1})
        changed = await service.api.post(f"/assistants/{made['id']}", {"top_p": 1})
        got = await service.api.get(f"/assistants/{made['id']}")
        listed = (await service.api.get("/assistants"))["data"]
    assert got == changed == listed[0] == made | {"top_p": 1.0}
    assert list(got) == list(made) == list(listed[1])
    assert (listed[1]["temperature"], listed[1]["top_p"]) == (1.0, 1.0)
