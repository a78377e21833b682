"""What core/log/repository.py closes that no single fault of the crash sweep opens: two faults at once, two processes
that know different things, two readers of one view."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.fanout import AT_ONCE
from assistants_service.core.ids import Ids
from assistants_service.core.log import document_writer
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.storage import StorageUnavailable, Undecided
from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.threads import events as e
from assistants_service.core.threads.commands import message_from
from commit_history import whole
from faults import How, Plan
from promise_checks import check, nothing_is_left, past_of
from scenarios import ask
from simulated_clients import Client
from simulated_service import PROJECT, Process, World
from virtual_time import run


async def say(process: Process, thread_id: str, text: str) -> str:
    """A message by way of this very process. Its id."""
    context = process.request
    body, message_id = CreateMessage(role="user", content=text), context.ids.new("msg")
    await process.services.threads.create_message(context, thread_id, message_id, body)
    return message_id


async def document_of(world: World, client: Client) -> bytes:
    stored = await world.store.get(names.THREADS, names.document(PROJECT, client.thread))
    assert stored
    return stored.body


# --- commits --------------------------------------------------------------------------------------------------------


def test_a_decision_that_makes_nothing_leaves_no_commit() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            assert await world.processes[0].threads.commit(PROJECT, client.thread, lambda state: ()) == []
            assert len(past_of(world, client.thread).commits) == 1

    run(main())


def test_a_commit_to_a_thread_that_is_gone_begins_no_log() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            late = message_from(CreateMessage(role="user", content="Late"), "thread_1", "msg_1", 1)
            with pytest.raises(ApiError, match="No thread found"):
                await world.processes[0].threads.commit(
                    PROJECT, "thread_1", lambda state: [e.MessageCreated(message=late)]
                )
            assert await world.store.read(names.THREADS, names.log(PROJECT, "thread_1"), None) is None

    run(main())


@pytest.mark.parametrize("how", [How.LOST, How.REFUSED])
def test_p3_a_process_whose_append_got_no_answer_knows_what_the_log_says(how: How) -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world, retries=2)
            await client.open_thread()
            for _ in range(2):
                faults = [how]
                world.plan.choose = lambda _, name: faults.pop() if faults and name == "append threads" else None  # noqa: B023
                await client.say()
            state = await world.processes[0].threads.read(PROJECT, client.thread)
            assert whole(state) == whole(past_of(world, client.thread).state)
            await check(world)

    run(main())


@pytest.mark.parametrize("how", [How.LOST, How.REFUSED])
def test_p3_who_waits_while_an_append_gets_no_answer_knows_what_the_log_says(how: How) -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            (process,) = world.processes
            client = Client(world)
            await client.open_thread()
            faults = [how]
            world.plan.choose = lambda _, name: faults.pop() if faults and name == "append threads" else None
            said = [say(process, client.thread, text) for text in ("One", "Two")]
            first, second = await asyncio.gather(*said, return_exceptions=True)
            assert isinstance(first, StorageUnavailable) and isinstance(second, str)
            state = await process.threads.cached(PROJECT, client.thread)
            assert whole(state) == whole(past_of(world, client.thread).state)

    run(main())


# --- views ----------------------------------------------------------------------------------------------------------


def test_readers_at_once_fold_what_another_process_wrote_once() -> None:
    async def main() -> None:
        world = World(layout=("api", "api"))
        async with world.running():
            reader, writer = world.processes
            client = Client(world)
            await client.open_thread()
            await reader.threads.read(PROJECT, client.thread)
            for number in range(3):
                await say(writer, client.thread, f"Message {number}")
            states = await asyncio.gather(*(reader.threads.read(PROJECT, client.thread) for _ in range(5)))
            past = past_of(world, client.thread)
            assert [whole(state) for state in states] == [whole(past.state)] * 5

    run(main())


def test_a_process_that_knew_a_thread_hears_that_it_was_purged() -> None:
    async def main() -> None:
        world = World(layout=("api", "api", "worker"))
        async with world.running():
            reader, deleter, _ = world.processes
            client = Client(world)
            await client.open_thread()
            await reader.threads.read(PROJECT, client.thread)
            await deleter.services.threads.delete(deleter.request, client.thread)
            await world.at_rest()
            with pytest.raises(ApiError, match="No thread found"):
                await reader.threads.read(PROJECT, client.thread)

    run(main())


def test_ids_sort_by_creation_whatever_the_clock_does() -> None:
    class Jumping:
        times = iter((5.0, 5.0, 2.0, 9.0))

        def now(self) -> float:
            return next(self.times)

    ids = Ids(Jumping())
    made = [ids.new("msg") for _ in range(4)]
    assert made == sorted(made)


# --- projections ----------------------------------------------------------------------------------------------------


def test_p1_a_commit_whose_documents_are_refused_is_acknowledged_and_shown_later() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            refusals = [How.REFUSED] * 3
            world.plan.choose = lambda _, name: (
                refusals.pop() if refusals and name == "write_if_newer threads" else None
            )
            await client.modify()
            news = world.exchanges[-1].mark.encode()
            assert news not in await document_of(world, client)
            await asyncio.sleep(60)
            assert not refusals
            assert news in await document_of(world, client)

    run(main())


def test_p1_documents_that_meet_an_unforeseen_error_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            process, troubles = world.processes[0], [StorageUnavailable("away"), ValueError("a fault"), KeyError("x")]
            write_if_newer = process.threads._storage.write_if_newer

            async def troubled(document: Document) -> None:
                if troubles:
                    raise troubles.pop(0)
                await write_if_newer(document)

            monkeypatch.setattr(process.threads._storage, "write_if_newer", troubled)
            await client.modify()
            await asyncio.sleep(60)
            assert world.exchanges[-1].mark.encode() in await document_of(world, client)
            assert not process.threads._writer.late
            assert [error.rpartition(": ")[2] for error in world.errors] == ["ValueError('a fault')", "KeyError('x')"]

    run(main())


def test_commits_are_told_ahead_of_their_documents_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that refuses documents for good does not fill the memory. A client hears then that it is unknown."""
    monkeypatch.setattr(document_writer, "MOST_LATE", 3)

    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            process = world.processes[0]
            refusing = True
            world.plan.choose = lambda _, name: How.REFUSED if refusing and name.startswith("write_if_newer") else None
            for number in range(3):
                await process.spawn(say(process, client.thread, f"message {number}"))
            with pytest.raises(Undecided):
                await process.spawn(say(process, client.thread, "one more"))
            assert len(process.threads._writer.late) == 3
            refusing = False
            await asyncio.sleep(60)
            assert not process.threads._writer.late
            assert await process.spawn(say(process, client.thread, "after all"))

    run(main())


