"""The `file_search` tool over HTTP: the worker searches, the answer is cited. Search itself is the test's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from assistants_service import action
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.extraction import Chunk, Chunking
from assistants_service.core.ports.models import ForcedFunction, ToolCall
from assistants_service.core.ports.search import Weights
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.tools.file_search.passages import MOST_TOKENS
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.tokenizer import Tiktoken
from inprocess_service import Event, Gate, InProcess, ManualClock, Stream, calls, in_process, path_of, says
from multipart_forms import upload
from scripted_ingestion import PlainText
from scripted_search import FOODS, FakeSearch, found, made_stores, searching, stores, tool
from test_wire_tools import PARIS, WEATHER

Json = Any
CONTENTS = "include[]=step_details.tool_calls[*].file_search.results[*].content"
MARKER, SECOND = "【{number}:0†favorite_foods.txt】", "【{number}:1†pets.md】"


def answers(template: str) -> Any:
    """The model says this, with the number of its last search in the markers."""

    async def act(prompt: Any, deltas: Any) -> Any:
        output = next(turn.text for turn in reversed(prompt.turns) if turn.role == "tool" and "【" in turn.text)
        number = output.partition("【")[2].partition(":")[0]
        return await says(*(piece.format(number=number) for piece in template.split("|")))(prompt, deltas)

    return act


async def searcher(service: InProcess, *more: Json, **fields: Json) -> str:
    """An assistant that has a store."""
    resources = fields.pop("tool_resources", None) or await made_stores(service, "vs_1")
    return await service.assistant(**{"tools": [tool(), *more], "tool_resources": resources, **fields})


async def annotations_of(service: InProcess, run: Json) -> list[Json]:
    page = await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1")
    return list(page["data"][0]["content"][0]["text"]["annotations"])


async def test_a_search_and_a_cited_answer() -> None:
    engine = FakeSearch()
    script = calls(searching("Filip's food")), answers(f"Cake{MARKER}.")
    async with in_process(*script, search=engine) as service:
        run = await service.finished(assistant=await searcher(service))
        assert run["status"] == "completed"
        (cited,) = await annotations_of(service, run)
        (said,) = (await service.said(run["thread_id"]))[1:]
        assert said[cited["start_index"] : cited["end_index"]] == cited["text"]
        assert (cited["type"], cited["file_citation"]) == ("file_citation", {"file_id": "file-foods"})
        searched, answered = await service.steps(run)
        assert [step["status"] for step in (searched, answered)] == ["completed"] * 2
        assert [step["usage"]["total_tokens"] for step in (searched, answered)] == [15, 15]
        offered = service.prompts[0].tools[0]
        output = service.prompts[1].turns[-1].text
    assert offered.name == "file_search"
    assert offered.parameters["required"] == ["queries"]
    assert engine.asked == [
        {
            "project": "default",
            "stores": ["vs_1"],
            "queries": ["Filip's food"],
            "limit": 20,
            "threshold": 0.0,
            "weights": None,
        }
    ]
    number = cited["text"][1:].partition(":")[0]
    assert output == (f"【{number}:0†favorite_foods.txt】\nFilip Carola: cake\n\n【{number}:1†pets.md】\nRex is a dog.")
    (call,) = searched["step_details"]["tool_calls"]
    assert call == {
        "id": "call_s",
        "type": "file_search",
        "file_search": {
            "ranking_options": {"ranker": "default_2024_08_21", "score_threshold": 0.0},
            "results": [
                {
                    "file_id": "file-foods",
                    "file_name": "favorite_foods.txt",
                    "score": 0.75,
                    "attributes": {"year": 2024},
                },
                {"file_id": "file-pets", "file_name": "pets.md", "score": 0.5, "attributes": {}},
            ],
        },
    }


async def test_contents_are_shown_to_who_asks_for_them() -> None:
    async with in_process(calls(searching("x")), says("Done."), search=FakeSearch([FOODS])) as service:
        run = await service.finished(assistant=await searcher(service))
        (step, _) = await service.steps(run)
        path = f"{path_of(run)}/steps"
        whole = await service.api.get(f"{path}/{step['id']}?{CONTENTS}")
        listed = await service.api.get(f"{path}?{CONTENTS}&order=asc")
        bare = await service.api.get(f"{path}/{step['id']}")
        error = await service.api.refused("GET", f"{path}?include[]=everything")
        await service.api.refused("GET", f"{path}/step_unknown?{CONTENTS}", status=404)
    (result,) = whole["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert result["content"] == [{"type": "text", "text": "Filip Carola: cake"}]
    assert listed["data"][0] == whole
    assert bare == step
    assert "content" not in step["step_details"]["tool_calls"][0]["file_search"]["results"][0]
    assert (error["param"], error["code"]) == ("include", "invalid_value")


# --- streams --------------------------------------------------------------------------------------------------------


async def streamed(service: InProcess, query: str = "", **fields: Json) -> list[Event]:
    """All events of a new run."""
    body = {"assistant_id": await searcher(service), "stream": True, **fields}
    path = f"/threads/{await service.thread('Hello')}/runs?{query}"
    async with service.api.stream("POST", path, body) as stream:
        return await stream.rest()


def parts(events: list[Event]) -> list[Json]:
    """The text parts of the message's deltas."""
    deltas = [event.data["delta"] for event in events if event.name == "thread.message.delta"]
    return [delta["content"][0]["text"] for delta in deltas]


