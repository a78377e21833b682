"""What users do with the `openai` package for Python, sync and async, any of its versions."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import openai
from openai import (
    AssistantEventHandler,
    AsyncAssistantEventHandler,
    AsyncAzureOpenAI,
    AsyncOpenAI,
    AzureOpenAI,
    OpenAI,
)

from play import all_of, done, each, opened, play, refused, scenario

UNKNOWN = "0123456789abcdefghijABCD"
MODEL = "scripted"
BEFORE = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
MESSAGE = [
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.run.step.completed",
]
PLAIN = [*BEFORE, *MESSAGE, "thread.run.completed"]
CALLS = ["thread.run.step.created", "thread.run.step.in_progress", "thread.run.step.delta"]
ASKS = [*BEFORE, *CALLS, "thread.run.requires_action"]
ON = ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]
STORY = "Es war einmal … 昔々あるところに 🐢 and a hare,\nwho ran.\n\n\tThe end. "


def script(*turns: dict[str, Any]) -> str:
    """A message that tells the model what to say."""
    return json.dumps({"turns": turns})


def call(name: str, **arguments: Any) -> list[Any]:
    return [name, arguments]


def function(name: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": f"To {name}", "parameters": schema}}


WEATHER, CLOCK = function("get_weather", "city"), function("get_time", "city")
TWO_ROUNDS = script(
    {"calls": [call("get_weather", city="Zürich"), call("get_weather", city="Oslo"), call("get_time", city="Oslo")]},
    {"calls": [call("get_time", city="Rome")]},
    {"say": "They said: {outputs}."},
)
SAID = "They said: get_weather Zürich, get_weather Oslo, get_time Oslo, get_time Rome."


def valid(thing: Any) -> Any:
    """The SDK builds its objects without validation: check every type of this one."""
    type(thing).model_validate_json(thing.model_dump_json(by_alias=True, exclude_unset=True), strict=True)
    return thing


def text_of(message: Any) -> str:
    assert [part.type for part in message.content] == ["text"]
    return str(message.content[0].text.value)


def squeezed(names: list[str]) -> list[str]:
    """Repetitions as one."""
    return [name for name, _ in itertools.groupby(names)]


def ids(things: Any) -> list[str]:
    return [thing.id for thing in things]


def answers(run: Any) -> list[dict[str, str]]:
    """What our tools say to the calls of a run that waits."""
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [{"tool_call_id": one.id, "output": _executed(one.function)} for one in calls]


def _executed(function: Any) -> str:
    return f"{function.name} {json.loads(function.arguments)['city']}"


async def assistant_of(client: Any, **fields: Any) -> Any:
    return await done(client.beta.assistants.create(**{"model": MODEL, "instructions": "Be brief.", **fields}))


async def thread_of(client: Any, *said: str) -> Any:
    return await done(client.beta.threads.create(messages=[{"role": "user", "content": text} for text in said]))


async def newest(client: Any, thread_id: str) -> Any:
    return (await done(client.beta.threads.messages.list(thread_id, limit=1))).data[0]


class Notes:
    """What a handler heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    def all(self, hook: str) -> list[tuple[Any, ...]]:
        return [arguments for name, arguments in self.heard if name == hook]

    @property
    def events(self) -> list[str]:
        return [event.event for (event,) in self.all("on_event")]

    @property
    def hooks(self) -> list[str]:
        """In order, without the catch-all hooks, and repetitions as one."""
        return squeezed([name for name, _ in self.heard if name not in ("on_event", "on_message_delta")])


def _noting(hook: str, *, asynchronous: bool) -> Any:
    def note(self: Notes, *arguments: Any) -> None:
        self.heard.append((hook, copy.deepcopy(arguments)))  # the SDK changes its snapshots in place

    async def anote(self: Notes, *arguments: Any) -> None:
        note(self, *arguments)

    return anote if asynchronous else note


def _handler(base: type[Any]) -> type[Any]:
    hooks = [name for name in vars(AssistantEventHandler) if name.startswith("on_")]
    methods = {hook: _noting(hook, asynchronous=base is AsyncAssistantEventHandler) for hook in hooks}
    return type("Handler", (Notes, base), methods)


HANDLERS = {False: _handler(AssistantEventHandler), True: _handler(AsyncAssistantEventHandler)}


async def heard(client: Any, stream: Any, **fields: Any) -> Any:
    """The handler after its stream."""
    async with opened(stream(**fields, event_handler=HANDLERS[isinstance(client, AsyncOpenAI)]())) as handler:
        await done(handler.until_done())
    assert not handler.all("on_exception")
    assert not handler.all("on_timeout")
    assert handler.heard[-1][0] == "on_end"
    for (event,) in handler.all("on_event"):
        valid(event)
    return handler


# --- objects ----------------------------------------------------------------------------------------------------------


@scenario
async def assistants(client: Any) -> None:
    """Create with everything, retrieve, update, delete."""
    given = {
        "model": MODEL,
        "name": "Grüße 🐢",
        "description": "All of it",
        "instructions": "Be brief.",
        "tools": [WEATHER, {"type": "file_search"}, {"type": "code_interpreter"}],
        "metadata": {"team": "a"},
        "temperature": 0.3,
        "top_p": 0.9,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    made = valid(await done(client.beta.assistants.create(**given)))
    assert made.id.startswith("asst_")
    assert made.object == "assistant"
    assert [tool.type for tool in made.tools] == ["function", "file_search", "code_interpreter"]
    assert made.tools[0].function.parameters == WEATHER["function"]["parameters"]
    assert made.tools[0].function.strict is False
    assert made.tools[1].file_search.ranking_options.ranker == "default_2024_08_21"
    assert made.tool_resources.code_interpreter.file_ids == []
    for key in given.keys() - {"tools", "response_format"}:
        assert getattr(made, key) == given[key], key
    assert made.response_format.type == "json_object"
    assert await done(client.beta.assistants.retrieve(made.id)) == made
    await _assistant_changes(client, made)


async def _assistant_changes(client: Any, made: Any) -> None:
    changed = valid(await done(client.beta.assistants.update(made.id, name="New", tools=[], metadata={"b": "2"})))
    assert (changed.name, changed.tools, changed.metadata) == ("New", [], {"b": "2"})
    same = {"name", "tools", "metadata"}
    assert changed.model_dump(exclude=same) == made.model_dump(exclude=same)
    assert await done(client.beta.assistants.retrieve(made.id)) == changed
    deleted = valid(await done(client.beta.assistants.delete(made.id)))
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "assistant.deleted", True)
    async with refused(openai.NotFoundError):
        await done(client.beta.assistants.retrieve(made.id))


@scenario
async def assistants_by_default(client: Any) -> None:
    made = valid(await done(client.beta.assistants.create(model=MODEL)))
    assert (made.name, made.description, made.instructions) == (None, None, None)
    assert (made.tools, made.metadata, made.temperature, made.top_p) == ([], {}, 1.0, 1.0)
    assert made.response_format == "auto"
    assert made.created_at > 1_700_000_000


@scenario
async def assistants_pages(client: Any) -> None:
    listed = client.beta.assistants.list
    page = await done(listed())
    assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)
    made = ids([await assistant_of(client, name=str(number)) for number in range(7)])
    await _pages(listed, made)


async def _pages(listed: Any, made: list[str]) -> None:
    """`made` are the ids, oldest first: paging both ways, with the client's own help and without."""
    assert ids(await all_of(listed(limit=2, order="asc"))) == made
    assert ids(await all_of(listed(limit=3))) == made[::-1]
    assert ids(await all_of(listed(limit=2, order="asc", after=made[1]))) == made[2:]
    assert ids(await all_of(listed(limit=100))) == made[::-1]
    page = await done(listed(limit=3, order="asc"))
    assert (ids(page.data), page.has_more) == (made[:3], True)
    assert (page.object, page.first_id, page.last_id) == ("list", made[0], made[2])
    assert page.has_next_page()
    following = await done(page.get_next_page())
    assert ids(following.data) == made[3:6]
    last = await done(following.get_next_page())
    assert (ids(last.data), last.has_more, last.has_next_page()) == (made[6:], False, False)
    pages = [ids(each_page.data) async for each_page in each((await done(listed(limit=3))).iter_pages())]
    assert pages == [made[:3:-1], made[3:0:-1], made[:1]]
    await _pages_before(listed, made)


