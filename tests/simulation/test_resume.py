"""`assistants resume`: whatever storage call a process dies at, a copy of the truth alone goes on, though it has no
queue, no projections and no streams; and nothing is left in it for ever."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from assistants_service import command
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.protocol.runs.resources import TERMINAL
from assistants_service.core.resume import Resumption
from assistants_service.core.threads import events as e
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.storage_engines import MEMORY
from assistants_service.infra.wiring import SystemClock
from faults import How, Plan
from inprocess_service import in_process
from promise_checks import nothing_is_left, past_in
from scenarios import SCENARIOS, WORLDS
from simulated_clients import Client, Unanswered
from simulated_service import PROJECT, RESTART, Process, World
from test_crash_sweep import THOROUGH, go_on
from test_files_crash import SCENARIOS as FILES
from test_files_crash import Owner as Uploader
from test_files_crash import check as check_files
from test_files_crash import create_and_delete, days_pass, go_away
from test_stores_crash import SCENARIOS as STORES
from test_stores_crash import Owner, check, delete_while_files_are_read
from virtual_time import run

POINTS = 3 * THOROUGH  # of each scenario
LATE = [SCENARIOS[name] for name in SCENARIOS if "expire" in name or "settle" in name]  # runs are to expire in these
NEWER = b'{"id": "secret", "at": 1, "events": [{"type": "secret.of.a.newer.version"}]}\n'
Play = Callable[[Any, Plan], Coroutine[Any, Any, World]]


class Restored(World):
    """Once its process has died, it begins again with such a copy."""

    def down(self, process: Process) -> None:
        self.processes.remove(process)
        apart = contextvars.Context()  # else the task would die with the process
        self.resuming = asyncio.get_running_loop().create_task(self._resume(process), context=apart)

    async def _resume(self, process: Process) -> None:
        await asyncio.sleep(RESTART)
        self.store._sql.execute("DELETE FROM queue")
        self._lose()
        command = Process(self, process.place, "", "resume")
        await Resumption(command.storage, command.threads, command.stores, self.clock).run()
        self._up(process.place, process.roles)

    def _lose(self) -> None:
        """What a copy does not hold."""
        sql = self.store._sql
        for container in (*names.PROJECTIONS, *names.PASSING):
            for table in ("documents", "logs", "blocks"):
                sql.execute(f"DELETE FROM {table} WHERE container=?", (container,))
        # What is staged is not in a copy, either.
        sql.execute(
            "DELETE FROM chunks WHERE NOT EXISTS (SELECT 1 FROM contents, json_each(contents.parts) AS part WHERE"
            " contents.container=chunks.container AND contents.name=chunks.name"
            " AND json_extract(part.value, '$[0]')=chunks.part)"
        )


class Queueless(Restored):
    """It has lost the queue alone."""

    def _lose(self) -> None: ...


def sweep(play: Play, scenario: Any) -> None:
    calls = run(play(scenario, Plan())).plan.points(How.CRASH_AFTER)
    crash_at(play, scenario, calls[:: math.ceil(len(calls) / POINTS)])


def crash_from(play: Play, scenario: Any, name: str) -> None:
    """At all calls from the first of this name on."""
    plan = run(play(scenario, Plan())).plan
    first = next(number for number, call in enumerate(plan.calls, 1) if call.name == name)
    crash_at(play, scenario, [number for number in plan.points(How.CRASH_AFTER) if number >= first])


def crash_at(play: Play, scenario: Any, numbers: Iterable[int]) -> None:
    for number in numbers:
        plan = Plan.at(number, How.CRASH_AFTER)
        try:
            run(play(scenario, plan))
        except BaseException as error:
            error.add_note(f"{scenario.__name__}: {plan.hits}")
            raise
        assert plan.hits


async def talk(scenario: Any, plan: Plan, *, purged: bool = False, kind: type[Restored] = Restored) -> World:
    """The client asks no more after the restore, until every run has ended. With `purged`, the plan lasts until what
    was deleted is gone."""
    world = kind(plan=plan, **WORLDS.get(scenario.__name__, {}))
    async with world.running():
        client = Client(world, 0)

        async def talking() -> None:
            with contextlib.suppress(Unanswered):
                if scenario.__name__ != "thread_and_run":
                    await client.open_thread()
                await scenario(client)

        task = asyncio.create_task(talking())
        while not task.done() and not plan.hits:
            await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait((task,))
        if purged:
            await world.at_rest()
        await asyncio.sleep(2 * RESTART)
        plan.end()
        await world.at_rest()
        past = await past_in(world.store, client.thread)
        paused = {event.run_id for _, event in past.events(e.RunRequiresAction)}  # its client gave no outputs
        for run_state in past.state.runs:
            assert run_state.run.status in TERMINAL
            assert run_state.run.status != "expired" or run_state.id in paused or scenario in LATE
        if past.commits and not past.deleted:
            await go_on(client)
        elif client.thread:
            await nothing_is_left(world, client.thread)
        assert not world.errors, world.errors
    return world


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_p2_every_run_of_a_restored_copy_ends(scenario: Any) -> None:
    sweep(talk, scenario)


@pytest.mark.parametrize("kind", [Restored, Queueless])
def test_nothing_is_left_of_a_deleted_thread_whose_log_had_gone(kind: type[Restored]) -> None:
    crash_from(partial(talk, purged=True, kind=kind), SCENARIOS["rolled_over_and_deleted"], f"drop {names.THREADS}")


async def keep_stores(scenario: Any, plan: Plan, *, purged: bool = False, **options: Any) -> World:
    """`purged` as of `talk`."""
    world = Restored(plan=plan, **options)
    async with world.running():
        owner = Owner(world, 0)
        try:
            await scenario(owner)
        except (Unanswered, ApiError):
            assert plan.hits
        if purged:
            await days_pass(world)
        await asyncio.sleep(2 * RESTART)
        plan.end()
        await days_pass(world)
        await ask_for_everything(world)
        await check(world, owner)
    return world


async def ask_for_everything(world: World) -> None:
    """What is made from the logs is made when it is asked for."""
    for container, name in await world.logs():
        if container == names.STORE_LOGS:
            store_id = name.removeprefix(f"{PROJECT}/").removesuffix(".log")
            stores = world.processes[0].stores
            state = (await stores.load(PROJECT, store_id)).state
            for file in state.files:
                await stores.fetch(names.STORE_FILES, PROJECT, store_id, file.id)
            for batch in state.batches:
                await stores.fetch(names.STORE_BATCHES, PROJECT, store_id, batch.id)


@pytest.mark.parametrize("scenario", STORES, ids=lambda scenario: scenario.__name__)
def test_p9_every_vector_store_of_a_restored_copy_is_whole(scenario: Any) -> None:
    sweep(keep_stores, scenario)


def test_nothing_is_left_of_a_deleted_vector_store_whose_log_had_gone() -> None:
    crash_from(
        partial(keep_stores, purged=True, rollover_after=2), delete_while_files_are_read, f"drop {names.STORE_LOGS}"
    )


async def keep_files(scenario: Any, plan: Plan) -> World:
    world = Restored(plan=plan)
    async with world.running():
        owner = Uploader(world)
        try:
            await scenario(owner)
        except (Unanswered, ApiError):
            assert plan.hits
        except ConnectionResetError:
            assert scenario is go_away
        await asyncio.sleep(2 * RESTART)
        plan.end()
        await days_pass(world)
        await check_files(world, owner)
    return world


@pytest.mark.parametrize("scenario", FILES, ids=lambda scenario: scenario.__name__)
def test_nothing_is_left_of_a_file_that_was_deleted_or_never_came(scenario: Any) -> None:
    sweep(keep_files, scenario)


def test_the_bytes_of_a_deleted_file_go() -> None:
    crash_from(keep_files, create_and_delete, "remove")


async def test_what_cannot_be_read_keeps_nothing_else_from_going_on(caplog: pytest.LogCaptureFixture) -> None:
    """A log with bytes that are none, one of a newer version, and one without its snapshot; a document likewise."""
    async with in_process(worker=False, event_log_rollover=2) as service:
        threads = [await service.thread("secret") for _ in range(3)]
        await service.start_run()
        storage, lost = service.storage, threads[2]
        for thread, line in zip(threads, (b"{secret\n", NEWER), strict=False):
            await append(storage, names.THREADS, thread, line)
        for _ in range(3):
            await service.api.post(f"/threads/{lost}/messages", {"role": "user", "content": "secret"})
        for stored in await storage.page(names.SNAPSHOTS, f"default/{lost}", after=None, limit=9, newest_first=False):
            await storage.remove(names.SNAPSHOTS, stored.name)
        await storage.start(names.STORE_LOGS, names.log("default", "vs_1"), NEWER)
        await storage.create(names.FILES, "default/file-1", b'{"secret": 1}')
        await storage.create(names.UPLOADS, "default/upload_1", b"{}")
        restored = SystemClock(), Ids(SystemClock()), Notifier()
        resumption = Resumption(
            storage, ThreadRepository(storage, *restored), VectorStoreRepository(storage, *restored), SystemClock()
        )
        await resumption.run()
        assert resumption.enqueued == {"run": 1, "tidy_upload": 1}
        assert sorted(resumption.unreadable) == sorted(
            [
                *(f"threads/default/{thread}.log" for thread in threads),
                "vector-store-logs/default/vs_1.log",
                "files/default/file-1",
            ]
        )
    assert all(name in caplog.text for name in resumption.unreadable)
    assert "secret" not in caplog.text and "Traceback" not in caplog.text


async def append(storage: Any, container: str, log_id: str, line: bytes) -> None:
    log = names.log("default", log_id)
    await storage.append(container, log, (await storage.read(container, log, None)).mark, line)


async def test_the_command_tells_at_its_end_what_cannot_be_read(tmp_path: Path) -> None:
    where = tmp_path / "a.db"
    storage = SqliteStorage(str(where), SystemClock())
    await storage.open()
    await storage.start(names.THREADS, names.log("default", "thread_1"), b"{\n")
    await storage.close()
    with pytest.raises(ConfigurationError, match=r"not resumed: threads/default/thread_1\.log"):
        await command.resume(Settings(storage=f"sqlite:///{where}"))


@pytest.mark.parametrize(("storage", "why"), [("sqlite:///{}/none/a.db", "there is no file"), (MEMORY, "STORAGE is")])
async def test_where_nothing_can_be_resumed_the_command_says_why(tmp_path: Path, storage: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        await command.resume(Settings(storage=storage.format(tmp_path)))
    assert list(tmp_path.iterdir()) == []