async def test_a_search_streams_as_recorded() -> None:
    script = calls(searching("x")), answers(f"Cake|{MARKER}.| Rex|{SECOND}|{MARKER}")
    async with in_process(*script, search=FakeSearch()) as service:
        events = await streamed(service)
    names = [name.removeprefix("thread.") for name, _ in itertools.groupby(event.name for event in events)]
    step = ["run.step.created", "run.step.in_progress"]
    message = ["message.created", "message.in_progress", "message.delta", "message.completed"]
    assert names == [
        *("run.created", "run.queued", "run.in_progress"),
        *(*step, "run.step.delta", "run.step.completed"),
        *(*step, *message, "run.step.completed", "run.completed", "done"),
    ]
    created, head, completed = (
        next(each.data for each in events if each.name == f"thread.run.step.{name}")
        for name in ("created", "delta", "completed")
    )
    assert created["step_details"] == {"type": "tool_calls", "tool_calls": []}
    ranking = {"ranker": "default_2024_08_21", "score_threshold": 0.0}
    assert head["delta"]["step_details"]["tool_calls"] == [
        {"index": 0, "id": "call_s", "type": "file_search", "file_search": {"ranking_options": ranking, "results": []}}
    ]
    found = completed["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert [result["file_id"] for result in found] == ["file-foods", "file-pets"]
    assert all("content" not in result for result in found)
    check_citations(events, ["file-foods", "file-pets", "file-foods"])


def check_citations(events: list[Event], files: list[str]) -> None:
    """Each annotation came once, with its marker alone, and all of them as the message has them in the end."""
    said, heard = "", []
    for part in parts(events):
        for annotation in part.get("annotations", ()):
            assert (annotation["text"], annotation["start_index"]) == (part["value"], len(said))
            assert annotation.pop("index") == len(heard)
            assert annotation["file_citation"].pop("quote") == ""
            heard.append(annotation)
        said += part["value"]
    completed = next(event.data for event in events if event.name == "thread.message.completed")
    assert completed["content"] == [{"type": "text", "text": {"value": said, "annotations": heard}}]
    assert [each["file_citation"]["file_id"] for each in heard] == files
    assert "annotations" in parts(events)[0]


async def test_a_marker_that_comes_in_pieces_is_streamed_as_one() -> None:
    marker = "|".join(MARKER.replace("{number}", "#")).replace("#", "{number}")
    script = calls(searching("x")), answers(f"𝒞ake |{marker}| is made up: 【9:|9†x】, and this is cut: 【4:0")
    async with in_process(*script, search=FakeSearch()) as service:
        events = await streamed(service)
    check_citations(events, ["file-foods"])
    said = "".join(part["value"] for part in parts(events))
    assert said.endswith("【9:9†x】, and this is cut: 【4:0")


async def test_a_run_that_includes_contents_streams_them_and_its_documents_do_not_show_them() -> None:
    async with in_process(calls(searching("x")), says("Done."), search=FakeSearch([FOODS])) as service:
        events = await streamed(service, CONTENTS)
        run = events[0].data
        (step, _) = await service.steps(run)
        stored = await service.api.get(f"{path_of(run)}/steps/{step['id']}")
    completed = next(event.data for event in events if event.name == "thread.run.step.completed")
    (result,) = completed["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert result["content"] == [{"type": "text", "text": "Filip Carola: cake"}]
    assert stored == step
    assert "cake" not in str(step)


async def test_a_later_watcher_hears_the_same() -> None:
    script = [calls(searching("x")), answers(f"Cake{MARKER}.")]
    async with in_process(*script, search=FakeSearch()) as service:
        made = await streamed(service)
        service.models.script = list(script)
        run = await service.finished(assistant=await searcher(service))
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            replayed = await stream.rest()
    assert [event.name for event in landmarks(made)] == [event.name for event in landmarks(replayed)]
    (part,) = parts(replayed)
    (annotation,) = part["annotations"]
    assert (annotation["index"], annotation["file_citation"]) == (0, {"file_id": "file-foods", "quote": ""})
    assert part["value"][annotation["start_index"] : annotation["end_index"]] == annotation["text"]


def landmarks(events: list[Event]) -> list[Event]:
    return [event for event in events if not event.name.endswith(".delta")]


async def test_a_message_that_is_torn_keeps_its_citations() -> None:
    gate = Gate()

    async def act(prompt: Any, deltas: Any) -> Any:
        await answers(f"Cake|{MARKER}.")(prompt, deltas)
        return await says(gate)(prompt, deltas)

    async with in_process(calls(searching("x")), act, search=FakeSearch()) as service:
        body = {"assistant_id": await searcher(service), "stream": True}
        async with service.api.stream("POST", f"/threads/{await service.thread('Hello')}/runs", body) as stream:
            await cited(stream)
            await service.api.post(f"{path_of(stream.heard[0].data)}/cancel")
            events = await stream.rest()
    torn = next(event.data for event in events if event.name == "thread.message.incomplete")
    (annotation,) = torn["content"][0]["text"]["annotations"]
    assert annotation["file_citation"] == {"file_id": "file-foods"}
    assert "index" not in annotation


async def cited(stream: Stream) -> None:
    async for event in stream:
        if event.name == "thread.message.delta" and event.data["delta"]["content"][0]["text"].get("annotations"):
            return


async def test_a_later_run_may_repeat_a_citation_without_a_search() -> None:
    async with in_process(calls(searching("x")), answers(f"Cake{MARKER}."), search=FakeSearch()) as service:
        run = await service.finished(assistant=await searcher(service))
        ((_, said), (before,)) = await service.said(run["thread_id"]), await annotations_of(service, run)
        service.models.script = [says(f"As I said: {said}")]
        await service.api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Again?"})
        again = await service.finished(run["thread_id"], run["assistant_id"])
        (cited,) = await annotations_of(service, again)
    assert (cited["text"], cited["file_citation"]) == (before["text"], before["file_citation"])
    assert cited["start_index"] == before["start_index"] + len("As I said: ")


# --- what is searched, and how --------------------------------------------------------------------------------------


async def test_the_stores_of_the_assistant_and_of_the_thread_are_searched_as_they_were_when_the_run_began() -> None:
    engine, gate = FakeSearch(), Gate()
    async with in_process(calls(searching("x"), first=[gate]), says("Done."), search=engine) as service:
        assistant = await searcher(service)
        thread = await service.thread("Hello", tool_resources=await made_stores(service, "vs_2"))
        run = await service.start_run(thread, assistant)
        await gate.reached.wait()
        await service.api.post(f"/threads/{thread}", {"tool_resources": await made_stores(service, "vs_3")})
        gate.open()
        run = await service.until(run, "completed")
        again = await service.finished(thread, assistant)
    assert run["tool_resources"] == stores("vs_1", "vs_2")
    assert [asked["stores"] for asked in engine.asked] == [["vs_1", "vs_2"]]
    assert again["tool_resources"] == stores("vs_1", "vs_3")


async def test_a_run_with_a_thread_of_its_own_searches_what_both_name() -> None:
    engine = FakeSearch()
    async with in_process(calls(searching("x")), says("Done."), search=engine) as service:
        two, nine = await made_stores(service, "vs_2"), await made_stores(service, "vs_9")
        thread = {"messages": [{"role": "user", "content": "Hi"}], "tool_resources": two}
        body = {"assistant_id": await searcher(service), "thread": thread}
        await service.until(await service.api.post("/threads/runs", body))
        service.models.script = [calls(searching("x")), says("Done.")]
        await service.until(await service.api.post("/threads/runs", body | {"tool_resources": nine}))
    assert [asked["stores"] for asked in engine.asked] == [["vs_1", "vs_2"], ["vs_9", "vs_2"]]


async def test_without_a_store_the_tool_is_not_offered() -> None:
    async with in_process(says("Hi."), search=FakeSearch()) as service:
        run = await service.finished(assistant=await service.assistant(tools=[tool()]), tool_choice=tool())
    assert run["status"] == "completed"
    assert (service.prompts[0].tools, service.prompts[0].tool_choice) == ((), "auto")


@pytest.mark.parametrize(
    ("options", "model", "most", "ranker", "threshold"),
    [
        ({}, "gpt-4o", 20, "default_2024_08_21", 0.0),
        ({}, "openai/gpt-3.5-turbo-16k", 5, "default_2024_08_21", 0.0),
        ({"max_num_results": 50}, "gpt-3.5-turbo", 50, "default_2024_08_21", 0.0),
        ({"ranking_options": {"score_threshold": 0.5}}, "gpt-4o", 20, "default_2024_08_21", 0.5),
        ({"ranking_options": {"ranker": "auto", "score_threshold": 1}}, "gpt-4o", 20, "auto", 1.0),
    ],
)
async def test_the_tools_options_reach_the_search(
    options: Json, model: str, most: int, ranker: str, threshold: float
) -> None:
    engine = FakeSearch()
    async with in_process(calls(searching("x")), says("Done."), search=engine) as service:
        assistant = await searcher(service, tools=[tool(**options)], model=model)
        step = (await service.steps(await service.finished(assistant=assistant)))[0]
    (asked,) = engine.asked
    assert (asked["limit"], asked["threshold"]) == (most, threshold)
    shown = step["step_details"]["tool_calls"][0]["file_search"]["ranking_options"]
    assert shown == {"ranker": ranker, "score_threshold": threshold}


async def test_the_tools_balance_of_meaning_and_words_reaches_the_search() -> None:
    balance, engine = {"embedding_weight": 1.0, "text_weight": 0.25}, FakeSearch()
    async with in_process(calls(searching("x")), says("Done."), search=engine) as service:
        assistant = await searcher(service, tools=[tool(ranking_options={"hybrid_search": balance})])
        (kept,) = (await service.api.get(f"/assistants/{assistant}"))["tools"]
        assert kept["file_search"]["ranking_options"]["hybrid_search"] == balance
        await service.finished(assistant=assistant)
        nothing = {"embedding_weight": 0, "text_weight": 0}
        body = {"model": "m", "tools": [tool(ranking_options={"hybrid_search": nothing})]}
        error = await service.api.refused("POST", "/assistants", body)
    assert [asked["weights"] for asked in engine.asked] == [Weights(vector=1, words=0.25)]
    assert error["param"] == "tools[0].file_search.ranking_options.hybrid_search.text_weight"


@pytest.mark.parametrize(
    ("choice", "first"),
    [
        ({"type": "file_search"}, ForcedFunction("file_search")),
        ("required", "required"),
        ("none", "none"),
    ],
)
async def test_a_tool_choice_is_honoured(choice: Json, first: Json) -> None:
    async with in_process(calls(searching("x")), says("Done."), search=FakeSearch()) as service:
        run = await service.finished(assistant=await searcher(service), tool_choice=choice)
    assert run["tool_choice"] == choice
    assert [prompt.tool_choice for prompt in service.prompts] == [first, "none" if choice == "none" else "auto"]


async def test_a_function_of_the_same_name_stays_the_clients() -> None:
    theirs = {"type": "function", "function": {"name": "file_search"}}
    asked = calls(ToolCall("call_f", "file_search", "{}"), searching("x", name="file_search_2"))
    async with in_process(asked, says("Done."), search=FakeSearch()) as service:
        run = await service.finished(assistant=await searcher(service, theirs))
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_f"]
        run = await service.answered(run, call_f="theirs")
        names = [call.name for call in service.prompts[1].turns[1].calls]
    assert run["status"] == "completed"
    assert names == ["file_search", "file_search_2"]


# --- rounds of several calls ----------------------------------------------------------------------------------------


@action
async def shout(text: str) -> str:
    return text.upper()


async def test_a_search_an_action_and_a_function_in_one_round() -> None:
    own = {"type": "function", "function": {"name": "shout"}}
    asked = calls(PARIS, searching("x"), ToolCall("call_o", "shout", '{"text":"hi"}'))
    async with in_process(asked, answers(f"Done{MARKER}."), search=FakeSearch([FOODS]), actions=__name__) as service:
        run = await service.finished(assistant=await searcher(service, WEATHER, own))
        assert run["status"] == "requires_action"
        (step,) = await service.steps(run)
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_a"]
        run = await service.answered(run, call_a="sun")
        outputs = [turn.text.rpartition("\n")[2] for turn in service.prompts[1].turns if turn.role == "tool"]
        assert len(await annotations_of(service, run)) == 1
    assert outputs == ["sun", "Filip Carola: cake", "HI"]
    theirs, search, action_ = step["step_details"]["tool_calls"]
    assert theirs["function"]["output"] is None
    assert search["file_search"]["results"][0]["file_id"] == "file-foods"
    assert action_["function"]["output"] == "HI"


async def test_results_of_several_searches_have_markers_of_their_own() -> None:
    twice = calls(searching("x", call_id="call_1"), searching("y", call_id="call_2"))
    again = calls(searching("z", call_id="call_1"))
    async with in_process(twice, again, says("Done."), search=FakeSearch()) as service:
        run = await service.finished(assistant=await searcher(service))
        service.models.script = [twice, says("Done.")]
        await service.finished(run["thread_id"], run["assistant_id"])
        outputs = [turn.text for prompt in service.prompts for turn in prompt.turns[-2:] if turn.role == "tool"]
    markers = [line for output in dict.fromkeys(outputs) for line in output.splitlines() if line.startswith("【")]
    assert len(markers) == len(set(markers)) == 10
    assert [marker.partition(":")[2].partition("†")[0] for marker in markers[:4]] == ["0", "1", "2", "3"]


async def test_what_the_model_gets_is_bounded_by_its_window() -> None:
    """gpt-4 has 8,192 tokens, of which passages may take a quarter."""
    long = [found(f"file-{n}", f"{n}.txt", 0.9, "word " * 1_000) for n in range(20)]
    async with in_process(calls(searching("x")), says("Done."), search=FakeSearch(long)) as service:
        run = await service.finished(assistant=await searcher(service, model="gpt-4"))
        few = (await service.steps(run))[0]["step_details"]["tool_calls"][0]["file_search"]["results"]
        service.models.script = [calls(searching("x")), says("Done.")]
        run = await service.finished(assistant=await searcher(service))
        many = (await service.steps(run))[0]["step_details"]["tool_calls"][0]["file_search"]["results"]
        service.models.script = [calls(searching("x")), says("Done.")]
        long[0] = found("file-0", "0.txt", 0.9, "é" * 100_000)
        await service.finished(assistant=await searcher(service, model="gpt-4"))
        cut = service.prompts[-1].turns[-1].text
    assert (len(few), len(many)) == (2, 15)  # a passage has 1,001 tokens
    assert 2_000 < Tiktoken().count(cut[cut.index("é") :]) <= 2_048


@pytest.mark.parametrize("text", ["渡轮中午出发，四点返回。" * 80, "\n".join(map(str, range(10**6, 10**6 + 300)))])
async def test_passages_are_bounded_by_tokens_in_any_script(text: str) -> None:
    """Of Chinese or digits, four bytes are more than a token."""
    many = [found(f"file-{n}", f"{n}.txt", 0.9, text) for n in range(50)]
    async with in_process(calls(searching("x")), says("Done."), search=FakeSearch(many)) as service:
        await service.finished(assistant=await searcher(service))
        told = service.prompts[-1].turns[-1].text
    assert 0.9 < told.count(text) * Tiktoken().count(text) / MOST_TOKENS <= 1


async def test_a_model_that_goes_on_searching_keeps_room_for_its_answer() -> None:
    """All passages of a run may take half of the window."""
    long = [found("file-1", "a.txt", 0.9, "word " * 1_999)]  # 2,000 tokens
    asked = [calls(searching("x", call_id=f"call_{n}")) for n in range(4)]
    async with in_process(*asked, says("Done."), search=(engine := FakeSearch(long))) as service:
        run = await service.finished(assistant=await searcher(service, model="gpt-4"))
        outputs = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
    assert run["status"] == "completed"
    assert [output.count("word") for output in outputs] == [1_999, 1_999, 96, 0]
    assert outputs[3].startswith("Error: There is no room for more passages.")
    assert len(engine.asked) == 3


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("not JSON", "Error: the arguments are not a JSON object"),
        ('{"queries": [1]}', "Error: `queries` must be an array of strings."),
        ('{"queries": []}', "Error: `queries` is empty."),
        ("{}", "Error: `queries` must be an array of strings."),
    ],
)
async def test_arguments_that_do_not_fit_are_told_to_the_model(asked: str, told: str) -> None:
    engine = FakeSearch()
    async with in_process(calls(ToolCall("call_s", "file_search", asked)), says("Sorry."), search=engine) as service:
        run = await service.finished(assistant=await searcher(service))
        output = service.prompts[1].turns[-1].text
    assert (run["status"], engine.asked) == ("completed", [])
    assert output.startswith(told)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiError("Vector store vs_1 has expired."), "Vector store vs_1 has expired."),
        (RuntimeError("boom"), "The files cannot be searched at the moment."),
    ],
)
async def test_a_search_that_fails_is_told_to_the_model_and_shown_without_results(error: Exception, told: str) -> None:
    async def fail() -> None:
        raise error

    async with in_process(calls(searching("x")), says("Sorry."), search=FakeSearch(before=fail)) as service:
        run = await service.finished(assistant=await searcher(service))
        step = (await service.steps(run))[0]
        output = service.prompts[1].turns[-1].text
    assert (run["status"], step["status"]) == ("completed", "completed")
    assert step["step_details"]["tool_calls"][0]["file_search"]["results"] == []
    assert output == f"Error: {told} Do not search again now: tell the user, and do not guess."


