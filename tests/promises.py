"""The promises, as checks of what a simulation left behind in its store. Each says what it found amiss."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from simulation import PROJECT, Client, World

from app import streaming
from core import events as e
from core import frames, names
from core.fold import Change, ThreadState, apply
from core.projection import documents
from core.resources import FunctionToolCall, Message, Run, Step, ToolCalls
from core.stream import replay

GRACE = 60  # seconds after a run's expiry by which it must have ended
OPENING = ("thread.message.created", "thread.message.in_progress")
STEP_OPENING = ("thread.run.step.created", "thread.run.step.in_progress")


class History:
    """A thread's whole log, rolled over or not, folded commit by commit."""

    def __init__(self, commits: list[e.Commit]) -> None:
        self.commits, self.state = commits, ThreadState()
        self.changes: list[tuple[float, Change]] = []  # with the time of their commit
        self.claims: Counter[str] = Counter()  # take-overs, by run
        self.turns: Counter[str] = Counter()  # model calls that came to something, by run
        self.most_active = 0
        for commit in commits:
            self._fold(commit)

    def _fold(self, commit: e.Commit) -> None:
        for event in commit.events:
            if isinstance(event, e.RunClaimed) and self.state.runs[event.run_id].run.status != "queued":
                self.claims[event.run_id] += 1
        self.turns.update({event.step.run_id for event in commit.events if isinstance(event, e.StepCreated)})
        self.changes += [(commit.at, change) for change in apply(self.state, commit)]
        self.most_active = max(self.most_active, sum(held.run.active for held in self.state.runs))

    def of(self, run_id: str) -> list[Change]:
        """What the wire hears of a run."""
        found = [change for _, change in self.changes if _run_of(change) == run_id]
        began = next(change.version for change in found if change.name == "thread.run.created")
        first = [c for _, c in self.changes if c.name == "thread.created" and c.version == began]
        return [*first, *(c for c in found if frames.STREAMED.fullmatch(c.name))]


def _run_of(change: Change) -> str | None:
    return change.object.id if isinstance(change.object, Run) else getattr(change.object, "run_id", None)


async def history(world: World, thread_id: str) -> History:
    log = names.log(PROJECT, thread_id)
    tail = await world.store.read(names.THREADS, log, None)
    if tail is None:
        return History([])
    olds = [await world.store.read(names.THREADS, f"{log}.{old}", None) for old in range(tail.mark.generation)]
    return History(e.from_lines(b"".join(piece.data for piece in [*olds, tail] if piece)))


async def check(world: World, client: Client) -> None:
    """Every promise that a client was given, and those that hold for threads that it never heard of. Call it when the
    world is at rest."""
    assert not world.errors, world.errors
    assert not world.queued("work-poison")
    await check_thread(world, client)
    for thread_id in await all_threads(world) - {client.thread}:
        await check_thread(world, Client(world, thread=thread_id, sent=client.sent))


async def all_threads(world: World) -> set[str]:
    logs = [name for container, name in await world.logs() if container == names.THREADS]
    return {name.removeprefix(f"{PROJECT}/").partition(".")[0] for name in logs}


async def check_thread(world: World, client: Client) -> None:
    past = await history(world, client.thread)
    if client.deleted is not False and (client.deleted or not past.commits):
        return await nothing_is_left(world, client)
    if not past.commits:
        assert not client.runs and not client.told, "P1: what was acknowledged is gone"
        return None
    p1_what_was_acknowledged_is_there(past, client)
    p2_every_run_has_ended_once_and_in_time(past)
    p3_no_message_is_lost_doubled_or_moved(past, client)
    p5_one_active_run_at_most(past)
    p6_the_model_was_not_called_too_often(past, world)
    await documents_show_what_the_log_says(world, past)
    for held in past.state.runs:
        tail = await world.store.read(names.STREAMS, names.document(PROJECT, client.thread, held.id), None)
        assert (tail is not None) == held.stream, "a stream exists where a client asked for it"
        if tail:
            p4_each_event_once_and_in_order(past, held.id, tail.data)
            await p4_a_reader_goes_on_where_he_was(tail.data)
            p4_a_client_heard_it_whole(client.heard.get(held.id), tail.data)


def p1_what_was_acknowledged_is_there(past: History, client: Client) -> None:
    for run in client.runs:
        assert past.state.runs.get(run.id), f"P1: {run.id} was acknowledged"


