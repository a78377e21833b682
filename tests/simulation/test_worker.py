"""Several deliveries, several workers, one run: moments that chance seldom brings, brought about on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

import simulated_service
from assistants_service.core import names
from assistants_service.core.ports.models import Deltas, Prompt, Reply
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.protocol.runs.resources import Run, ToolCalls
from assistants_service.core.threads import sse
from assistants_service.core.work_items import AdvanceRun, PurgeThread, to_body
from assistants_service.worker.actions import Actions
from assistants_service.worker.item_handler import WorkItemHandler
from assistants_service.worker.main import Worker
from faults import How, Plan
from promise_checks import all_documents, check, nothing_is_left, past_of
from simulated_clients import Client, Unanswered
from simulated_functions_host import VISIBILITY_TIMEOUT
from simulated_service import PROJECT, Process, World
from virtual_time import run


async def started(world: World, script: str, *, stream: bool = False) -> tuple[Client, Run]:
    client = Client(world)
    await client.open_thread()
    await client.say()
    return client, await client.run(script, stream=stream)


async def send_again(world: World, client: Client, work: Run) -> None:
    """One more work item for this run."""
    item = AdvanceRun(project=PROJECT, thread_id=client.thread, run_id=work.id, sent_at=world.clock.now())
    await world.store.send(to_body(item))


async def deliver(world: World, *, visibility_timeout: float = 45) -> Delivery:
    found = await world.store.receive(1, visibility_timeout=visibility_timeout)
    assert found, "no item is visible"
    return found[0]


def answer(process: Process, delivery: Delivery) -> asyncio.Task[None]:
    return process.spawn(WorkItemHandler(process.context).handle(delivery))


async def finished(world: World, client: Client, work: Run) -> None:
    """Everything that is left is done, by new processes if need be, and kept every promise."""
    if not any("worker" in process.roles for process in world.processes):
        world.layout = ("worker",)
        world.start()
    await world.at_rest()
    assert (await client.look(work)).status == "completed"
    await check(world)


# --- several work items, several holders -----------------------------------------------------------------------------


def test_p6_of_two_workers_that_claim_a_run_at_once_one_works() -> None:
    async def main() -> None:
        world = World(layout=("api", "idle", "idle"))
        async with world.running():
            client, work = await started(world, "slow")
            await send_again(world, client, work)
            items = [await deliver(world), await deliver(world)]
            await asyncio.gather(*map(answer, world.processes[1:], items))
            await finished(world, client, work)
            assert world.models.calls[work.model] == 1
            assert past_of(world, client.thread).state.runs[work.id].attempt == 1

    run(main())


def test_p8_of_three_workers_the_third_shows_what_the_first_did() -> None:
    """The first dies after it ended a step, the second after its claim: neither wrote the step's document."""

    async def main() -> None:
        appends, claimed = 0, False

        def choose(_: int, name: str) -> How | None:
            nonlocal appends, claimed
            if claimed:
                claimed = False
                return How.CRASH_BEFORE
            # Message, run; claim, step, outputs, the step's end; the claim of the second.
            appends += name == "append threads"
            claimed = name == "append threads" and appends == 7
            return How.CRASH_AFTER if name == "append threads" and appends == 6 else None

        plan = Plan(choose)
        world = World(plan=plan, layout=("api", "worker"), lifetime=300)
        async with world.running():
            client, work = await started(world, "own")
            await finished(world, client, work)
            assert len(plan.hits) == 2
            assert world.models.calls[work.model] == 2

    run(main())


def test_p6_a_second_work_item_leaves_a_run_in_progress_alone() -> None:
    async def main() -> None:
        world = World(layout=("api", "idle", "idle"))
        async with world.running():
            client, work = await started(world, "slow")
            working = answer(world.processes[1], await deliver(world))
            await asyncio.sleep(0.5)
            await send_again(world, client, work)
            await answer(world.processes[2], await deliver(world))
            assert not working.done()
            await working
            await finished(world, client, work)
            assert world.models.calls[work.model] == 1

    run(main())


