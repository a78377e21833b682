"""How much of a thread a model is sent: the window of its model, tokens, and what happens if a provider says that it is
too much. No thread is broken for good by its length.

What providers say is quoted from public reports of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from assistants_service.core.ports.models import ContextExceeded, Deltas, Prompt, Reply, Tokens, ToolCall
from assistants_service.infra import tokenizer
from assistants_service.infra.models.context_windows import known_window
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.tokenizer import Tiktoken
from assistants_service.worker.budget import TRIES
from inprocess_service import Act, InProcess, calls, fails, in_process, says
from scripted_upstreams import choice, fail, router, serving, whole

# --- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192),
        ("gpt-4-1106-preview", 128_000),
        ("gpt-4-turbo-2024-04-09", 128_000),
        ("gpt-4o-2024-08-06", 128_000),
        ("gpt-4.1-mini-2025-04-14", 1_047_576),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", 128_000),
        ("openai/gpt-4o:free", 128_000),
        ("claude-sonnet-4-20250514", 200_000),
        ("chatgpt-4o-latest", 128_000),
        ("gpt-41", None),  # a deployment
        ("gpt-4-prod", None),
        ("gpt-4o-audio-2024", None),
        ("o1x", None),
        ("", None),
    ],
)
def test_a_window_is_known_by_the_whole_name(model: str, window: int | None) -> None:
    assert known_window(model) == window


def test_what_is_configured_overrules_what_is_known() -> None:
    acme = Provider(window=32_000, windows={"gpt-4o": 16_000})
    models = ModelRouter({"acme": acme, "other": Provider()}, "other", window=64_000)
    asked = ("acme/gpt-4o", "acme/gpt-4", "acme/x", "gpt-4", "other/gpt-4o", "gpt-41")
    assert [models.window(model) for model in asked] == [16_000, 32_000, 32_000, 8_192, 128_000, 64_000]


async def test_a_deployment_of_another_name_gets_the_whole_thread() -> None:
    async with in_process() as service:
        await service.finished(await service.thread(*(f"{n} " + "word " * 1_000 for n in range(40))), model="gpt-41")
        assert len(service.prompts[0].turns) == 40


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_text_is_counted_once_and_never_in_one_long_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    class Encoding:
        def encode_ordinary(self, text: str) -> list[int]:
            lengths.append(len(text))
            return [0] * (len(text) // 8)

    monkeypatch.setattr("assistants_service.infra.extraction.tokens.encoding", Encoding)
    counter, text = Tiktoken(), "a" * 1_000_000
    assert counter.count(text) == counter.count(text) == 125_000
    assert sum(lengths) == len(text)
    assert max(lengths) <= 16_384


def test_what_is_remembered_of_counts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_REMEMBERED", 10)
    counter = Tiktoken()
    assert [counter.count("word " * n) for n in range(1, 50)] == list(range(2, 51))
    assert len(counter._counts) == 10


async def test_tokens_are_counted_as_a_tokenizer_does() -> None:
    """2,000 of these have 6,000 bytes and 3,000 tokens; of gpt-4's 8,192 a prompt may have 6,144."""
    async with in_process() as service:
        await service.finished(await service.thread(*("汉字" * 1_000,) * 3), model="gpt-4")
        assert len(service.prompts[0].turns) == 2
        await service.finished(await service.thread(*("internationalization " * 1_000,) * 3), model="gpt-4")
        assert len(service.prompts[1].turns) == 3


async def test_a_prompt_that_fits_anyway_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_count", None)
    async with in_process() as service:
        run = await service.finished(await service.thread("word " * 1_000))
        assert run["status"] == "completed"


@pytest.mark.parametrize(("reported", "sent"), [(2.0, 2), (1.0, 4), (0.5, 5), (0.01, 4), (0.0, 4), (9.0, 4)])
async def test_what_the_provider_counted_corrects_the_count(reported: float, sent: int) -> None:
    """Of gpt-4's 8,192 tokens a prompt may have 6,144, in which four of these messages fit, as they are counted here.
    Some servers report nonsense."""
    async with in_process(says("Hm.", tokens=Tokens(int(5_640 * reported), 5)), says("Hm.")) as service:
        for _ in range(2):
            await service.finished(await service.thread(*("word " * 1_400,) * 5), model="gpt-4")
        assert [len(prompt.turns) for prompt in service.prompts] == [4, sent]


async def test_the_answer_keeps_the_room_that_the_run_asks_for() -> None:
    async with in_process() as service:
        for most in (None, 4_000, 8_000):
            thread = await service.thread(*("word " * 1_400,) * 5)
            await service.finished(thread, model="gpt-4", max_completion_tokens=most)
        assert [len(prompt.turns) for prompt in service.prompts] == [4, 2, 2]