async def test_what_is_left_of_the_stores_is_searched_and_the_model_is_told_of_the_rest() -> None:
    async with in_process(calls(searching("x")), says("Sorry."), search=FakeSearch([FOODS])) as service:
        thread = await service.thread("Hello", tool_resources=await made_stores(service, "vs_2"))
        gone = await made_stores(service, "vs_gone")
        run = await service.finished(thread, await searcher(service, tool_resources=gone))
        (call,) = (await service.steps(run))[0]["step_details"]["tool_calls"]
        output = service.prompts[1].turns[-1].text
    assert [result["file_id"] for result in call["file_search"]["results"]] == ["file-foods"]
    assert "Filip Carola: cake\n\nError: No vector store found with id 'vs_gone'." in output


async def test_a_search_that_finds_nothing_says_so() -> None:
    async with in_process(calls(searching("x")), says("Sorry."), search=FakeSearch([])) as service:
        await service.finished(assistant=await searcher(service))
        assert service.prompts[1].turns[-1].text == "Nothing was found."


async def test_a_store_that_does_not_answer_holds_the_run_up_until_it_does() -> None:
    """The item is delivered again; here at once."""
    failures = iter([StorageUnavailable("down")])

    async def fail() -> None:
        for error in failures:
            raise error

    engine = FakeSearch(before=fail)
    async with in_process(
        calls(searching("x")), answers(f"Cake{MARKER}."), search=engine, clock=ManualClock()
    ) as service:
        run = await service.start_run(assistant=await searcher(service))
        while len(engine.asked) < 2:
            service.advance(1)
            await asyncio.sleep(0.01)
        run = await service.until(run)
        assert len(await annotations_of(service, run)) == 1
        assert len(await service.steps(run)) == 2
    assert run["status"] == "completed"


