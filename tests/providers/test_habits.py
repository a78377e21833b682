"""Providers as they are: every habit of the server of habits, whole and streamed, through the real HTTP client."""

from __future__ import annotations

import functools
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

import provider_quirks
from assistants_service.core.ports.models import Deltas, ModelError, Prompt, Reply, Turn
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from assistants_service.infra.settings.settings import Settings
from provider_quirks import HABITS, Habit
from scripted_upstreams import assembled

DOCS = Path(__file__).resolve().parents[2] / "docs/providers.md"
TABLE = re.findall(r"^\| (.+?) \| (.+?) \| ((?:none: )?`.+`) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
SOURCES = ("https://", provider_quirks.unreported("https://"))
BLIND, TOO_LARGE = "openrouter_model_that_sees_nothing", "anthropic_image_that_is_too_large"
CASES = [
    pytest.param(each, way, id=f"{each.name}-{'streamed' if way else 'whole'}")
    for each in HABITS.values()
    for way in each.streams
]


@pytest.fixture(autouse=True, scope="module")
def certificates_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2, "create_ssl_context", functools.cache(lambda **_: ssl.create_default_context()))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async with provider_quirks.serving() as where:
        yield where


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("habit", "streamed"), CASES)
async def test_a_habit(url: str, habit: Habit, streamed: bool) -> None:
    asked = dict(habit.asked)
    options = {name: asked.pop(name) for name in ("max_tokens_field",) if name in asked}
    provider = Provider(api=habit.api, base_url=f"{url}/{habit.name}/v1", **options)  # type: ignore[arg-type]
    models = ModelRouter({habit.name: provider}, habit.name, timeout=10, max_retries=0)
    try:
        if habit.fails is None:
            reply = await talk(models, streamed, asked)
            assert (reply.text, reply.finish) == (habit.text, habit.finish)
            return
        with pytest.raises(ModelError) as caught:
            await talk(models, streamed, asked)
        error = caught.value
        assert habit.fails in error.message
        assert (error.code, error.provider) == (habit.code, habit.name)
        assert error.reason
    finally:
        await models.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_what_no_retry_has_shown_is_not_learned(url: str) -> None:
    """A refusal that repeats the request names every field of it: the next request has them all."""
    name = "a_refusal_that_no_other_request_mends"
    models = ModelRouter({name: Provider(base_url=f"{url}/{name}/v1")}, name, timeout=10, max_retries=0)
    try:
        with pytest.raises(ModelError):
            await models.reply(Prompt("m", "", (Turn("user", "ill"),), max_completion_tokens=50), None)
        reply = await models.reply(Prompt("m", "", (Turn("user", "well"),), max_completion_tokens=50), None)
        assert reply.text == provider_quirks.DONE
    finally:
        await models.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "kept"), [(BLIND, False), (TOO_LARGE, True)])
async def test_one_image_that_is_refused_does_not_blind_the_model(url: str, name: str, kept: bool) -> None:
    """What was learned of the model holds for its next prompt; what was wrong with an image does not."""
    models = ModelRouter({name: Provider(base_url=f"{url}/{name}/v1")}, name, timeout=10, max_retries=0)
    asked: list[bool] = []
    answer = HABITS[name].answer

    def heeded(ask: provider_quirks.Ask) -> provider_quirks.Answer:
        asked.append(provider_quirks.images(ask))
        return answer(ask)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(HABITS, name, replace(HABITS[name], answer=heeded))
            for _ in range(2):
                await models.reply(Prompt("m", "", provider_quirks.SEEN), None)
    finally:
        await models.close()
    assert asked == [True, False, kept, *([False] if kept else [])]


async def talk(models: ModelRouter, streamed: bool, asked: dict[str, Any]) -> Reply:
    """To the model's last word: what it calls is answered."""
    turns, output = [*asked.pop("turns", [Turn("user", "How is the weather in Paris?")])], asked.pop("output", "sunny")
    if asked.pop("history", False):
        turns += [Turn("assistant", "Where?"), Turn("user", "In Paris.")]
    for _ in range(3):
        heard = Deltas() if streamed else None
        fields = {"tools": (provider_quirks.WEATHER, provider_quirks.OTHER), "max_completion_tokens": 50, **asked}
        reply = await models.reply(Prompt("m", "Be brief.", tuple(turns), **fields), heard)
        assert provider_quirks.UNWANTED not in reply.text
        if heard:
            assert "".join(heard.texts) == reply.text
            assert assembled(heard) == list(reply.calls)
        if not reply.calls:
            return reply
        asked = {name: value for name, value in asked.items() if name != "tool_choice"}
        turns.append(Turn("assistant", reply.text, reply.calls, thought=reply.thought))
        turns += [Turn("tool", output, call_id=call.id) for call in reply.calls]
    raise AssertionError("the model calls for ever")


def test_every_habit_has_a_public_source_and_is_asked() -> None:
    assert len(HABITS) >= 63
    assert [each.name for each in HABITS.values() if not each.source.startswith(SOURCES) or not each.streams] == []


def test_a_habit_of_github_names_what_was_read() -> None:
    """A repository as such is no source."""
    found = {
        each.source.removeprefix(provider_quirks.GITHUB)
        for each in HABITS.values()
        if provider_quirks.GITHUB in each.source
    }
    assert [each for each in found if not re.fullmatch(r"[\w.-]+/[\w.-]+/((issues|pull)/\d+|blob/.+)", each)] == []


@pytest.mark.parametrize(("name", "tried", "entry"), TABLE, ids=[row[0] for row in TABLE])
def test_a_provider_of_the_table(name: str, tried: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry is one that the service takes, and it has a quirk if it is said to have been tried with quirks."""
    word = re.split(r"\W", name.lower())[0]
    assert any(each.startswith(f"{word}_") for each in HABITS) is ("quirks" in tried)
    if setting := re.fullmatch(r"none: `(\w+)`", entry):
        assert setting[1].lower() in Settings.model_fields
        return
    written = json.loads(entry.strip("`"))
    monkeypatch.setenv("PROVIDERS", json.dumps({word: written}))
    assert Settings().providers[word].model_fields_set == set(written)


def test_the_table_has_a_row_for_each_line() -> None:
    lines = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert len(TABLE) == len(lines) - 1 >= 15
