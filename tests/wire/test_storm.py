"""Many clients at once do at random whatever the API allows, on a few threads: no answer is a fault of the service, and
afterwards every promise about runs, messages and streams holds."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from assistants_service.core.ports.models import Deltas, Prompt, Reply, ToolCall
from assistants_service.core.protocol.runs.resources import TERMINAL
from inprocess_service import Event, InProcess, calls, fails, in_process, path_of, says

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
CLIENTS, OPERATIONS = 12, 40


@pytest.mark.parametrize("seed", range(2))
async def test_a_storm_of_clients_breaks_no_rule(seed: int) -> None:
    rng = random.Random(seed)
    async with in_process(fickle(rng), event_log_rollover=20) as service:
        assistant = await service.assistant(tools=[WEATHER])
        threads = [await service.thread("Hello") for _ in range(3)]
        await asyncio.gather(*(a_client(service, rng, assistant, threads) for _ in range(CLIENTS)))
        for thread in threads:
            await check_thread(service, thread)


def fickle(rng: random.Random) -> Any:
    """A model that answers, calls functions, is cut off or fails."""

    async def act(prompt: Prompt, deltas: Deltas | None) -> Reply:
        await asyncio.sleep(rng.random() / 100)
        acts = [
            says("One ", "two ", "three."),
            says("Half", finish="length"),
            calls(ToolCall("call_1", "get_weather", "{}"), ToolCall("call_2", "get_weather", "{}")),
            calls(ToolCall("call_1", "get_weather", "{}"), first=["Let me ", "see."]),
            fails("server_error", "Oops.", "Bro", "ken"),
        ]
        return await rng.choice(acts)(prompt, deltas)

    return act


async def a_client(service: InProcess, rng: random.Random, assistant: str, threads: list[str]) -> None:
    for _ in range(OPERATIONS):
        at = f"/v1/threads/{rng.choice(threads)}"
        run = f"{at}/runs/{await some_run(service, at)}"
        body = {"assistant_id": assistant, "stream": rng.random() < 0.5}
        outputs = [{"tool_call_id": f"call_{n}", "output": "sun"} for n in range(1, rng.randint(1, 2) + 1)]
        method, path, sent = rng.choice(
            [
                ("POST", f"{at}/messages", {"role": "user", "content": "More"}),
                ("POST", f"{at}/runs", body),
                ("POST", f"{at}/runs", body),
                ("POST", f"{run}/submit_tool_outputs", {"tool_outputs": outputs, "stream": rng.random() < 0.5}),
                ("POST", f"{run}/submit_tool_outputs", {"tool_outputs": outputs}),
                ("POST", f"{run}/cancel", {}),
                ("POST", run, {"metadata": {"by": "a client"}}),
                ("GET", f"{at}/messages", None),
                ("GET", f"{run}/steps", None),
            ]
        )
        answer = await service.api.send(method, path, sent)
        assert answer.status in ((200, 404) if method == "GET" else (200, 400, 404)), answer.raw


async def some_run(service: InProcess, at: str) -> str:
    """The newest run of a thread."""
    return (await service.api.send("GET", f"{at}/runs?limit=1")).body["first_id"] or "run_none"


async def check_thread(service: InProcess, thread: str) -> None:
    runs = (await service.api.get(f"/threads/{thread}/runs?order=asc&limit=100"))["data"]
    for run in runs:
        if run["status"] not in TERMINAL:
            await service.api.send("POST", f"/v1{path_of(run)}/cancel")
    ended = [await service.until(run, *TERMINAL) for run in runs]
    listed = (await service.api.get(f"/threads/{thread}/runs?order=asc&limit=100"))["data"]
    assert listed == ended
    messages = (await service.api.get(f"/threads/{thread}/messages?order=asc&limit=100"))["data"]
    for run in ended[-10:]:
        await check_run(service, run, [each["id"] for each in messages])


async def check_run(service: InProcess, run: Json, messages: list[str]) -> None:
    """Its stream tells what its documents tell."""
    async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
        events = await stream.rest()
    steps = await service.steps(run)
    assert events[-2].name == f"thread.run.{run['status']}"
    assert sum(event.name.split(".")[-1] in TERMINAL and event.name.count(".") == 2 for event in runs_of(events)) == 1
    assert all(step["status"] in TERMINAL for step in steps)
    assert await service.api.get(path_of(run)) == run
    created = [event.data["id"] for event in events if event.name == "thread.run.step.created"]
    assert [step["id"] for step in steps] == [each for each in created if each in {step["id"] for step in steps}]
    check_messages(events, set(messages))


def runs_of(events: list[Event]) -> list[Event]:
    return [event for event in events if event.name.startswith("thread.run.") and ".step." not in event.name]


def check_messages(events: list[Event], stored: set[str]) -> None:
    """Whatever began ended; the deltas add up to the message; what completed is stored."""
    said: dict[str, str] = {}
    for event in events:
        match event.name:
            case "thread.message.created":
                said[event.data["id"]] = ""
            case "thread.message.delta":
                said[event.data["id"]] += "".join(part["text"]["value"] for part in event.data["delta"]["content"])
            case "thread.message.completed" | "thread.message.incomplete":
                whole = "".join(part["text"]["value"] for part in event.data["content"])
                assert said.pop(event.data["id"]) == whole
                assert event.data["id"] in stored or event.name.endswith("incomplete") or len(stored) == 100
    assert said == {}
