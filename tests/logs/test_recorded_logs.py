"""Logs that were recorded, by this version or an older one, fold to the documents that they folded to then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from assistants_service.core import paging
from assistants_service.core.log.events import to_block
from assistants_service.core.log.state import View
from assistants_service.core.protocol.runs.resources import RequiredAction, Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.protocol.vector_stores.resources import ChunkingStrategy, ExpiresAfter, TextContent
from assistants_service.core.threads import events as thread_events
from assistants_service.core.threads import state as thread_state
from assistants_service.core.threads import view
from assistants_service.core.threads.stream import replay
from assistants_service.core.vector_stores import events as store_events
from assistants_service.core.vector_stores import repository
from assistants_service.core.vector_stores import state as store_state
from record_logs import CASES, LOGS, SUMS, digest, folded, kind_of, record

Json = Any
RECORDED = sorted(LOGS.glob("*/*.jsonl"))


@cache
def read(log: Path) -> tuple[View[Any, Any], dict[str, bytes]]:
    snapshot = log.with_suffix(".snapshot")
    return folded(log.read_bytes(), snapshot.read_bytes() if snapshot.exists() else None)


@pytest.mark.parametrize("log", RECORDED, ids=lambda log: log.relative_to(LOGS).with_suffix("").as_posix())
def test_a_recorded_log_folds_to_its_documents(log: Path) -> None:
    expected = json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))
    aggregate, shown = read(log)
    for place, document in expected["documents"].items():
        now = json.loads(shown[place]) if shown[place] else None
        assert still(document, now), f"{place} was {document}, and is {now}"
    assert set(shown) == set(expected["documents"])
    kind = kind_of(log.read_bytes())
    assert kind.lists(aggregate.state) == expected["lists"]
    assert kind.index(aggregate.state) == expected.get("index", {})
    assert (aggregate.state.version, aggregate.state.deleted) == (expected["version"], expected["deleted"])


@pytest.mark.parametrize("log", RECORDED, ids=lambda log: log.relative_to(LOGS).with_suffix("").as_posix())
def test_a_recorded_commit_is_written_again_as_it_was(log: Path) -> None:
    """Whatever it holds has a type that loses nothing of it."""
    lines, commits = log.read_bytes().splitlines(), kind_of(log.read_bytes()).commits(log.read_bytes())
    for line, commit in zip(lines, commits, strict=True):
        assert still(json.loads(line), json.loads(to_block(commit)))


@pytest.mark.parametrize("log", RECORDED, ids=lambda log: log.relative_to(LOGS).with_suffix("").as_posix())
def test_a_fold_from_a_snapshot_tells_runs_as_the_log_does(log: Path) -> None:
    """Streamed ones, of which a snapshot keeps what the wire heard: the stream may lag behind."""
    was, _ = read(log)
    if not isinstance(was, view.ThreadView) or was.state.active:
        return
    now = view.ThreadView()
    now.begin(was.snapshot())
    for run_state in was.state.runs:
        if run_state.stream:
            assert [*replay(now.run_history(run_state.id))] == [*replay(was.run_history(run_state.id))]


@pytest.mark.parametrize("name", CASES)
async def test_every_case_can_still_be_recorded(name: str, tmp_path: Path) -> None:
    """And the store shows what its log folds to."""
    log, *_ = await record(name, tmp_path)
    assert log.read_bytes().endswith(b"}\n")


def still(then: Json, now: Json) -> bool:
    """Everything that was shown is shown, in the same order: a later version may show more keys."""
    if isinstance(then, dict) and isinstance(now, dict):
        left = {key: value for key, value in now.items() if key in then}
        return list(left) == list(then) and all(still(value, left[key]) for key, value in then.items())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(still(*pair) for pair in zip(then, now, strict=True))
    return type(then) is type(now) and then == now


def test_recorded_files_never_change() -> None:
    files = [path for path in LOGS.glob("[0-9]*/*") if path.is_file()]
    sums = [f"{digest(path)}  {path.relative_to(LOGS).as_posix()}" for path in files]
    assert sorted(sums) == sorted(SUMS.read_text().splitlines())


# --- nothing that a log can hold is missing -------------------------------------------------------------------------

NEVER = {
    (RequiredAction, "type"): "there is one kind only",
    (ExpiresAfter, "anchor"): "there is one only",
    (ChunkingStrategy, "type"): "there is one kind only",
    (TextContent, "type"): "there is one kind only",
    (thread_state.RunState, "costs"): "of open steps: a log is rolled over while no run is active",
    (thread_state.RunState, "thoughts"): "of active runs, likewise",
    (thread_state.RunState, "later"): "of active runs, likewise",
    (thread_state.RunState, "joined"): "of active runs, likewise",
    (thread_state.RunState, "orders"): "of active runs, likewise",
    (Step, "metadata"): "no request can give any",
    (view.ThreadSnapshot, "deleted"): "what is deleted is not written to",
    (repository.StoreSnapshot, "deleted"): "what is deleted is not written to",
}


def test_every_kind_of_event_is_recorded() -> None:
    kinds = {event.__struct_config__.tag for event in get_args(thread_events.ThreadEvent | store_events.StoreEvent)}
    lines = [json.loads(line) for log in RECORDED for line in log.read_bytes().splitlines()]
    missing = kinds - {event["type"] for line in lines for event in line["events"]}
    assert not missing, f"no recorded log has {missing}: see tests/logs/README.md"


def test_every_field_of_an_event_and_of_a_snapshot_is_recorded() -> None:
    """With another value than the one that it has if a log does not say anything, and none that is empty."""
    missing = {(kind, name) for kind in stored_kinds() for name in kind.__struct_fields__ if name != "object"}
    for log in RECORDED:
        missing -= set(recorded_values(log))
    assert missing == set(NEVER), "see tests/logs/README.md"


def stored_kinds() -> set[type[msgspec.Struct]]:
    """Whatever an event or a snapshot can hold, at any depth."""
    found: set[type[msgspec.Struct]] = set()

    def reach(kind: Any) -> None:
        match kind:
            case msgspec.inspect.StructType(cls=cls) if cls not in found:
                found.add(cls)
                for field in kind.fields:
                    reach(field.type)
            case msgspec.inspect.TypedDictType():
                for field in kind.fields:
                    reach(field.type)
            case msgspec.inspect.UnionType(types=inner) | msgspec.inspect.TupleType(item_types=inner):
                for each in inner:
                    reach(each)
            case msgspec.inspect.ListType() | msgspec.inspect.SetType() | msgspec.inspect.VarTupleType():
                reach(kind.item_type)
            case msgspec.inspect.DictType():
                reach(kind.value_type)

    of_threads = [view.ThreadSnapshot, Message, thread_state.RunState]
    of_stores = [repository.StoreSnapshot, store_state.FileState, store_state.BatchState]
    for root in msgspec.inspect.multi_type_info([thread_events.Commit, store_events.Commit, *of_threads, *of_stores]):
        reach(root)
    return {kind for kind in found if isinstance(kind, type) and kind is not paging.PackedLayout}  # without Index[...]


def recorded_values(log: Path) -> Iterator[tuple[type, str]]:
    aggregate, _ = read(log)
    yield from values([*kind_of(log.read_bytes()).commits(log.read_bytes()), aggregate.state])
    if isinstance(aggregate, view.ThreadView):
        yield from values(aggregate.latest_run)
    snapshot = log.with_suffix(".snapshot")
    if snapshot.exists():
        head = view.ThreadSnapshot if isinstance(aggregate, view.ThreadView) else repository.StoreSnapshot
        yield from values(msgspec.json.decode(snapshot.read_bytes().partition(b"\n")[0], type=head))


def values(node: Any) -> Iterator[tuple[type, str]]:
    """The fields, at any depth, that say something."""
    match node:
        case paging.Index():
            yield from values(list(node))
        case thread_state.ThreadChange():
            yield from values(node.object)
        case msgspec.Struct():
            for field in msgspec.structs.fields(node):
                value = getattr(node, field.name)
                if bool(value) if field.required else value != default_of(field):
                    yield type(node), field.name
                yield from values(value)
        case dict():
            yield from values(list(node.values()))
        case list() | tuple():
            for inner in node:
                yield from values(inner)


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
