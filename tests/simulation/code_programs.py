"""code_interpreter in random histories: files that clients give, download and delete, and what must hold in the end. Of
each call that the log has, one execution counts: it began where the log was, and left what the log names. Every file
that clients were shown can be downloaded, as long as it should be; and of all others nothing is left a day later."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from assistants_service.core import names
from assistants_service.core.files.service import OUTPUT, PATIENCE, decode_file
from assistants_service.core.protocol.runs.resources import Step
from assistants_service.core.threads import events as e
from assistants_service.core.tools.code_interpreter.resources import files_in
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterToolCall
from assistants_service.core.tools.code_interpreter.wire import Executed as Stored
from commit_history import Past
from simulated_clients import Client, Exchange
from simulated_sandbox import Executed, Executions
from simulated_service import PROJECT, World
from test_stores_crash import Owner, text_of

DAY = 24 * 3600.0
_NUMBER = re.compile(r"execution (\d+)\n")
_CALL = re.compile(r"call_c(\d+)_(\d+)")


def executions(world: World, chance: random.Random) -> Executions:
    def happened(what: str) -> None:
        world.counts[f"fault: {what}"] += 1

    losing, busy = chance.choice((0.0, 0.02)), chance.choice((0.0, 0.2))
    return Executions(random.Random(chance.random()), lambda: world.plan.over, happened, losing, busy)


@dataclass
class Coder:
    """What the programs of a history do about code. `given` are the files of the user's, by id."""

    chance: random.Random
    owner: Owner
    given: dict[str, str] = field(default_factory=dict)  # their names
    deleting: set[str] = field(default_factory=set)  # outputs whose deletion was asked for
    deleted: set[str] = field(default_factory=set)  # likewise, and acknowledged

    def script(self, script: str) -> str:
        return self.chance.choice(("codes", "computes")) if self.chance.random() < 0.5 else script

    async def resources(self) -> Any:
        """For a new thread."""
        if self.chance.random() < 0.5:
            return {}
        file_id = (await self.owner.files(1))[0].file_id
        self.given[file_id] = f"{self.owner.made}-text.txt"
        return {"tool_resources": {"code_interpreter": {"file_ids": [file_id]}}}

    async def look_at_outputs(self, client: Client) -> None:
        """Download one of them, or delete it."""
        if self.chance.random() < 0.5:
            return
        listed = (await client.ask("list files", "GET", f"/files?purpose={OUTPUT}")).answer["data"]
        there = [file["id"] for file in listed]
        if not there:
            return
        file_id = self.chance.choice(there)
        if self.chance.random() < 0.7:
            await client.ask("download", "GET", f"/files/{file_id}/content")
            return
        self.deleting.add(file_id)
        await client.ask("delete file", "DELETE", f"/files/{file_id}")
        self.deleted.add(file_id)


# --- what must hold -------------------------------------------------------------------------------------------------


@dataclass
class Outputs:
    """What the calls of a thread have made, as the log says, with the bytes that their executions left."""

    files: dict[str, str] = field(default_factory=dict)  # ids by path
    bytes: dict[str, bytes] = field(default_factory=dict)  # by id
    chain: list[int] = field(default_factory=list)  # executions since an interpreter was lost
    users: set[str] = field(default_factory=set)  # paths of users' files that calls have found
    removed: set[str] = field(default_factory=set)  # and of those, what calls have removed


async def code_counts_once(world: World, coding: Coder) -> None:
    """Call it when the world is at rest. Days pass."""
    pasts = {name: Past(name.rpartition("/")[2], blocks) for name, blocks in world.threads.items()}
    made = {name: _outputs(world, past, coding) for name, past in pasts.items()}
    everything = {file_id: data for outputs in made.values() for file_id, data in outputs.bytes.items()}
    for each in world.exchanges:
        if each.what == "download" and each.ok:
            assert each.raw == everything[_file_of(each)], f"{each} got other bytes: {each.raw!r}"
            world.counts["checked: downloads"] += 1
    await asyncio.sleep(PATIENCE)
    await world.at_rest()
    for keep in (world.kept, 0.0) if world.kept else (0.0,):
        await _what_is_there(world, pasts, everything, coding, keep)
        await asyncio.sleep(keep)
        await world.at_rest()
    assert not world.queued()


def _file_of(each: Exchange) -> str:
    return each.path.split("/")[3]


def _outputs(world: World, past: Past, coding: Coder) -> Outputs:
    outputs = Outputs()
    for run_state in past.state.runs:
        _one_call_a_step_and_in_order([*run_state.steps])
    for call, run_id, stored in _finished(past):
        if not stored.state:
            continue
        number = _NUMBER.match(stored.logs)
        if number is None:  # its interpreter was lost
            outputs.chain.clear()
            continue
        execution = _all(world).done[int(number[1])]
        given = files_in(past.state.runs[run_id].run.tool_resources)
        _began_where_the_log_was(outputs, execution, {each: coding.given[each] for each in given}, coding.deleting)
        _left_what_the_log_names(outputs, execution, stored, call)
        world.counts["checked: calls of code"] += 1
    assert {path: kept.file_id for path, kept in past.state.files.items()} == outputs.files
    return outputs


