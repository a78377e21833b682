"""SQLite alone: clocks that go back, disks that are full, files that are larger than what is in them."""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistants_service import command, parts
from assistants_service.core.ports.logs import Mark
from assistants_service.core.ports.storage import StorageUnavailable, Unsent
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.sqlite import connection as sqlite_connection
from assistants_service.infra.sqlite import store as sqlite_store
from assistants_service.infra.sqlite.store import SCHEMA, SqliteStorage
from assistants_service.infra.storage_engines import engine_of
from inprocess_service import ManualClock, in_process

HOUR = 3600.0
MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def opened(path: Path, clock: ManualClock | None = None) -> AsyncIterator[SqliteStorage]:
    store = SqliteStorage(str(path), clock or ManualClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_clock_that_was_put_back_does_not_delay_the_queue(tmp_path: Path, restarted: bool) -> None:
    clock = ManualClock()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(tmp_path / "a.db", clock))
        await store.send(b"held")
        await store.send(b"parked", delay=600)
        assert [item.body for item in await store.receive(9, visibility_timeout=30)] == [b"held"]
        clock.time -= HOUR
        if restarted:
            store = await stack.enter_async_context(opened(tmp_path / "a.db", clock))
        assert (
            await store.receive(9, visibility_timeout=30) == []
        )  # both wait for as long as they were to, and no longer
        clock.time += 31
        (held,) = await store.receive(9, visibility_timeout=30)
        assert (held.body, held.count) == (b"held", 2)
        await store.delete(held)
        clock.time += 570
        assert [item.body for item in await store.receive(9, visibility_timeout=30)] == [b"parked"]


async def test_what_its_holder_extends_after_the_clock_went_back_is_hidden_as_long_as_it_says(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "a.db", clock) as store:
        await store.send(b"held")
        (held,) = await store.receive(1, visibility_timeout=30)
        clock.time -= HOUR
        held = await store.extend(held, visibility_timeout=30)
        assert await store.receive(1, visibility_timeout=30) == []
        clock.time += 31
        assert len(await store.receive(1, visibility_timeout=30)) == 1


async def test_the_queue_of_a_file_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    clock = ManualClock()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute(OLD_QUEUE)
        add = "INSERT INTO queue(name, body, visible_at) VALUES('work', ?, ?)"
        db.executemany(add, [(b"due", clock.now()), (b"later", clock.now() + 60)])
        db.commit()
    async with opened(tmp_path / "a.db", clock) as store, opened(tmp_path / "a.db", clock) as other:
        assert [item.body for item in await store.receive(9, visibility_timeout=30)] == [b"due"]
        clock.time += 60
        assert {item.body for item in await other.receive(9, visibility_timeout=30)} == {b"due", b"later"}


# --- a store that cannot be opened yet ------------------------------------------------------------------------------

OLD_QUEUE = (
    "CREATE TABLE queue(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, body BLOB NOT NULL,"
    " visible_at REAL NOT NULL, count INTEGER NOT NULL DEFAULT 0)"
)


@pytest.mark.parametrize("content", ["nothing", "an earlier version"])
async def test_a_store_that_was_locked_at_first_is_opened_whole_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(sqlite_connection, "BUSY_TIMEOUT", 0)
    store = SqliteStorage(str(tmp_path / "a.db"), ManualClock())
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        if content == "an earlier version":
            other.executescript(SCHEMA)
            other.executescript(f"DROP TABLE queue; {OLD_QUEUE}")
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="locked"):
                await store.open()
        other.execute("ROLLBACK")
    await store.open()
    try:
        await store.ping()
        await store.send(b"work")
        assert [item.body for item in await store.receive(9, visibility_timeout=30)] == [b"work"]
        assert len(store._chores) == 2
    finally:
        await store.close()


class FailingSteps:
    """Counts connections that are open, and fails the statement after `left - 1` others."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.left, self.unclosed = error, 0, 0

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def connection(self, *given: Any, **named: Any) -> sqlite3.Connection:
        self.unclosed += 1
        return Connection(self, *given, **named)


class Connection(sqlite3.Connection):
    def __init__(self, failing: FailingSteps, *given: Any, **named: Any) -> None:
        self.failing = failing
        super().__init__(*given, **named)

    def execute(self, *given: Any) -> sqlite3.Cursor:
        self.failing.step()
        return super().execute(*given)

    def executescript(self, *given: Any) -> sqlite3.Cursor:
        self.failing.step()
        return super().executescript(*given)

    def close(self) -> None:
        self.failing.unclosed -= 1
        super().close()


@pytest.mark.parametrize("error", [sqlite3.OperationalError("no"), OSError("no"), KeyboardInterrupt()])
async def test_an_open_that_fails_at_any_step_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Step by step, on a new file each, until no step is left that fails."""

    async def idle(*_: object) -> None:
        """Chores of their own connections, in threads, would be counted with it."""

    monkeypatch.setattr(SqliteStorage, "_every", idle)
    failing = FailingSteps(error)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=failing.connection))
    for steps in range(1, 100):
        failing.left, failing.unclosed = steps, 0
        (tmp_path / f"{steps}.db").touch()
        store = SqliteStorage(str(tmp_path / f"{steps}.db"), ManualClock())
        try:
            await store.open()
        except (StorageUnavailable, KeyboardInterrupt):
            assert failing.unclosed == 0
        else:
            assert (failing.left > 0, failing.unclosed) == (True, 1)
        reached = failing.left <= 0
        failing.left = 0
        await store.open()
        await store.send(b"work")
        assert len(store._chores) == 2
        await store.close()
        if not reached:
            break
    assert steps > 7