def p2_every_run_has_ended_once_and_in_time(past: History) -> None:
    ends: dict[str, list[float]] = {held.id: [] for held in past.state.runs}
    for at, change in past.changes:
        if isinstance(change.object, Run) and change.name in frames.ENDINGS:
            ends[change.object.id].append(at)
    due = {c.object.id: c.object.expires_at for _, c in past.changes if c.name == "thread.run.created"}  # type: ignore[union-attr]
    for run_id, times in ends.items():
        status = past.state.runs[run_id].run.status
        assert len(times) == 1, f"P2: {run_id} ended {len(times)} times, and is {status}"
        assert times[0] <= (due[run_id] or 0) + GRACE, f"P2: {run_id} ended {times[0] - (due[run_id] or 0)} s late"


def p3_no_message_is_lost_doubled_or_moved(past: History, client: Client) -> None:
    created = [c.object for _, c in past.changes if c.name == "thread.message.created"]
    ids = [message.id for message in created]
    assert len(ids) == len(set(ids))
    said = [message.content[0].text.value for message in created if isinstance(message, Message)]  # type: ignore[union-attr]
    for message_id, text in client.told:
        assert (message_id, text) in zip(ids, said, strict=True), f"P3: the message '{text}' was acknowledged"
    # What got no answer may be there or not; a request that was sent twice may be there twice.
    sendings = iter(client.sent)
    for text in said:
        assert text in sendings, f"P3: '{text}' is there more often, or at another place, than it was sent"
    answers = [c.object for _, c in past.changes if c.name == "thread.message.completed"]
    per_run = Counter(answer.run_id for answer in answers if isinstance(answer, Message))
    for run_id, count in per_run.items():
        assert count <= past.turns[run_id or ""], "P3: one message a turn"


def p5_one_active_run_at_most(past: History) -> None:
    assert past.most_active <= 1, "P5"


def p6_the_model_was_not_called_too_often(past: History, world: World) -> None:
    for held in past.state.runs:
        # A run that did not come to its own end was in the middle of a turn that left nothing.
        unfinished = held.run.status != "completed"
        allowed = past.turns[held.id] + past.claims[held.id] + unfinished
        calls = world.models.calls[held.run.model]
        assert calls <= allowed, f"P6: {calls} calls, {allowed} allowed"


async def documents_show_what_the_log_says(world: World, past: History) -> None:
    state = past.state
    assert state.thread is not None
    steps = [step for held in state.runs for step in held.steps]
    things = [state.thread, *state.messages, *(held.run for held in state.runs), *steps]
    wanted = {
        (each.container, each.name): each.body
        for each in documents(PROJECT, [Change(state.version, "", thing) for thing in things])
    }
    there = await all_documents(world, state.thread.id)
    gone = {name for name in there if name not in wanted}
    assert not gone, f"documents of what is no more: {gone}"
    for (container, name), body in wanted.items():
        # As a client gets it: what was never written is written now.
        ids = name.split("/")[1:]
        shown = await (await world.api()).ledger.fetch(container, PROJECT, *ids)
        assert shown.body == body, f"{container} {name} shows {shown.body!r} and not {body!r}"


async def all_documents(world: World, thread_id: str) -> dict[tuple[str, str], bytes]:
    prefix = names.document(PROJECT, thread_id)
    return {
        (container, stored.name): stored.body
        for container in (names.THREADS, names.MESSAGES, names.RUNS, names.STEPS)
        for stored in await world.store.page(container, prefix, after=None, limit=1000, newest_first=False)
        if not stored.name.startswith(f"{prefix}.")  # on Azure the log lies beside its thread's document
    }


async def nothing_is_left(world: World, client: Client) -> None:
    documents = world.store._sql.execute("SELECT container, name FROM documents").fetchall()  # tombstones too
    assert not [each for each in documents if client.thread in each[1]], f"left of a deleted thread: {documents}"
    assert await world.store.read(names.THREADS, names.log(PROJECT, client.thread), None) is None
    logs = [log for log in await world.logs() if client.thread in log[1]]
    assert not logs, f"left of a deleted thread: {logs}"
    prefix = f"{names.document(PROJECT, client.thread)}."
    assert not await world.store.page(names.SNAPSHOTS, prefix, after=None, limit=9, newest_first=False)


# --- streams --------------------------------------------------------------------------------------------------------