async def test_a_cut_is_logged_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "assistants_service.worker.budget")
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    script = [calls(ToolCall(f"call_{n}", "get_weather", "{}")) for n in range(3)]
    async with in_process(*script, says("Done.")) as service:
        assistant = await service.assistant(model="gpt-4", tools=[weather])
        run = await service.finished(await service.thread("secret " * 8_000, "new"), assistant)
        for n in range(3):
            run = await service.answered(run, **{f"call_{n}": "sun"})
        assert [prompt.turns[0].text for prompt in service.prompts] == ["new"] * 4
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"run {run['id']}: older messages or rounds of tools are left out")
    assert "secret" not in line


async def test_what_is_left_begins_with_a_question() -> None:
    """Templates that insist on alternation also refuse a conversation that begins with an answer."""
    async with in_process() as service:
        messages = [{"role": role, "content": "word " * 2_500} for role in ("user", "assistant", "user")]
        run = await service.finished(await service.thread(messages=messages), model="gpt-4")
        assert [turn.role for turn in service.prompts[0].turns] == ["user"]
    assert run["status"] == "completed"


# --- a provider that says that it is too much -----------------------------------------------------------------------

SAID = [
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", 8_192),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None),
    ("request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it", 8_192),
    (
        "This model's maximum context length is 16384 tokens. However, you requested 8192 output tokens and your prompt"
        " contains at least 8193 input tokens, for a total of at least 16385 tokens.",
        16_384,
    ),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 4_096),
    ("The input (9000 tokens) is longer than the model's context length (8192 tokens).", 8_192),
    ("Input length (265330) exceeds model's maximum context length (262144).", 262_144),
    ("the input length exceeds the context length", None),
    ("prompt is too long: 210000 tokens > 200000 maximum", 200_000),
    ("input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length", 200_000),
    ("Input is too long for requested model.", None),
    ("The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", 1_048_575),
    ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131_072),
    ("Please reduce the length of the messages or completion.", None),
    (
        "Prompt contains 235396 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
        131_072,
    ),
    ("Invalid request: Your request exceeded model token limit: 131072", 131_072),
    ("invalid params, context window exceeds limit", None),
    ("This model's maximum context length is 262,144 tokens.", 262_144),
    ("Context size has been exceeded.", None),
    ("max_tokens must be at least 1, got -3030.", None),
    ("Requested tokens (4030) exceed context window of 1000", 1_000),
    (
        "Trying to keep the first 4730 tokens when context the overflows. However, the model is loaded with context"
        " length of only 4096 tokens, which is not enough.",
        4_096,
    ),
    ("Range of input length should be [1, 129024]", 129_024),
    ("`inputs` must have less than 4096 tokens. Given: 5000", 4_096),
    ("litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - too much", None),
    ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens", None),
    ("This endpoint's maximum context length is 163840 tokens. However, you requested about 200000 tokens", 163_840),
]


@pytest.mark.parametrize(("text", "window"), SAID)
async def test_a_provider_that_says_that_it_is_too_much_is_understood(text: str, window: int | None) -> None:
    async with serving() as upstream:
        upstream.script = [whole({"error": {"message": text}}, 400)]
        error = await fail(upstream)
    assert isinstance(error, ContextExceeded)
    assert (error.code, error.message, error.window) == ("invalid_prompt", text, window)


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"code": "context_length_exceeded"}, None),
        ({"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9_412, "n_ctx": 4_096}, 4_096),
        ({"type": "exceed_context_size_error", "n_ctx": "all"}, None),
        ({"type": "exceed_context_size_error", "n_ctx": 0}, None),
        ({"type": "request_too_large"}, None),
    ],
)
async def test_a_provider_s_code_for_it_is_understood(fields: dict[str, Any], window: int | None) -> None:
    async with serving() as upstream:
        upstream.script = [whole({"error": {"message": "No.", **fields}}, 400)]
        error = await fail(upstream)
    assert isinstance(error, ContextExceeded)
    assert error.window == window


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.",
        "Invalid 'user': string too long. Expected a string with maximum length 64, but got a string with length 70.",
        "max_tokens is too large: 200000. This model supports at most 16384 completion tokens.",
        "Request timed out while the context was processed.",
    ],
)
async def test_other_refusals_are_not_taken_for_it(text: str) -> None:
    async with serving() as upstream:
        upstream.script = [whole({"error": {"message": text}}, 400)]
        assert not isinstance(await fail(upstream), ContextExceeded)


def takes(most: int, *, window: int | None = None) -> Act:
    """A model that takes so many tokens."""
    counter = Tiktoken()

    async def act(asked: Prompt, deltas: Deltas | None) -> Reply:
        if sum(counter.count(turn.text) for turn in asked.turns) > most:
            raise ContextExceeded("invalid_prompt", "Too long.", window)
        return await says("Fine.")(asked, deltas)

    return act


