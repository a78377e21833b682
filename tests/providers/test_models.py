"""Models against real HTTP upstreams that answer by script: what goes out, what comes back, and every way to fail."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port
from pydantic import SecretStr

from assistants_service.composition import log_model_notices
from assistants_service.core.ports.models import (
    Deltas,
    ForcedFunction,
    Function,
    Image,
    ModelError,
    ModelInfo,
    NoSuchModel,
    Reply,
    Tokens,
    ToolCall,
    Turn,
)
from assistants_service.core.protocol.response_formats import JsonObjectFormat, JsonSchema, JsonSchemaFormat
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.models import failures, kinds, providers, reply_builder
from assistants_service.infra.models.finish_reasons import finish_of, incomplete_of
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.models.turns import join_neighbours
from assistants_service.infra.wiring import models_of
from assistants_service.parts import Parts
from scripted_upstreams import (
    WEATHER,
    Answer,
    Upstream,
    ask,
    assembled,
    broken,
    choice,
    chunk,
    closing,
    events,
    fail,
    fragment,
    function,
    function_call,
    hang_up,
    message,
    prompt,
    response,
    router,
    said,
    serving,
    whole,
)

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SCHEMA = JsonSchemaFormat(json_schema=JsonSchema(name="answer", schema={"type": "object"}, strict=True))


@pytest.fixture(autouse=True, scope="module")
def certificates_are_read_once() -> Iterator[None]:
    """Every client reads the machine's certificates, for 25 ms; none of these needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2, "create_ssl_context", functools.cache(lambda **_: ssl.create_default_context()))
        yield


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as one:
        yield one


# --- Chat Completions: requests -----------------------------------------------------------------------------------


async def test_chat_sends_only_what_is_set(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content="Hello"))]
    reply = await ask(upstream, prompt(), api_key=SecretStr("sk-secret"))
    path, body, headers = upstream.requests[0]
    assert reply == Reply("Hello")
    assert (path, body) == (CHAT, {"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    assert headers["Authorization"] == "Bearer sk-secret"
    assert headers["Content-Type"] == "application/json"


async def test_chat_sends_all_that_is_set(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content=None, tool_calls=[function("get_weather", "{}")]))]
    await ask(
        upstream,
        prompt(
            instructions="Be brief.",
            tools=(WEATHER,),
            tool_choice=ForcedFunction("get_weather"),
            parallel_tool_calls=False,
            temperature=0.0,
            top_p=0.5,
            reasoning_effort="low",
            response_format=SCHEMA,
            max_completion_tokens=300,
        ),
    )
    assert upstream.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": WEATHER.fields}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "temperature": 0.0,
        "top_p": 0.5,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "max_completion_tokens": 300,
    }


async def test_chat_sends_no_tool_options_without_tools(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content="."))]
    await ask(upstream, prompt(tool_choice="none", parallel_tool_calls=False))
    assert set(upstream.body) == {"model", "messages"}


async def test_chat_sends_the_older_token_limit_where_it_is_configured(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content="."))]
    await ask(upstream, prompt(max_completion_tokens=300), max_tokens_field="max_tokens")
    assert upstream.body["max_tokens"] == 300
    assert "max_completion_tokens" not in upstream.body


CONVERSATION = (
    Turn(
        "user", ("This", Image("https://x.test/a.png", "low"), "and", Image("data:image/png;base64,AA"), "differ how?")
    ),
    Turn("assistant", "Differ?"),
    Turn("user", (Image("https://x.test/b.png", "high"),)),
    Turn("assistant", "Let me look.", calls=(ToolCall("call_1", "look", '{"at":1}'), ToolCall("call_2", "look", "{}"))),
    Turn("tool", "a cat", call_id="call_1"),
    Turn("tool", "a dog", call_id="call_2"),
    Turn("assistant", calls=(ToolCall("call_3", "look", "{}"),)),
    Turn("tool", "", call_id="call_3"),
    Turn("assistant", "A cat and a dog."),
)


async def test_chat_sends_the_conversation(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content="."))]
    await ask(upstream, prompt(*CONVERSATION))
    looks = [function("look", '{"at":1}'), function("look", "{}", "call_2")]
    assert upstream.body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "This"},
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
                {"type": "text", "text": "and"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "auto"}},
                {"type": "text", "text": "differ how?"},
            ],
        },
        {"role": "assistant", "content": "Differ?"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://x.test/b.png", "detail": "high"}}],
        },
        {"role": "assistant", "content": "Let me look.", "tool_calls": looks},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "call_2", "content": "a dog"},
        {"role": "assistant", "content": None, "tool_calls": [function("look", "{}", "call_3")]},
        {"role": "tool", "tool_call_id": "call_3", "content": "(no output)"},
        {"role": "assistant", "content": "A cat and a dog."},
    ]


LOOK, PICTURE = ToolCall("call_1", "look", "{}"), Image("https://x.test/a.png")


@pytest.mark.parametrize(
    ("turns", "sent"),
    [
        ((Turn("user", "a"), Turn("user", "b")), [Turn("user", "a\n\nb")]),
        ((Turn("user", "a"), Turn("user", ""), Turn("user", "b")), [Turn("user", "a\n\nb")]),
        ((Turn("user", "a"), Turn("user", ("b", PICTURE)), Turn("user", "c")), [Turn("user", ("a\nb", PICTURE, "c"))]),
        ((Turn("user", "a"), Turn("assistant", ""), Turn("user", "b")), [Turn("user", "a\n\nb")]),
        ((Turn("user", "a"), Turn("assistant", " \n"), Turn("user", "b")), [Turn("user", "a\n\nb")]),
        ((Turn("assistant", "a"), Turn("assistant", calls=(LOOK,))), [Turn("assistant", "a", calls=(LOOK,))]),
        ((Turn("assistant", " ", calls=(LOOK,)),), [Turn("assistant", calls=(LOOK,))]),
        (
            (
                *(tools := (Turn("assistant", calls=(LOOK,)), Turn("tool", "x", call_id="1"))),
                Turn("tool", "", call_id="2"),
            ),
            [*tools, Turn("tool", "(no output)", call_id="2")],
        ),
        ((Turn("user", " \n"),), [Turn("user", "(This message is empty.)")]),
        ((Turn("user", (" ", PICTURE)),), [Turn("user", (PICTURE,))]),
        ((Turn("user", "a"), Turn("user", " ")), [Turn("user", "a")]),
    ],
)
def test_no_message_is_blank_and_neighbours_of_one_role_are_joined(turns: tuple[Turn, ...], sent: list[Turn]) -> None:
    assert join_neighbours(turns) == sent