@pytest.mark.parametrize("ending", ["cancelled", "expired"])
async def test_a_run_that_ends_during_a_search_leaves_the_search(ending: str) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with in_process(calls(searching("x")), search=FakeSearch(before=hang), clock=ManualClock()) as service:
        run = await service.start_run(assistant=await searcher(service))
        await reached.wait()
        if ending == "cancelled":
            await service.api.post(f"{path_of(run)}/cancel")
        else:
            service.advance(600)
        run = await service.until(run, ending)
        await left.wait()
        (step,) = await service.steps(run)
    assert step["status"] == ending
    assert step["step_details"]["tool_calls"][0]["file_search"]["results"] == []


# --- with everything real but the reading of files ------------------------------------------------------------------

DIARY = b"Monday was quiet.\nTekakwitha ate pizza, and Filip ate cake. Nobody ate fish.\nIt rained on Sunday.\n"


@contextlib.asynccontextmanager
async def with_diary(*script: Any, **fields: Any) -> AsyncIterator[tuple[InProcess, str, str]]:
    """The service, a file, and an assistant whose store has it."""
    async with in_process(*script, **fields) as service:
        file = await upload(service.api, DIARY, "my diary.txt")
        store = await service.api.post("/vector_stores", {"file_ids": [file["id"]]})
        assert (await service.ingested(store))["file_counts"]["completed"] == 1
        yield service, file["id"], await searcher(service, tool_resources=stores(store["id"]))