def sent(service: InProcess) -> list[int]:
    """How many messages each prompt had."""
    return [len(asked.turns) for asked in service.prompts]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_built_again_with_less(stream: bool) -> None:
    async with in_process(takes(2_000)) as service:
        thread, assistant = await service.thread(*("word " * 200,) * 40, "And now?"), await service.assistant()
        body = {"assistant_id": assistant, "stream": stream}
        if stream:
            async with service.api.stream("POST", f"/threads/{thread}/runs", body) as events:
                await events.rest()
                assert events.names[-2:] == ["thread.run.completed", "done"]
                assert events.names.count("thread.message.created") == 1
        else:
            assert (await service.finished(thread, assistant))["status"] == "completed"
        assert await service.said(thread) == [*("word " * 200,) * 40, "And now?", "Fine."]
        counts = sent(service)
    assert counts[0] == 41
    assert counts == sorted(set(counts), reverse=True)
    assert 2 <= counts[-1] <= 10
    assert len(counts) <= TRIES


async def test_a_window_that_the_provider_told_is_remembered() -> None:
    async with in_process(takes(8_192, window=8_192)) as service:
        for _ in range(2):
            await service.finished(await service.thread(*("word " * 1_000,) * 40))
        assert sent(service) == [40, 6, 6]


async def test_last_messages_are_not_more_than_the_model_takes() -> None:
    async with in_process(takes(2_000)) as service:
        thread = await service.thread(*("word " * 400,) * 20)
        run = await service.finished(thread, truncation_strategy={"type": "last_messages", "last_messages": 10})
        counts = sent(service)
    assert run["status"] == "completed"
    assert counts[0] == 10
    assert counts[-1] <= 4


async def test_a_message_that_is_too_long_by_itself_fails_its_run_and_no_other() -> None:
    async with in_process(takes(1_000)) as service:
        thread = await service.thread("Hello", "word " * 2_000)
        run = await service.finished(thread)
        assert (run["status"], run["last_error"]) == ("failed", {"code": "invalid_prompt", "message": "Too long."})
        assert sent(service) == [2, 1]
        await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "And now?"})
        assert (await service.finished(thread))["status"] == "completed"


async def test_a_provider_that_always_says_so_is_asked_a_few_times() -> None:
    async with in_process(takes(-1)) as service:
        run = await service.finished(await service.thread(*("word " * 200,) * 100))
        assert len(service.prompts) == TRIES
    assert run["status"] == "failed"


async def test_what_a_client_has_heard_is_not_asked_for_again() -> None:
    async def act(asked: Prompt, deltas: Deltas | None) -> Reply:
        if deltas:
            deltas.text("Let me")
            await asyncio.sleep(0.01)
        raise ContextExceeded("invalid_prompt", "Too long.")

    async with in_process(act) as service:
        body = {"assistant_id": await service.assistant(), "stream": True}
        thread = await service.thread("Hello", "again")
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as events:
            await events.until("thread.run.failed")
        assert len(service.prompts) == 1
        assert (await service.said(thread))[-1] == "Let me"


async def test_a_run_that_goes_on_calling_tools_goes_on_without_what_they_said_long_ago() -> None:
    """The question stays, and the newest rounds, whole."""
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    script = [calls(ToolCall(f"call_{n}", "get_weather", "{}")) for n in range(9)]
    async with in_process(*script, takes(2_000)) as service:
        assistant = await service.assistant(model="gpt-4", tools=[weather])
        run = await service.finished(await service.thread("Before", "How is it?"), assistant)
        for n in range(9):
            run = await service.answered(run, **{f"call_{n}": "sun " * 1_000})
        assert run["status"] == "completed"
        prompts = [[turn.call_id or turn.text for turn in prompt.turns if not turn.calls] for prompt in service.prompts]
    assert prompts[5][:3] == ["Before", "How is it?", "call_0"]
    assert prompts[8] == ["Before", "How is it?", *(f"call_{n}" for n in range(3, 8))]
    assert prompts[-1] == ["Before", "How is it?", "call_8"]
    for prompt in service.prompts:
        assert [turn.role for turn in prompt.turns if turn.calls] == ["assistant"] * sum(
            turn.role == "tool" for turn in prompt.turns
        )


async def test_other_failures_are_not_asked_again() -> None:
    async with in_process(fails("invalid_prompt", "No.")) as service:
        await service.finished(await service.thread("a", "b"))
        assert len(service.prompts) == 1


async def test_over_http_the_second_request_is_smaller() -> None:
    async with serving() as upstream, router(upstream.url) as models:
        upstream.script = [
            whole({"error": {"code": 400, "type": "exceed_context_size_error", "message": "No.", "n_ctx": 2_048}}, 400),
            whole(choice(content="Fine.")),
        ]
        async with in_process(models=models) as service:
            messages = [{"role": ("user", "assistant")[n % 2], "content": f"{n} " + "word " * 100} for n in range(41)]
            run = await service.finished(await service.thread(messages=messages))
    assert run["status"] == "completed"
    assert 2 <= len(upstream.body["messages"]) <= 16
    assert upstream.body["messages"][-1]["content"].startswith("40 ")
    assert upstream.body["messages"][0]["role"] == "user"
