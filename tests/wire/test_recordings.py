"""Recorded sessions of the real service, replayed: same status, keys, types and values, same order of events. What may
differ are ids, times, and how a text is cut into deltas."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistants_service.core.ports.models import Tokens, ToolCall
from inprocess_service import SETTLED, Act, Answer, Event, Gate, InProcess, calls, in_process, says
from multipart_forms import file_form, send_form
from scripted_search import FakeSearch, found, searching

Json = Any
HERE = Path(__file__).resolve().parent / "published" / "recordings"
SESSIONS = [
    "assistants_basic",
    "assistants_paging",
    "file_bad_purpose",
    "file_delete",
    "file_get",
    "file_missing",
    "file_upload",
    "function_tools",
    "function_tools_streaming",
    "messages_basic",
    "messages_roles",
    "response_format",
    "run_streaming",
    "threads_basic",
    "vector_store_files",
    "vector_stores_basic",
]
ORIGIN = "https://api.openai.com"
ID = re.compile(r"\b(?:(?:asst|thread|msg|run|step|vs)_|file-)[A-Za-z0-9]{22,32}\b")
STORE_FILES = re.compile(r"/v1/vector_stores/(vs_\w+)/files")
RUN = re.compile(r"/v1/threads/thread_\w+/runs/run_\w+")
TIMES = re.compile(
    r"^(created|started|expires|expired|completed|failed|cancelled|incomplete|last_active)_at$|^usage_bytes$"
)
# The recorded account had other assistants, too, and an updated message showed a key of an older version.
OTHERS, LEGACY = ("first_id", "last_id", "has_more"), ("file_ids",)


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_recorded_session_replays(name: str) -> None:
    entries = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["Entries"]
    gate = Gate()
    async with in_process(*script_of(entries, gate)) as service:
        replay = Replay(service, gate)
        for entry in entries:
            await replay.exchange(entry)
        gate.open()
        assert not replay.differences


async def test_the_recorded_search_replays() -> None:
    """All but the search itself, as the file was not recorded: what was found is what is found."""
    entries = json.loads((HERE / "file_search.json").read_text(encoding="utf-8"))["Entries"]
    answered, searched = entries[8]["ResponseBody"]["data"]
    (call,) = searched["step_details"]["tool_calls"]
    gate, engine = Gate(), FakeSearch()
    script = [
        calls(searching("food", call_id=call["id"]), first=[gate], tokens=tokens_of(searched["usage"])),
        says(answer_of(entries[:8]), tokens=tokens_of(answered["usage"])),
    ]
    async with in_process(*script, search=engine) as service:
        replay = Replay(service, gate)
        for entry in entries:
            await replay.exchange(entry)
            engine.found = [
                found(replay.ids[each["file_id"]], each["file_name"], each["score"], each["content"][0]["text"])
                for each in call["file_search"]["results"]
            ]
        assert not replay.differences


def test_the_comparison_finds_differences() -> None:
    recorded = {"id": "run_" + "a" * 24, "n": 1, "at": [{"x": None}], "tool_resources": {}, "created_at": 5}
    ours = {"id": "run_" + "b" * 24, "n": "1", "at": [{"x": 1}], "tool_resources": {"a": {}}, "created_at": None}
    replay = Replay.__new__(Replay)
    replay.ids, replay.differences = {}, []
    replay.compare(recorded, ours, "here")
    assert [each.split(":")[0] for each in replay.differences] == ["here.n", "here.at[0].x", "here.created_at"]
    replay.differences.clear()
    replay.compare({"a": 1, "run": "run_" + "a" * 24}, {"run": "run_" + "c" * 24}, "here")
    assert [each.split(":")[0] for each in replay.differences] == ["here.a", "here.run"]
    replay.compare([1], [1, 2], "here")
    assert len(replay.differences) == 3


# --- replaying ------------------------------------------------------------------------------------------------------


class Replay:
    """Sends what was recorded, with our ids in place of the recorded ones, and compares what comes."""

    def __init__(self, service: InProcess, gate: Gate) -> None:
        self.service, self.gate = service, gate
        self.ids: dict[str, str] = {}  # ours by recorded
        self.differences: list[str] = []

    async def exchange(self, entry: Json) -> None:
        path, body, recorded = (
            self.ours(entry["RequestUri"].removeprefix(ORIGIN)),
            entry["RequestBody"],
            response(entry),
        )
        data = None if body is None else self.ours(json.dumps(body)).encode()
        if isinstance(recorded, list):
            return await self.stream(path, data, recorded)
        if entry["RequestMethod"] == "POST" and path == "/v1/files":
            return self.check(entry, path, await send_form(self.service.api, "/files", form_of(recorded)))
        if entry["RequestMethod"] == "GET" and RUN.fullmatch(path):
            await self.run_becomes(recorded)
        elif entry["RequestMethod"] == "GET" and (store := STORE_FILES.fullmatch(path)):
            await self.service.ingested({"id": store[1]})
        elif path.endswith("/submit_tool_outputs"):
            self.gate.close()
        answer = await self.service.api.send(entry["RequestMethod"], path, data=data)
        self.check(entry, path, answer)

    def check(self, entry: Json, path: str, answer: Answer) -> None:
        assert answer.status == entry["StatusCode"]
        assert answer.headers["Content-Type"].split(";")[0] == "application/json"
        self.compare(entry["ResponseBody"], answer.body, f"{entry['RequestMethod']} {path}")

    async def stream(self, path: str, data: bytes | None, recorded: list[Event]) -> None:
        self.gate.open()
        body = json.loads(data or b"{}")
        async with self.service.api.stream("POST", path.removeprefix("/v1"), body) as stream:
            ours = await stream.rest()
        assert order(ours) == order(recorded)
        for mine, theirs in zip(landmarks(ours), landmarks(recorded), strict=True):
            self.compare(theirs.data, mine.data, theirs.name)
        assert list(texts(ours)) == list(texts(recorded))
        assert first_deltas(ours) == first_deltas(recorded)

    async def run_becomes(self, recorded: Json) -> None:
        """Let our model go on as far as the real one had come."""
        if recorded["status"] in SETTLED:
            self.gate.open()
        run = {"id": self.ids[recorded["id"]], "thread_id": self.ids[recorded["thread_id"]]}
        await self.service.until(run, recorded["status"])

    def ours(self, text: str) -> str:
        return ID.sub(lambda found: self.ids[found[0]], text)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def compare(self, recorded: Json, ours: Json, where: str) -> None:
        """Every recorded key is there with a value of the same type, and with the same value unless it is an id or a
        time. Ours may have more keys: those of the specification."""
        if isinstance(recorded, dict) and isinstance(ours, dict):
            self._objects(recorded, ours, where)
        elif isinstance(recorded, list) and isinstance(ours, list):
            self._lists(recorded, ours, where)
        elif not self._same(recorded, ours, where):
            self.differences.append(f"{where}: recorded {recorded!r}, ours {ours!r}")

    def _objects(self, recorded: Json, ours: Json, where: str) -> None:
        foreign = OTHERS if where.startswith("GET /v1/assistants") and "data" in recorded else ()
        for key, value in recorded.items():
            if key in LEGACY or key in foreign:
                continue
            if key not in ours:
                self.differences.append(f"{where}.{key}: is not there")
                continue
            theirs = value
            if key == "tool_resources":  # the real one shows an empty code_interpreter, or not
                theirs = {tool: resources for tool, resources in value.items() if tool != "code_interpreter"}
            self.compare(theirs, ours[key], f"{where}.{key}")

    def _lists(self, recorded: list[Json], ours: list[Json], where: str) -> None:
        if len(recorded) != len(ours) and not re.fullmatch(r"GET /v1/assistants\.data", where):
            self.differences.append(f"{where}: recorded {len(recorded)} items, ours {len(ours)}")
        for index, (theirs, mine) in enumerate(zip(recorded, ours, strict=False)):
            self.compare(theirs, mine, f"{where}[{index}]")

    def _same(self, recorded: Json, ours: Json, where: str) -> bool:
        if type(recorded) is not type(ours):
            return False
        if isinstance(recorded, str) and ID.fullmatch(recorded):
            same_kind = re.split("[_-]", recorded)[0] == re.split("[_-]", ours)[0]
            return same_kind and self.ids.setdefault(recorded, ours) == ours
        return bool(TIMES.match(where.rpartition(".")[2])) or recorded == ours


def form_of(recorded: Json) -> bytes:
    """The form behind this answer: its body was not recorded."""
    purpose = recorded.get("purpose") or re.match("'(.*?)'", recorded["error"]["message"])[1]
    return file_form(b"x" * recorded.get("bytes", 1), recorded.get("filename", "x"), purpose=purpose)


def response(entry: Json) -> Json:
    """The recorded body; of a stream its events."""
    body = entry["ResponseBody"]
    if not isinstance(body, list):
        return body
    lines = [line.strip() for line in body]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [
        Event(name, text if name == "done" else json.loads(text), "") for name, text in zip(names, data, strict=True)
    ]


def order(events: list[Event]) -> list[str]:
    """Event names, with deltas that follow each other as one."""
    return [name for name, _ in itertools.groupby(event.name for event in events)]


def landmarks(events: list[Event]) -> list[Event]:
    return [event for event in events if not event.name.endswith(".delta") and event.name != "done"]


def texts(events: list[Event]) -> Iterator[str]:
    """What the deltas add up to: of a message, or of a call's arguments."""
    for name, group in itertools.groupby(events, lambda event: event.name):
        if name.endswith(".delta"):
            yield "".join(found for event in group for found in fragments(event.data["delta"]))