@pytest.mark.parametrize("script", ["slow", "own", "long"])
def test_p3_p6_what_comes_of_a_run_that_was_taken_over_counts_for_nothing(script: str) -> None:
    """The item came back while its holder stood still. Now both work."""

    async def main() -> None:
        world = World(layout=("api", "idle", "idle"))
        async with world.running():
            client, work = await started(world, script)
            old, new = await deliver(world, visibility_timeout=0), await deliver(world)
            overtaken = answer(world.processes[1], old)
            await asyncio.sleep(0.15)
            await answer(world.processes[2], new)
            await overtaken
            await finished(world, client, work)
            past = past_of(world, client.thread)
            run_state = past.state.runs[work.id]
            assert run_state.attempt == 2
            assert [change.name for change in past.of(work.id)].count("thread.run.in_progress") == 1
            kinds = Counter(type(step.step_details) for step in run_state.steps)
            assert kinds[ToolCalls] == (script == "own")
            assert world.models.calls[work.model] == len(list(run_state.steps)) + 1

    run(main())


def test_p6_an_item_that_comes_back_to_the_process_that_works_on_it_is_left_alone() -> None:
    """Its hiding was renewed too late."""

    async def main() -> None:
        world = World(layout=("api", "worker"), restless=True)
        async with world.running():
            client, work = await started(world, "slow")
            await asyncio.sleep(0.5)
            world.store._sql.execute("UPDATE queue SET visible_at=0")
            await finished(world, client, work)
            assert world.models.calls[work.model] == 1

    run(main())


def test_p6_an_item_that_another_host_received_is_back_soon_after_its_worker_died() -> None:
    """Azure Functions' host hides it for ten minutes."""

    async def main() -> None:
        world = World(layout=("api", "idle"))
        async with world.running():
            client, work = await started(world, "slow")
            dying = world.processes[1]
            dying.spawn(Worker(dying.context).take_over(await deliver(world, visibility_timeout=600)))
            await asyncio.sleep(0.5)
            dying.kill()
            began = world.clock.now()
            await finished(world, client, work)
            assert (await client.look(work)).completed_at - began < 60
            assert world.models.calls[work.model] == 2

    run(main())


def test_p6_an_item_that_is_taken_over_twice_is_worked_on_once() -> None:
    async def main() -> None:
        world = World(layout=("api", "idle"))
        async with world.running():
            client, work = await started(world, "slow")
            process = world.processes[1]
            worker, delivery = Worker(process.context), await deliver(world, visibility_timeout=600)
            working = process.spawn(worker.take_over(delivery))
            await asyncio.sleep(0.5)
            world.store._sql.execute("UPDATE queue SET visible_at=0")
            await process.spawn(worker.take_over(await deliver(world, visibility_timeout=600)))
            with pytest.raises(Conflict):
                await process.spawn(worker.take_over(delivery))  # not its own any more
            assert not working.done()
            await working
            await finished(world, client, work)
            assert world.models.calls[work.model] == 1

    run(main())


def test_an_item_that_cannot_be_taken_over_is_left_to_its_host() -> None:
    async def main() -> None:
        world = World(layout=("api", "idle"))
        async with world.running():
            client, work = await started(world, "plain")
            world.plan.choose = lambda _, name: How.REFUSED if name == "extend" else None
            process = world.processes[1]
            with pytest.raises(StorageUnavailable):
                await process.spawn(Worker(process.context).take_over(await deliver(world, visibility_timeout=5)))
            world.plan.choose = lambda _, name: None
            await finished(world, client, work)

    run(main())


def test_an_item_is_hidden_and_deleted_by_its_newest_receipt() -> None:
    """As on Azure, where every hiding makes a new one."""

    async def main() -> None:
        world = World(layout=("api", "worker", "worker"))
        async with world.running():
            client, work = await started(world, "long")
            await client.until(work)
            await asyncio.sleep(0.1)
            assert not world.queued()
            await finished(world, client, work)
            assert world.models.calls[work.model] == 1

    run(main())