@pytest.mark.parametrize(
    "refusal",
    [
        "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        'messages: first message must use the "user" role',
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
    ],
)
async def test_an_assistant_that_speaks_first_gets_something_to_answer_where_that_is_refused(
    upstream: Upstream, refusal: str
) -> None:
    """And only there. The model is remembered, and no other."""
    upstream.script = [whole({"error": {"message": refusal}}, 400), *[whole(choice(content="."))] * 4]
    greeted = Turn("assistant", "How can I help?"), Turn("user", "How are you?")
    async with router(upstream.url) as models:
        for turns, model in ((greeted, "m"), (greeted, "m"), (greeted[1:], "m"), (greeted, "n")):
            await models.reply(prompt(*turns, model=model), None)
    roles = ["".join(message["role"][0] for message in body["messages"]) for _, body, _ in upstream.requests]
    assert roles == ["au", "uau", "uau", "u", "au"]


async def test_a_refusal_that_has_another_cause_is_not_asked_again(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "Conversation roles must alternate user/assistant/..."}}, 400)]
    await fail(upstream)
    upstream.script = [whole({"error": {"message": "No."}}, 400)]
    with pytest.raises(ModelError, match="No"):
        await ask(upstream, prompt(Turn("assistant", "How can I help?")))
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_users_and_assistants_take_turns_on_both_apis(upstream: Upstream, api: str) -> None:
    upstream.script = [whole(choice(content=".") if api == "chat" else response(said(".")))]
    await ask(upstream, prompt(Turn("user", "a"), Turn("assistant", ""), Turn("user", "b")), api=api)
    (message,) = upstream.body["messages" if api == "chat" else "input"]
    assert (message["role"], message["content"]) == ("user", "a\n\nb")


# --- Chat Completions: replies ------------------------------------------------------------------------------------

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (USAGE, Tokens(11, 7, 5, 3)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None}, Tokens(1, 2)),
        (None, Tokens()),
    ],
)
async def test_chat_counts_tokens(upstream: Upstream, usage: Any, tokens: Tokens) -> None:
    upstream.script = [whole(choice(content="a", usage=usage)), events(chunk("stop", content="a"), {"usage": usage})]
    async with router(upstream.url) as models:
        assert (await models.reply(prompt(), None)).tokens == tokens
        assert (await models.reply(prompt(), Deltas())).tokens == tokens


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),  # though there are none
        ("eos_token", "stop"),
    ],
)
async def test_chat_finishes_texts(upstream: Upstream, reason: str, finish: str) -> None:
    upstream.script = [whole(choice(reason, content="a")), events(chunk(content="a"), chunk(reason))]
    async with router(upstream.url) as models:
        assert await models.reply(prompt(), None) == Reply("a", finish=finish)
        assert await models.reply(prompt(), Deltas()) == Reply("a", finish=finish)


ENDINGS = {
    "error": "canceled cancelled FAILED failed server_error internal_error system_error rate_limit RATE_LIMITED"
    " preempted deadline_exceeded DeadlineExceeded EngineDeadError finish_reason_error TIMEOUT FinishReason.TIMED_OUT",
    "content_filter": "content_policy_violation SafetyViolation FINISHREASON_SAFETY FINISH_REASON_SAFETY"
    " FinishReasonSafety moderation content_moderated guardrail_violation",
    "length": "max_new_tokens MAX_TOKENS_REACHED exceeded_context_window context_length_exceeded token_limit_reached",
    "stop": "FINISHREASON_STOP StopReason.END_TURN done tired eos_token_reached stop_id_encountered",
}


@pytest.mark.parametrize(("reason", "finish"), [(word, end) for end in ENDINGS for word in ENDINGS[end].split()])
def test_finish_reasons_of_servers_that_are_not_known(reason: str, finish: str) -> None:
    """`exceeded_context_window` is Apple's (github.com/apple/python-apple-fm-sdk), the others were not found in public
    answers: a server may send them, as it may any other."""
    assert finish_of(reason, "acme", empty=False) == finish
    assert incomplete_of(reason) == ("error" if finish == "stop" else finish)


@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
async def test_text_before_a_failure_completes_no_run(upstream: Upstream, deltas: Deltas | None) -> None:
    ends = choice("server_error", content="a"), chunk("server_error", content="a")
    upstream.script = [events(ends[1]) if deltas else whole(ends[0])]
    assert "ended its reply with 'server_error'" in (await fail(upstream, deltas)).message


