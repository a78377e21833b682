"""Races that random histories found, each played move by move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from assistants_service.api import streaming
from assistants_service.core import names
from assistants_service.core.work_items import AdvanceRun, MaintainStore, to_body
from assistants_service.worker.item_handler import WorkItemHandler
from assistants_service.worker.run_executor import RunExecutor
from assistants_service.worker.slots import Slots
from faults import How
from promise_checks import all_documents, check
from simulated_clients import Client, Refused, Unanswered
from simulated_service import PROJECT, World
from test_fairness import counts, store_of
from virtual_time import run


def played(moves: Callable[[World, Client], Awaitable[None]], **options: Any) -> World:
    """The moves of a client in a thread of its own; then rest; then the promises."""

    async def main() -> World:
        world = World(**options)
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await client.say()
            await moves(world, client)
            world.plan.end()
            await world.at_rest()
            await check(world)
        return world

    return run(main())


def test_a_run_that_ended_elsewhere_cannot_be_cancelled_again() -> None:
    """The API heard of the first cancel only; that nothing is left to do it must not say on old news."""

    async def moves(_: World, client: Client) -> None:
        asked = await client.run("slow")
        await client.until(asked, "in_progress")
        await client.cancel(asked)
        await client.until(asked)
        with pytest.raises(Refused, match="Cannot cancel run with status 'cancelled'"):
            await client.ask("cancel run", "POST", f"/threads/{client.thread}/runs/{asked.id}/cancel")

    played(moves, layout=("api", "worker"))


def test_what_was_changed_is_answered_so_though_the_thread_is_deleted_meanwhile() -> None:
    """The commit stands, its projection takes long, and before the answer the thread is gone."""

    async def moves(world: World, client: Client) -> None:
        plan = world.plan
        plan.choose = lambda _, name: How.STALLED if name == "write_if_newer threads" and not plan.hits else None
        changing = asyncio.create_task(client.modify())
        while not plan.hits:
            await asyncio.sleep(0.001)
        await client.delete()
        await changing

    world = played(moves)
    assert [each.status for each in world.exchanges if each.what == "modify"] == [200]


def test_p9_a_worker_that_is_told_to_stop_leaves_alone_what_another_one_took_over() -> None:
    async def moves(world: World, client: Client) -> None:
        _, stopping, going_on = world.processes
        asked = await client.run("slow")
        (held,) = await world.store.receive(1, visibility_timeout=0)
        answering = stopping.spawn(WorkItemHandler(stopping.context).handle(held))
        await asyncio.sleep(0.3)
        (again,) = await world.store.receive(1, visibility_timeout=45)
        taking_over = going_on.spawn(WorkItemHandler(going_on.context).handle(again))
        answering.cancel()
        await asyncio.wait((answering,))
        assert answering.cancelled()
        await taking_over
        assert (await client.until(asked)).status == "completed"

    played(moves, layout=("api", "idle", "idle"))


@pytest.mark.parametrize("kind", ["run", "store"])
def test_p2_an_item_that_came_again_before_its_commit_keeps_its_id(kind: str) -> None:
    """Its first holder may live, and claim by it when the commit comes: were it gone then, none could take over."""

    async def moves(world: World, client: Client) -> None:
        _, second, _ = world.processes
        now = world.clock.now()
        run = AdvanceRun(project=PROJECT, thread_id=client.thread, run_id="run_none", sent_at=now)
        store = MaintainStore(project=PROJECT, store_id="vs_none", sent_at=now)
        await world.store.send(to_body(run if kind == "run" else store))
        (first,) = await world.store.receive(1, visibility_timeout=0)
        (again,) = await world.store.receive(1, visibility_timeout=5)
        await second.spawn(WorkItemHandler(second.context).handle(again))
        await asyncio.sleep(5)
        (there,) = await world.store.receive(10, visibility_timeout=5)
        assert (there.id, there.count) == (first.id, 3)
        await world.store.delete(there)

    played(moves, layout=("api", "idle", "idle"))


@pytest.mark.parametrize("kind", ["run", "store"])
def test_p2_an_item_that_came_again_waits_for_its_slot(kind: str) -> None:
    """Put back, it would be another one, and its first holder may live, and claim by this one."""

    async def moves(world: World, client: Client) -> None:
        _, second, third = world.processes
        second.context.runs = second.context.ingestion.jobs = Slots(0, 0)
        asked = await client.run("plain") if kind == "run" else await store_of(world, PROJECT, 0)
        (first,) = await world.store.receive(1, visibility_timeout=0)
        (again,) = await world.store.receive(1, visibility_timeout=45)
        answering = second.spawn(WorkItemHandler(second.context).handle(again))
        await asyncio.sleep(1)
        assert not answering.done()
        answering.cancel()
        await asyncio.wait((answering,))
        (there,) = await world.store.receive(10, visibility_timeout=45)
        assert there.id == first.id
        await third.spawn(WorkItemHandler(third.context).handle(there))
        if kind == "run":
            assert (await client.until(asked)).status == "completed"
        else:
            assert (await counts(world, PROJECT, asked)).completed

    played(moves, layout=("api", "idle", "idle"))


def test_p3_a_key_whose_run_was_streamed_creates_nothing_anew_after_the_thread_was_deleted() -> None:
    async def moves(world: World, client: Client) -> None:
        streamed = await client.run_in_new_thread("plain", stream=True, key="k")
        first = world.exchanges[-1]
        await client.follow(streamed)
        await client.delete()
        await world.at_rest()
        path = first.path.removeprefix("/v1")
        with pytest.raises(Unanswered):  # a stream that tells of the deletion, and of no run
            await client.ask(first.what, "POST", path, first.body, mark=first.mark, key="k")
        assert await world.store.read(names.THREADS, names.log(PROJECT, client.thread), None) is None

    played(moves)


def test_a_stream_that_is_begun_while_its_thread_is_purged_does_not_stay() -> None:
    """By a worker whose item came again: it has looked at the stream and at the log, and has not written yet."""

    async def moves(world: World, client: Client) -> None:
        late = world.processes[2]
        ended = await client.run("plain", stream=True)
        await client.until(ended)
        storage: Any = late.storage
        undisturbed, log = storage.start, names.log(PROJECT, client.thread)
        await storage.drop(names.STREAMS, names.document(PROJECT, client.thread, ended.id))

        async def start(container: str, *block: Any) -> Any:
            if container == names.STREAMS and not client.gone:
                await client.delete()
                while await world.store.read(names.THREADS, log, None):
                    await asyncio.sleep(0.1)
            return await undisturbed(container, *block)

        storage.start = start
        item = AdvanceRun(project=PROJECT, thread_id=client.thread, run_id=ended.id, sent_at=world.clock.now())
        await late.spawn(RunExecutor(late.context, item, "again", 0).run())
        assert client.gone
        assert not await world.store.read(names.STREAMS, names.document(PROJECT, client.thread, ended.id), None)

    played(moves, layout=("api", "worker", "idle"))


async def test_p4_a_reader_that_comes_back_as_the_thread_is_deleted_hears_so() -> None:
    async def gone(_: int) -> None:
        return None

    assert await streaming.start_offset(gone, "120.7") == 0


def test_p3_a_creation_that_comes_after_its_thread_was_purged_creates_nothing_anew() -> None:
    """It stands still between its work item and its commit. It is sent again with its key meanwhile, and what that
    created is deleted."""

    async def moves(world: World, client: Client) -> None:
        late = [How.STALLED]
        world.plan.choose = lambda _, name: late.pop() if late and name.startswith("send") else None
        client.patience = 5.0
        with pytest.raises(Unanswered):
            await client.run_in_new_thread("plain", key="k")
        first = world.exchanges[-1]
        path = first.path.removeprefix("/v1")
        again = await client.ask(first.what, "POST", path, first.body, mark=first.mark, key="k")
        client.thread = again.run.thread_id
        await client.until(again.run)
        await client.delete()
        while await all_documents(world, client.thread):
            await asyncio.sleep(0.1)

    played(moves, layout=("api", "worker"))