async def test_a_file_that_was_moved_away_is_not_ready_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    async with in_process(storage=f"sqlite:///{home / 'a.db'}") as service:
        for moved, to in ((home, away), (home / "a.db", home / "b.db")):
            moved.rename(to)
            for path in ("/health", "/health/ready"):
                answer = await service.api.send("GET", path)
                assert (answer.status, answer.error["code"]) == (503, "storage_unavailable")
            to.rename(moved)
            assert (await service.api.send("GET", "/health/ready")).status == 200


# --- files of others ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["empty", "another program's", "with a table of the same name", "no database"])
def no_store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a #1?.db"  # a name that a URI would have to quote
    path.write_bytes(b"hello, world\n" * 100 if request.param == "no database" else b"")
    if table := {"another program's": "x", "with a table of the same name": "documents"}.get(request.param):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(f"CREATE TABLE {table}(body, name)")
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("words", [["keys", "list"], ["keys", "revoke", "key_1"], ["resume"], ["reindex"], ["vacuum"]])
async def test_a_command_refuses_a_file_that_is_no_store_and_leaves_it_as_it_is(
    no_store: Path, words: list[str]
) -> None:
    before, settings = everything(no_store.parent), Settings(storage=f"sqlite:///{no_store}")
    arguments = command.parser().parse_args(words)
    with pytest.raises(ConfigurationError, match="is not a store of this service"):
        match words[0]:
            case "keys":
                await command.manage_keys(settings, arguments)
            case "resume":
                await command.resume(settings)
            case "reindex":
                await command.reindex(settings, arguments)
            case "vacuum":
                command.vacuum(settings)
    assert everything(no_store.parent) == before


async def test_a_service_takes_an_empty_file_and_no_other_that_is_not_its_own(no_store: Path) -> None:
    """At once: waiting would not help."""
    before = everything(no_store.parent)
    async with contextlib.AsyncExitStack() as stack:
        opening = stack.enter_async_context(parts.open_parts(Settings(storage=f"sqlite:///{no_store}")))
        if before[no_store.name]:
            with pytest.raises(ConfigurationError, match=r"is not a store of this service.*Check STORAGE"):
                await opening
            assert everything(no_store.parent) == before
        else:
            await (await opening).storage.ping()


async def test_a_path_may_begin_with_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_of("sqlite:///~/a.db").display("sqlite:///~/a.db") == f"{tmp_path}/a.db"
    storage = engine_of("sqlite:///~/a.db").storage("sqlite:///~/a.db", ManualClock())
    await storage.open()
    await storage.close()
    assert (tmp_path / "a.db").exists()
    with pytest.raises(ConfigurationError, match="no home directory"):
        engine_of("sqlite:///~/a.db").storage("sqlite:///~none-such/a.db", ManualClock())


# --- full disks -----------------------------------------------------------------------------------------------------


async def fill(store: SqliteStorage) -> None:
    """No page more. SQLite says the same as of a disk that is full."""
    (pages,) = store._sql.execute("PRAGMA page_count").fetchone()
    store._sql.execute(f"PRAGMA max_page_count={pages}")