def test_p6_a_queue_that_does_not_answer_for_a_while_takes_no_run_from_its_worker() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker", "worker"), restless=True)
        async with world.running():
            client, work = await started(world, "long")
            silent = [How.REFUSED]
            world.plan.choose = lambda _, name: silent.pop() if silent and name == "extend" else None
            await finished(world, client, work)
            assert not silent
            assert world.models.calls[work.model] == 1

    run(main())


def test_p6_an_unforeseen_error_of_the_queue_takes_no_run_from_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(layout=("api", "worker", "worker"), restless=True)
        async with world.running():
            troubles: list[Exception] = [ValueError("a fault")]
            for process in world.processes[1:]:
                extend = process.context.storage.extend

                async def troubled(delivery: Delivery, *, visibility_timeout: float, extend: Any = extend) -> Delivery:
                    if troubles:
                        raise troubles.pop()
                    found: Delivery = await extend(delivery, visibility_timeout=visibility_timeout)
                    return found

                monkeypatch.setattr(process.context.storage, "extend", troubled)
            client, work = await started(world, "long")
            await client.until(work)
            assert not troubles
            assert world.models.calls[work.model] == 1
            assert [error.rpartition(": ")[2] for error in world.errors] == ["ValueError('a fault')"]
            world.errors.clear()
            await finished(world, client, work)

    run(main())


@pytest.mark.parametrize("trouble", [None, *How])
@pytest.mark.parametrize("late", [0.0, 0.4, 0.6, 0.9, 1.1, 2.3])  # of the host's hiding, which it renews at half of it
def test_p2_no_order_of_a_hosts_renewals_and_its_late_functions_loses_an_item(late: float, trouble: How | None) -> None:
    """A function begins before and after each of them, and meanwhile a call fails that hides or deletes the item."""

    async def main(number: int) -> bool:
        plan, held = Plan(stall=0.8 * VISIBILITY_TIMEOUT), 0

        def choose(_: int, name: str) -> How | None:
            nonlocal held
            held += name in ("extend", "delete")
            return trouble if held == number and not plan.hits else None

        world = World(plan, layout=("api", "functions", "functions"), lifetime=300)
        async with world.running():
            delays = [late * VISIBILITY_TIMEOUT, late * VISIBILITY_TIMEOUT]
            for host in [process.host for process in world.processes if process.host]:
                host.late = lambda: delays.pop() if delays else 0.0
            client, work = await started(world, "slow")
            plan.choose = choose
            await world.at_rest()
            assert (await client.look(work)).status == "completed"
            await check(world)
        return bool(plan.hits)

    assert run(main(1)) == bool(trouble)
    for number in range(2, 5 if trouble else 2):
        run(main(number))


def test_p1_the_end_of_a_run_that_came_while_its_pause_was_shown_is_shown_as_well() -> None:
    """Its writer died, and the pause's worker is slow with its documents: no other item stands for the run yet."""

    async def main() -> None:
        plan = Plan(stall=20)
        world = World(plan, layout=("api", "worker"), lifetime=15)

        def choose(_: int, name: str) -> How | None:
            mine = [call.name for call in plan.calls if call.process.startswith("worker")]
            stalls = plan.calls[-1].process.startswith("worker") and mine.count("append threads") == 2
            return How.STALLED if stalls and name == "write_if_newer runs" and not plan.hits else None

        async with world.running():
            plan.choose = choose
            client, work = await started(world, "tool", stream=True)
            await asyncio.sleep(16)
            assert plan.hits
            await client.ask("list messages", "GET", f"/threads/{client.thread}/messages")  # it knows the log's end
            plan.choose = lambda _, name: How.CRASH_AFTER if name == "append threads" else None
            with pytest.raises(Unanswered):
                await client.say()
            plan.choose = lambda _, name: None
            await world.at_rest()
            assert (await client.look(work)).status == "expired"
            await check(world)

    run(main())