async def _pages_before(listed: Any, made: list[str]) -> None:
    """`before`: the page that precedes the cursor, and has_more looks the way one travels."""
    page = await done(listed(limit=2, order="asc", before=made[5]))
    assert (ids(page.data), page.has_more) == (made[3:5], True)
    page = await done(listed(limit=3, order="asc", before=made[2]))
    assert (ids(page.data), page.has_more) == (made[:2], False)
    page = await done(listed(limit=2, before=made[2]))
    assert (ids(page.data), page.has_more) == ([made[4], made[3]], True)


@scenario
async def threads(client: Any) -> None:
    """Create with and without anything, retrieve, update, delete."""
    beta = client.beta.threads
    empty = valid(await done(beta.create()))
    assert (empty.object, empty.metadata, empty.id[:7]) == ("thread", {}, "thread_")
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    said = [{"role": "user", "content": parts, "metadata": {"n": "1"}}, {"role": "assistant", "content": "A cat."}]
    made = valid(await done(beta.create(messages=said, metadata={"a": "1", "b": "ü"})))
    assert made.metadata == {"a": "1", "b": "ü"}
    assert (await done(beta.retrieve(made.id))).metadata == made.metadata
    first, second = [valid(message) for message in await all_of(beta.messages.list(made.id, order="asc"))]
    assert (first.role, first.metadata, second.role, text_of(second)) == ("user", {"n": "1"}, "assistant", "A cat.")
    assert [part.type for part in first.content] == ["text", "image_url"]
    assert (first.content[1].image_url.url, first.content[1].image_url.detail) == ("https://x.test/a.png", "auto")
    assert (second.assistant_id, second.run_id, second.thread_id) == (None, None, made.id)
    changed = valid(await done(beta.update(made.id, metadata={"c": "3"})))
    assert (changed.id, changed.metadata, changed.created_at) == (made.id, {"c": "3"}, made.created_at)
    deleted = valid(await done(beta.delete(made.id)))
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "thread.deleted", True)
    async with refused(openai.NotFoundError):
        await done(beta.retrieve(made.id))
    async with refused(openai.NotFoundError):
        await done(beta.messages.list(made.id))


@scenario
async def messages(client: Any) -> None:
    beta, thread = client.beta.threads.messages, await done(client.beta.threads.create())
    made = valid(await done(beta.create(thread.id, role="user", content=STORY, metadata={"k": "v"})))
    assert (made.id[:4], made.object, made.role, made.status) == ("msg_", "thread.message", "user", "completed")
    assert (text_of(made), made.content[0].text.annotations, made.attachments) == (STORY, [], [])
    assert (made.assistant_id, made.run_id, made.thread_id, made.metadata) == (None, None, thread.id, {"k": "v"})
    assert await done(beta.retrieve(made.id, thread_id=thread.id)) == made
    changed = valid(await done(beta.update(made.id, thread_id=thread.id, metadata={"k": "w"})))
    assert changed.metadata == {"k": "w"}
    assert changed.model_dump(exclude={"metadata"}) == made.model_dump(exclude={"metadata"})
    other = await done(beta.create(thread.id, role="assistant", content=[{"type": "text", "text": "Yes."}]))
    assert ids(await all_of(beta.list(thread.id))) == [other.id, made.id]
    deleted = valid(await done(beta.delete(made.id, thread_id=thread.id)))
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "thread.message.deleted", True)
    assert ids(await all_of(beta.list(thread.id))) == [other.id]
    async with refused(openai.NotFoundError):
        await done(beta.retrieve(made.id, thread_id=thread.id))


@scenario
async def messages_pages(client: Any) -> None:
    thread = await thread_of(client, *(f"message {number}" for number in range(7)))
    made = ids(await all_of(client.beta.threads.messages.list(thread.id, order="asc", limit=100)))
    await _pages(lambda **query: client.beta.threads.messages.list(thread.id, **query), made)
    async with refused(openai.NotFoundError):
        await done(client.beta.threads.messages.list(thread.id, after=f"msg_{UNKNOWN}"))


# --- runs, polled -----------------------------------------------------------------------------------------------------


@scenario
async def poll(client: Any) -> None:
    """create_and_poll, then all that can be read of the run."""
    beta, assistant = client.beta.threads, await assistant_of(client, instructions="Be brief.", metadata={"x": "y"})
    thread = await thread_of(client, "not this")
    run = valid(
        await done(
            beta.runs.create_and_poll(
                thread_id=thread.id,
                assistant_id=assistant.id,
                additional_instructions="Be kind.",
                additional_messages=[{"role": "user", "content": script({"say": "{instructions}\n" + STORY})}],
                metadata={"run": "1"},
                temperature=0.5,
                max_completion_tokens=5000,
                truncation_strategy={"type": "last_messages", "last_messages": 5},
            )
        )
    )
    assert (run.id[:4], run.object, run.status) == ("run_", "thread.run", "completed")
    assert (run.assistant_id, run.thread_id, run.model) == (assistant.id, thread.id, MODEL)
    assert (run.instructions, run.metadata, run.temperature) == ("Be brief.\n\nBe kind.", {"run": "1"}, 0.5)
    assert (run.max_completion_tokens, run.truncation_strategy.last_messages) == (5000, 5)
    assert (run.tools, run.tool_choice, run.parallel_tool_calls, run.response_format) == ([], "auto", True, "auto")
    assert (run.required_action, run.last_error, run.incomplete_details) == (None, None, None)
    assert (run.cancelled_at, run.failed_at, run.expires_at) == (None, None, None)
    assert run.created_at <= run.started_at <= run.completed_at
    assert text_of(await newest(client, thread.id)) == "Be brief.\n\nBe kind.\n" + STORY
    await _readable(client, run)


async def _readable(client: Any, run: Any) -> None:
    """Run, message and step of a plain run agree."""
    beta, at = client.beta.threads, {"thread_id": run.thread_id}
    message = valid(await newest(client, run.thread_id))
    assert (message.assistant_id, message.run_id, message.role) == (run.assistant_id, run.id, "assistant")
    assert (message.status, message.incomplete_details, message.incomplete_at) == ("completed", None, None)
    assert ids(await all_of(beta.messages.list(run.thread_id, run_id=run.id))) == [message.id]
    assert await done(beta.runs.retrieve(run.id, **at)) == run
    assert await all_of(beta.runs.list(**at)) == [run]
    (step,) = [valid(step) for step in await all_of(beta.runs.steps.list(run.id, **at))]
    assert (step.id[:5], step.object, step.type, step.status) == (
        "step_",
        "thread.run.step",
        "message_creation",
        "completed",
    )
    assert step.step_details.message_creation.message_id == message.id
    assert (step.run_id, step.assistant_id, step.thread_id) == (run.id, run.assistant_id, run.thread_id)
    assert step.usage.total_tokens == run.usage.total_tokens == run.usage.prompt_tokens + run.usage.completion_tokens
    assert run.usage.completion_tokens > 0
    assert await done(beta.runs.steps.retrieve(step.id, run_id=run.id, **at)) == step
    changed = valid(await done(beta.runs.update(run.id, **at, metadata={"run": "2"})))
    assert changed.metadata == {"run": "2"}
    assert changed.model_dump(exclude={"metadata"}) == run.model_dump(exclude={"metadata"})