def fragments(node: Json) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from fragments(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("value", "arguments", "input"):
                yield value
            else:
                yield from fragments(value)


def first_deltas(events: list[Event]) -> list[Json]:
    """The first delta of each group, without the part of the text that it has."""
    firsts = [next(group) for name, group in itertools.groupby(events, lambda e: e.name) if name.endswith(".delta")]
    return [json.loads(re.sub(r'"value": "[^"]*"', '"value": ""', json.dumps(event.data["delta"]))) for event in firsts]


# --- what the recorded model said -----------------------------------------------------------------------------------


def script_of(entries: list[Json], gate: Gate) -> Iterator[Act]:
    """One act for each recorded model call, in order."""
    seen: set[str] = set()
    for place, entry in enumerate(entries):
        recorded = response(entry)
        if isinstance(recorded, list):
            # What a turn with calls cost shows only when its step is completed, on the next stream.
            following = [event for later in entries[place + 1 :] for event in response(later)]
            yield act_of_stream(recorded, following)
        elif recorded.get("status") == "requires_action" and recorded["id"] not in seen:
            seen.add(recorded["id"])
            # What each call cost is not recorded; one of none would be taken for a server that does not count.
            yield calls(*asked_by(recorded), first=[gate], tokens=Tokens(1, 0))
        elif recorded.get("status") == "completed" and recorded["object"] == "thread.run":
            whole = tokens_of(recorded["usage"])
            rest = replace(whole, prompt=whole.prompt - (recorded["id"] in seen))
            yield says(gate, answer_of(entries), tokens=rest)


def act_of_stream(events: list[Event], following: list[Event]) -> Act:
    final = landmarks(events)[-1].data
    if final["status"] == "requires_action":
        return calls(*asked_by(final), tokens=tokens_of(step_usages(following)[0]))
    pieces = [text for event in events if event.name == "thread.message.delta" for text in fragments(event.data)]
    return says(*pieces, tokens=tokens_of(step_usages(events)[-1]))


def step_usages(events: list[Event]) -> list[Json]:
    return [event.data["usage"] for event in events if event.name == "thread.run.step.completed"]


def asked_by(run: Json) -> list[ToolCall]:
    asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return [ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in asked]


def answer_of(entries: list[Json]) -> str:
    return str(entries[-1]["ResponseBody"]["data"][0]["content"][0]["text"]["value"])


def tokens_of(usage: Json) -> Tokens:
    return Tokens(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["prompt_token_details"]["cached_tokens"],
        usage["completion_tokens_details"]["reasoning_tokens"],
    )