def test_p3_a_run_has_one_answer_wherever_its_worker_dies() -> None:
    async def main(number: int) -> bool:
        world = World(layout=("api", "worker"))
        async with world.running():
            plan = world.plan

            def choose(_: int, name: str) -> How | None:
                writes = [c for c in plan.calls if c.process.startswith("worker") and c.name not in ("read", "receive")]
                return How.CRASH_AFTER if len(writes) == number and not plan.hits else None

            plan.choose = choose
            client, work = await started(world, "plain")
            await finished(world, client, work)
            assert len(list(past_of(world, client.thread).state.messages)) == 2
            return bool(plan.hits)

    assert [run(main(number)) for number in range(1, 9)] == [*[True] * 7, False]  # every write, from the claim on


# --- early and late -------------------------------------------------------------------------------------------------


def test_p2_a_work_item_that_comes_before_the_outputs_are_committed_is_not_used_up() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            client, work = await started(world, "tools")
            await client.until(work, "requires_action")
            late = [How.STALLED]
            world.plan.stall = 3
            world.plan.choose = lambda _, name: late.pop() if late and name == "append threads" else None
            await client.submit(work)
            assert (await client.until(work, "completed")).status == "completed"
            await finished(world, client, work)

    run(main())


def test_p2_an_answer_that_comes_after_the_cancel_does_not_end_the_run_again() -> None:
    """Another worker cancelled it, and its own has not looked yet."""

    async def main() -> None:
        world = World(layout=("api", "worker", "worker"), restless=True)
        async with world.running():
            client, work = await started(world, "plain")
            await asyncio.sleep(0.25)
            await client.cancel(work)
            assert (await client.look(work)).status in ("cancelling", "cancelled")
            await world.at_rest()
            assert (await client.look(work)).status == "cancelled"
            await check(world)

    run(main())


def test_a_purge_that_is_delivered_before_the_deletion_is_committed_comes_back() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            client = Client(world)
            await client.open_thread()
            late = [How.STALLED]
            world.plan.stall = 3
            world.plan.choose = lambda _, name: late.pop() if late and name == "append threads" else None
            await client.delete()
            await world.at_rest()
            await nothing_is_left(world, client.thread)

    run(main())


def test_the_last_of_a_thread_goes_whole_though_its_first_purge_never_came() -> None:
    async def main() -> None:
        world = World(layout=("api", "idle"))
        async with world.running():
            _, worker = world.processes
            client = Client(world)
            await client.open_thread()
            await client.say()
            await client.delete()
            await world.store.delete(await deliver(world))
            second = PurgeThread(project=PROJECT, thread_id=client.thread, sent_at=world.clock.now(), tombstones=True)
            await world.store.send(to_body(second))
            await answer(worker, await deliver(world))  # before its time: what is late may still come
            assert (names.THREADS, names.log(PROJECT, client.thread)) in await world.logs()
            await asyncio.sleep(world.tombstones)
            await answer(worker, await deliver(world))
            await nothing_is_left(world, client.thread)

    run(main())


def test_an_answer_that_comes_during_the_purge_leaves_no_document() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker", "worker"))
        async with world.running():
            client, _ = await started(world, "slow")
            await asyncio.sleep(1.1)  # just after its worker has looked, 0.8 s before the answer
            await client.delete()
            await asyncio.sleep(2)
            assert not await all_documents(world, client.thread)
            await world.at_rest()
            await nothing_is_left(world, client.thread)

    run(main())


# --- the stream of a run whose worker died --------------------------------------------------------------------------