def test_p1_a_worker_keeps_its_item_until_the_documents_are_written() -> None:
    """The store refuses the documents of a run's end, and the worker dies before it tries again."""
    plan = Plan()

    def choose(_: int, name: str) -> How | None:
        mine = [call.name for call in plan.calls if call.process.startswith("worker")]
        if not plan.calls[-1].process.startswith("worker") or mine.count("write_if_newer runs") < 2:
            return None
        if not plan.hits:
            return How.REFUSED
        return How.CRASH_AFTER if len(plan.hits) == 1 and name in ("delete", "extend") else None

    async def main() -> None:
        plan.choose = choose
        world = World(plan=plan, layout=("api", "worker"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await client.say()
            ended = await client.run("plain")
            await world.at_rest()
            assert [hit.split(":")[0] for hit in plan.hits] == [How.REFUSED.value, How.CRASH_AFTER.value]
            assert (await client.look(ended)).status == "completed"
            await check(world)

    run(main())


def test_a_document_that_is_deleted_while_it_is_made_up_is_a_404() -> None:
    """Its writer died before projecting it; a reader writes it, just as it is deleted."""

    async def main() -> None:
        world = World(layout=("api", "api"))
        async with world.running():
            reader, deleter = world.processes
            client = Client(world)
            await client.open_thread()
            message = await say(deleter, client.thread, "Hello")
            await world.store.remove(names.MESSAGES, names.document(PROJECT, client.thread, message))

            async def write_if_newer(document: Document) -> None:
                context = deleter.request
                await deleter.services.threads.delete_message(context, client.thread, message)
                await world.store.write_if_newer(document)

            storage: Any = reader.storage
            storage.write_if_newer = write_if_newer
            with pytest.raises(ApiError, match="No message found"):
                await reader.threads.fetch(names.MESSAGES, PROJECT, client.thread, message)

    run(main())


# --- deletion -------------------------------------------------------------------------------------------------------


def test_no_document_is_brought_up_of_a_thread_that_was_deleted_meanwhile() -> None:
    """Under the version of the deletion it would keep the tombstone away."""

    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await client.say()
            queued = await client.run("plain")
            await client.delete()
            await world.processes[0].threads.project(PROJECT, client.thread, queued.id)
            world.layout = ("worker",)
            world.start()
            await world.at_rest()
            await nothing_is_left(world, client.thread)

    run(main())


def test_what_is_unpacked_of_a_snapshot_counts_whenever_that_is() -> None:
    """Packed, a thread weighs a twentieth: a few long lists would fill the memory."""

    async def main() -> None:
        world = World(layout=("api", "idle"), rollover_after=1)
        async with world.running():
            long, short = Client(world), Client(world)
            for client in (long, short):
                await client.open_thread()
            writing, reading = world.processes
            body = CreateMessage(role="user", content="x" * 1000)
            made = [message_from(body, long.thread, f"msg_{number:024}", 1) for number in range(100)]
            created = [e.MessageCreated(message=message) for message in made]
            await writing.threads.commit(PROJECT, long.thread, lambda state: created)
            await long.say()  # which rolls the log over
            threads = reading.threads
            threads._views.limit = 100_000
            state = await threads.read(PROJECT, long.thread)
            await threads.read(PROJECT, short.thread)
            assert len(threads._views) == 2 and threads._views.weight < 30_000
            assert len(list(state.messages)) == 101
            await threads.read(PROJECT, short.thread)
            assert [*threads._views] == [(PROJECT, short.thread)]
            assert threads._views.weight == threads._views[PROJECT, short.thread].weight

    run(main())


def test_a_purge_asks_the_store_for_a_few_documents_at_a_time() -> None:
    """Of a thread of thousands, all other tasks would wait for it."""

    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            (process,) = world.processes
            body = CreateMessage(role="user", content="Hello")
            made = [message_from(body, client.thread, f"msg_{number:024}", 1) for number in range(100)]
            created = [e.MessageCreated(message=message) for message in made]
            await process.threads.commit(PROJECT, client.thread, lambda state: created)
            await client.delete()
            undisturbed, under_way = process.storage.write_if_newer, [0]

            async def write_if_newer(document: Document) -> None:
                under_way.append(under_way[-1] + 1)
                await undisturbed(document)
                under_way.append(under_way[-1] - 1)

            process.storage.write_if_newer = write_if_newer  # type: ignore[method-assign]
            await process.spawn(process.threads.purge(PROJECT, client.thread))
            assert len(under_way) > 200 and max(under_way) == AT_ONCE
            assert not [name for _, name in await world.documents() if "msg_" in name and await shown(world, name)]

    run(main())


async def shown(world: World, message: str) -> bool:
    return await world.store.get(names.MESSAGES, message) is not None


def test_a_purge_leaves_a_thread_alone_that_was_not_deleted() -> None:
    async def main() -> None:
        world = World()
        async with world.running():
            client = Client(world)
            await client.open_thread()
            await ask(client, "plain")
            await world.processes[0].threads.purge(PROJECT, client.thread)
            await world.at_rest()
            await check(world)

    run(main())