@scenario
async def poll_thread_and_run(client: Any) -> None:
    beta, assistant = client.beta.threads, await assistant_of(client)
    thread = {"messages": [{"role": "user", "content": script({"say": "Hello."})}], "metadata": {"a": "b"}}
    run = valid(await done(beta.create_and_run_poll(assistant_id=assistant.id, thread=thread, instructions="Hm.")))
    assert (run.status, run.instructions) == ("completed", "Hm.")
    assert (await done(beta.retrieve(run.thread_id))).metadata == {"a": "b"}
    said = await all_of(beta.messages.list(run.thread_id, order="asc"))
    assert [(message.role, message.run_id) for message in said] == [("user", None), ("assistant", run.id)]
    assert text_of(said[1]) == "Hello."
    await _readable(client, run)


@scenario
async def poll_again(client: Any) -> None:
    """Several runs on one thread: the model hears all of it, and the runs come in pages."""
    beta, assistant, thread = client.beta.threads, await assistant_of(client), await thread_of(client)
    made = []
    for number in range(7):
        text = script({"say": f"answer {number}"})
        await done(beta.messages.create(thread.id, role="user", content=text))
        run = await done(beta.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=10))
        assert (run.status, run.usage.prompt_tokens) == ("completed", 10 * (2 * number + 2))
        made.append(run.id)
    said = [text_of(message) for message in await all_of(beta.messages.list(thread.id, order="asc"))]
    assert said[1::2] == [f"answer {number}" for number in range(7)]
    await _pages(lambda **query: beta.runs.list(thread.id, **query), made)


@scenario
async def poll_tools(client: Any) -> None:
    """Two rounds of tools, the first with parallel calls, by submit_tool_outputs_and_poll."""
    beta, assistant = client.beta.threads, await assistant_of(client, tools=[WEATHER, CLOCK])
    thread = await thread_of(client, TWO_ROUNDS)
    run = valid(await done(beta.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)))
    assert (run.status, run.required_action.type) == ("requires_action", "submit_tool_outputs")
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [(one.type, one.function.name) for one in calls] == [
        ("function", "get_weather"),
        ("function", "get_weather"),
        ("function", "get_time"),
    ]
    assert [json.loads(one.function.arguments) for one in calls] == [
        {"city": "Zürich"},
        {"city": "Oslo"},
        {"city": "Oslo"},
    ]
    (step,) = [valid(step) for step in await all_of(beta.runs.steps.list(run.id, thread_id=thread.id))]
    assert (step.type, step.status, step.completed_at, step.usage) == ("tool_calls", "in_progress", None, None)
    assert [one.function.output for one in step.step_details.tool_calls] == [None, None, None]
    go_on = {"thread_id": thread.id, "poll_interval_ms": 20}
    second = valid(
        await done(beta.runs.submit_tool_outputs_and_poll(run_id=run.id, tool_outputs=answers(run), **go_on))
    )
    assert (second.id, second.status, second.expires_at) == (run.id, "requires_action", run.expires_at)
    last = valid(
        await done(beta.runs.submit_tool_outputs_and_poll(run_id=run.id, tool_outputs=answers(second), **go_on))
    )
    assert (last.status, last.required_action) == ("completed", None)
    assert text_of(await newest(client, thread.id)) == SAID
    await _steps_of_two_rounds(client, last)


async def _steps_of_two_rounds(client: Any, run: Any) -> None:
    listed = client.beta.threads.runs.steps.list
    steps = [valid(step) for step in await all_of(listed(run.id, thread_id=run.thread_id, order="asc", limit=2))]
    assert [step.type for step in steps] == ["tool_calls", "tool_calls", "message_creation"]
    assert {step.status for step in steps} == {"completed"}
    outputs = [one.function.output for step in steps[:2] for one in step.step_details.tool_calls]
    assert f"They said: {', '.join(outputs)}." == SAID
    for kind in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert sum(getattr(step.usage, kind) for step in steps) == getattr(run.usage, kind)
    contents: Any = ["step_details.tool_calls[*].file_search.results[*].content"]
    assert ids(await all_of(listed(run.id, thread_id=run.thread_id, include=contents))) == ids(steps)[::-1]
    backwards = await all_of(listed(run.id, thread_id=run.thread_id, limit=1))
    assert ids(backwards) == ids(steps)[::-1]
    page = await done(listed(run.id, thread_id=run.thread_id, order="asc", before=steps[2].id))
    assert ids(page.data) == ids(steps[:2])


@scenario
async def cancel(client: Any) -> None:
    """A run that waits for its tools, and one whose model speaks."""
    beta, assistant = client.beta.threads, await assistant_of(client, tools=[WEATHER])
    thread = await thread_of(client, script({"calls": [call("get_weather", city="Rome")]}))
    run = await done(beta.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id))
    await _cancelled(client, run)
    (step,) = await all_of(beta.runs.steps.list(run.id, thread_id=thread.id))
    assert (valid(step).status, step.cancelled_at is None) == ("cancelled", False)
    slow = script({"say": "word " * 200, "pause": 0.1})
    await done(beta.messages.create(thread.id, role="user", content=slow))
    run = await done(beta.runs.create(thread.id, assistant_id=assistant.id))
    assert (valid(run).status, run.started_at, run.usage) == ("queued", None, None)
    while run.status == "queued":
        run = await done(beta.runs.retrieve(run.id, thread_id=thread.id))
    assert run.status == "in_progress"
    await _cancelled(client, run)
    assert (await done(beta.messages.create(thread.id, role="user", content="free again"))).id


async def _cancelled(client: Any, run: Any) -> None:
    beta = client.beta.threads.runs
    asked = valid(await done(beta.cancel(run.id, thread_id=run.thread_id)))
    assert (asked.id, asked.status) == (run.id, "cancelling")
    ended = valid(await done(beta.poll(run.id, thread_id=run.thread_id, poll_interval_ms=20)))
    assert (ended.status, ended.required_action, ended.completed_at) == ("cancelled", None, None)
    assert ended.cancelled_at >= ended.created_at


@scenario
async def endings(client: Any) -> None:
    """A reply that was cut off, and a model that fails."""
    assistant = await assistant_of(client)
    turns = {
        "cut": {"say": "Half a sen", "finish": "length"},
        "down": {"say": "The model is on holiday", "status": 501},
        "busy": {"say": "Too much", "status": 429},
    }
    runs = {}
    for name, turn in turns.items():
        thread = {"messages": [{"role": "user", "content": script(turn)}]}
        runs[name] = valid(
            await done(client.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread=thread))
        )
    assert {name: run.status for name, run in runs.items()} == {"cut": "incomplete", "down": "failed", "busy": "failed"}
    assert runs["cut"].incomplete_details.reason == "max_completion_tokens"
    message = valid(await newest(client, runs["cut"].thread_id))
    assert (text_of(message), message.status) == ("Half a sen", "incomplete")
    assert message.incomplete_details.reason == "max_tokens"
    assert (runs["down"].last_error.code, runs["down"].last_error.message) == (
        "server_error",
        "The model is on holiday",
    )
    assert runs["busy"].last_error.code == "rate_limit_exceeded"
    assert runs["down"].failed_at >= runs["down"].created_at


# --- runs, streamed: raw events ---------------------------------------------------------------------------------------


@scenario
async def raw_events(client: Any) -> None:
    """stream=True: names in order, and deltas that add up to the message."""
    assistant, thread = await assistant_of(client), await thread_of(client, script({"say": STORY * 3, "pause": 0.005}))
    events = [
        valid(event)
        async for event in each(
            await done(client.beta.threads.runs.create(thread.id, assistant_id=assistant.id, stream=True))
        )
    ]
    assert squeezed([event.event for event in events]) == PLAIN
    deltas = [event.data.delta.content for event in events if event.event == "thread.message.delta"]
    assert len(deltas) > 1
    assert {(len(content), content[0].index, content[0].type) for content in deltas} == {(1, 0, "text")}
    assert "".join(content[0].text.value for content in deltas) == STORY * 3
    by_name = {event.event: event.data for event in events}
    assert by_name["thread.run.created"].status == "queued"
    assert by_name["thread.message.created"].content == []
    assert by_name["thread.run.step.created"].status == "in_progress"
    message, run = by_name["thread.message.completed"], by_name["thread.run.completed"]
    assert text_of(message) == STORY * 3
    assert message == await newest(client, thread.id)
    assert run == await done(client.beta.threads.runs.retrieve(run.id, thread_id=thread.id))
    await _readable(client, run)


