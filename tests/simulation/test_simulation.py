"""P1 to P9 in random histories (random_histories.py): a few of those that `make sim` plays, and the proof that they
can fail, and that a failure can be played again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from assistants_service.api import authentication, idempotency
from assistants_service.core import names
from assistants_service.core.files.outputs import CreatedFile, KeptFile, OutputFiles
from assistants_service.core.files.service import FileService
from assistants_service.core.keys import Caller
from assistants_service.core.log import repository as threads
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.logs import Mark
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.threads import endings, stream
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tools.code_interpreter.interpreters import Interpreters, Session
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.worker import lease, main
from assistants_service.worker.item_handler import WorkItemHandler
from random_histories import play

HISTORIES = 50
CODING = 8  # likewise, all with code_interpreter
TRIES = 60  # histories in which a planted defect must show
FIRST = {"what_a_dead_writer_left_is_not_mended": 380, "a_host_deletes_an_item_that_was_not_taken_over": 380}
HERE = Path(__file__).parent
# What must have happened in so many histories, else they prove little.
SOME = [
    *(f"runs: {status}" for status in ("completed", "failed", "cancelled", "expired", "incomplete")),
    *(f"fault: {how}" for how in ("crash before", "crash after", "unavailable, nothing done", "unavailable, yet done")),
    *(f"fault: {what}" for what in ("done late", "slow", "answer lost", "killed", "told to stop", "stands still")),
    *(f"fault: {what}" for what in ("cut off from the store", "outage of the store")),
    *(f"fault: clock jumps {way}" for way in ("forwards", "backwards")),
    *(f"queue: items {what}" for what in ("sent twice", "delivered late", "delivered early", "shown again")),
    *(f"happened: {what}" for what in ("take-overs of a run", "roll-overs", "threads deleted", "streams gone on with")),
    *(f"answered: {status}" for status in (200, 400, 404, 503, "not at all")),
    *(f"files: {status}" for status in ("completed", "failed", "cancelled")),
    *(f"happened: {what}" for what in ("files of dead workers handed on", "segments merged", "vector stores deleted")),
    *("happened: vector stores read again", "checked: vector stores"),
    *("fault: function late", "queue: commits long after their items"),
    *(f"asked: {what}" for what in ("list files of a store", "get a file of a store")),
    *(f"checked: {what}" for what in ("answers", "documents", "streams heard")),
]
SOME_CODE = [
    *(f"checked: {what}" for what in ("calls of code", "files of code", "downloads")),
    *("fault: interpreters refused", "asked: delete file", "happened: threads deleted"),
]


def test_p1_to_p9_hold_in_random_histories() -> None:
    counts: Counter[str] = Counter()
    for seed in range(HISTORIES):
        try:
            counts += play(seed).counts
        except BaseException as error:
            error.add_note(f'make sim ARGS="--seed {seed}"')
            raise
    assert not [what for what in SOME if not counts[what]]


def test_code_counts_once_in_random_histories() -> None:
    counts: Counter[str] = Counter()
    for seed in range(CODING):
        try:
            counts += play(seed, coding=True).counts
        except BaseException as error:
            error.add_note(f'make sim ARGS="--seed {seed} --code"')
            raise
    assert not [what for what in SOME_CODE if not counts[what]]


@pytest.mark.parametrize("arguments", [["--seed", "7"], ["--seed", "11", "--code"]], ids=" ".join)
def test_a_seed_tells_the_same_history_in_every_process(arguments: list[str]) -> None:
    command = [sys.executable, HERE / "sim.py", *arguments]
    first, second = (
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    )
    assert len(first.splitlines()) > 100
    assert first == second


# --- it can fail ----------------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, Plant] = {}
IN_CODE: set[str] = set()  # those of code_interpreter


def plant(defect: Plant) -> Plant:
    PLANTS[defect.__name__] = defect
    return defect


def plant_in_code(defect: Plant) -> Plant:
    IN_CODE.add(defect.__name__)
    return plant(defect)


@plant
def a_worker_that_was_taken_over_commits_all_the_same(patch: pytest.MonkeyPatch) -> None:
    def mine(self: lease.RunLease, state: Any) -> Any:
        run_state = state.runs.get(self.item.run_id)
        return run_state if run_state and run_state.run.status == "in_progress" and not state.deleted else None

    patch.setattr(lease.RunLease, "mine", mine)


@plant
def a_commit_does_not_look_where_the_log_ends(patch: pytest.MonkeyPatch) -> None:
    conditional = SqliteStorage.append

    async def append(self: SqliteStorage, container: str, name: str, mark: Mark, *rest: Any) -> Any:
        tail = await self.read(container, name, None)
        return await conditional(self, container, name, tail.mark if tail else mark, *rest)

    patch.setattr(SqliteStorage, "append", append)


@plant
def a_late_writer_puts_an_old_document_over_a_new_one(patch: pytest.MonkeyPatch) -> None:
    def put(self: SqliteStorage, document: Document) -> None:
        row = (document.container, document.name, document.version, document.body)
        self._sql.execute("INSERT OR REPLACE INTO documents VALUES(?, ?, ?, ?)", row)

    patch.setattr(SqliteStorage, "_write_if_newer", put)


@plant
def an_item_is_deleted_before_its_work_is_done(patch: pytest.MonkeyPatch) -> None:
    work = WorkItemHandler.handle

    async def handle(self: WorkItemHandler, delivery: Any) -> None:
        await self.context.storage.delete(delivery)
        await work(self, delivery)

    patch.setattr(WorkItemHandler, "handle", handle)


@plant
def what_a_dead_writer_left_is_not_mended(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None: ...

    patch.setattr(threads.Repository, "_project_missing", nothing)


@plant
def a_torn_message_stays_open_on_the_stream(patch: pytest.MonkeyPatch) -> None:
    async def take_over(self: stream.StreamWriter, *_: Any, **__: Any) -> None:
        await self._scan()
        self._owned = True

    patch.setattr(stream.StreamWriter, "take_over", take_over)


@plant
def a_thread_takes_a_second_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(endings, "expire_overdue", lambda *_: [])
    patch.setattr(ThreadState, "active_run", None)


@plant
def an_idempotency_key_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(idempotency, "LIFETIME", 0.0)


@plant
def a_host_deletes_an_item_that_was_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    take_over = main.Worker.take_over

    async def returning(self: main.Worker, delivery: Any) -> None:
        with contextlib.suppress(Conflict):
            await take_over(self, delivery)

    patch.setattr(main.Worker, "take_over", returning)


@plant
def every_key_opens_every_project(patch: pytest.MonkeyPatch) -> None:
    async def find(*_: Any) -> Caller:
        return Caller("default")

    patch.setattr(authentication.Callers, "find", find)


@plant_in_code
def an_interpreter_is_used_whatever_state_it_is_in(patch: pytest.MonkeyPatch) -> None:
    fitting = Interpreters._fitting

    async def any_state(self: Interpreters, key: tuple[str, str], state: str) -> Session:
        kept = self._idle.get(key)
        return await fitting(self, key, kept.state if kept else state)

    patch.setattr(Interpreters, "_fitting", any_state)


@plant_in_code
def contents_are_stored_after_the_commit_that_names_them(patch: pytest.MonkeyPatch) -> None:
    store = OutputFiles._store

    async def later(self: OutputFiles, project: str, new: CreatedFile, file: KeptFile) -> KeptFile:
        data = b"".join([piece async for piece in new.read()])

        async def whole() -> AsyncIterator[bytes]:
            yield data

        async def store_late() -> None:
            await asyncio.sleep(0.5)
            await store(self, project, CreatedFile(new.path, new.size, whole), file)

        asyncio.create_task(store_late())  # noqa: RUF006
        return file

    patch.setattr(OutputFiles, "_store", later)


@plant_in_code
def files_that_no_message_cites_are_removed_a_day_later(patch: pytest.MonkeyPatch) -> None:
    clean_up = OutputFiles.clean_up

    async def of_no_thread(self: OutputFiles, item: Any, _: Any) -> None:
        await clean_up(self, item, ())

    patch.setattr(OutputFiles, "clean_up", of_no_thread)


@plant_in_code
def a_deleted_output_leaves_no_tombstone(patch: pytest.MonkeyPatch) -> None:
    async def remove(self: FileService, project: str, file_id: str) -> None:
        await self.storage.remove(names.FILES, names.document(project, file_id))

    patch.setattr(FileService, "_write_tombstone", remove)


@pytest.mark.parametrize("defect", PLANTS.values(), ids=PLANTS.keys())
def test_a_planted_defect_is_found(defect: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError)):
        first = FIRST.get(defect.__name__, 0)
        for seed in range(first, first + TRIES):
            play(seed, coding=True if defect.__name__ in IN_CODE else None)