def p4_each_event_once_and_in_order(past: History, run_id: str, data: bytes) -> None:
    frames_there = list(frames.parse(data))
    assert frames_there, "P4: an empty stream"
    ends = [*(offset for offset, *_ in frames_there[1:]), len(data)]
    for (offset, version, name, payload), end in zip(frames_there, ends, strict=True):
        whole = f"id: {offset}.{version}\nevent: {name}\ndata: ".encode() + payload + b"\n\n"
        assert data[offset:end] == whole, "P4: ids are offsets, and nothing lies between events"
    versions = [version for _, version, _, _ in frames_there]
    assert versions == sorted(versions), "P4: in the order of the log"
    events = [(name, msgspec.json.decode(payload)) for _, _, name, payload in frames_there]
    logged = [(n, msgspec.json.decode(p)) for _, _, n, p in frames.parse(replay(past.of(run_id)))]
    known = {thing["id"] for _, thing in logged}
    _whole_events(logged, [event for event in events if event[1]["id"] in known])
    _opened_and_closed(events, known)
    _deltas_add_up(events, past)
    assert events[-1][0] in frames.ENDINGS, f"P4: it ends with {events[-1][0]}"


def _whole_events(logged: list[tuple[str, Any]], shown: list[tuple[str, Any]]) -> None:
    """All but deltas: those of the log, each once, in its order, with the same payload (but for when a draft began)."""

    def outline(events: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, thing in events:
            if not name.endswith(".delta"):
                yield name, thing["id"] if name in (*OPENING, *STEP_OPENING) else thing

    assert list(outline(shown)) == list(outline(logged)), "P4: the stream is not what the log says"


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


def _deltas_add_up(events: list[tuple[str, Any]], past: History) -> None:
    texts: dict[str, str] = {}
    arguments: dict[tuple[str, int], str] = {}
    heads: Counter[tuple[str, int]] = Counter()
    cited: defaultdict[str, list[str]] = defaultdict(list)
    for name, thing in events:
        if name == "thread.message.delta":
            for part in thing["delta"]["content"]:
                texts[thing["id"]] = texts.get(thing["id"], "") + part["text"]["value"]
                cited[thing["id"]] += [each["text"] for each in part["text"].get("annotations", ())]
        elif name == "thread.run.step.delta":
            for call in thing["delta"]["step_details"]["tool_calls"]:
                key = thing["id"], call["index"]
                arguments[key] = arguments.get(key, "") + call.get("function", {}).get("arguments", "")
                heads[key] += "id" in call
    for name, thing in events:
        if name == "thread.message.completed":
            text = thing["content"][0]["text"]
            assert texts[thing["id"]] == text["value"], "P4: deltas do not add up"
            assert cited[thing["id"]] == [each["text"] for each in text["annotations"]], "P4: citations do not add up"
    for held in past.state.runs:
        for step in held.steps:
            _calls_add_up(step, arguments, heads)


def _calls_add_up(step: Step, arguments: Mapping[tuple[str, int], str], heads: Counter[tuple[str, int]]) -> None:
    if isinstance(step.step_details, ToolCalls) and (step.id, 0) in arguments:
        for index, call in enumerate(step.step_details.tool_calls):
            said = call.function.arguments if isinstance(call, FunctionToolCall) else ""
            assert arguments[step.id, index] == said, "P4: arguments do not add up"
            assert heads[step.id, index] == 1, "P4: the id of a call comes once"


async def p4_a_reader_goes_on_where_he_was(data: bytes) -> None:
    async def source(offset: int) -> bytes:
        return data[offset:]

    events = list(frames.parse(data))
    ends = [*(offset for offset, *_ in events[1:]), len(data)]
    for (offset, version, name, _), end in zip(events, ends, strict=True):
        after = None if name in frames.ENDINGS else end
        assert await streaming.start_offset(source, f"{offset}.{version}") == after, "P4: Last-Event-ID"


def p4_a_client_heard_it_whole(heard: bytes | None, data: bytes) -> None:
    """From the beginning, without a gap; to the end, unless it stopped listening at a pause."""
    if heard is not None:
        assert data.startswith(heard), "P4: what a client heard is not what is written"
        last = list(frames.parse(heard))
        paused = last and last[-1][2] == frames.PAUSE
        assert paused or heard == data or not last, "P4: a client heard a part only"