async def test_an_unknown_finish_reason_is_told_in_the_log(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.script = [whole(choice("tired", content="a"))]
    assert await ask(upstream, prompt()) == Reply("a")
    assert "unknown reason 'tired'" in caplog.text


async def test_chat_reads_a_whole_reply_without_finish_reason(upstream: Upstream) -> None:
    upstream.script = [whole(choice(None, content="a"))]
    assert await ask(upstream, prompt()) == Reply("a")


async def test_chat_reads_text_in_parts(upstream: Upstream) -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    upstream.script = [whole(choice(content=parts))]
    assert (await ask(upstream, prompt())).text == "ab"


async def test_chat_reads_refusals(upstream: Upstream) -> None:
    upstream.script = [
        whole(choice(content=None, refusal="I cannot.")),
        events(chunk(refusal="I "), chunk(refusal="cannot."), chunk("stop")),
    ]
    heard = Deltas()
    async with router(upstream.url) as models:
        assert await models.reply(prompt(), None) == Reply(refusal="I cannot.")
        assert await models.reply(prompt(), heard) == Reply(refusal="I cannot.")
    assert heard.refusals == ["I ", "cannot."]


@pytest.mark.parametrize("reason", ["tool_calls", "stop", "function_call", None])
async def test_chat_reads_calls(upstream: Upstream, reason: str | None) -> None:
    calls = [function("a", '{"x":1}', "call_1"), function("b", "", "call_2")]
    upstream.script = [whole(choice(reason, content="Wait.", tool_calls=calls))]
    reply = await ask(upstream, prompt(tools=(WEATHER,)))
    assert reply == Reply(
        "Wait.", "", (ToolCall("call_1", "a", '{"x":1}'), ToolCall("call_2", "b", "{}")), "tool_calls"
    )


async def test_chat_leaves_a_call_that_was_cut_as_it_is(upstream: Upstream) -> None:
    upstream.script = [whole(choice("length", content=None, tool_calls=[function("a", '{"x":')]))]
    assert await ask(upstream, prompt()) == Reply(calls=(ToolCall("call_1", "a", '{"x":'),), finish="length")


@pytest.mark.parametrize("call_id", ["", None])
async def test_chat_gives_calls_an_id_where_the_server_does_not(upstream: Upstream, call_id: str | None) -> None:
    calls = [function("a", "{}", call_id), function("b", "{}", call_id)]
    upstream.script = [
        whole(choice(content=None, tool_calls=calls)),
        events(chunk("stop", tool_calls=calls)),
        whole(choice("function_call", content=None, function_call={"name": "a", "arguments": {"x": 1}})),
    ]
    async with router(upstream.url) as models:
        replies = [await models.reply(prompt(), deltas) for deltas in (None, Deltas(), None)]
    assert [[call.name for call in reply.calls] for reply in replies] == [["a", "b"], ["a", "b"], ["a"]]
    ids = [call.id for reply in replies for call in reply.calls]
    assert len(set(ids)) == 5
    assert all(re.fullmatch("[A-Za-z0-9]{9}", made) for made in ids)
    assert replies[2].calls[0].arguments == '{"x": 1}'


async def test_chat_streams_text(upstream: Upstream) -> None:
    upstream.script = [
        events(
            {"choices": [], "prompt_filter_results": []},  # Azure begins with this
            chunk(role="assistant", content=""),
            chunk(content="Hel"),
            chunk(content="lo"),
            chunk("stop"),
            {"choices": [], "usage": USAGE},
        )
    ]
    heard = Deltas()
    assert await ask(upstream, prompt(), heard) == Reply("Hello", tokens=Tokens(11, 7, 5, 3))
    assert heard.texts == ["Hel", "lo"]
    assert upstream.body["stream"] is True
    assert upstream.body["stream_options"] == {"include_usage": True}


NO_STREAMS = "Unsupported value: 'stream' does not support true with this model."
NO_TOOLS_IN_STREAMS = "This model doesn't support tool use in streaming mode."


@pytest.mark.parametrize(
    ("refusal", "streamed"),
    [(NO_STREAMS, [True, False, False, False]), (NO_TOOLS_IN_STREAMS, [True, False, False, True])],
)
async def test_a_model_that_refuses_to_stream_is_asked_so_once(
    upstream: Upstream, refusal: str, streamed: list[bool]
) -> None:
    upstream.script = [
        whole({"error": {"message": refusal}}, 400),
        *(whole(choice(content="Hello", usage=USAGE)) for _ in range(3)),
    ]
    async with router(upstream.url) as models:
        for asked in (prompt(tools=(WEATHER,)), prompt(tools=(WEATHER,)), prompt()):
            assert (await models.reply(asked, Deltas())).text == "Hello"
    assert [body.get("stream", False) for _, body, _ in upstream.requests] == streamed
    assert [body for _, body, _ in upstream.requests if "stream_options" in body and "stream" not in body] == []


FRAGMENTS = {
    "as OpenAI does": [
        [fragment(0, "call_1", "a", "")],
        [fragment(0, None, None, '{"x"')],
        [fragment(0, None, None, ":1}")],
        [fragment(1, "call_2", "b", "")],
        [fragment(1, None, None, "{}")],
    ],
    "whole calls in one chunk": [[fragment(0, "call_1", "a", '{"x":1}'), fragment(1, "call_2", "b", "{}")]],
    "whole calls, all of index 0": [[fragment(0, "call_1", "a", '{"x":1}')], [fragment(0, "call_2", "b", "{}")]],
    "no index": [
        [fragment(None, "call_1", "a", '{"x"')],
        [fragment(None, None, None, ":1}")],
        [fragment(None, "call_2", "b", "{}")],
    ],
    "name and id in each fragment": [
        [fragment(0, "call_1", "a", '{"x"')],
        [fragment(0, "call_1", "a", ":1}")],
        [fragment(1, "call_2", "b", None)],
    ],
    "interleaved": [
        [fragment(0, "call_1", "a", ""), fragment(1, "call_2", "b", "")],
        [fragment(1, None, None, "{")],
        [fragment(0, None, None, '{"x":1}'), fragment(1, None, None, "}")],
    ],
}


@pytest.mark.parametrize("fragments", FRAGMENTS.values(), ids=FRAGMENTS.keys())
async def test_chat_streams_calls(upstream: Upstream, fragments: list[Any]) -> None:
    upstream.script = [events(*(chunk(tool_calls=calls) for calls in fragments), chunk("tool_calls"))]
    heard = Deltas()
    reply = await ask(upstream, prompt(tools=(WEATHER,)), heard)
    assert reply == Reply(
        calls=(ToolCall("call_1", "a", '{"x":1}'), ToolCall("call_2", "b", "{}")), finish="tool_calls"
    )
    assert assembled(heard) == list(reply.calls)


# --- Responses ----------------------------------------------------------------------------------------------------


async def test_responses_sends_only_what_is_set(upstream: Upstream) -> None:
    upstream.script = [whole(response(said("Hello")))]
    assert await ask(upstream, prompt(), api="responses") == Reply("Hello")
    assert upstream.requests[0][:2] == (
        RESPONSES,
        {"model": "m", "input": [{"type": "message", "role": "user", "content": "Hi"}], "store": False},
    )


async def test_responses_sends_all_that_is_set(upstream: Upstream) -> None:
    upstream.script = [whole(response(function_call("now", "{}")))]
    await ask(
        upstream,
        prompt(
            instructions="Be brief.",
            tools=(WEATHER, Function("now")),
            tool_choice=ForcedFunction("now"),
            parallel_tool_calls=False,
            temperature=0.0,
            top_p=0.5,
            reasoning_effort="low",
            response_format=SCHEMA,
            max_completion_tokens=300,
        ),
        api="responses",
    )
    nothing = {"type": "object", "properties": {}}
    assert upstream.body == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": "Hi"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "tools": [
            WEATHER.fields | {"type": "function", "strict": False},
            {"type": "function", "name": "now", "parameters": nothing, "strict": False},
        ],
        "tool_choice": {"type": "function", "name": "now"},
        "parallel_tool_calls": False,
        "temperature": 0.0,
        "top_p": 0.5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}},
        "max_output_tokens": 300,
    }


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_function_is_forced_as_the_provider_is_known_to_want(upstream: Upstream, api: str) -> None:
    called = choice(content=None, tool_calls=[function("now", "{}")])
    upstream.script = [whole(called if api == "chat" else response(function_call("now", "{}")))]
    forced = ForcedFunction("now")
    await ask(upstream, prompt(tools=(WEATHER, Function("now")), tool_choice=forced), api=api, tool_choice="required")
    (body,) = (body for _, body, _ in upstream.requests)
    assert (body["tool_choice"], len(body["tools"])) == ("required", 1)


