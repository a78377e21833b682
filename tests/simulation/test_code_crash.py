"""Calls of code_interpreter while processes die and the store fails: the run ends, no call counts twice, the files are
as they would be without all that, and a day later nothing is left that no thread and no document holds."""

from __future__ import annotations

import asyncio
import math
import os

import pytest

from assistants_service.core import names
from assistants_service.core.files.service import OUTPUT, PATIENCE, decode_file
from commit_history import Past
from faults import How, Plan
from promise_checks import check, past_of
from scenarios import ask, listen
from simulated_clients import Client, Unanswered
from simulated_service import PROJECT, World
from virtual_time import run

THOROUGH = int(os.environ.get("SWEEP", "1"))
POINTS = 12 * THOROUGH


async def play(plan: Plan, *, streamed: bool, delete: bool = False, **options: object) -> World:
    world = World(plan=plan, **options)  # type: ignore[arg-type]
    async with world.running():
        client = Client(world)
        try:
            await client.open_thread()
            await (listen if streamed else ask)(client, "code")
            if delete:
                await client.delete()
        except Unanswered:
            pass
        await asyncio.sleep(300)
        plan.end()
        await asyncio.sleep(PATIENCE)
        await world.at_rest()
        await check(world)
        if client.thread:
            await files_are_whole(world, past_of(world, client.thread))
    return world


async def content(world: World, file_id: str) -> bytes:
    chunks = world.store.download(names.CONTENTS, names.document(PROJECT, file_id))
    return b"".join([chunk async for chunk in chunks])


async def files_are_whole(world: World, past: Past) -> None:
    state, held = past.state, past.state.referenced_files if past.state.known else set[str]()
    there = await world.store.list_names(names.CONTENTS, after=None, limit=1000)
    assert set(there) == {names.document(PROJECT, file_id) for file_id in held}, (
        "contents without an owner, or lost ones"
    )
    shown = await world.store.page(names.FILES, f"{PROJECT}/", after=None, limit=100, newest_first=False)
    files = [decode_file(each.body) for each in shown]
    assert {file.id for file in files} == (state.shown if state.known else set())
    for file in files:
        assert file.purpose == OUTPUT
        assert len(await content(world, file.id)) == file.bytes
    (held_run,) = list(state.runs) or [None]
    if state.known and held_run and held_run.run.status == "completed":
        assert set(state.files) == {"count.txt"}
        assert await content(world, state.files["count.txt"].file_id) == b"abc", "a call counted twice, or not at all"
        assert len(files) == 2, "an image and a file that the answer links"


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("how", How)
def test_code_whatever_storage_call_fails(how: How, streamed: bool) -> None:
    points = run(play(Plan(), streamed=streamed)).plan.points(how)
    for number in points[:: math.ceil(len(points) / POINTS)]:
        plan = Plan.at(number, how)
        try:
            run(play(plan, streamed=streamed, layout=("api", "worker", "worker")))
        except BaseException as error:
            error.add_note(f"{number}: {plan.hits}")
            raise


@pytest.mark.parametrize("how", [How.CRASH_BEFORE, How.CRASH_AFTER])
def test_code_where_a_commit_and_its_documents_are_one(how: How) -> None:
    points = run(play(Plan(), streamed=True, apart=False)).plan.points(how)
    for number in points[:: math.ceil(len(points) / POINTS)]:
        run(play(Plan.at(number, how), streamed=True, apart=False, rollover_after=3))


def test_a_thread_takes_its_files_with_it_whatever_storage_call_fails() -> None:
    points = run(play(Plan(), streamed=False, delete=True)).plan.points(How.CRASH_AFTER)
    for number in points[-3 * POINTS :: 3]:
        plan = Plan.at(number, How.CRASH_AFTER)
        try:
            run(play(plan, streamed=False, delete=True))
        except BaseException as error:
            error.add_note(f"{number}: {plan.hits}")
            raise
