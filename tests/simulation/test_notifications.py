"""Within one process no part polls for what another one did: it is notified at once, whenever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from assistants_service.api import streaming
from assistants_service.core import names
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.ports.queue import Delivery
from assistants_service.worker.item_handler import WorkItemHandler
from faults import How
from simulated_clients import Client
from simulated_service import PROJECT, World
from virtual_time import run

AT_ONCE = 0.02  # seconds: a few calls of the store


def now() -> float:
    return asyncio.get_running_loop().time()


async def idle(world: World) -> Client:
    """A client of a service that has had nothing to do for so long that it looks rarely."""
    client = Client(world)
    await client.open_thread()
    await client.say()
    await asyncio.sleep(10)
    return client


def asked_at(world: World, change: Callable[[Prompt, Deltas | None], Awaitable[Reply]] | None = None) -> list[float]:
    """When the model is asked."""
    times: list[float] = []
    whole = change or world.models.reply

    async def reply(prompt: Prompt, deltas: Deltas | None) -> Reply:
        times.append(now())
        return await whole(prompt, deltas)

    models: Any = world.models
    models.reply = reply
    return times


def test_an_idle_worker_begins_a_new_run_at_once() -> None:
    async def main() -> None:
        world = World(restless=True)
        async with world.running():
            client, asked = await idle(world), asked_at(world)
            began = now()
            await client.until(await client.run("plain"))
            assert asked[0] - began < AT_ONCE

    run(main())


def test_a_run_that_comes_while_the_queue_is_looked_at_begins_at_once() -> None:
    """After the store has looked, and before the worker knows that it found nothing."""

    async def main() -> None:
        world = World(restless=True)
        async with world.running():
            client, asked = await idle(world), asked_at(world)
            storage: Any = world.processes[0].storage
            receive, began = storage.receive, []

            async def look(limit: int, *, visibility_timeout: float) -> list[Delivery]:
                found: list[Delivery] = await receive(limit, visibility_timeout=visibility_timeout)
                if not began:
                    began.append(now())
                    await client.run("plain")
                return found

            storage.receive = look
            async with asyncio.timeout(10):
                while not asked:
                    await asyncio.sleep(0.001)
            assert asked[0] - began[0] < AT_ONCE

    run(main())


def test_a_commit_that_comes_after_its_work_item_is_noticed_at_once() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            asked = asked_at(world)
            world.plan.stall = 0.6
            world.plan.choose = lambda _, name: How.STALLED if name == "start threads" else None
            creating = asyncio.create_task(Client(world).run_in_new_thread("plain", stream=True))
            await asyncio.sleep(AT_ONCE)
            (process,), (delivery,) = world.processes, await world.store.receive(1, visibility_timeout=45)
            answering = process.spawn(WorkItemHandler(process.context).handle(delivery))
            await creating
            created = now()
            await answering
            assert asked[0] - created < AT_ONCE

    run(main())


def test_a_cancel_ends_the_model_call_at_once() -> None:
    async def main() -> None:
        world = World()
        async with world.running():
            ended: list[float] = []

            async def hang(*_: Any) -> Reply:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(now())
                raise AssertionError

            client, asked = await idle(world), asked_at(world, hang)
            work = await client.run("plain")
            await asyncio.sleep(5.3)
            assert asked and not ended
            began = now()
            await client.cancel(work)
            await client.until(work)
            assert ended and ended[0] - began < AT_ONCE

    run(main())


@pytest.mark.parametrize("silence", [30, 30.1])  # a poll may follow one of them at once, by chance, but not both
def test_a_reader_hears_at_once_what_comes_after_a_long_silence(silence: float) -> None:
    async def main() -> None:
        world = World()
        async with world.running():
            said: list[float] = []

            async def pausing(_: Prompt, deltas: Deltas | None) -> Reply:
                assert deltas
                await asyncio.sleep(silence)
                said.append(now())
                deltas.text("Hello.")
                await asyncio.sleep(30)
                return Reply("Hello.")

            client = await idle(world)
            asked_at(world, pausing)
            (process,) = world.processes
            work = await client.run("plain", stream=True)
            source = streaming.stream_source(process.services, PROJECT, work.thread_id, work.id)
            topic = f"{names.STREAMS}/{names.document(PROJECT, work.thread_id, work.id)}"
            async for chunk in streaming.follow(process.services, source, [topic], 0, to_the_end=True):
                if b"thread.message.delta" in chunk:
                    assert now() - said[0] < AT_ONCE
                    return
            raise AssertionError("nothing was said")

    run(main())


def test_a_reader_hears_at_once_what_comes_while_it_looks() -> None:
    async def main() -> None:
        notifier = Notifier()

        class Service:
            pass

        service: Any = Service()
        service.notifier = notifier
        looks: list[float] = []

        async def source(offset: int) -> bytes:
            looks.append(now())
            if len(looks) == 1:
                notifier.notify("topic")  # of what is written just after the store has looked
                return b""
            return b"id: 0.1\nevent: thread.run.completed\ndata: {}\n\n"

        chunks = streaming.follow(service, source, ["topic"], 0, to_the_end=True)
        async for _ in chunks:
            pass
        assert looks[0] == looks[1]

    run(main())


@pytest.mark.parametrize("notified", [0, 1])
def test_a_listener_serves_once_and_is_forgotten(notified: int) -> None:
    async def main() -> None:
        notifier = Notifier()
        listener = notifier.listen("topic")
        for _ in range(notified):
            notifier.notify("topic")
        assert await listener.wait(1) == bool(notified)
        assert not notifier._listeners

    run(main())