async def test_responses_sends_simple_choices_and_formats_as_they_are(upstream: Upstream) -> None:
    upstream.script = [whole(response(said("{}")))]
    asked = prompt(tools=(WEATHER,), tool_choice="required", response_format=JsonObjectFormat())
    await ask(upstream, asked, api="responses")
    assert upstream.body["tool_choice"] == "required"
    assert upstream.body["text"] == {"format": {"type": "json_object"}}


async def test_responses_sends_the_conversation(upstream: Upstream) -> None:
    upstream.script = [whole(response(said(".")))]
    await ask(upstream, prompt(*CONVERSATION), api="responses")

    def look(call_id: str, text: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": text}

    def output(call_id: str, text: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": call_id, "output": text}

    def image(url: str, detail: str) -> dict[str, Any]:
        return {"type": "input_image", "image_url": url, "detail": detail}

    assert upstream.body["input"] == [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "This"},
                image("https://x.test/a.png", "low"),
                {"type": "input_text", "text": "and"},
                image("data:image/png;base64,AA", "auto"),
                {"type": "input_text", "text": "differ how?"},
            ],
        },
        {"type": "message", "role": "assistant", "content": "Differ?"},
        {"type": "message", "role": "user", "content": [image("https://x.test/b.png", "high")]},
        {"type": "message", "role": "assistant", "content": "Let me look."},
        look("call_1", '{"at":1}'),
        look("call_2", "{}"),
        output("call_1", "a cat"),
        output("call_2", "a dog"),
        look("call_3", "{}"),
        output("call_3", "(no output)"),
        {"type": "message", "role": "assistant", "content": "A cat and a dog."},
    ]


def response_event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