async def test_a_certain_rollback_is_no_doubt(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        mark, _ = await store.start("threads", "p/t.log", b"first")
        await fill(store)
        with pytest.raises(Unsent, match="full"):
            await store.append("threads", "p/t.log", mark, b"x" * MIB)
        tail = await store.read("threads", "p/t.log", None)
        assert tail is not None and tail.data == b"first"
        store._sql.execute("PRAGMA max_page_count=1000000")
        assert (await store.append("threads", "p/t.log", mark, b"x" * MIB))[0] == Mark(0, MIB + 5)


class Failing:
    """A connection whose next COMMIT fails, after it or instead of it."""

    def __init__(self, db: sqlite3.Connection, code: int, *, stored: bool) -> None:
        self._db, self._code, self._stored = db, code, stored

    def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            self._db.execute("COMMIT" if self._stored else "ROLLBACK")
            error = sqlite3.OperationalError("no")
            error.sqlite_errorcode = self._code
            raise error
        return self._db.execute(sql, *given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.mark.parametrize(
    ("code", "certain"), [(sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_BUSY, True), (sqlite3.SQLITE_IOERR, False)]
)
async def test_a_commit_that_fails_is_in_doubt_unless_the_disk_is_full(
    tmp_path: Path, code: int, certain: bool
) -> None:
    async with opened(tmp_path / "a.db") as store:
        db = store._sql
        store._db = Failing(db, code, stored=not certain)  # type: ignore[assignment]
        with pytest.raises(StorageUnavailable) as raised:
            await store.start("threads", "p/t.log", b"first")
        store._db = db
        assert isinstance(raised.value, Unsent) == certain
        assert (await store.read("threads", "p/t.log", None) is None) == certain
        await store.create("files", "p/f", b"{}")  # nothing is left open


@pytest.mark.parametrize("when", ["in the middle", "at the end"])
async def test_a_message_that_found_no_room_is_told_so_and_is_not_there(tmp_path: Path, when: str) -> None:
    async with in_process(storage=f"sqlite:///{tmp_path / 'a.db'}") as service:
        thread = await service.thread("first")
        store: Any = service.storage
        db = store._sql
        if when == "in the middle":
            await fill(store)
        else:  # by then the message was folded
            store._db = Failing(db, sqlite3.SQLITE_FULL, stored=False)
        body = {"role": "user", "content": "x" * 200_000}
        answer = await service.api.send("POST", f"/v1/threads/{thread}/messages", body)
        assert (answer.status, answer.error["code"]) == (503, "storage_unavailable")
        assert answer.error["message"].startswith("Your request was not saved: the disk of this service is full.")
        assert "x-should-retry" not in answer.headers
        assert await service.said(thread) == ["first"]
        store._db = db
        db.execute("PRAGMA max_page_count=1000000")
        await service.api.post(f"/threads/{thread}/messages", body)
        assert await service.said(thread) == ["first", body["content"]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB, where this process may make one."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no disk can be made here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def test_a_disk_that_is_full_is_not_ready_and_loses_nothing(small_disk: Path) -> None:
    async with in_process(storage=f"sqlite:///{small_disk / 'a.db'}") as service:
        ready = "/health/ready"
        assert (await service.api.send("GET", ready)).status == 200
        thread, stored = await service.thread(), 0
        (small_disk / "other").write_bytes(b"x" * 20 * MIB)
        assert (await service.api.send("GET", ready)).status == 503
        body = {"role": "user", "content": "x" * 200_000}
        while (answer := await service.api.send("POST", f"/v1/threads/{thread}/messages", body)).status == 200:
            stored += 1
        assert (answer.status, answer.error["code"]) == (503, "storage_unavailable")
        assert len(await service.said(thread)) == stored > 0
        (small_disk / "other").unlink()
        assert (await service.api.send("GET", ready)).status == 200
        await service.api.post(f"/threads/{thread}/messages", body)
        service.threads._views.clear()
        assert len(await service.said(thread)) == stored + 1


async def test_a_disk_with_little_room_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "a.db") as store:
        await store.ping()
        monkeypatch.setattr(sqlite_store, "ROOM", 1 << 62)
        with pytest.raises(StorageUnavailable, match="full"):
            await store.ping()


# --- room -----------------------------------------------------------------------------------------------------------


async def test_a_file_that_has_room_inside_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def bytes_of(size: int) -> AsyncIterator[bytes]:
        yield b"x" * size

    async with opened(path) as store:
        await store.create("files", "p/kept", b"{}")
        await store.stage("contents", "p/f", "part", bytes_of(8 * MIB))
        await store.discard("contents", "p/f")
    done = run_vacuum(f"sqlite:///{path}")
    assert done.returncode == 0, done.stderr
    had, has = (int(number) for number in re.findall(r"(\d+) bytes before, (\d+) bytes after", done.stdout)[0])
    assert has == sum(file.stat().st_size for file in tmp_path.iterdir()) < MIB < 8 * MIB < had
    async with opened(path) as store:
        assert await store.get("files", "p/kept")


def test_where_nothing_can_be_given_back_the_command_says_why(tmp_path: Path) -> None:
    for storage, why in (
        ("sqlite://:memory:", "not an SQLite file"),
        ("UseDevelopmentStorage=true", "not an SQLite file"),
        (f"sqlite:///{tmp_path / 'none.db'}", "there is no file"),
    ):
        done = run_vacuum(storage)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def run_vacuum(storage: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("assistants"), "vacuum"]
    return subprocess.run(command, env={"STORAGE": storage}, capture_output=True, text=True, timeout=60, check=False)