def test_p4_what_a_dead_worker_left_open_is_closed_before_the_model_is_asked_again() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            client, work = await started(world, "slow", stream=True)
            await asyncio.sleep(0.5)
            told: list[str] = []
            whole = world.models.reply

            async def reply(prompt: Prompt, deltas: Deltas | None) -> Reply:
                tail = await world.store.read(names.STREAMS, names.document(PROJECT, client.thread, work.id), None)
                told.extend(name for _, _, name, _ in sse.parse(tail.data if tail else b""))
                return await whole(prompt, deltas)

            models: Any = world.models
            models.reply = reply
            world.processes[1].kill()
            await client.until(work)
            assert told[-3:] == ["thread.message.delta", "thread.message.incomplete", "thread.run.step.failed"]
            await finished(world, client, work)

    run(main())


# --- the end of a worker --------------------------------------------------------------------------------------------


def test_p9_a_worker_that_stops_lets_its_runs_finish() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            client, work = await started(world, "slow")
            await asyncio.sleep(0.5)
            await world.processes[1].drain(grace=25)
            assert (await client.look(work)).status == "completed"
            assert not world.queued()

    run(main())


def test_p9_what_the_grace_cuts_off_is_delivered_again_at_once() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"))
        async with world.running():
            client, work = await started(world, "long")
            await asyncio.sleep(0.5)
            await world.processes[1].drain(grace=1)
            assert (await deliver(world, visibility_timeout=0)).count == 2
            await finished(world, client, work)
            assert world.models.calls[work.model] == 2

    run(main())


def test_p9_what_the_last_receive_brings_is_handed_back() -> None:
    """The worker stops while the store answers."""

    async def main() -> None:
        world = World(layout=("api", "worker"), worker_from=1)
        async with world.running():
            client, work = await started(world, "slow")
            storage: Any = world.processes[1].storage
            receive, under_way = storage.receive, asyncio.Event()

            async def slowly(limit: int, *, visibility_timeout: float) -> list[Delivery]:
                found: list[Delivery] = await receive(limit, visibility_timeout=visibility_timeout)
                under_way.set()
                await asyncio.sleep(1)
                return found

            storage.receive = slowly
            await under_way.wait()
            await world.processes[1].drain(grace=0)
            assert (await deliver(world, visibility_timeout=0)).count == 2
            assert not world.models.calls
            await finished(world, client, work)

    run(main())


# --- actions that hang ----------------------------------------------------------------------------------------------


@dataclass
class Stubborn:
    """An action that swallows its cancellation."""

    swallowed: int = 0
    released: bool = False

    async def lookup(self, word: str) -> str:
        while not self.released:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                self.swallowed += 1
        return word


@contextlib.asynccontextmanager
async def stuck(**options: Any) -> AsyncIterator[tuple[World, Client, Run, Stubborn]]:
    """A run that is in such an action, in a worker that has one slot."""
    world, stubborn = World(layout=("api", "worker"), **options), Stubborn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_service, "ACTIONS", Actions({"lookup": stubborn.lookup}, timeout=3600))
        async with world.running():
            client, work = await started(world, "own")
            await asyncio.sleep(2)
            try:
                yield world, client, work, stubborn
            finally:
                stubborn.released = True


def test_p2_an_action_that_swallows_its_cancellation_keeps_no_run_from_its_expiry() -> None:
    """Nor does it keep the slot of its run."""

    async def main() -> None:
        async with stuck(concurrency=1) as (world, client, work, stubborn):
            await asyncio.sleep(world.lifetime + 2)
            assert (await client.look(work)).status == "expired"
            assert not world.processes[1].context.runs.full
            assert stubborn.swallowed

    run(main())


def test_p9_an_action_that_swallows_its_cancellation_keeps_no_worker_from_its_end() -> None:
    async def main() -> None:
        async with stuck() as (world, _, _, stubborn):
            begun = world.now()
            async with asyncio.timeout(60):
                await world.processes[1].drain(grace=1)
            assert world.now() - begun < 3
            assert stubborn.swallowed
            assert (await deliver(world, visibility_timeout=0)).count == 2

    run(main())