@pytest.mark.parametrize(
    ("fields", "finish"),
    [
        ({}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
    ],
)
async def test_responses_finishes_texts(upstream: Upstream, fields: dict[str, Any], finish: str) -> None:
    usage = {
        "input_tokens": 11,
        "output_tokens": 7,
        "input_tokens_details": {"cached_tokens": 5},
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    reasoning = {"type": "reasoning", "summary": []}
    answer = response(reasoning, said("Hello"), usage=usage, **fields)
    heard = Deltas()
    upstream.script = [
        whole(answer),
        events(
            response_event("created", response=response(status="in_progress")),
            response_event("output_item.added", output_index=0, item=reasoning),
            response_event("output_item.added", output_index=1, item=said("")),
            response_event("output_text.delta", output_index=1, delta="Hel"),
            response_event("output_text.delta", output_index=1, delta="lo"),
            response_event("output_text.done", output_index=1, text="Hello"),
            response_event("output_item.done", output_index=1, item=said("Hello")),
            response_event(answer["status"], response=answer),
        ),
    ]
    async with router(upstream.url, "responses") as models:
        for deltas in (None, heard):
            assert await models.reply(prompt(), deltas) == Reply("Hello", finish=finish, tokens=Tokens(11, 7, 5, 3))
    assert heard.texts == ["Hel", "lo"]
    assert upstream.body["stream"] is True


async def test_responses_reads_refusals(upstream: Upstream) -> None:
    refused = response(message({"type": "refusal", "refusal": "I cannot."}))
    upstream.script = [
        whole(refused),
        events(
            response_event("refusal.delta", output_index=0, delta="I "),
            response_event("refusal.delta", output_index=0, delta="cannot."),
            response_event("completed", response=refused),
        ),
    ]
    heard = Deltas()
    async with router(upstream.url, "responses") as models:
        assert await models.reply(prompt(), None) == Reply(refusal="I cannot.")
        assert await models.reply(prompt(), heard) == Reply(refusal="I cannot.")
    assert heard.refusals == ["I ", "cannot."]


TWO_CALLS = (function_call("a", '{"x":1}'), function_call("b", "{}", "call_2"))
CALL_EVENTS = {
    "as OpenAI does": [
        response_event("output_item.added", output_index=0, item=function_call("a", "")),
        response_event("function_call_arguments.delta", output_index=0, delta='{"x"'),
        response_event("function_call_arguments.delta", output_index=0, delta=":1}"),
        response_event("function_call_arguments.done", output_index=0, arguments='{"x":1}'),
        response_event("output_item.done", output_index=0, item=TWO_CALLS[0]),
        response_event("output_item.added", output_index=1, item=function_call("b", "", "call_2")),
        response_event("function_call_arguments.delta", output_index=1, delta="{}"),
        response_event("output_item.done", output_index=1, item=TWO_CALLS[1]),
    ],
    "arguments only when done": [
        response_event("output_item.added", output_index=0, item=function_call("a", "")),
        response_event("function_call_arguments.done", output_index=0, arguments='{"x":1}'),
        response_event("output_item.added", output_index=1, item=function_call("b", "", "call_2")),
        response_event("output_item.done", output_index=1, item=TWO_CALLS[1]),
    ],
    "whole when added": [
        response_event("output_item.added", output_index=0, item=TWO_CALLS[0]),
        response_event("function_call_arguments.done", output_index=0, arguments='{"x":1}'),
        response_event("output_item.done", output_index=0, item=TWO_CALLS[0]),
        response_event("output_item.done", output_index=1, item=TWO_CALLS[1]),
    ],
    "all at the end": [],
}


@pytest.mark.parametrize("stream", CALL_EVENTS.values(), ids=CALL_EVENTS.keys())
async def test_responses_reads_calls(upstream: Upstream, stream: list[Any]) -> None:
    end = response(*TWO_CALLS)
    upstream.script = [whole(end), events(*stream, response_event("completed", response=end))]
    calls = (ToolCall("call_1", "a", '{"x":1}'), ToolCall("call_2", "b", "{}"))
    heard = Deltas()
    async with router(upstream.url, "responses") as models:
        assert await models.reply(prompt(), None) == Reply(calls=calls, finish="tool_calls")
        assert await models.reply(prompt(), heard) == Reply(calls=calls, finish="tool_calls")
    assert assembled(heard) == list(calls)


FAILED = {
    "server_error": "server_error",
    "rate_limit_exceeded": "rate_limit_exceeded",
    "invalid_prompt": "invalid_prompt",
    "image_content_policy_violation": "invalid_prompt",
}


@pytest.mark.parametrize(("code", "expected"), FAILED.items())
async def test_responses_that_fail(upstream: Upstream, code: str, expected: str) -> None:
    error = {"code": code, "message": "It did not work."}
    failed = response(status="failed") | {"error": error}
    upstream.script = [
        whole(failed),
        events(response_event("failed", response=failed)),
        events({"type": "error", **error}),
        events({"type": "error", "error": error}),
    ]
    for deltas in (None, Deltas(), Deltas(), Deltas()):
        error_raised = await fail(upstream, deltas, api="responses")
        assert (error_raised.code, error_raised.message) == (expected, "It did not work.")


async def test_a_cancelled_response_is_a_failure(upstream: Upstream) -> None:
    upstream.script = [whole(response(status="cancelled"))]
    error = await fail(upstream, api="responses")
    assert (error.code, error.message) == ("server_error", "The model provider 'acme' failed.")


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "rate_limit_exceeded", "rate_limit_exceeded"),
        (429, "insufficient_quota", "rate_limit_exceeded"),
        (429, None, "rate_limit_exceeded"),
        (400, "content_filter", "invalid_prompt"),
        (400, "invalid_prompt", "invalid_prompt"),
        (400, "content_policy_violation", "invalid_prompt"),
        (400, "context_length_exceeded", "invalid_prompt"),
        (401, "invalid_api_key", "server_error"),
        (403, "content_filter", "server_error"),
        (404, "model_not_found", "server_error"),
        (500, None, "server_error"),
        (503, None, "server_error"),
    ],
)
async def test_error_responses(
    upstream: Upstream, status: int, code: str | None, expected: str, api: str, deltas: Deltas | None
) -> None:
    upstream.script = [whole({"error": {"message": "No.", "type": "x", "param": None, "code": code}}, status)]
    error = await fail(upstream, deltas, api=api)
    assert (error.code, error.message) == (expected, "No.")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<html>Bad gateway</html>", "The model provider 'acme' failed with status 502."),
        ("", "The model provider 'acme' failed with status 502."),
        ({"error": {"message": None}}, "The model provider 'acme' failed with status 502."),
        ({"error": "overloaded"}, "overloaded"),
        ({"error": {"message": "two\n  lines"}}, "two lines"),
        ({"error": {"message": "x" * 1000}}, "x" * 299 + "…"),
    ],
)
async def test_error_messages_are_short(upstream: Upstream, body: Any, text: str) -> None:
    upstream.script = [whole(body, 502)]
    assert (await fail(upstream)).message == text


async def test_error_messages_hold_no_key(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "Bad key my-own-key or sk-proj-abc_1*23, see x."}}, 401)]
    error = await fail(upstream, api_key=SecretStr("my-own-key"))
    assert error.message == "Bad key *** or sk-***, see x."
    assert error.__cause__ is None  # nor does a traceback in a log


def nested(text: str, levels: int) -> str:
    return text if not levels else json.dumps({"error": {"message": nested(text, levels - 1)}})


