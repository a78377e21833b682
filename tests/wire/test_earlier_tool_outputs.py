"""What tools said in earlier runs of the thread: the model is told again, so that it need not ask again."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from assistants_service.core.ports.models import ToolCall, Turn
from inprocess_service import InProcess, calls, fails, in_process, path_of, says
from scripted_search import FakeSearch, found
from scripted_upstreams import choice, function, response, router, said, serving, whole
from scripted_upstreams import function_call as called

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
PARIS, ROME = (
    ToolCall("call_a", "get_weather", '{"city":"Paris"}'),
    ToolCall("call_b", "get_weather", '{"city":"Rome"}'),
)
SCRIPT = [calls(PARIS, ROME, first=("Let me look.",)), says("Sun and rain."), says("Yes.")]


async def asked(service: InProcess, thread: str, assistant: str, text: str, **outputs: str) -> Json:
    """A run that answers this message; its client gives these outputs."""
    await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": text})
    run = await service.finished(thread, assistant)
    return await service.answered(run, **outputs) if run["status"] == "requires_action" else run


async def two_runs(service: InProcess, **second: Json) -> tuple[Turn, ...]:
    """What the model is told in a run after one whose client gave outputs."""
    assistant, thread = await service.assistant(tools=[WEATHER]), await service.thread()
    await asked(service, thread, assistant, "How is it?", call_a="sun", call_b="rain")
    await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "Sure?"})
    assert (await service.finished(thread, assistant, **second))["status"] == "completed"
    return service.prompts[-1].turns


def roles(turns: tuple[Turn, ...]) -> list[str]:
    return [f"{turn.role} calls" if turn.calls else turn.role for turn in turns]


def whole_pairs(turns: tuple[Turn, ...]) -> bool:
    """Whether each call has its output right behind it, and each output its call; no id is there twice."""
    ids = [call.id for turn in turns for call in turn.calls]
    rest = list(turns)
    while rest:
        turn = rest.pop(0)
        if turn.role == "tool":
            return False
        for call in turn.calls:
            if not rest or (rest[0].role, rest[0].call_id) != ("tool", call.id):
                return False
            rest.pop(0)
    return len(ids) == len(set(ids))


async def test_the_next_run_is_told_what_tools_said() -> None:
    async with in_process(*SCRIPT) as service:
        turns = await two_runs(service)
    ids = [call.id for call in turns[2].calls]
    assert turns == (
        Turn("user", "How is it?"),
        Turn("assistant", "Let me look."),
        Turn("assistant", calls=(ToolCall(ids[0], *_of(PARIS)), ToolCall(ids[1], *_of(ROME)))),
        Turn("tool", "sun", call_id=ids[0]),
        Turn("tool", "rain", call_id=ids[1]),
        Turn("assistant", "Sun and rain."),
        Turn("user", "Sure?"),
    )
    assert all(re.fullmatch("[A-Za-z0-9]{9}", each) for each in ids)


def _of(call: ToolCall) -> tuple[str, str]:
    return call.name, call.arguments


async def test_providers_get_it_as_they_want_it() -> None:
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [
            whole(choice(content="Let me look.", tool_calls=[function("get_weather", "{}", "call_a")])),
            whole(choice(content="Sun.")),
        ]
        async with in_process(models=models) as service:
            assistant, thread = await service.assistant(tools=[WEATHER]), await service.thread()
            await asked(service, thread, assistant, "How is it?", call_a="sun")
            await asked(service, thread, assistant, "Sure?")
        first, call, output, answer, last = upstream.body["messages"]
    assert [each["role"] for each in (first, call, output, answer, last)] == [
        *("user", "assistant", "tool", "assistant", "user")
    ]
    assert call["content"] == "Let me look."
    assert call["tool_calls"] == [function("get_weather", "{}", output["tool_call_id"])]
    assert output["content"] == "sun"


async def test_responses_get_it_as_items() -> None:
    async with serving() as upstream, router(upstream.url, "responses") as models:
        upstream.script = [whole(response(called("get_weather", "{}", "call_a"))), whole(response(said("Sun.")))]
        async with in_process(models=models) as service:
            assistant, thread = await service.assistant(tools=[WEATHER]), await service.thread()
            await asked(service, thread, assistant, "How is it?", call_a="sun")
            await asked(service, thread, assistant, "Sure?")
        items = upstream.body["input"]
    assert [item.get("type", "message") for item in items] == [
        *("message", "function_call", "function_call_output", "message", "message")
    ]
    assert items[1]["call_id"] == items[2]["call_id"]


@pytest.mark.parametrize(
    ("settings", "second"),
    [
        ({"tool_history_tokens": 0}, {}),
        ({"tool_history_tokens": 5}, {}),
        ({}, {"tools": []}),  # Anthropic and Bedrock refuse calls if no tools are offered
        ({}, {"tools": [TIME]}),
        ({}, {"truncation_strategy": {"type": "last_messages", "last_messages": 2}}),  # their question is not there
    ],
)
async def test_rounds_that_must_not_be_there_are_not(settings: Json, second: Json) -> None:
    async with in_process(*SCRIPT, **settings) as service:
        turns = await two_runs(service, **second)
    assert not any(turn.calls or turn.role == "tool" for turn in turns)
    assert turns[-2:] == (Turn("assistant", "Sun and rain."), Turn("user", "Sure?"))


async def test_a_round_that_led_to_no_message_is_not_told() -> None:
    """A user's message right after outputs is refused by Mistral; and of a deleted answer nothing is to be left."""
    script = [calls(PARIS), fails("server_error", "Oops."), calls(ROME), says("Rain."), says("Yes.")]
    async with in_process(*script) as service:
        assistant, thread = await service.assistant(tools=[WEATHER]), await service.thread()
        await asked(service, thread, assistant, "How is it?", call_a="sun")
        run = await asked(service, thread, assistant, "And now?", call_b="rain")
        assert roles(service.prompts[-1].turns) == ["user", "user", "assistant calls", "tool"]
        messages = (await service.api.get(f"/threads/{thread}/messages?run_id={run['id']}"))["data"]
        await service.api.delete(f"/threads/{thread}/messages/{messages[0]['id']}")
        await asked(service, thread, assistant, "Sure?")
        assert roles(service.prompts[-1].turns) == ["user", "user", "user"]