@scenario
async def raw_events_of_a_thread_and_its_run(client: Any) -> None:
    assistant = await assistant_of(client)
    thread = {"messages": [{"role": "user", "content": script({"say": "Hello."})}]}
    stream = await done(client.beta.threads.create_and_run(assistant_id=assistant.id, thread=thread, stream=True))
    events = [valid(event) for event in await all_of(stream)]
    assert squeezed([event.event for event in events]) == ["thread.created", *PLAIN]
    assert events[0].data.id == events[-1].data.thread_id
    assert events[-1].data.usage.total_tokens > 0


@scenario
async def raw_tools(client: Any) -> None:
    """Two rounds of tools with submit_tool_outputs(stream=True)."""
    runs, assistant = client.beta.threads.runs, await assistant_of(client, tools=[WEATHER, CLOCK])
    thread = await thread_of(client, TWO_ROUNDS)
    stream = await done(runs.create(thread.id, assistant_id=assistant.id, stream=True))
    expected = [ASKS, [*ON, *CALLS, "thread.run.requires_action"], [*ON, *MESSAGE, "thread.run.completed"]]
    for names in expected:
        events = [valid(event) for event in await all_of(stream)]
        assert squeezed([event.event for event in events]) == names
        run = events[-1].data
        if run.status == "requires_action":
            _check_fragments(events, run)
            more = {"thread_id": thread.id, "tool_outputs": answers(run), "stream": True}
            stream = await done(runs.submit_tool_outputs(run.id, **more))
    assert text_of(await newest(client, thread.id)) == SAID
    await _steps_of_two_rounds(client, run)


def _check_fragments(events: list[Any], run: Any) -> None:
    """Ids and names come once, arguments in pieces that add up."""
    deltas = [event.data.delta.step_details for event in events if event.event == "thread.run.step.delta"]
    fragments = [fragment for details in deltas for fragment in details.tool_calls]
    for index, one in enumerate(run.required_action.submit_tool_outputs.tool_calls):
        own = [fragment for fragment in fragments if fragment.index == index]
        assert (own[0].id, own[0].function.name) == (one.id, one.function.name)
        assert not any(fragment.id or fragment.function.name for fragment in own[1:])
        assert "".join(fragment.function.arguments for fragment in own) == one.function.arguments


# --- runs, streamed: helpers and their handlers -----------------------------------------------------------------------


@scenario
async def handler(client: Any) -> None:
    """runs.stream with a handler: every hook, in order, with snapshots that grow to the message."""
    assistant, thread = await assistant_of(client), await thread_of(client, script({"say": STORY * 3, "pause": 0.005}))
    notes = await heard(client, client.beta.threads.runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    assert squeezed(notes.events) == PLAIN
    assert notes.hooks == [
        "on_run_step_created",
        "on_message_created",
        "on_text_created",
        "on_text_delta",
        "on_text_done",
        "on_message_done",
        "on_run_step_done",
        "on_end",
    ]
    so_far = ""
    for delta, snapshot in notes.all("on_text_delta"):
        so_far += delta.value
        assert snapshot.value == so_far
    assert so_far == STORY * 3
    ((text,),), ((message,),) = notes.all("on_text_done"), notes.all("on_message_done")
    assert (text.value, text_of(message)) == (STORY * 3, STORY * 3)
    *_, (delta, snapshot) = notes.all("on_message_delta")
    assert (snapshot.id, text_of(snapshot)) == (message.id, STORY * 3)
    await _finals(client, notes, message)


async def _finals(client: Any, notes: Any, message: Any) -> None:
    run = await done(notes.get_final_run())
    assert run.status == "completed"
    assert run == await done(client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id))
    assert await done(notes.get_final_messages()) == [message]
    assert message == await newest(client, run.thread_id)
    steps = await done(notes.get_final_run_steps())
    assert ids(steps) == ids(await all_of(client.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)))
    ((step,),) = notes.all("on_run_step_done")
    assert (step.status, step.step_details.message_creation.message_id) == ("completed", message.id)
    assert notes.current_run == run