WHY = "The quota is spent."
FORMS: list[Any] = [
    {"fault": {"faultstring": WHY, "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
    {"type": "about:blank", "title": WHY, "status": 400},
    {"error": {"reason": WHY}},
    {"error": {"description": WHY}},
    {"error": "invalid_client", "error_description": WHY},
    {"reason": WHY},
    {"details": WHY},
    {"details": [{"reason": WHY}]},
    {"status": {"message": WHY}},
    {"response": {"error": {"message": WHY}}},
    {"data": {"error": {"message": WHY}}},
    {"exception": WHY},
    {"err": WHY},
    {"Error": {"Message": WHY}},
    nested(WHY, 1),
    nested(WHY, 3),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_the_providers_reason_is_found(upstream: Upstream, form: Any) -> None:
    """With a status of its own, with 200, and in a stream that has begun."""
    begun = chunk(content="a")
    upstream.script = [whole(form, 400), whole(form), whole(form), events(form), events(begun, form)]
    for deltas in (None, None, Deltas(), Deltas(), Deltas()):
        assert (await fail(upstream, deltas)).message == WHY


@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
async def test_a_code_is_the_reason_where_there_is_no_other(upstream: Upstream, deltas: Deltas | None) -> None:
    error = {"error": {"code": "NoCredit", "type": "billing", "param": None}}
    upstream.script = [whole(error, 402), events(error) if deltas else whole(error)]
    assert (
        await fail(upstream, deltas)
    ).message == "The model provider 'acme' failed with status 402: NoCredit billing"
    assert (await fail(upstream, deltas)).message == "The model provider 'acme' failed: NoCredit billing"


def test_json_in_strings_is_unwrapped_to_a_bounded_depth() -> None:
    deep = nested(WHY, 10)
    assert WHY in failures.words(deep) and failures.words(deep).startswith("{")
    assert failures.words("[" * 100_000) == "[" * 100_000
    assert failures.words({"error": {"message": "{broken"}}) == "{broken"


def test_what_stands_beside_an_answer_is_no_error() -> None:
    for answer in ({"choices": [{}], "message": "ok"}, {"data": [{}], "status": {"message": "ok"}}, {"choices": []}):
        assert not failures.is_error(answer)


@pytest.mark.parametrize(
    "answer",
    [
        whole("The quota\nis spent."),
        whole("The quota is spent.", content_type="text/plain"),
        events(then="data: The quota is spent.\n\n"),
        events(chunk(content="a"), then="data: The quota is spent.\n\ndata: [DONE]\n\n"),
        events(then="The quota is spent.\n"),
    ],
    ids=["whole", "text/plain", "data", "data after text", "a stream without fields"],
)
@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
async def test_plain_text_in_place_of_an_answer(upstream: Upstream, answer: Answer, deltas: Deltas | None) -> None:
    upstream.script = [answer]
    error = await fail(upstream, deltas)
    assert error.message.startswith("The model provider 'acme' sent a reply that cannot be read: ")
    assert WHY in error.message and WHY not in error.reason


@pytest.mark.parametrize(
    ("key", "sent", "told"),
    [
        ("k", "API key not valid", "API key not valid"),
        ("x", "max exceeded: 'x' is no key", "max exceeded: '***' is no key"),
        ("none", "nonetheless", "nonetheless"),
        ("ollama", "ollama_chat cannot be called", "ollama_chat cannot be called"),
        ("hunter2", "Bad key: hunter2.", "Bad key: ***."),
        ("my-own-key", "Bad key:my-own-key/v1", "Bad key:***/v1"),
        ("my-own-key", "Bad xmy-own-keyx", "Bad x***x"),
    ],
)
async def test_a_short_key_is_no_part_of_words(upstream: Upstream, key: str, sent: str, told: str) -> None:
    upstream.script = [whole({"error": {"message": sent}}, 400)]
    assert (await fail(upstream, api_key=SecretStr(key))).message == told


async def test_control_characters_are_not_passed_on(upstream: Upstream) -> None:
    upstream.script = [whole("\x1b[31mNo\x00.\x1b[0m\tmy-\x00own-key \u202egnol", 400), whole(choice("err\x1b[2J\n2"))]
    error = await fail(upstream, api_key=SecretStr("my-own-key"))
    assert error.message == "No. *** gnol"
    assert (await fail(upstream)).reason == "err 2"  # which is logged


@pytest.mark.parametrize("finish", [None, ""])
async def test_a_stream_that_ends_with_done_is_complete(
    upstream: Upstream, finish: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    called = [fragment(0, "call_1", "get_weather", "{}")]
    upstream.script = [events(chunk(finish, content="a")), events(chunk(finish, tool_calls=called)), events(chunk())]
    async with router(upstream.url) as models:
        assert await models.reply(prompt(), Deltas()) == Reply("a")
        assert "with [DONE], but without a reason" in caplog.text
        assert (await models.reply(prompt(tools=(WEATHER,)), Deltas())).finish == "tool_calls"
        with pytest.raises(ModelError, match="broke off"):
            await models.reply(prompt(), Deltas())


async def test_an_error_with_status_200(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "Slow down.", "code": 429}})]
    error = await fail(upstream)
    assert (error.code, error.message) == ("rate_limit_exceeded", "Slow down.")


@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
async def test_retries_are_the_sdks(upstream: Upstream, deltas: Deltas | None) -> None:
    good = whole(choice(content="a")) if deltas is None else events(chunk("stop", content="a"))
    upstream.script = [whole({}, 500), whole({}, 429), good]
    assert (await ask(upstream, prompt(), deltas, retries=2)).text == "a"
    assert [headers["x-stainless-retry-count"] for _, _, headers in upstream.requests] == ["0", "1", "2"]


async def test_retries_end(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "Overloaded."}}, 503)]
    assert (await fail(upstream, retries=2)).message == "Overloaded."
    assert len(upstream.requests) == 3


async def test_a_clients_error_is_not_retried(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "No."}}, 400)]
    await fail(upstream, retries=2)
    assert len(upstream.requests) == 1


UNREADABLE = "The model provider 'acme' sent a reply that cannot be read."


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(
    "body",
    ["{not json", "<html>", "[]", "{}", {"choices": [], "output": [{}]}, {"choices": [{"message": 1}], "output": [1]}],
    ids=str,
)
async def test_replies_that_cannot_be_read(upstream: Upstream, body: Any, api: str) -> None:
    upstream.script = [whole(body)]
    error = await fail(upstream, api=api)
    assert (error.code, error.message) == ("server_error", UNREADABLE)


@pytest.mark.parametrize(
    "stream",
    [
        events(then="data: {not json\n\n"),
        events(chunk(tool_calls=[fragment(0, "call_1", None, "{}")]), chunk("tool_calls")),
        events([1]),
    ],
    ids=["no JSON", "a call without a name", "no object"],
)
async def test_streams_that_cannot_be_read(upstream: Upstream, stream: Answer) -> None:
    upstream.script = [stream]
    assert (await fail(upstream, Deltas())).message == UNREADABLE


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("end", [broken, lambda *data: events(*data, then="")], ids=["cut", "nothing"])
async def test_a_stream_that_breaks_off(upstream: Upstream, end: Callable[..., Answer], api: str) -> None:
    begun = chunk(content="Hel") if api == "chat" else response_event("output_text.delta", output_index=0, delta="Hel")
    upstream.script = [end(begun)]
    heard = Deltas()
    error = await fail(upstream, heard, api=api, retries=2)
    assert (error.code, error.message) == ("server_error", "The model provider 'acme' broke off its reply.")
    assert heard.texts == ["Hel"]
    assert len(upstream.requests) == 1  # a reply that was begun is not asked for again


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_stream_that_breaks_off_before_anything_was_heard(
    upstream: Upstream, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "_FIRST_PAUSE", 0.0)
    upstream.script = [broken()]
    error = await fail(upstream, Deltas(), api=api, retries=2)
    assert (error.message, len(upstream.requests)) == ("The model provider 'acme' broke off its reply.", 3)