async def test_of_many_rounds_the_newest_are_told() -> None:
    """1,000 tokens each, of which 8,000 may be told; ids that a model uses again are told apart."""
    script = [act for n in range(12) for act in (calls(PARIS), says(f"Answer {n}."))]
    async with in_process(*script, says("Yes.")) as service:
        assistant, thread = await service.assistant(tools=[WEATHER]), await service.thread()
        for n in range(12):
            await asked(service, thread, assistant, f"Question {n}?", call_a=f"{n} " + "word " * 1_000)
        turns = service.prompts[-1].turns[:-2]  # without what the last run did itself
    told = [turn.text.split()[0] for turn in turns if turn.role == "tool"]
    assert told == ["4", "5", "6", "7", "8", "9", "10"]
    assert whole_pairs(turns)
    assert [turn.text for turn in turns if turn.role == "user"] == [f"Question {n}?" for n in range(12)]


async def test_messages_have_more_room_than_rounds() -> None:
    """Of what gpt-4 takes, 6,144 tokens, rounds get a quarter; and no prompt begins in the middle of one."""
    script = [act for n in range(9) for act in (calls(PARIS), says(f"{n} " + "answer " * 300))]
    async with in_process(*script, says("Yes.")) as service:
        assistant, thread = await service.assistant(tools=[WEATHER], model="gpt-4"), await service.thread()
        for n in range(9):
            await asked(service, thread, assistant, f"{n} " + "word " * 300, call_a="out " * 300)
        prompts = [prompt.turns for prompt in service.prompts if prompt.turns[-1].role == "user"]
    for turns in prompts:
        assert turns[0].role == "user"
        assert whole_pairs(turns)
    assert roles(prompts[-1]).count("tool") == 4
    assert roles(prompts[-1]).count("user") > 6


async def test_what_a_search_found_is_told_and_can_be_cited() -> None:
    results = [found("file-1", "a.txt", 0.9, "Filip ate the cake."), found("file-2", "b.txt", 0.8, "Nobody else did.")]
    search = calls(ToolCall("call_s", "file_search", '{"queries":["cake"]}'))
    async with in_process(search, says("Filip."), search=FakeSearch(results)) as service:
        store = (await service.api.post("/vector_stores", {}))["id"]
        resources = {"file_search": {"vector_store_ids": [store]}}
        assistant = await service.assistant(tools=[{"type": "file_search"}], tool_resources=resources)
        thread = await service.thread()
        await asked(service, thread, assistant, "Who ate the cake?")
        first = service.prompts[1].turns[-1].text
        marker = re.findall("【.*?】", first)[1]
        service.models.script = [says(f"Nobody else{marker}.")]
        run = await asked(service, thread, assistant, "Nobody else?")
        assert roles(service.prompts[-1].turns) == ["user", "assistant calls", "tool", "assistant", "user"]
        assert service.prompts[-1].turns[2].text == first
        answer = (await service.api.get(f"/threads/{thread}/messages?run_id={run['id']}"))["data"][0]
    (annotation,) = answer["content"][0]["text"]["annotations"]
    assert (annotation["text"], annotation["file_citation"]["file_id"]) == (marker, "file-2")


async def test_runs_after_a_roll_over_are_told_of_the_runs_before() -> None:
    async with in_process(*SCRIPT, event_log_rollover=2) as service:
        turns = await two_runs(service)
        assert whole_pairs(turns)
        assert roles(turns).count("tool") == 2


async def test_whatever_runs_did_before_pairs_are_whole() -> None:
    """All orders of four kinds of runs, in one thread each."""
    kinds = {
        "answers": [says("Hm.")],
        "calls": [calls(PARIS, first=("Wait.",)), calls(ROME), says("Sun.")],
        "fails": [calls(PARIS), fails("server_error", "Oops.")],
        "is empty": [calls(ROME), says("")],
    }
    async with in_process() as service:
        assistant = await service.assistant(tools=[WEATHER])
        for order in itertools.permutations(kinds):
            service.models.script = [act for kind in order for act in kinds[kind]] + [says("Yes.")]
            thread = await service.thread()
            for kind in order:
                await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": kind})
                run = await service.finished(thread, assistant)
                while run["status"] == "requires_action":
                    owed = run["required_action"]["submit_tool_outputs"]["tool_calls"]
                    run = await service.answered(run, **{call["id"]: "sun" for call in owed})
            await asked(service, thread, assistant, "Sure?")
            turns = service.prompts[-1].turns
            assert whole_pairs(turns), order
            assert all(after.role != "user" for turn, after in itertools.pairwise(turns) if turn.role == "tool")
            assert roles(turns).count("tool") == 2
            assert (await service.api.get(path_of(run)))["status"] in ("completed", "failed")
