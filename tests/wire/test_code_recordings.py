"""Recorded runs of the original's `code_interpreter`, replayed as those of test_recordings.py are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistants_service.core.ports.models import Tokens
from assistants_service.core.ports.sandbox import CellResult
from inprocess_service import Act, Gate, calls, in_process, says
from scripted_sandbox import PNG, FakeInterpreter, FakeSandbox, python
from test_recordings import Replay, act_of_stream, response, tokens_of

Json = Any
HERE = Path(__file__).resolve().parent / "published" / "recordings_code"


def entries_of(name: str) -> list[Json]:
    """In the form of the other recordings."""
    exchanges = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["exchanges"]
    return [
        {
            "RequestMethod": each["method"],
            "RequestUri": each["uri"],
            "RequestBody": each["request"] or (None if each["method"] == "GET" else {}),
            "StatusCode": each["status"],
            "ResponseBody": _lines(each["response"]) if isinstance(each["response"], list) else each["response"],
        }
        for each in exchanges
    ]


def _lines(events: list[Json]) -> list[str]:
    data = [event["data"] if event["event"] == "done" else json.dumps(event["data"]) for event in events]
    return [
        line for event, text in zip(events, data, strict=True) for line in (f"event: {event['event']}", f"data: {text}")
    ]


@dataclass
class Recorded(FakeSandbox):
    """Its interpreters answer as the original's did: with the outputs that the recorded code had."""

    outputs: Mapping[str, Json] = field(default_factory=dict)

    async def start(self, session: str) -> FakeInterpreter:
        interpreter = Answering(self, session)
        self.live.append(interpreter)
        return interpreter


class Answering(FakeInterpreter):
    async def run(self, code: str) -> CellResult:
        assert isinstance(self.sandbox, Recorded)
        self.sandbox.executed.append(code)
        images = [PNG for output in self.sandbox.outputs[code] if output["type"] == "image"]
        logs = "".join(output["logs"] for output in self.sandbox.outputs[code] if output["type"] == "logs")
        return CellResult(logs=logs, value="..." if not images else None, images=tuple(images))


async def replayed(name: str, script: list[Act], gate: Gate, sandbox: Recorded) -> list[str]:
    """What differs."""
    async with in_process(*script, sandbox=sandbox) as service:
        replay = Replay(service, gate)
        for entry in entries_of(name):
            await replay.exchange(entry)
        gate.open()
        return replay.differences


async def test_a_recorded_stream_replays() -> None:
    name = "openllmetry_test_streaming_new_assistant"
    (recorded,) = [events for entry in entries_of(name) if isinstance(events := response(entry), list)]
    executed, answered = [event.data for event in recorded if event.name == "thread.run.step.completed"]
    (call,) = executed["step_details"]["tool_calls"]
    script = [
        calls(python(call["code_interpreter"]["input"], call["id"]), tokens=tokens_of(executed["usage"])),
        act_of_stream(recorded, []),
    ]
    sandbox = Recorded(outputs={call["code_interpreter"]["input"]: call["code_interpreter"]["outputs"]})
    assert tokens_of(answered["usage"]) != Tokens()
    assert not await replayed(name, script, Gate(), sandbox)
    assert len(sandbox.executed) == 1


async def test_a_recorded_run_replays() -> None:
    name, gate = "openllmetry_test_new_assistant", Gate()
    entries = entries_of(name)
    run = next(e["ResponseBody"] for e in entries if e["ResponseBody"].get("status") == "completed")
    (listed,) = [e["ResponseBody"]["data"] for e in entries if e["ResponseBody"]["object"] == "list"]
    whole = tokens_of(run["usage"])
    script = [
        calls(python("x"), first=[gate], tokens=Tokens(1, 1)),
        says(listed[-1]["content"][0]["text"]["value"], tokens=Tokens(whole.prompt - 1, whole.completion - 1)),
    ]
    assert not await replayed(name, script, gate, Recorded(outputs={"x": []}))


async def test_a_recorded_run_with_text_between_its_calls_and_an_image_replays() -> None:
    name, gate = "dotnet_AssistantsTests_BasicRunStepFunctionalityWorks", Gate()
    steps = list(reversed(entries_of(name)[-1]["ResponseBody"]["data"]))
    made = [step["step_details"]["tool_calls"][0] for step in steps if step["type"] == "tool_calls"]
    sandbox = Recorded(
        outputs={call["code_interpreter"]["input"]: call["code_interpreter"]["outputs"] for call in made}
    )
    script, text, before = list[Act](), list[str](), Tokens()
    for step in steps:
        tokens = tokens_of(step["usage"])
        both = Tokens(before.prompt + tokens.prompt, before.completion + tokens.completion)
        if step["type"] == "message_creation":
            text, before = ["Let me see."], both
            continue
        (call,) = step["step_details"]["tool_calls"]
        asked = python(call["code_interpreter"]["input"], call["id"])
        script.append(calls(asked, first=[*([gate] if not script else []), *text], tokens=both))
        text, before = [], Tokens()
    script.append(says("That is it.", tokens=before))
    differences = await replayed(name, script, gate, sandbox)
    # The original asked its model once more between a text and a call. Names of files have no slash here.
    assert [each for each in differences if ".usage." not in each and ".filename:" not in each] == []
    assert not any(each.startswith("GET") and "/steps" not in each for each in differences), (
        "the run's usage is the same"
    )