@scenario
async def handler_of_tools(client: Any) -> None:
    """runs.stream, then submit_tool_outputs_stream twice, each with a handler."""
    runs, assistant = client.beta.threads.runs, await assistant_of(client, tools=[WEATHER, CLOCK])
    thread = await thread_of(client, TWO_ROUNDS)
    notes = await heard(client, runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    assert squeezed(notes.events) == ASKS
    run = await done(notes.get_final_run())
    await _tool_hooks(notes, run)
    go_on = {"thread_id": thread.id, "run_id": run.id}
    notes = await heard(client, runs.submit_tool_outputs_stream, **go_on, tool_outputs=answers(run))
    assert squeezed(notes.events) == [*ON, *CALLS, "thread.run.requires_action"]
    run = await done(notes.get_final_run())
    await _tool_hooks(notes, run)
    notes = await heard(client, runs.submit_tool_outputs_stream, **go_on, tool_outputs=answers(run))
    assert squeezed(notes.events) == [*ON, *MESSAGE, "thread.run.completed"]
    (message,) = await done(notes.get_final_messages())
    assert text_of(message) == SAID
    run = await done(notes.get_final_run())
    assert (run.status, run.required_action) == ("completed", None)
    await _steps_of_two_rounds(client, run)


async def _tool_hooks(notes: Any, run: Any) -> None:
    """Each call is created, grows and is done, one after the other."""
    wanted = run.required_action.submit_tool_outputs.tool_calls
    names = squeezed([name for name, _ in notes.heard if name.startswith("on_tool_call")])
    assert names == ["on_tool_call_created", "on_tool_call_delta", "on_tool_call_done"] * len(wanted)
    for hook in ("on_tool_call_created", "on_tool_call_done"):
        assert [one.id for (one,) in notes.all(hook)] == ids(wanted)
    for (one,), asked in zip(notes.all("on_tool_call_done"), wanted, strict=True):
        assert (one.type, one.function.name) == ("function", asked.function.name)
        assert one.function.arguments == asked.function.arguments
    (step,) = (await done(notes.get_final_run_steps()))[-1:]
    assert [one.function.arguments for one in step.step_details.tool_calls] == [
        one.function.arguments for one in wanted
    ]
    assert run.status == "requires_action"


@scenario
async def file_search(client: Any) -> None:
    """A file is searched by the service: the answer is cited, streamed and stored, and steps show what was found."""
    with_contents = {"include": ["step_details.tool_calls[*].file_search.results[*].content"]}
    runs, store = client.beta.threads.runs, await done(client.vector_stores.create(name="Foods"))
    files = client.vector_stores.files
    held = await done(
        files.upload_and_poll(vector_store_id=store.id, file=("foods.txt", b"Filip's favourite is cake."))
    )
    assert held.status == "completed"
    tools = {"tools": [{"type": "file_search"}], "tool_resources": {"file_search": {"vector_store_ids": [store.id]}}}
    assistant = await assistant_of(client, **tools)
    thread = await thread_of(
        client, script({"calls": [["file_search", {"queries": ["cake"]}]]}, {"say": "🍰 {outputs}"})
    )
    run = {"thread_id": thread.id, "assistant_id": assistant.id}

    notes = await heard(client, runs.stream, **run, **with_contents)
    (message,) = await done(notes.get_final_messages())
    text = valid(message).content[0].text
    (annotation,) = text.annotations
    assert annotation.text == text.value[annotation.start_index : annotation.end_index]
    assert (annotation.type, annotation.file_citation.file_id) == ("file_citation", held.id)
    assert message == await newest(client, thread.id)
    deltas = [delta for delta, _ in notes.all("on_text_delta")]
    (cited,) = [delta for delta in deltas if delta.annotations]
    assert (cited.value, cited.annotations[0].file_citation.file_id) == (annotation.text, held.id)
    assert "".join(delta.value for delta in deltas) == text.value
    assert {one.type for (one,) in notes.all("on_tool_call_done")} == {"file_search"}

    (searched, _) = [step for (step,) in notes.all("on_run_step_done")]
    place = {"thread_id": thread.id, "run_id": searched.run_id}
    stored = await done(runs.steps.retrieve(searched.id, **place, **with_contents))
    bare = await done(runs.steps.retrieve(searched.id, **place))
    for step, contents in ((searched, 1), (stored, 1), (bare, None)):
        ((result,),) = [one.file_search.results for one in valid(step).step_details.tool_calls]
        assert (result.file_id, result.file_name) == (held.id, "foods.txt")
        assert (result.content and len(result.content)) == contents


CODE = """\
from pathlib import Path
import matplotlib.pyplot as plt

print("größe 😀")
Path("/mnt/data/out.txt").write_text(Path("/mnt/data/in.txt").read_text() * 2)
plt.plot([1, 2])
plt.show()
"""


@scenario
async def code_interpreter(client: Any) -> None:
    """Code is executed by the service: it reads a user's file, prints, shows a figure and writes a file, which the
    answer links."""
    file = await done(client.files.create(file=("in.txt", b"ab"), purpose="assistants"))
    resources = {"code_interpreter": {"file_ids": [file.id]}}
    assistant = await assistant_of(client, tools=[{"type": "code_interpreter"}], tool_resources=resources)
    link = "sandbox:/mnt/data/out.txt"
    thread = await thread_of(client, script({"calls": [["python", {"code": CODE}]]}, {"say": f"🍰 [it]({link})"}))
    notes = await heard(client, client.beta.threads.runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    (message,) = await done(notes.get_final_messages())
    image, part = valid(message).content
    (annotation,) = part.text.annotations
    assert (annotation.type, annotation.text) == ("file_path", link)
    assert part.text.value[annotation.start_index : annotation.end_index] == link
    assert message == await newest(client, thread.id)
    assert [one.file_id for one in message.attachments] == [annotation.file_path.file_id]

    deltas = [delta.code_interpreter for delta, _ in notes.all("on_tool_call_delta")]
    assert "".join(delta.input or "" for delta in deltas) == CODE
    outputs = [output for delta in deltas for output in delta.outputs or []]
    assert [output.type for output in outputs] == ["logs", "image"]
    assert outputs[0].logs == "größe 😀\n"
    assert outputs[1].image.file_id == image.image_file.file_id
    assert [one.file_id for (one,) in notes.all("on_image_file_done")] == [image.image_file.file_id]
    (executed, _) = [step for (step,) in notes.all("on_run_step_done")]
    (call,) = valid(executed).step_details.tool_calls
    assert (call.code_interpreter.input, len(call.code_interpreter.outputs)) == (CODE, 2)

    written = await done(client.files.content(annotation.file_path.file_id))
    assert written.content == b"abab"
    assert (await done(client.files.retrieve(image.image_file.file_id))).purpose == "assistants_output"


@scenario
async def handler_of_talk_before_tools(client: Any) -> None:
    """One turn that says something and calls: the message ends before the calls' step begins."""
    runs, assistant = client.beta.threads.runs, await assistant_of(client, tools=[WEATHER])
    turn = {"say": "Let me look. ", "calls": [call("get_weather", city="Bergen")], "pause": 0.01}
    thread = await thread_of(client, script(turn, {"say": "{outputs}"}))
    notes = await heard(client, runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    assert squeezed(notes.events) == [*BEFORE, *MESSAGE, *CALLS, "thread.run.requires_action"]
    run = await done(notes.get_final_run())
    await _tool_hooks(notes, run)
    go_on = {"thread_id": thread.id, "run_id": run.id, "tool_outputs": answers(run)}
    notes = await heard(client, runs.submit_tool_outputs_stream, **go_on)
    assert (await done(notes.get_final_run())).status == "completed"
    said = await all_of(client.beta.threads.messages.list(thread.id, run_id=run.id, order="asc"))
    assert [text_of(message) for message in said] == ["Let me look. ", "get_weather Bergen"]


@scenario
async def handler_of_a_thread_and_its_run(client: Any) -> None:
    assistant = await assistant_of(client)
    thread = {"messages": [{"role": "user", "content": script({"say": "Hello."})}]}
    notes = await heard(client, client.beta.threads.create_and_run_stream, assistant_id=assistant.id, thread=thread)
    assert squeezed(notes.events) == ["thread.created", *PLAIN]
    (message,) = await done(notes.get_final_messages())
    assert text_of(message) == "Hello."


@scenario
async def handler_that_submits(client: Any) -> None:
    """The documented pattern: the handler itself answers the calls, with a new stream inside the old one."""
    assistant, thread = await assistant_of(client, tools=[WEATHER, CLOCK]), await thread_of(client, TWO_ROUNDS)
    said: list[str] = []
    kind = _Answering if isinstance(client, OpenAI) else _AsyncAnswering
    begun = {"thread_id": thread.id, "assistant_id": assistant.id, "event_handler": kind(client, said)}
    async with opened(client.beta.threads.runs.stream(**begun)) as stream:
        await done(stream.until_done())
    assert "".join(said) == SAID


class _Answering(AssistantEventHandler):
    def __init__(self, client: OpenAI, said: list[str]) -> None:
        super().__init__()
        self._client, self._said = client, said

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self._said.append(delta.value)

    def on_event(self, event: Any) -> None:
        if event.event == "thread.run.requires_action":
            run, handler = event.data, _Answering(self._client, self._said)
            go_on = {"run_id": run.id, "thread_id": run.thread_id, "tool_outputs": answers(run)}
            with self._client.beta.threads.runs.submit_tool_outputs_stream(**go_on, event_handler=handler) as stream:
                for _ in stream.text_deltas:
                    pass


class _AsyncAnswering(AsyncAssistantEventHandler):
    def __init__(self, client: AsyncOpenAI, said: list[str]) -> None:
        super().__init__()
        self._client, self._said = client, said

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self._said.append(delta.value)

    async def on_event(self, event: Any) -> None:
        if event.event == "thread.run.requires_action":
            run, handler = event.data, _AsyncAnswering(self._client, self._said)
            go_on = {"run_id": run.id, "thread_id": run.thread_id, "tool_outputs": answers(run)}
            stream = self._client.beta.threads.runs.submit_tool_outputs_stream(**go_on, event_handler=handler)
            async with stream as inner:
                async for _ in inner.text_deltas:
                    pass


@scenario
async def stream_without_a_handler(client: Any) -> None:
    """Iterate over the stream, or over its text."""
    assistant, runs = await assistant_of(client), client.beta.threads.runs
    thread = await thread_of(client, script({"say": STORY}))
    async with opened(runs.stream(thread_id=thread.id, assistant_id=assistant.id)) as stream:
        assert squeezed([event.event async for event in each(stream)]) == PLAIN
    await done(client.beta.threads.messages.create(thread.id, role="user", content=script({"say": STORY})))
    async with opened(runs.stream(thread_id=thread.id, assistant_id=assistant.id)) as stream:
        assert "".join([delta async for delta in each(stream.text_deltas)]) == STORY
        run = await done(stream.get_final_run())
    assert run.status == "completed"


@scenario
async def stream_that_is_left(client: Any) -> None:
    """The run goes on without its listener, and the thread is free after it."""
    assistant, runs = await assistant_of(client), client.beta.threads.runs
    thread = await thread_of(client, script({"say": STORY, "pause": 0.01}))
    async with opened(runs.stream(thread_id=thread.id, assistant_id=assistant.id)) as stream:
        async for event in each(stream):
            if event.event == "thread.message.delta":
                break
        left = stream.current_run
    assert left.status == "in_progress"
    run = await done(runs.poll(left.id, thread_id=thread.id))
    assert run.status == "completed"
    assert text_of(await newest(client, thread.id)) == STORY


@scenario
async def stream_that_is_cancelled(client: Any) -> None:
    """Cancelled while the model speaks: what was open is closed on the stream."""
    runs, assistant = client.beta.threads.runs, await assistant_of(client)
    thread = await thread_of(client, script({"say": "word " * 200, "pause": 0.05}))
    names: list[str] = []
    async with opened(runs.stream(thread_id=thread.id, assistant_id=assistant.id)) as stream:
        async for event in each(stream):
            valid(event)
            if event.event == "thread.message.delta" and "thread.message.delta" not in names:
                run = await done(runs.cancel(stream.current_run.id, thread_id=thread.id))
                assert run.status == "cancelling"
            names.append(event.event)
        run = await done(stream.get_final_run())
        (message,) = await done(stream.get_final_messages())
    assert squeezed([name for name in names if name not in ("thread.message.delta", "thread.run.cancelling")]) == [
        *PLAIN[: PLAIN.index("thread.message.delta")],
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
    ]
    assert names.count("thread.run.cancelling") == 1
    assert (run.status, message.status, message.incomplete_details.reason) == (
        "cancelled",
        "incomplete",
        "run_cancelled",
    )


@scenario
async def streams_that_end_badly(client: Any) -> None:
    runs, assistant = client.beta.threads.runs, await assistant_of(client)
    thread = await thread_of(client, script({"say": "Half a sen", "finish": "length"}))
    notes = await heard(client, runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    closed = [
        name.replace("message.completed", "message.incomplete").replace("run.completed", "run.incomplete")
        for name in PLAIN
    ]
    assert squeezed(notes.events) == closed
    assert (await done(notes.get_final_run())).incomplete_details.reason == "max_completion_tokens"
    ((message,),) = notes.all("on_message_done")
    assert (message.status, text_of(message)) == ("incomplete", "Half a sen")
    failing = script({"say": "No", "status": 501})
    await done(client.beta.threads.messages.create(thread.id, role="user", content=failing))
    notes = await heard(client, runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    assert notes.events == [*BEFORE, "thread.run.failed"]
    run = await done(notes.get_final_run())
    assert (run.status, run.last_error.message) == ("failed", "No")


# --- errors and headers -----------------------------------------------------------------------------------------------


class _Retries(logging.Handler):
    """Counts what the SDK tries again."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self._logger = logging.getLogger("openai._base_client")
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += record.getMessage().startswith("Retrying request")


def _is(error: Any, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
    assert error.status_code == status
    assert error.type == "invalid_request_error"
    assert (error.body["message"], error.param, error.code) == (message, param, code)
    assert error.request_id.startswith("req_")


@scenario
async def bad_requests(client: Any) -> None:
    create = client.beta.assistants.create
    wrong: dict[tuple[str | None, str | None], Any] = {
        ("metadata.k", "invalid_type"): lambda: create(model=MODEL, metadata={"k": True}),
        ("metadata", "object_above_max_properties"): lambda: create(
            model=MODEL, metadata={str(number): "" for number in range(17)}
        ),
        ("name", "string_above_max_length"): lambda: create(model=MODEL, name="n" * 257),
        ("temperature", "decimal_above_max_value"): lambda: create(model=MODEL, temperature=2.5),
        ("tools[0].type", "invalid_value"): lambda: create(model=MODEL, tools=[{"type": "hammer"}]),
        ("colour", "unknown_parameter"): lambda: create(model=MODEL, extra_body={"colour": "red"}),
        ("model", "missing_required_parameter"): lambda: create(model=openai.NOT_GIVEN),
        ("limit", "integer_above_max_value"): lambda: client.beta.assistants.list(limit=101),
        ("order", "invalid_value"): lambda: client.beta.assistants.list(order="sideways"),
        ("thread_id", "invalid_value"): lambda: client.beta.threads.retrieve("undefined"),
        (None, "invalid_beta"): lambda: client.beta.assistants.list(extra_headers={"OpenAI-Beta": "assistants=v1"}),
    }
    if _azure(client):
        del wrong[None, "invalid_beta"]  # Azure's version is in the query
    for (param, code), request in wrong.items():
        async with refused(openai.BadRequestError) as caught:
            await done(request())
        assert (caught[0].param, caught[0].code, caught[0].status_code) == (param, code, 400)
    async with refused(openai.BadRequestError) as caught:
        await done(client.beta.threads.runs.create(await _some_thread(client), assistant_id="wf_x"))
    text = "Invalid 'assistant_id': 'wf_x'. Expected an ID that begins with 'asst'."
    _is(caught[0], 400, text, param="assistant_id", code="invalid_value")


def _azure(client: Any) -> bool:
    return isinstance(client, AzureOpenAI | AsyncAzureOpenAI)


async def _some_thread(client: Any) -> str:
    return str((await done(client.beta.threads.create())).id)


@scenario
async def not_found(client: Any) -> None:
    beta, thread = client.beta.threads, await _some_thread(client)
    run, assistant = f"run_{UNKNOWN}", f"asst_{UNKNOWN}"
    missing = {
        "assistant": (assistant, lambda: client.beta.assistants.retrieve(assistant)),
        "thread": (f"thread_{UNKNOWN}", lambda: beta.retrieve(f"thread_{UNKNOWN}")),
        "message": (f"msg_{UNKNOWN}", lambda: beta.messages.retrieve(f"msg_{UNKNOWN}", thread_id=thread)),
        "run": (run, lambda: beta.runs.retrieve(run, thread_id=thread)),
    }
    for what, (unknown, request) in missing.items():
        async with refused(openai.NotFoundError) as caught:
            await done(request())
        _is(caught[0], 404, f"No {what} found with id '{unknown}'.")
    async with refused(openai.NotFoundError) as caught:
        await done(beta.runs.create(thread, assistant_id=assistant, instructions="Hm."))
    _is(caught[0], 404, f"No assistant found with id '{assistant}'.")
    async with refused(openai.NotFoundError):
        stream = beta.runs.stream(thread_id=thread, assistant_id=assistant)
        async with opened(stream) as opening:
            await done(opening.until_done())
    async with refused(openai.NotFoundError):
        await done(client.models.retrieve("no-such-model"))


@scenario
async def authentication(client: Any) -> None:
    made = await assistant_of(client)
    stranger = client.with_options(api_key="sk-wrong-0123456789abcdef")
    async with refused(openai.AuthenticationError) as caught:
        await done(stranger.beta.assistants.retrieve(made.id))
    code, text = ("401", "Access denied") if _azure(client) else ("invalid_api_key", "Incorrect API key provided: sk-")
    assert (caught[0].status_code, caught[0].code) == (401, code)
    assert text in caught[0].message
    assert "0123456789" not in caught[0].message
    key, _, number = client.api_key.rpartition("-")
    neighbour = client.with_options(api_key=f"{key}-{int(number) + 1}")
    async with refused(openai.NotFoundError):
        await done(neighbour.beta.assistants.retrieve(made.id))
    assert (await done(client.beta.assistants.retrieve(made.id))).id == made.id


@scenario
async def conflicts(client: Any) -> None:
    """400, not 409: the SDK would try again."""
    runs, assistant, retries = client.beta.threads.runs, await assistant_of(client, tools=[WEATHER]), _Retries()
    calls = [call("get_weather", city="Rome"), call("get_weather", city="Oslo")]
    thread = await thread_of(client, script({"calls": calls}, {"say": "ok"}))
    run = await done(runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id))
    outputs, at = answers(run), {"thread_id": thread.id}
    wanted = [output["tool_call_id"] for output in outputs]
    async with refused(openai.BadRequestError) as caught:
        await done(client.beta.threads.messages.create(thread.id, role="user", content="And?"))
    _is(caught[0], 400, f"Can't add messages to {thread.id} while a run {run.id} is active.")
    async with refused(openai.BadRequestError) as caught:
        await done(runs.create(thread.id, assistant_id=assistant.id))
    _is(caught[0], 400, f"Thread {thread.id} already has an active run {run.id}.")
    async with refused(openai.BadRequestError) as caught:
        await done(runs.submit_tool_outputs(run.id, **at, tool_outputs=outputs[:1]))
    _is(caught[0], 400, f"Expected tool outputs for call_ids {wanted}, got {wanted[:1]}")
    ended = await done(runs.submit_tool_outputs_and_poll(run_id=run.id, **at, tool_outputs=outputs))
    assert ended.status == "completed"
    async with refused(openai.BadRequestError) as caught:
        await done(runs.submit_tool_outputs(run.id, **at, tool_outputs=outputs))
    _is(caught[0], 400, 'Runs in status "completed" do not accept tool outputs.')
    async with refused(openai.BadRequestError) as caught:
        await done(runs.cancel(run.id, **at))
    _is(caught[0], 400, "Cannot cancel run with status 'completed'.")
    assert retries.seen == 0


@scenario
async def nothing_to_say(client: Any) -> None:
    assistant = await assistant_of(client, instructions=None)
    async with refused(openai.BadRequestError) as caught:
        await done(client.beta.threads.create_and_run(assistant_id=assistant.id))
    text = "Run creation requires a Thread with a user message or an assistant with instructions."
    _is(caught[0], 400, text, code="invalid_thread")


@scenario
async def headers(client: Any) -> None:
    assistant, thread = await assistant_of(client), await thread_of(client, script({"say": "Hi."}))
    runs = client.beta.threads.runs
    raw = await done(client.beta.assistants.with_raw_response.retrieve(assistant.id))
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"] == "2020-10-01"
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse() == assistant
    assert raw.request_id == raw.headers["x-request-id"]
    run = await done(runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id))
    raw = await done(runs.with_raw_response.retrieve(run.id, thread_id=thread.id))
    assert int(raw.headers["openai-poll-after-ms"]) == 100
    assert raw.parse() == run
    made = await done(client.beta.threads.create())
    assert made._request_id.startswith("req_")
    again = {"thread_id": made.id, "assistant_id": assistant.id, "stream": True}
    raw = await done(runs.with_raw_response.create(**again))
    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert raw.headers["x-request-id"].startswith("req_")
    await all_of(raw.parse())


# --- files and uploads ------------------------------------------------------------------------------------------------

BYTES = bytes(range(256)) * 2000 + STORY.encode()  # 0.5 MB


@scenario
async def files(client: Any) -> None:
    """Create in all ways that the SDK has, wait, retrieve, list, download, delete."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Grüße 🐢.txt"
        path.write_bytes(BYTES)
        with path.open("rb") as opened_file:
            given = [path, ("named.txt", BYTES), ("typed.txt", BYTES, "text/plain"), io.BytesIO(BYTES), opened_file]
            made = [valid(await done(client.files.create(file=one, purpose="assistants"))) for one in given]
    assert [one.filename for one in made] == [path.name, "named.txt", "typed.txt", "upload", path.name]
    for one in made:
        assert (one.id[:5], one.object, one.bytes, one.status) == ("file-", "file", len(BYTES), "processed")
        assert await done(client.files.retrieve(one.id)) == one
        assert await done(client.files.wait_for_processing(one.id)) == one
        assert (await done(client.files.content(one.id))).content == BYTES
    kept = await done(client.files.create(file=("a", b"a"), purpose="vision", expires_after=EXPIRES))
    assert valid(kept).expires_at == kept.created_at + 3600
    listed = [valid(one) for one in await all_of(client.files.list(limit=2))]
    assert listed == [kept, *made[::-1]]
    assert await all_of(client.files.list(purpose="vision")) == [kept]
    assert ids(await all_of(client.files.list(order="asc", limit=4))) == ids([*made, kept])
    async with opened(client.files.with_streaming_response.content(made[0].id)) as response:
        assert response.headers["content-type"] == "application/octet-stream"
        assert int(response.headers["content-length"]) == len(BYTES)
        assert b"".join([piece async for piece in each(response.iter_bytes())]) == BYTES
    deleted = valid(await done(client.files.delete(kept.id)))
    assert (deleted.id, deleted.object, deleted.deleted) == (kept.id, "file", True)


EXPIRES: Any = {"anchor": "created_at", "seconds": 3600}


@scenario
async def files_refused(client: Any) -> None:
    async with refused(openai.BadRequestError) as caught:
        await done(client.files.create(file=b"x", purpose="world_domination"))
    assert caught[0].param == "purpose"
    async with refused(openai.BadRequestError) as caught:
        await done(client.files.create(file=b"", purpose="assistants"))
    assert caught[0].param == "file"
    for call_it in (client.files.retrieve, client.files.delete, client.files.content):
        async with refused(openai.NotFoundError) as caught:
            await done(call_it("file-unknown"))
        assert caught[0].message.startswith("Error code: 404")
        assert caught[0].body["message"] == "No such File object: file-unknown"


@scenario
async def uploads_chunked(client: Any) -> None:
    """upload_file_chunked: cut into parts by the SDK. (Of a path, its version 1 leaves the file open.)"""
    given: Any = {"filename": "b.txt", "bytes": len(BYTES), "mime_type": "text/plain", "purpose": "assistants"}
    for more in ({}, {"part_size": 100_000, "md5": hashlib.md5(BYTES).hexdigest()}):
        upload = valid(await done(client.uploads.upload_file_chunked(file=BYTES, **given, **more)))
        assert (upload.status, upload.filename, upload.bytes) == ("completed", "b.txt", len(BYTES))
        assert (upload.file.filename, upload.file.bytes) == ("b.txt", len(BYTES))
        assert await done(client.files.retrieve(upload.file.id)) == upload.file
        assert (await done(client.files.content(upload.file.id))).content == BYTES


@scenario
async def uploads(client: Any) -> None:
    """Create, add parts, complete in another order, cancel."""
    given: Any = {"filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants", "bytes": 6}
    upload = valid(await done(client.uploads.create(**given)))
    assert (upload.id[:7], upload.object, upload.status, upload.file) == ("upload_", "upload", "pending", None)
    assert upload.expires_at == upload.created_at + 3600
    parts = [valid(await done(client.uploads.parts.create(upload.id, data=data))) for data in (b"two", b"one")]
    assert {(part.object, part.upload_id, part.id[:5]) for part in parts} == {("upload.part", upload.id, "part_")}
    async with refused(openai.BadRequestError):
        await done(client.uploads.complete(upload.id, part_ids=[parts[0].id]))
    done_upload = valid(await done(client.uploads.complete(upload.id, part_ids=ids(parts[::-1]))))
    assert done_upload.status == "completed"
    assert (await done(client.files.content(done_upload.file.id))).content == b"onetwo"
    async with refused(openai.BadRequestError):
        await done(client.uploads.cancel(upload.id))
    upload = await done(client.uploads.create(**given))
    assert valid(await done(client.uploads.cancel(upload.id))).status == "cancelled"
    async with refused(openai.BadRequestError):
        await done(client.uploads.parts.create(upload.id, data=b"late"))
    async with refused(openai.NotFoundError):
        await done(client.uploads.cancel("upload_unknown"))


# --- vector stores ----------------------------------------------------------------------------------------------------

RIVERS = b"# Rivers\n\nThe Danube flows through Vienna and Budapest.\n\nThe Seine flows through Paris.\n"
FRUITS = b"name,colour\nbanana,yellow\ncherry,red\n"
DAMAGED = b"%PDF-1.7 and no more"


@scenario
async def vector_stores(client: Any) -> None:
    stores = client.vector_stores
    after: Any = {"anchor": "last_active_at", "days": 3}
    store = valid(await done(stores.create(name="Facts", metadata={"k": "v"}, expires_after=after)))
    assert (store.id[:3], store.object, store.status) == ("vs_", "vector_store", "completed")
    assert store.expires_at == store.last_active_at + 3 * 86_400
    assert await done(stores.retrieve(store.id)) == store
    other = valid(await done(stores.create(name="Other")))
    assert ids(await all_of(stores.list(limit=1))) == [other.id, store.id]
    renamed = valid(await done(stores.update(store.id, name="Truths")))
    assert (renamed.name, renamed.metadata, renamed.expires_after.days) == ("Truths", {"k": "v"}, 3)
    deleted = valid(await done(stores.delete(other.id)))
    assert (deleted.id, deleted.object, deleted.deleted) == (other.id, "vector_store.deleted", True)
    async with refused(openai.NotFoundError) as caught:
        await done(stores.retrieve(other.id))
    _is(caught[0], 404, f"No vector store found with id '{other.id}'.")
    assert ids(await all_of(stores.list())) == [store.id]


@scenario
async def vector_store_files(client: Any) -> None:
    """upload_and_poll, create_and_poll, search, content, attributes, delete."""
    stores = client.vector_stores
    store = await done(stores.create(name="Facts"))
    at = {"vector_store_id": store.id}
    rivers = valid(await done(stores.files.upload_and_poll(**at, file=("rivers.md", RIVERS))))
    assert (rivers.status, rivers.last_error, rivers.attributes) == ("completed", None, {})
    assert rivers.usage_bytes > 0
    fruits = await done(client.files.create(file=("fruits.csv", FRUITS), purpose="assistants"))
    fruits = valid(
        await done(stores.files.create_and_poll(fruits.id, **at, attributes={"kind": "fruit", "year": 2026}))
    )
    assert (fruits.status, fruits.attributes) == ("completed", {"kind": "fruit", "year": 2026})
    assert ids(await all_of(stores.files.list(**at, limit=1))) == [fruits.id, rivers.id]
    found = [valid(each) for each in await all_of(stores.search(store.id, query="Which river flows through Vienna?"))]
    assert (found[0].file_id, found[0].filename) == (rivers.id, "rivers.md")
    assert "Danube" in found[0].content[0].text
    only: Any = {"type": "eq", "key": "kind", "value": "fruit"}
    found = await all_of(stores.search(store.id, query=["river", "Vienna"], filters=only, max_num_results=1))
    assert {each.file_id for each in found} <= {fruits.id}
    content = await all_of(stores.files.content(rivers.id, **at))
    assert "".join(valid(part).text for part in content).split() == RIVERS.decode().split()
    changed = valid(await done(stores.files.update(fruits.id, **at, attributes={"kind": "berry"})))
    assert changed.attributes == {"kind": "berry"}
    assert await done(stores.files.retrieve(fruits.id, **at)) == changed
    deleted = valid(await done(stores.files.delete(fruits.id, **at)))
    assert (deleted.id, deleted.object) == (fruits.id, "vector_store.file.deleted")
    async with refused(openai.NotFoundError):
        await done(stores.files.retrieve(fruits.id, **at))
    assert (await done(client.files.retrieve(fruits.id))).filename == "fruits.csv"
    assert (await done(stores.retrieve(store.id))).file_counts.total == 1


@scenario
async def vector_store_batches(client: Any) -> None:
    """file_batches.upload_and_poll: what cannot be read fails, and the batch goes on."""
    stores = client.vector_stores
    store = await done(stores.create(name="Facts"))
    batches, at = stores.file_batches, {"vector_store_id": store.id}
    given = [("rivers.md", RIVERS), ("fruits.csv", FRUITS), ("damaged.pdf", DAMAGED), ("program.exe", b"MZ\x90\0\3\0")]
    batch = await done(batches.upload_and_poll(**at, files=given))
    counts = batch.file_counts
    assert (batch.id[:5], batch.status) == ("vsfb_", "completed")
    assert (counts.completed, counts.failed, counts.in_progress, counts.total) == (2, 2, 0, 4)
    listed = [valid(each) for each in await all_of(batches.list_files(batch.id, **at, limit=3))]
    codes = {each.last_error.code for each in listed if each.last_error}
    assert codes == {"invalid_file", "unsupported_file"}
    failed = await all_of(batches.list_files(batch.id, **at, filter="failed"))
    assert ids(failed) == ids(each for each in listed if each.status == "failed")
    assert (await done(batches.cancel(batch.id, **at))).status == "completed"
    again = await done(batches.create_and_poll(**at, file_ids=ids(failed)))
    assert (again.status, again.file_counts.failed) == ("failed", 2)
    assert (await done(stores.retrieve(store.id))).file_counts.total == 4


@scenario
async def stores_of_assistants_and_threads(client: Any) -> None:
    file = await done(client.files.create(file=("rivers.md", RIVERS), purpose="assistants"))
    wanted: Any = {"file_search": {"vector_stores": [{"file_ids": [file.id]}]}}
    assistant = await assistant_of(client, tools=[{"type": "file_search"}], tool_resources=wanted)
    (store_id,) = assistant.tool_resources.file_search.vector_store_ids
    assert (await done(client.vector_stores.retrieve(store_id))).file_counts.total == 1
    thread = await done(client.beta.threads.create())
    attachments: Any = [{"file_id": file.id, "tools": [{"type": "file_search"}]}]
    await done(client.beta.threads.messages.create(thread.id, role="user", content="?", attachments=attachments))
    thread = valid(await done(client.beta.threads.retrieve(thread.id)))
    (store_id,) = thread.tool_resources.file_search.vector_store_ids
    store = await done(client.vector_stores.retrieve(store_id))
    assert (store.expires_after.days, store.file_counts.total) == (7, 1)


# --- models -----------------------------------------------------------------------------------------------------------


@scenario
async def models(client: Any) -> None:
    listed = [valid(model) for model in await all_of(client.models.list())]
    assert {"scripted", "offline/offline"} <= set(ids(listed))
    found = valid(await done(client.models.retrieve("scripted")))
    assert (found.id, found.object, found.owned_by) == ("scripted", "model", "tests")


@scenario
async def offline_model(client: Any) -> None:
    """The model that is built in: a tool round, streamed, and then a plain answer, polled."""
    runs = client.beta.threads.runs
    assistant = await assistant_of(client, model="offline/offline", tools=[WEATHER])
    thread = await thread_of(client, "How is the weather in Paris?")
    notes = await heard(client, runs.stream, thread_id=thread.id, assistant_id=assistant.id)
    assert squeezed(notes.events) == ASKS
    run = await done(notes.get_final_run())
    (asked,) = run.required_action.submit_tool_outputs.tool_calls
    assert (asked.function.name, set(json.loads(asked.function.arguments))) == ("get_weather", {"city"})
    outputs = [{"tool_call_id": asked.id, "output": "18 degrees"}]
    go_on = {"thread_id": thread.id, "run_id": run.id, "tool_outputs": outputs}
    notes = await heard(client, runs.submit_tool_outputs_stream, **go_on)
    (message,) = await done(notes.get_final_messages())
    assert "18 degrees" in text_of(message)
    await done(client.beta.threads.messages.create(thread.id, role="user", content="Thank you"))
    run = await done(runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id))
    assert run.status == "completed"
    assert "Thank you" in text_of(await newest(client, thread.id))


def azure(kind: Any) -> Any:
    """A client of Azure OpenAI, whose endpoint is the service."""
    endpoint = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
    return kind(azure_endpoint=endpoint, api_key=os.environ["OPENAI_API_KEY"], api_version="2024-05-01-preview")


if __name__ == "__main__":
    if os.environ.get("DIALECT") == "azure":
        play({"sync": lambda: azure(AzureOpenAI), "async": lambda: azure(AsyncAzureOpenAI)})
    else:
        play({"sync": OpenAI, "async": AsyncOpenAI})
