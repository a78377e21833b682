"""P4: what was streamed is the log's events and their deltas, each once and in order, and clients heard just that."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from assistants_service.api import streaming
from assistants_service.core import names
from assistants_service.core.protocol.runs.resources import Step, ToolCalls
from assistants_service.core.threads import sse
from assistants_service.core.threads.events import RunQueued
from assistants_service.core.threads.state import RunState
from assistants_service.core.threads.stream import replay
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterToolCall
from assistants_service.core.tools.functions import FunctionToolCall
from commit_history import Past
from simulated_clients import Exchange
from simulated_service import World

if TYPE_CHECKING:
    from real_processes import Reality

OPENING = ("thread.message.created", "thread.message.in_progress")
STEP_OPENING = ("thread.run.step.created", "thread.run.step.in_progress")


async def p4_in_a_stream(world: World | Reality, project: str, past: Past, run_state: RunState) -> None:
    name = names.document(project, past.thread_id, run_state.id)
    tail = await world.store.read(names.STREAMS, name, None)
    assert (tail is not None) == run_state.stream, "a stream exists where a client asked for it"
    if tail:
        p4_each_event_once_and_in_order(past, run_state.id, tail.data)
        await p4_a_reader_goes_on_where_he_was(tail.data)
        assert tail.data == world.streams[name]


# --- what clients heard ---------------------------------------------------------------------------------------------


def p4_what_clients_heard(world: World | Reality, project: str, past: Past, exchanges: Sequence[Exchange]) -> None:
    """Each connection: from where it should, without a gap; to the end, if the server ended it."""
    for each in exchanges:
        if each.ok and each.heard is not None:
            run_id = each.run.id if each.what.startswith("create") else each.ids[1]
            streamed = world.streams.get(names.document(project, past.thread_id, run_id))
            p4_a_client_heard_it(past, each, streamed or b"".join(replay(past.of(run_id))))
            world.counts["checked: streams heard"] += 1


def p4_a_client_heard_it(past: Past, each: Exchange, whole: bytes) -> None:
    heard = (each.heard or b"").replace(streaming.HEARTBEAT, b"")
    events, _, error = heard.partition(b"event: error\n")
    events, done, _ = events.partition(sse.DONE)
    start = _start(past, each, whole)
    assert whole[start : start + len(events)] == events, f"P4: {each} heard {events!r}, and not {whole[start:]!r}"
    if error:
        assert past.deleted or b"is not responding" in error, f"P4: {each} heard {error!r}"
    if done:
        last = [name for *_, name, _ in sse.parse(whole[: start + len(events)])][-1]
        assert last in sse.ENDINGS or (last == sse.PAUSE and each.what != "watch"), f"P4: {each} heard a part"


def _start(past: Past, each: Exchange, whole: bytes) -> int:
    if each.after:
        head = f"id: {each.after}\n".encode()
        at = whole.index(head)
        return whole.index(b"\n\n", at) + 2
    if each.what == "submit outputs":
        version = min(
            version
            for version, event in past.events(RunQueued)
            if event.run_id == each.ids[1] and each.since <= past.at(version) <= each.until
        )
        return next((offset for offset, shown, *_ in sse.parse(whole) if shown >= version), len(whole))
    return 0


async def p4_a_reader_goes_on_where_he_was(data: bytes) -> None:
    async def source(offset: int) -> bytes:
        return data[offset:]

    events = list(sse.parse(data))
    ends = [*(offset for offset, *_ in events[1:]), len(data)]
    for (offset, version, name, _), end in zip(events, ends, strict=True):
        after = None if name in sse.ENDINGS else end
        assert await streaming.start_offset(source, f"{offset}.{version}") == after, "P4: Last-Event-ID"


# --- what is on a stream --------------------------------------------------------------------------------------------


def p4_each_event_once_and_in_order(past: Past, run_id: str, data: bytes) -> None:
    frames_there = list(sse.parse(data))
    assert frames_there, "P4: an empty stream"
    ends = [*(offset for offset, *_ in frames_there[1:]), len(data)]
    for (offset, version, name, payload), end in zip(frames_there, ends, strict=True):
        whole = f"id: {offset}.{version}\nevent: {name}\ndata: ".encode() + payload + b"\n\n"
        assert data[offset:end] == whole, "P4: ids are offsets, and nothing lies between events"
    versions = [version for _, version, _, _ in frames_there]
    assert versions == sorted(versions), "P4: in the order of the log"
    events = [(name, msgspec.json.decode(payload)) for _, _, name, payload in frames_there]
    logged = [(n, msgspec.json.decode(p)) for _, _, n, p in sse.parse(b"".join(replay(past.of(run_id))))]
    known = {thing["id"] for _, thing in logged}
    _whole_events(logged, [event for event in events if event[1]["id"] in known])
    _opened_and_closed(events, known)
    _deltas_add_up(events, past)
    assert events[-1][0] in sse.ENDINGS, f"P4: it ends with {events[-1][0]}"


def _whole_events(logged: list[tuple[str, Any]], shown: list[tuple[str, Any]]) -> None:
    """All but deltas: those of the log, each once, in its order, with the same payload. What was streamed as it came
    has begun when it did; the log learns of it at its end."""

    def beginnings(events: list[tuple[str, Any]]) -> Counter[tuple[str, str]]:
        return Counter((name, thing["id"]) for name, thing in events if name in (*OPENING, *STEP_OPENING))

    def others(events: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        left_out = (*OPENING, *STEP_OPENING)
        return [each for each in events if each[0] not in left_out and not each[0].endswith(".delta")]

    assert others(shown) == others(logged), "P4: the stream is not what the log says"
    assert beginnings(shown) == beginnings(logged), "P4: not all begins once"


def _opened_and_closed(events: list[tuple[str, Any]], known: set[str]) -> None:
    opened: dict[str, str] = {}
    closed: set[str] = set()
    for name, thing in events:
        kind, _, what = name.rpartition(".")
        if kind not in ("thread.message", "thread.run.step"):
            continue
        if what == "created":
            assert thing["id"] not in opened, "P4: opened twice"
            others = {each for each in opened if opened[each] == kind} - closed
            assert not others, f"P4: {thing['id']} opened while {others} is open"
            opened[thing["id"]] = kind
        assert thing["id"] in opened and thing["id"] not in closed, f"P4: {name} outside of its {kind}"
        if what in ("completed", "incomplete", "failed", "cancelled", "expired"):
            closed.add(thing["id"])
            assert thing["id"] in known or what != "completed", "P4: a torn one completed"
    assert set(opened) == closed, f"P4: left open: {set(opened) - closed}"


def _deltas_add_up(events: list[tuple[str, Any]], past: Past) -> None:
    texts: dict[str, str] = {}
    arguments: dict[tuple[str, int], str] = {}
    heads: Counter[tuple[str, int]] = Counter()
    cited: defaultdict[str, list[str]] = defaultdict(list)
    images: defaultdict[str, list[Any]] = defaultdict(list)
    outputs: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
    for name, thing in events:
        if name == "thread.message.delta":
            for part in thing["delta"]["content"]:
                if part["type"] == "image_file":
                    images[thing["id"]].append((part["index"], part["image_file"]))
                    continue
                texts[thing["id"]] = texts.get(thing["id"], "") + part["text"]["value"]
                cited[thing["id"]] += [each["text"] for each in part["text"].get("annotations", ())]
        elif name == "thread.run.step.delta":
            for call in thing["delta"]["step_details"]["tool_calls"]:
                key = thing["id"], call["index"]
                code = call.get("code_interpreter", {})
                said = call.get("function", {}).get("arguments", "") + code.get("input", "")
                arguments[key] = arguments.get(key, "") + said
                outputs[key] += code.get("outputs", ())
                heads[key] += "id" in call
    for name, thing in events:
        if name in ("thread.message.completed", "thread.message.incomplete"):
            *shown, text = (part.get("text", part.get("image_file")) for part in thing["content"])
            assert images[thing["id"]] == list(enumerate(shown)), "P4: images do not add up"
            assert texts[thing["id"]] == text["value"], "P4: deltas do not add up"
            assert cited[thing["id"]] == [each["text"] for each in text["annotations"]], "P4: citations do not add up"
    for run_state in past.state.runs:
        for step in run_state.steps:
            _calls_add_up(step, arguments, heads, outputs)


def _calls_add_up(
    step: Step,
    arguments: Mapping[tuple[str, int], str],
    heads: Counter[tuple[str, int]],
    outputs: Mapping[tuple[str, int], list[Any]],
) -> None:
    if isinstance(step.step_details, ToolCalls) and (step.id, 0) in arguments:
        for index, call in enumerate(step.step_details.tool_calls):
            said = call.function.arguments if isinstance(call, FunctionToolCall) else ""
            if isinstance(call, CodeInterpreterToolCall):
                said, shown = call.code_interpreter.input, msgspec.to_builtins(call.code_interpreter.outputs)
                told = [{"index": place, **output} for place, output in enumerate(shown)]
                assert outputs[step.id, index] == told, "P4: outputs do not add up"
            assert arguments[step.id, index] == said, "P4: arguments do not add up"
            assert heads[step.id, index] == 1, "P4: the id of a call comes once"