@pytest.mark.parametrize(
    "silent",
    [
        {"choices": []},
        chunk(),
        chunk(content=""),
        chunk(reasoning_content="Hm."),
        chunk(content=[{"type": "thinking"}]),
        chunk(tool_calls=[fragment(0, "call_1", None, "")]),
    ],
    ids=str,
)
async def test_events_that_bring_nothing_are_counted(
    upstream: Upstream, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_builder, "MOST_SILENT_EVENTS", 20)
    upstream.script = [events(*[silent, chunk(content="a")] * 19, chunk("stop")), events(*[silent] * 30, chunk("stop"))]
    async with router(upstream.url) as models:
        assert (await models.reply(prompt(), Deltas())).text == "a" * 19
        with pytest.raises(ModelError, match="thoughts or empty events without coming to an answer"):
            await models.reply(prompt(), Deltas())


async def test_thoughts_are_weighed(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_builder, "MOST_SILENT", 10_000)
    thoughts = [chunk(reasoning_content="x" * 850)] * 10
    upstream.script = [events(*thoughts, chunk(content="a"), chunk("stop")), events(*thoughts, *thoughts)]
    async with router(upstream.url) as models:
        assert (await models.reply(prompt(), Deltas())).text == "a"
        with pytest.raises(ModelError, match="thoughts or empty events without coming to an answer"):
            await models.reply(prompt(), Deltas())


async def test_an_error_inside_a_stream(upstream: Upstream) -> None:
    upstream.script = [events(chunk(content="a"), {"error": {"message": "Too fast.", "code": "rate_limit_exceeded"}})]
    error = await fail(upstream, Deltas())
    assert (error.code, error.message) == ("rate_limit_exceeded", "Too fast.")


async def test_plain_text_is_an_error_if_its_event_is_called_so(upstream: Upstream) -> None:
    upstream.script = [events(chunk(content="a"), then="event: error\ndata: Internal failure\n\n")]
    assert (await fail(upstream, Deltas())).message == "Internal failure"


async def test_a_provider_that_hangs_up(upstream: Upstream) -> None:
    upstream.script = [hang_up]
    error = await fail(upstream)
    assert (error.code, error.message) == ("server_error", "The model provider 'acme' could not be reached.")


@pytest.mark.parametrize("deltas", [None, Deltas()], ids=["whole", "streamed"])
async def test_a_provider_that_is_not_there(deltas: Deltas | None) -> None:
    async with router(f"http://127.0.0.1:{unused_port()}/v1") as models:
        with pytest.raises(ModelError, match=r"The model provider 'acme' could not be reached\.") as caught:
            await models.reply(prompt(), deltas)
    assert caught.value.code == "server_error"


async def test_a_provider_that_does_not_answer(upstream: Upstream) -> None:
    never = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    upstream.script = [wait]
    error = await fail(upstream, timeout=0.5)
    never.set()
    assert (error.code, error.message) == ("server_error", "The model provider 'acme' did not respond in time.")


async def test_a_token_that_cannot_be_had(upstream: Upstream) -> None:
    async def token() -> str:
        raise RuntimeError("no identity here")

    upstream.script = [whole(choice(content="a"))]
    error = await fail(upstream, api_key=token)
    assert (error.code, error.message) == ("server_error", "The model provider 'acme' could not be called.")


async def test_a_cancelled_stream_hangs_up(upstream: Upstream) -> None:
    hung_up = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(f"data: {json.dumps(chunk(content='a'))}\n\n".encode())
        try:
            await asyncio.Event().wait()
        finally:  # the server cancels its handler when the client hangs up
            hung_up.set()
        return answer

    upstream.script = [endless]
    listening = asyncio.Event()
    async with router(upstream.url) as models:
        asking = asyncio.create_task(models.reply(prompt(), Deltas(listening.set)))
        await listening.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(hung_up.wait(), 30)


# --- the router ---------------------------------------------------------------------------------------------------

LIST = whole({"object": "list", "data": [{"id": "gpt", "created": 5, "owned_by": "them"}, {"id": "org/llama"}]})


async def test_a_name_finds_its_provider() -> None:
    async with serving() as first, serving() as second:
        first.script = second.script = [whole(choice(content="a"))]
        providers = {"first": Provider(base_url=first.url), "second": Provider(base_url=second.url)}
        async with closing(ModelRouter(providers, "first")) as models:
            for model in ("gpt", "second/gpt", "second/org/gpt", "first/gpt", "unknown/gpt", "second"):
                await models.reply(prompt(model=model), None)
        assert [body["model"] for _, body, _ in first.requests] == ["gpt", "gpt", "unknown/gpt", "second"]
        assert [body["model"] for _, body, _ in second.requests] == ["gpt", "org/gpt"]


@pytest.mark.parametrize(
    ("listed", "refused"),
    [
        (LIST, {"olama/x", "openai/gpt"}),  # it has org/llama, so org/... is its own
        (whole({"data": [{"id": "gpt"}]}), {"olama/x", "openai/gpt", "org/other", "org/llama:free"}),
        (whole({"data": []}), set()),  # a server that lists nothing may have anything
        (whole({}, 404), set()),
    ],
)
async def test_a_name_of_no_provider_is_refused(upstream: Upstream, listed: Answer, refused: set[str]) -> None:
    upstream.script = [listed]
    names = {"gpt", "gpt-of-nobody", "ollama/x", "main/olama/x", "olama/x", "openai/gpt", "org/other", "org/llama:free"}
    providers = {name: Provider(base_url=upstream.url) for name in ("main", "ollama")}
    async with closing(ModelRouter(providers, "main")) as models:
        found = {name: await refusal(models, name) for name in sorted(names)}
        assert {name for name, words in found.items() if words} == refused
        if refused:
            assert found["olama/x"] == (
                "The requested model 'olama/x' does not exist: there is no provider 'olama'. The providers are: main,"
                " ollama. If provider 'main' has a model named 'olama/x', write 'main/olama/x'."
            )
        assert len(upstream.requests) == 1  # remembered


async def refusal(models: ModelRouter, name: str) -> str:
    try:
        await models.check(name)
    except NoSuchModel as error:
        return str(error)
    return ""