async def test_without_any_key_the_offline_model_searches_and_cites() -> None:
    models = ModelRouter({"offline": Provider(api="offline")}, "offline")
    async with with_diary(models=models) as (service, file_id, assistant):
        run = await service.finished(await service.thread("What did Filip eat?"), assistant)
        (said,) = (await service.said(run["thread_id"]))[1:]
        (cited,) = await annotations_of(service, run)
    assert f'Your files say: "Tekakwitha ate pizza, and Filip ate cake."{cited["text"]}' in said
    assert cited["file_citation"] == {"file_id": file_id}
    assert said[cited["start_index"] : cited["end_index"]] == cited["text"]


async def test_the_official_sdk_hears_annotations_and_results() -> None:
    script = calls(searching("Filip cake")), answers("Ca|ke【{number}:|0†source】|.")
    async with with_diary(*script) as (service, file_id, assistant):
        thread = await service.thread("What did Filip eat?")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            async with openai.AsyncOpenAI(base_url=f"{service.url}v1", api_key="none") as client:
                handler = Heard()
                options = {"assistant_id": assistant, "event_handler": handler, "include": [CONTENTS.partition("=")[2]]}
                async with client.beta.threads.runs.stream(thread_id=thread, **options) as stream:
                    await stream.until_done()
                    (message,) = await stream.get_final_messages()
    (annotation,) = message.content[0].text.annotations
    assert message.content[0].text.value[annotation.start_index : annotation.end_index] == annotation.text
    assert (annotation.type, annotation.file_citation.file_id) == ("file_citation", file_id)
    assert [each.text for each in handler.annotations] == [annotation.text]
    assert set(handler.tools) == {"file_search"}  # the SDK tells of it again whenever a step or the run ends
    (call,) = handler.steps[0].step_details.tool_calls
    assert "Filip ate cake" in call.file_search.results[0].content[0].text