def _all(world: World) -> Executions:
    assert world.executions
    return world.executions


def _finished(past: Past) -> Iterator[tuple[str, str, Stored]]:
    """The calls of code with what is stored of them, in the order of the log."""
    for _, event in past.events(e.StepOutputs):
        step = past.state.runs[event.run_id].steps[event.step_id]
        codes = {call.id for call in step.calls if isinstance(call, CodeInterpreterToolCall)}
        for call_id in codes & event.outputs.keys():
            yield call_id, event.run_id, msgspec.json.decode(event.results[call_id], type=Stored)


def _one_call_a_step_and_in_order(steps: list[Step]) -> None:
    calls = [step.calls for step in steps if any(isinstance(call, CodeInterpreterToolCall) for call in step.calls)]
    assert all(len(each) == 1 for each in calls), "a step of code has one call"
    places = [tuple(map(int, found.groups())) for (call,) in calls if (found := _CALL.fullmatch(call.id))]
    assert len(places) == len(calls)
    assert places == sorted(places), "calls were executed in another order"


def _began_where_the_log_was(outputs: Outputs, execution: Executed, given: dict[str, str], deleting: set[str]) -> None:
    """In an interpreter that the log's last calls made what it is, or in a new one with their files."""
    before = list(execution.before)
    assert before == outputs.chain[len(outputs.chain) - len(before) :], "executed in a state that is not the log's"
    for path, file_id in outputs.files.items():
        found = execution.found.get(path)
        gone = found is None and file_id in deleting
        assert gone or found == outputs.bytes[file_id], f"{path} was {found!r}"
    for file_id, name in given.items():
        for path in {file_id, name} - outputs.files.keys() - outputs.removed:
            assert execution.found.get(path) == text_of(name).encode(), f"the user's {path} was not there"
        outputs.users |= {file_id, name}
    assert not outputs.removed & execution.found.keys() - outputs.files.keys(), "what was removed is back"


def _left_what_the_log_names(outputs: Outputs, execution: Executed, stored: Stored, call: str) -> None:
    changed, removed = execution.changed, execution.removed
    assert {file.path for file in stored.files} == set(changed), f"{call} changed {set(changed)}"
    assert set(stored.removed) == removed & (outputs.files.keys() | outputs.users), f"{call} removed {removed}"
    assert len(stored.images) == len(execution.images), f"{call} showed other images"
    for path in stored.removed:
        outputs.files.pop(path, None)
    outputs.removed |= outputs.users & set(stored.removed)
    for file in stored.files:
        outputs.files[file.path], outputs.bytes[file.file_id] = file.file_id, changed[file.path]
    outputs.bytes |= {kept.file_id: image for kept, image in zip(stored.images, execution.images, strict=True)}
    outputs.chain.append(execution.number)


async def _what_is_there(
    world: World, pasts: dict[str, Past], everything: dict[str, bytes], coding: Coder, keep: float
) -> None:
    """Contents and documents. `keep`: the files of deleted threads are not gone yet."""
    held, shown, tombstones = set[str](), set[str](), set[str]()
    for name, past in pasts.items():
        project = name.partition("/")[0]
        if not past.deleted:
            held |= {names.document(project, each) for each in past.state.referenced_files}
            tombstones |= {names.document(project, each) for each in past.state.referenced_files}
        elif keep:
            held |= {names.document(project, each) for each in past.state.shown}
        if not past.deleted or keep:
            shown |= {names.document(project, each) for each in past.state.shown}
    held = {name for name in held if everything[name.partition("/")[2]]}  # an empty file has no content
    given = {names.document(PROJECT, f"file-{number:024}") for number in range(1, coding.owner.made + 1)}
    contents = set(await world.store.list_names(names.CONTENTS, after=None, limit=10_000)) - given
    _are(contents, held, coding, "contents")
    for name in contents & held:
        assert await _bytes(world, name) == everything[name.partition("/")[2]], f"{name} has other bytes"
    there = {name: body for name, body in _documents(world) if not body or decode_file(body).purpose == OUTPUT}
    _are({name for name, body in there.items() if body}, shown, coding, "documents")
    left = {name for name, body in there.items() if not body} - tombstones
    assert keep or not left, f"tombstones of files that are gone for good: {left}"
    world.counts["checked: files of code"] += len(shown)


def _are(found: set[str], wanted: set[str], coding: Coder, what: str) -> None:
    """But for those that clients deleted, or tried to."""
    missing = {name for name in wanted - found if name.partition("/")[2] not in coding.deleting}
    assert not missing, f"{what} of {missing} are not there"
    extra = {name for name in found if name not in wanted or name.partition("/")[2] in coding.deleted}
    assert not extra, f"{what} of {extra} are left"


async def _bytes(world: World, name: str) -> bytes:
    return b"".join([piece async for piece in world.store.download(names.CONTENTS, name)])


def _documents(world: World) -> list[tuple[str, bytes]]:
    """With tombstones, which are empty."""
    found = world.store._sql.execute("SELECT name, body FROM documents WHERE container=?", (names.FILES,))
    return [(str(name), bytes(body)) for name, body in found.fetchall()]