async def test_the_name_of_a_provider_alone_names_no_model() -> None:
    models = ModelRouter({"main": Provider(base_url="http://127.0.0.1:9")}, "main", window=5_000)
    told = "The requested model 'main/' does not exist: no model name follows the provider 'main'."
    assert await refusal(models, "main/") == told
    with pytest.raises(ModelError, match="no model name follows"):
        await models.reply(prompt(model="main/"), None)
    assert models.window("main/") == 5_000


async def test_without_a_default_provider_names_need_one() -> None:
    models = ModelRouter({"ollama": Provider(base_url="http://127.0.0.1:9")}, None, window=5_000)
    assert await refusal(models, "ollama/x") == ""
    words = "The requested model 'gpt' does not exist: it names no provider, and none is the default."
    assert await refusal(models, "gpt") == f"{words} The providers are: ollama."
    with pytest.raises(ModelError, match="it names no provider"):
        await models.reply(prompt(model="gpt"), None)
    assert (models.window("gpt"), models.window("ollama/gpt-4")) == (5_000, 8_192)
    await models.warm()
    assert (await refusal(ModelRouter({}, None), "m" * 1_000)).endswith("none is the default. There are no providers.")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "the offline model answers"),
        ({"providers": {"ollama": {"base_url": "http://127.0.0.1:9"}}}, "the offline model answers"),
        ({"offline_model": "off"}, "are refused"),
        ({"default_provider": "offline"}, None),
        ({"openai_api_key": "sk-x"}, None),
        ({"openai_api_key": "sk-x", "offline_model": "off"}, None),
    ],
)
def test_the_start_says_if_no_server_answers(
    settings: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "assistants")
    given = read_settings(settings)
    log_model_notices(cast(Parts, SimpleNamespace(settings=given, models=models_of(given))))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (told is not None)
    assert not lines or (told or "") in lines[0]


async def test_models_of_all_providers_are_listed_and_remembered(upstream: Upstream) -> None:
    upstream.script = [LIST]
    time = [0.0]
    providers = {
        "main": Provider(base_url=upstream.url),
        "local": Provider(api="responses", base_url=upstream.url),
        "fixed": Provider(base_url="http://127.0.0.1:9", models=("one", "two")),
        "gone": Provider(base_url=f"http://127.0.0.1:{unused_port()}"),
        "offline": Provider(api="offline"),
    }
    async with closing(ModelRouter(providers, "main", now=lambda: time[0])) as models:
        expected = [
            ModelInfo("gpt", 5, "them", "main/gpt"),
            ModelInfo("org/llama", 0, "main", "main/org/llama"),
            ModelInfo("local/gpt", 5, "them", "local/gpt"),
            ModelInfo("local/org/llama", 0, "local", "local/org/llama"),
            ModelInfo("fixed/one", 0, "fixed", "fixed/one"),
            ModelInfo("fixed/two", 0, "fixed", "fixed/two"),
            ModelInfo("offline/offline", 0, "offline", "offline/offline"),
        ]
        assert list(await asyncio.gather(models.list(), models.list())) == [expected, expected]
        time[0] = 59.0
        await models.list()
        assert [path for path, _, _ in upstream.requests] == ["/v1/models"] * 2
        time[0] = 60.0
        await models.list()
        assert len(upstream.requests) == 4


@pytest.mark.parametrize("answer", [whole({}, 500), whole("?"), whole({"data": [{"no": "id"}]})])
async def test_a_provider_that_cannot_list_is_left_out(upstream: Upstream, answer: Answer) -> None:
    upstream.script = [answer]
    providers = {"offline": Provider(api="offline"), "main": Provider(base_url=upstream.url)}
    async with closing(ModelRouter(providers, "offline")) as models:
        assert await models.list() == [ModelInfo("offline", 0, "offline", "offline/offline")]
        assert len(upstream.requests) == 1  # not retried


async def test_a_provider_that_does_not_list_in_time_is_left_out(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    never = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    monkeypatch.setattr("assistants_service.infra.models.openai_kind.LIST_TIMEOUT", 0.2)
    upstream.script = [wait]
    async with router(upstream.url) as models:
        assert await models.list() == []
    assert "The model provider 'acme' did not respond in time." in caplog.text
    never.set()


async def test_a_local_server_gets_no_foreign_key(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    upstream.script = [whole(choice(content="a"))]
    await ask(upstream, prompt())
    assert upstream.requests[0][2]["Authorization"] == "Bearer not-needed"


async def test_a_key_may_be_a_token_of_an_identity(upstream: Upstream) -> None:
    tokens = iter(["token-1", "token-2"])

    async def token() -> str:
        return next(tokens)

    upstream.script = [whole(choice(content="a"))]
    async with router(upstream.url, api_key=token) as models:
        await asyncio.gather(models.reply(prompt(), None), models.reply(prompt(), None))
    assert sorted(headers["Authorization"] for *_, headers in upstream.requests) == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize(
    ("providers", "known"), [({}, "none is configured"), ({"b": Provider(), "a": Provider()}, "a, b")]
)
def test_the_default_provider_has_to_exist(providers: dict[str, Provider], known: str) -> None:
    with pytest.raises(ValueError, match=f"The default model provider 'x' does not exist: .*: {known}."):
        ModelRouter(providers, "x")


async def test_warming_opens_the_default_provider_once(upstream: Upstream) -> None:
    upstream.script = [whole(choice(content="a"))]
    async with router(upstream.url) as models:
        await asyncio.gather(models.warm(), models.warm())
        assert (await models.reply(prompt(), None)).text == "a"


async def test_a_provider_that_cannot_be_warmed_is_told_and_tried_again(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault")

    upstream.script = [whole(choice(content="a"))]
    async with router(upstream.url) as models:
        with monkeypatch.context() as patch:
            patch.setattr(kinds.Chat, "open", broken)
            await models.warm()
        assert "cannot open the provider" in caplog.text
        assert (await models.reply(prompt(), None)).text == "a"


def test_the_sdk_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, asyncio\nfrom assistants_service.infra.models.provider_kind import *\n"
        "from assistants_service.infra.models.providers import *\n"
        "from assistants_service.core.ports.models import *\n"
        "router = ModelRouter({'offline': Provider(api='offline'), 'openai': Provider()}, 'offline')\n"
        "asyncio.run(router.reply(Prompt('offline', None, (Turn('user', 'Hi'),)), None))\n"
        "sys.exit('openai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