class Heard(openai.AsyncAssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.annotations: list[Any] = []
        self.tools: list[str] = []
        self.steps: list[Any] = []

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.annotations += delta.annotations or ()

    async def on_run_step_done(self, run_step: Any) -> None:
        self.steps.append(run_step)

    async def on_tool_call_done(self, tool_call: Any) -> None:
        self.tools.append(tool_call.type)


class Slowly(PlainText):
    """Reads a file when it is told to."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        self.begun.set()
        await self.go.wait()
        return await super().chunks(project, path, filename, chunking)


async def asked_about_an_attachment(service: InProcess) -> Json:
    """A run on a message whose file is not read yet, in the thread's store. Its assistant has none."""
    file = await upload(service.api, DIARY, "diary.txt")
    attachment = {"file_id": file["id"], "tools": [tool()]}
    message = {"role": "user", "content": "What did Filip eat?", "attachments": [attachment]}
    thread = (await service.api.post("/threads", {"messages": [message]}))["id"]
    return await service.start_run(thread, await service.assistant(tools=[tool()]))


async def asked_of_a_new_assistant(service: InProcess) -> Json:
    """A run of an assistant whose store is not read yet; of its thread's store, nothing is waiting."""
    file = await upload(service.api, DIARY, "diary.txt")
    resources = {"file_search": {"vector_stores": [{"file_ids": [file["id"]]}]}}
    assistant = await service.assistant(tools=[tool()], tool_resources=resources)
    thread = await service.thread("What did Filip eat?", tool_resources=await made_stores(service, "vs_2"))
    return await service.start_run(thread, assistant)


ASKED = pytest.mark.parametrize("asked", [asked_about_an_attachment, asked_of_a_new_assistant])
Asked = Callable[[InProcess], Awaitable[Json]]


@ASKED
async def test_a_file_that_was_attached_a_moment_ago_is_found(asked: Asked) -> None:
    reader = Slowly()
    script = calls(searching("Filip")), answers("Cake【{number}:0†source】")
    async with in_process(*script, extraction=reader) as service:
        run = await asked(service)
        await reader.begun.wait()
        while len(await service.steps(run)) < 1:
            await asyncio.sleep(0.01)
        reader.go.set()
        run = await service.until(run)
        assert len(await annotations_of(service, run)) == 1
    assert run["status"] == "completed"


@ASKED
async def test_a_run_waits_a_minute_for_files_at_most(asked: Asked) -> None:
    reader = Slowly()
    script = calls(searching("Filip")), says("Nothing.")
    async with in_process(*script, extraction=reader, clock=ManualClock()) as service:
        run = await asked(service)
        await reader.begun.wait()
        while len(await service.steps(run)) < 1:
            await asyncio.sleep(0.01)
        service.advance(59)
        await asyncio.sleep(0.01)
        assert (await service.until(run, "in_progress"))["status"] == "in_progress"
        service.advance(2)
        run = await service.until(run)
        assert service.prompts[1].turns[-1].text == "Nothing was found."
        reader.go.set()
    assert run["status"] == "completed"


async def test_a_run_does_not_wait_for_files_of_a_store_that_has_expired() -> None:
    reader = Slowly()
    async with in_process(calls(searching("x")), says("Sorry."), extraction=reader, clock=ManualClock()) as service:
        file = await upload(service.api, DIARY, "diary.txt")
        body = {"file_ids": [file["id"]], "expires_after": {"anchor": "last_active_at", "days": 1}}
        store = await service.api.post("/vector_stores", body)
        await reader.begun.wait()
        assistant = await service.assistant(tools=[tool()], tool_resources=stores(store["id"]))
        service.advance(24 * 3600)
        run = await service.finished(assistant=assistant)
        assert "has expired" in service.prompts[1].turns[-1].text
        reader.go.set()
    assert run["status"] == "completed"


async def test_a_store_that_was_deleted_leaves_the_model_an_explanation() -> None:
    async with with_diary(calls(searching("x")), says("Sorry.")) as (service, _, assistant):
        store = (await service.api.get("/vector_stores"))["data"][0]["id"]
        await service.api.delete(f"/vector_stores/{store}")
        run = await service.finished(assistant=assistant)
        assert service.prompts[1].turns[-1].text.startswith(f"Error: No vector store found with id '{store}'.")
    assert run["status"] == "completed"


async def test_another_projects_store_is_not_searched() -> None:
    async with in_process(calls(searching("x")), says("Sorry."), api_keys="a:ka,b:kb") as service:
        mine, theirs = service.client("ka"), service.client("kb")
        file = await upload(theirs, DIARY, "diary.txt")
        store = await theirs.post("/vector_stores", {"file_ids": [file["id"]]})
        await service.ingested(store, project="b")
        body = {"model": "m", "tools": [tool()], "tool_resources": stores(store["id"])}
        error = await mine.refused("POST", "/assistants", body, status=404)
        assert error["message"] == f"No vector store found with id '{store['id']}'."
        own = (await mine.post("/vector_stores"))["id"]
        assistant = (await mine.post("/assistants", {**body, "tool_resources": stores(own)}))["id"]
        stored = await service.storage.get("assistants", f"a/{assistant}")
        named = stored.body.replace(own.encode(), store["id"].encode())  # as no request can
        await service.storage.replace("assistants", stored.name, named, stored.etag)
        thread = {"messages": [{"role": "user", "content": "What did Filip eat?"}]}
        run = await mine.post("/threads/runs", {"assistant_id": assistant, "thread": thread})
        await service.until(run, "completed", project="a")
        assert service.prompts[1].turns[-1].text.startswith("Error: No vector store found with id")
