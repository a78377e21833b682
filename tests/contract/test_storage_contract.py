"""What every storage engine promises: one suite over SQLite on disk, SQLite in memory and Azure Storage (Azurite)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob.aio import BlobClient

from assistants_service.api.idempotency import LIFETIME
from assistants_service.core.ids import Ids
from assistants_service.core.names import KEPT_DAYS
from assistants_service.core.ports.contents import StagedPart
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.logs import Mark
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, ContentGone, Storage, StorageUnavailable
from assistants_service.infra.azure import store as azure_store
from assistants_service.infra.azure.calls import call
from assistants_service.infra.azure.store import AzureStorage
from assistants_service.infra.sqlite import chores, connection
from assistants_service.infra.sqlite import store as sqlite_store
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.infra.wiring import SystemClock
from azurite import Azurite
from real_processes import free_port

RACERS = 50
DOCUMENT = Document("messages", "p/thread_1/msg_1", b'{"text":"hello"}', 3)


class ManualClock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


@dataclass
class Engine:
    """A store, a second handle on the same data (as another process would have), and a way to let time pass."""

    store: Storage
    other: Storage
    wait: Callable[[float], Awaitable[None]]


async def sqlite_engine(path: str) -> AsyncGenerator[Engine, None]:
    clock = ManualClock()

    async def wait(seconds: float) -> None:
        clock.time += seconds

    store = SqliteStorage(path, clock)
    other = store if path == ":memory:" else SqliteStorage(path, clock)
    await store.open()
    await other.open()
    yield Engine(store, other, wait)
    await other.close()
    await store.close()


async def azure_engine(account: str) -> AsyncGenerator[Engine, None]:
    store, other = AzureStorage.from_connection_string(account), AzureStorage.from_connection_string(account)
    await store.open()
    await other.open()
    yield Engine(store, other, asyncio.sleep)
    await other.close()
    await store.close()


# All storage engines. A new one is one line here, and has to pass what follows.
ENGINES: dict[str, Callable[[pytest.FixtureRequest], AsyncIterator[Engine]]] = {
    "sqlite-file": lambda request: sqlite_engine(str(request.getfixturevalue("tmp_path") / "data" / "store.db")),
    "sqlite-memory": lambda _: sqlite_engine(":memory:"),
    "azurite": lambda request: azure_engine(request.getfixturevalue("azurite").account()),
}


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    made = ENGINES[request.param](request)
    async with contextlib.aclosing(made):
        async for value in made:
            yield value


@pytest.fixture
def store(engine: Engine) -> Storage:
    return engine.store


async def winners(attempts: list[Awaitable[Any]]) -> list[Any]:
    """What came of those that were not refused; anything else than Conflict is an error of the engine."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Conflict):
            raise result
    return [result for result in results if not isinstance(result, Conflict)]


async def bytes_of(store: Storage, name: str, container: str = "threads") -> bytes:
    tail = await store.read(container, name, None)
    assert tail is not None
    return tail.data


# -- documents ---------------------------------------------------------------------------------------------------------


async def test_a_created_document_is_there(store: Storage) -> None:
    etag = await store.create("assistants", "p/asst_1", b'{"a":1}')
    found = await store.get("assistants", "p/asst_1")
    assert found is not None
    assert (found.name, found.body, found.etag) == ("p/asst_1", b'{"a":1}', etag)
    assert etag.startswith('"') and etag.endswith('"')


async def test_an_unknown_document_is_none(store: Storage) -> None:
    assert await store.get("assistants", "p/asst_1") is None
    assert await store.get("messages", "p/thread_1/msg_1") is None
    assert not await store.remove("assistants", "p/asst_1")
    with pytest.raises(Conflict):
        await store.replace("assistants", "p/asst_1", b"{}", '"1"')


async def test_of_many_creators_of_one_name_exactly_one_wins(engine: Engine) -> None:
    stores = [engine.store, engine.other]
    won = await winners([stores[i % 2].create("assistants", "p/asst_1", b"%d" % i) for i in range(RACERS)])
    found = await engine.store.get("assistants", "p/asst_1")
    assert found is not None
    assert won == [found.etag]


async def test_replace_needs_the_version_that_was_read(store: Storage) -> None:
    first = await store.create("assistants", "p/asst_1", b"1")
    second = await store.replace("assistants", "p/asst_1", b"2", first)
    with pytest.raises(Conflict):
        await store.replace("assistants", "p/asst_1", b"3", first)
    found = await store.get("assistants", "p/asst_1")
    assert found is not None
    assert (found.body, found.etag) == (b"2", second)
    assert second != first


async def test_of_many_writers_of_one_version_exactly_one_wins(engine: Engine) -> None:
    etag = await engine.store.create("assistants", "p/asst_1", b"first")
    stores = [engine.store, engine.other]
    won = await winners([stores[i % 2].replace("assistants", "p/asst_1", b"%d" % i, etag) for i in range(RACERS)])
    assert len(won) == 1


async def test_a_removed_document_is_gone_and_cannot_be_replaced(store: Storage) -> None:
    etag = await store.create("assistants", "p/asst_1", b"1")
    assert await store.remove("assistants", "p/asst_1")
    assert not await store.remove("assistants", "p/asst_1")
    assert await store.get("assistants", "p/asst_1") is None
    with pytest.raises(Conflict):
        await store.replace("assistants", "p/asst_1", b"2", etag)


# -- projections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("created", [True, False])
async def test_a_projection_is_there_after_write_if_newer(store: Storage, created: bool) -> None:
    await store.write_if_newer(replace(DOCUMENT, created=created))
    found = await store.get(DOCUMENT.container, DOCUMENT.name)
    assert found is not None
    assert found.body == DOCUMENT.body


async def test_a_projection_never_goes_back_in_time(engine: Engine) -> None:
    for store in (engine.store, engine.other):
        await engine.store.write_if_newer(replace(DOCUMENT, body=b"5", version=5))
        await store.write_if_newer(replace(DOCUMENT, body=b"4", version=4))
        await store.write_if_newer(replace(DOCUMENT, body=b"4", version=4, created=True))
        found = await engine.other.get(DOCUMENT.container, DOCUMENT.name)
        assert found is not None
        assert found.body == b"5"


async def test_the_same_version_again_changes_nothing(engine: Engine) -> None:
    await engine.store.write_if_newer(DOCUMENT)
    before = await engine.store.get(DOCUMENT.container, DOCUMENT.name)
    await engine.store.write_if_newer(DOCUMENT)
    await engine.other.write_if_newer(replace(DOCUMENT, created=True))
    assert await engine.store.get(DOCUMENT.container, DOCUMENT.name) == before


async def test_projections_by_two_processes_take_turns(engine: Engine) -> None:
    for version in range(1, 7):
        writer = engine.store if version % 2 else engine.other
        await writer.write_if_newer(replace(DOCUMENT, body=b"%d" % version, version=version))
        found = await engine.store.get(DOCUMENT.container, DOCUMENT.name)
        assert found is not None
        assert found.body == b"%d" % version


async def test_whatever_the_order_of_many_projections_the_last_version_stays(engine: Engine) -> None:
    stores = [engine.store, engine.other]
    order = [(i * 7) % 20 + 1 for i in range(20)]
    await asyncio.gather(
        *(stores[i % 2].write_if_newer(replace(DOCUMENT, body=b"%d" % i, version=i, created=i == 1)) for i in order)
    )
    found = await engine.store.get(DOCUMENT.container, DOCUMENT.name)
    assert found is not None
    assert found.body == b"20"


async def test_a_tombstone_stays(engine: Engine) -> None:
    await engine.store.write_if_newer(DOCUMENT)
    await engine.store.write_if_newer(replace(DOCUMENT, body=b"", version=9))
    await engine.other.write_if_newer(replace(DOCUMENT, version=8))
    assert await engine.store.get(DOCUMENT.container, DOCUMENT.name) is None
    assert await engine.other.get(DOCUMENT.container, DOCUMENT.name) is None


async def test_a_sweep_deletes_the_tombstones_of_a_prefix_and_nothing_else(engine: Engine) -> None:
    tombstones = [replace(DOCUMENT, name=f"p/thread_1/msg_{number}", body=b"") for number in range(3)]
    others = [replace(DOCUMENT, name="p/thread_1/msg_9"), replace(DOCUMENT, name="p/thread_2/msg_1", body=b"")]
    for document in tombstones + others:
        await engine.store.write_if_newer(document)
    await engine.other.remove_tombstones("messages", "p/thread_1/")
    await engine.other.remove_tombstones("messages", "p/thread_1/")
    assert await engine.store.get("messages", "p/thread_1/msg_9")
    for document in tombstones:  # gone for good: an older version is as good as a first one
        await engine.other.write_if_newer(replace(document, body=b"again", version=1))
        assert await engine.store.get("messages", document.name)
    await engine.other.write_if_newer(replace(others[1], body=b"again", version=1))
    assert await engine.store.get("messages", others[1].name) is None


# -- pages -------------------------------------------------------------------------------------------------------------


def ids(count: int) -> list[str]:
    """Names in the order of their creation, with every kind of character that ids have."""
    characters = "059afkpuz"
    return sorted(f"p/asst_{a}{b}{c}" for a in characters for b in characters for c in "0z")[:count]


async def fill(store: Storage, names: list[str]) -> None:
    await asyncio.gather(*(store.create("assistants", name, name.encode()) for name in names))
    await store.create("assistants", "other/asst_000", b"another project's")
    await store.create("assistants", "p2/asst_000", b"another project's")


async def pages(store: Storage, limit: int, newest_first: bool) -> list[list[str]]:
    found, after = [], None
    while page := await store.page("assistants", "p/", after=after, limit=limit, newest_first=newest_first):
        assert all(entry.body == entry.name.encode() and entry.name != after for entry in page)
        found.append([entry.name for entry in page])
        after = page[-1].name
    return found


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_follow_the_order_of_names_both_ways(store: Storage, newest_first: bool) -> None:
    names = ids(25)
    await fill(store, names)
    ordered = names[::-1] if newest_first else names
    assert await pages(store, 10, newest_first) == [ordered[:10], ordered[10:20], ordered[20:]]
    assert await pages(store, 100, newest_first) == [ordered]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_goes_on_after_a_name_that_is_gone(store: Storage, newest_first: bool) -> None:
    names = ids(9)
    await fill(store, names)
    ordered = names[::-1] if newest_first else names
    first = await store.page("assistants", "p/", after=None, limit=3, newest_first=newest_first)
    for name in ordered[2:5]:
        await store.remove("assistants", name)
    second = await store.page("assistants", "p/", after=first[-1].name, limit=3, newest_first=newest_first)
    assert [entry.name for entry in first + second] == ordered[:3] + ordered[5:8]


async def test_a_page_shows_the_newest_version_of_each_document(store: Storage) -> None:
    etag = await store.create("assistants", "p/asst_1", b"1")
    page = await store.page("assistants", "p/", after=None, limit=5, newest_first=True)
    assert [(entry.body, entry.etag) for entry in page] == [(b"1", etag)]
    etag = await store.replace("assistants", "p/asst_1", b"2", etag)
    page = await store.page("assistants", "p/", after=None, limit=5, newest_first=True)
    assert [(entry.body, entry.etag) for entry in page] == [(b"2", etag)]


@pytest.mark.parametrize("container", ["assistants", "messages"])
async def test_a_page_is_full_in_spite_of_tombstones(store: Storage, container: str) -> None:
    for number in range(8):
        body = b"" if number in (1, 2, 5) else b"body"
        await store.write_if_newer(Document(container, f"p/id_{number}", body, 1, created=True))
    for newest_first, expected in ((False, "034"), (True, "764")):
        page = await store.page(container, "p/", after=None, limit=3, newest_first=newest_first)
        assert [entry.name for entry in page] == [f"p/id_{number}" for number in expected]


async def test_a_page_of_nothing_is_empty(store: Storage) -> None:
    for newest_first in (True, False):
        assert await store.page("assistants", "p/", after=None, limit=3, newest_first=newest_first) == []
        assert await store.page("assistants", "p/", after="p/asst_5", limit=3, newest_first=newest_first) == []


# -- logs --------------------------------------------------------------------------------------------------------------


async def write_all(store: Storage, rest: Any) -> None:
    for document in rest:
        await store.write_if_newer(document)


async def test_an_unknown_log_is_none_and_takes_no_block(store: Storage) -> None:
    assert await store.read("threads", "p/thread_1", None) is None
    assert await store.read("threads", "p/thread_1", Mark(0, 0)) is None
    with pytest.raises(Conflict):
        await store.append("threads", "p/thread_1", Mark(0, 0), b"block\n")
    with pytest.raises(Conflict):
        await store.roll_over("threads", "p/thread_1", Mark(0, 0))
    await store.drop("threads", "p/thread_1")


async def test_a_log_starts_grows_and_is_read_from_any_mark(engine: Engine) -> None:
    store, other = engine.store, engine.other
    first, _ = await store.start("threads", "p/thread_1", b"one\n")
    second, _ = await store.append("threads", "p/thread_1", first, b"two\n")
    whole = await other.read("threads", "p/thread_1", None)
    assert whole is not None
    assert (whole.data, whole.restarted) == (b"one\ntwo\n", False)
    assert (whole.mark.generation, whole.mark.offset) == (0, 8)
    tail = await other.read("threads", "p/thread_1", first)
    assert tail is not None
    assert (tail.data, tail.mark.offset, tail.restarted) == (b"two\n", 8, False)
    third, _ = await other.append("threads", "p/thread_1", tail.mark, b"three\n")
    tail = await store.read("threads", "p/thread_1", second)
    assert tail is not None
    assert (tail.data, tail.mark) == (b"three\n", third)


@pytest.mark.parametrize("bare", [False, True])
async def test_nothing_new_is_an_empty_tail_with_the_same_position(store: Storage, bare: bool) -> None:
    mark, _ = await store.start("streams", "p/run_1", b"one\n")
    since = Mark(mark.generation, mark.offset) if bare else mark
    tail = await store.read("streams", "p/run_1", since)
    assert tail is not None
    assert (tail.data, tail.mark.offset, tail.restarted) == (b"", 4, False)


async def test_a_stream_is_followed_from_any_byte_without_an_etag(store: Storage) -> None:
    mark, _ = await store.start("streams", "p/run_1", b"one\n")
    mark, _ = await store.append("streams", "p/run_1", mark, b"two\n")
    for offset in (0, 2, 4, 6):
        tail = await store.read("streams", "p/run_1", Mark(0, offset))
        assert tail is not None
        assert (tail.data, tail.mark.offset) == (b"one\ntwo\n"[offset:], 8)


async def test_a_stream_is_read_piece_by_piece_to_its_end(store: Storage) -> None:
    mark, _ = await store.start("streams", "p/run_1", b"one\n")
    mark, _ = await store.append("streams", "p/run_1", mark, b"two\n")
    pieces = [(0, 2, b"on"), (2, 4, b"e\ntw"), (6, 2, b"o\n"), (0, 8, b"one\ntwo\n"), (6, 9, b"o\n")]
    for offset, limit, piece in pieces:
        tail = await store.read("streams", "p/run_1", Mark(0, offset), limit=limit)
        assert tail is not None
        assert (tail.data, tail.mark.offset) == (piece, offset + len(piece))
        rest = await store.read("streams", "p/run_1", tail.mark)
        assert rest is not None
        assert (rest.data, rest.mark) == (b"one\ntwo\n"[offset + len(piece) :], mark)


async def test_a_stream_read_beyond_its_end_is_empty(store: Storage) -> None:
    await store.start("streams", "p/run_1", b"one\n")
    tail = await store.read("streams", "p/run_1", Mark(0, 99))
    assert tail is not None
    assert (tail.data, tail.mark.offset, tail.restarted) == (b"", 4, False)


async def test_a_block_can_be_appended_at_a_position_without_an_etag(store: Storage) -> None:
    await store.start("streams", "p/run_1", b"one\n")
    mark, _ = await store.append("streams", "p/run_1", Mark(0, 4), b"two\n")
    assert mark.offset == 8
    with pytest.raises(Conflict):
        await store.append("streams", "p/run_1", Mark(0, 4), b"three\n")


async def test_of_many_starters_of_one_log_exactly_one_wins(engine: Engine) -> None:
    stores = [engine.store, engine.other]
    won = await winners([stores[i % 2].start("threads", "p/thread_1", b"%02d\n" % i) for i in range(RACERS)])
    assert len(won) == 1
    assert len(await bytes_of(engine.store, "p/thread_1")) == 3


async def test_of_many_racers_on_one_append_position_exactly_one_wins(engine: Engine) -> None:
    stores = [engine.store, engine.other]
    mark, _ = await engine.store.start("threads", "p/thread_1", b"start\n")
    won = await winners([stores[i % 2].append("threads", "p/thread_1", mark, b"%02d\n" % i) for i in range(RACERS)])
    assert [mark.offset for mark, _ in won] == [9]
    assert len(await bytes_of(engine.other, "p/thread_1")) == 9


async def test_the_documents_of_a_block_are_stored_or_handed_back(store: Storage) -> None:
    mark, rest = await store.start("threads", "p/thread_1", b"one\n", lambda: [DOCUMENT])
    await write_all(store, rest)
    _, rest = await store.append(
        "threads", "p/thread_1", mark, b"two\n", lambda: [replace(DOCUMENT, body=b"new", version=4)]
    )
    await write_all(store, rest)
    found = await store.get(DOCUMENT.container, DOCUMENT.name)
    assert found is not None
    assert found.body == b"new"


def never() -> list[Document]:
    raise AssertionError("a refused block has no documents")


async def test_a_refused_block_leaves_the_documents_alone(store: Storage) -> None:
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    await store.append("threads", "p/thread_1", mark, b"two\n")
    with pytest.raises(Conflict):
        await store.append("threads", "p/thread_1", mark, b"zwei\n", never)
    with pytest.raises(Conflict):
        await store.start("threads", "p/thread_1", b"again\n", never)
    assert await store.get(DOCUMENT.container, DOCUMENT.name) is None
    assert await bytes_of(store, "p/thread_1") == b"one\ntwo\n"


async def test_a_block_of_64_mebibytes_is_taken_and_a_larger_one_is_not(store: Storage) -> None:
    block = b"x" * (64 * 1024 * 1024)
    mark, _ = await store.start("threads", "p/thread_1", block)
    with pytest.raises(ValueError):
        await store.append("threads", "p/thread_1", mark, block + b"x")
    assert len(await bytes_of(store, "p/thread_1")) == len(block)


async def test_a_locked_sqlite_file_holds_up_writers_alone(tmp_path: Path) -> None:
    store = SqliteStorage(str(tmp_path / "store.db"), ManualClock())
    await store.open()
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(store.send(b"{}"))
    for _ in range(5):
        await asyncio.sleep(0.02)
        assert await store.get("threads", "p/thread_1") is None
    assert not writing.done()
    holder.execute("COMMIT")
    holder.close()
    await writing
    assert len(await store.receive(1, visibility_timeout=1)) == 1
    await store.close()


async def sqlite_file(folder: Path) -> SqliteStorage:
    store = SqliteStorage(str(folder / "store.db"), ManualClock())
    await store.open()
    return store


async def test_the_write_ahead_log_begins_anew_under_a_load_that_never_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would grow for as long as the load lasts."""
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_EVERY", 0.01)
    monkeypatch.setattr(chores, "WAL_PAGES", 100)
    store, numbers = await sqlite_file(tmp_path), itertools.count()

    async def shrunk() -> None:
        size = 0
        while size <= (size := (tmp_path / "store.db-wal").stat().st_size):
            await store.write_if_newer(replace(DOCUMENT, name=f"{next(numbers)}", body=b"x" * 10_000))
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await shrunk()
        await shrunk()
    await store.close()


async def test_a_write_ahead_log_that_cannot_begin_anew_for_a_reader_holds_up_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_EVERY", 0.01)
    monkeypatch.setattr(chores, "WAL_PAGES", 10)
    undisturbed, done = chores.checkpoint, [0]

    def checkpoint(db: sqlite3.Connection) -> None:
        undisturbed(db)
        done[0] += 1

    monkeypatch.setattr(sqlite_store, "checkpoint", checkpoint)
    store = await sqlite_file(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM documents").fetchall()
        await store.create("files", "p/file-1", b"x" * 100_000)
        begun, before = time.monotonic(), done[0]
        while done[0] < before + 3:
            await store.send(b"{}")
            await asyncio.sleep(0.001)
        # Three that waited for the reader would take thrice as long as BUSY_TIMEOUT.
        assert time.monotonic() - begun < 2 * connection.BUSY_TIMEOUT
    await store.close()


async def test_a_sqlite_transaction_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = await sqlite_file(tmp_path)
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")

    def fail() -> list[Document]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.append("threads", "p/thread_1", mark, b"two\n", fail)
    assert await bytes_of(store, "p/thread_1") == b"one\n"
    await store.append("threads", "p/thread_1", mark, b"three\n")
    assert await bytes_of(store, "p/thread_1") == b"one\nthree\n"
    await store.close()


async def test_a_sqlite_log_that_rolls_between_two_statements_of_a_reader_is_read_whole(tmp_path: Path) -> None:
    store, other = await sqlite_file(tmp_path), await sqlite_file(tmp_path)
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    rolls = [other.roll_over("threads", "p/thread_1", mark)]

    def trace(statement: str) -> None:
        if statement.startswith("SELECT offset, data") and rolls:
            with pytest.raises(StopIteration):
                rolls.pop().send(None)

    assert store._db
    store._db.set_trace_callback(trace)
    tail = await store.read("threads", "p/thread_1", None)
    assert not rolls
    assert tail
    assert (tail.data, tail.mark) == (b"", Mark(1, 0))
    await other.close()
    await store.close()


async def test_two_processes_that_wait_for_sqlite_receive_no_item_twice(tmp_path: Path) -> None:
    stores = [await sqlite_file(tmp_path), await sqlite_file(tmp_path)]
    await stores[0].send(b"{}")
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    receiving = [asyncio.create_task(store.receive(1, visibility_timeout=30)) for store in stores]
    await asyncio.sleep(0)  # both have seen the item, and wait to take it
    holder.execute("COMMIT")
    holder.close()
    assert sorted(len(found) for found in await asyncio.gather(*receiving)) == [0, 1]
    for store in stores:
        await store.close()


async def test_a_roll_over_starts_an_empty_generation_and_keeps_the_old_one(engine: Engine) -> None:
    store = engine.store
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    rolled = await store.roll_over("threads", "p/thread_1", mark)
    assert (rolled.generation, rolled.offset) == (1, 0)
    empty = await engine.other.read("threads", "p/thread_1", None)
    assert empty is not None
    assert (empty.data, empty.mark.generation) == (b"", 1)
    mark, _ = await store.append("threads", "p/thread_1", rolled, b"two\n")
    rolled = await store.roll_over("threads", "p/thread_1", mark)
    await store.append("threads", "p/thread_1", rolled, b"three\n")
    assert await bytes_of(store, "p/thread_1") == b"three\n"
    assert await bytes_of(store, "p/thread_1.0") == b"one\n"
    assert await bytes_of(store, "p/thread_1.1") == b"two\n"


@pytest.mark.parametrize(
    ("block", "bare"),
    [
        (b"", False),
        (b"", True),
        (b"2\n", False),
        (b"2\n", True),
        (b"as long as the old\n", False),  # without an ETag, this one shows with the next block
        (b"longer than the old generation was\n", False),
        (b"longer than the old generation was\n", True),
    ],
)
async def test_a_reader_behind_a_roll_over_is_told_and_gets_the_whole_new_generation(
    engine: Engine, block: bytes, bare: bool
) -> None:
    mark, _ = await engine.store.start("threads", "p/thread_1", b"as long as the new\n")
    rolled = await engine.store.roll_over("threads", "p/thread_1", mark)
    if block:
        await engine.store.append("threads", "p/thread_1", rolled, block)
    since = Mark(0, mark.offset) if bare else mark
    tail = await engine.other.read("threads", "p/thread_1", since)
    assert tail is not None
    assert (tail.data, tail.restarted) == (block, True)
    assert (tail.mark.generation, tail.mark.offset) == (1, len(block))


async def test_a_writer_behind_a_roll_over_gets_a_conflict(engine: Engine) -> None:
    first, _ = await engine.store.start("threads", "p/thread_1", b"one\n")
    rolled = await engine.store.roll_over("threads", "p/thread_1", first)
    for _ in range(2):  # with the new generation empty, and grown to exactly the old position
        with pytest.raises(Conflict):
            await engine.other.append("threads", "p/thread_1", first, b"late\n")
        with pytest.raises(Conflict):
            await engine.other.roll_over("threads", "p/thread_1", first)
        with pytest.raises(Conflict):
            await engine.other.start("threads", "p/thread_1", b"again\n")
        if rolled.offset == 0:
            rolled, _ = await engine.store.append("threads", "p/thread_1", rolled, b"two\n")
    assert await bytes_of(engine.store, "p/thread_1") == b"two\n"
    assert await bytes_of(engine.store, "p/thread_1.0") == b"one\n"


@pytest.mark.parametrize("first", ["roll_over", "append"])
async def test_a_roll_over_loses_no_block_that_was_appended_meanwhile(engine: Engine, first: str) -> None:
    mark, _ = await engine.store.start("threads", "p/thread_1", b"one\n")
    roll_over = engine.store.roll_over("threads", "p/thread_1", mark)
    append = engine.other.append("threads", "p/thread_1", mark, b"two\n")
    assert len(await winners([roll_over, append] if first == "roll_over" else [append, roll_over])) == 1


async def test_of_many_rollers_exactly_one_wins(engine: Engine) -> None:
    mark, _ = await engine.store.start("threads", "p/thread_1", b"one\n")
    stores = [engine.store, engine.other]
    won = await winners([stores[i % 2].roll_over("threads", "p/thread_1", mark) for i in range(10)])
    assert [(mark.generation, mark.offset) for mark in won] == [(1, 0)]


async def test_a_dropped_log_is_gone_with_its_old_generations(store: Storage) -> None:
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    await store.roll_over("threads", "p/thread_1", mark)
    await store.drop("threads", "p/thread_1")
    await store.drop("threads", "p/thread_1")
    for name in ("p/thread_1", "p/thread_1.0"):
        assert await store.read("threads", name, None) is None
    assert await store.read("threads", "p/thread_1", mark) is None


# -- the queue ---------------------------------------------------------------------------------------------------------


async def one(store: Storage, visibility_timeout: float = 30) -> Delivery:
    (delivery,) = await store.receive(1, visibility_timeout=visibility_timeout)
    return delivery


async def test_an_item_is_delivered_with_its_body_and_hidden_from_others(engine: Engine) -> None:
    body = json.dumps({"run": "run_1", "text": "<ü> & \u2603"}, ensure_ascii=False).encode()
    await engine.store.send(body)
    delivery = await one(engine.other)
    assert (delivery.body, delivery.count) == (body, 1)
    assert await engine.store.receive(32, visibility_timeout=1) == []


async def test_of_many_receivers_each_gets_other_items(engine: Engine) -> None:
    for number in range(20):
        await engine.store.send(b"%d" % number)
    stores = [engine.store, engine.other]
    batches = await asyncio.gather(*(stores[i % 2].receive(3, visibility_timeout=30) for i in range(10)))
    while len(got := [item.body for batch in batches for item in batch]) < 20:
        more = await engine.store.receive(32, visibility_timeout=30)
        assert more, f"items are missing: {got}"
        batches.append(more)
    assert len(set(got)) == len(got) == 20
    assert all(len(batch) <= 3 for batch in batches[:10])


async def test_an_item_that_is_not_deleted_comes_back_and_is_counted(engine: Engine) -> None:
    await engine.store.send(b"{}")
    first = await one(engine.store, visibility_timeout=1)
    await engine.wait(1.1)
    second = await one(engine.other)
    assert (first.count, second.count) == (1, 2)


async def test_a_deleted_item_never_comes_back(engine: Engine) -> None:
    await engine.store.send(b"{}")
    delivery = await one(engine.store, visibility_timeout=1)
    await engine.store.delete(delivery)
    await engine.store.delete(delivery)
    await engine.wait(1.1)
    assert await engine.store.receive(32, visibility_timeout=1) == []


async def test_an_extended_item_stays_hidden_and_belongs_to_its_holder(engine: Engine) -> None:
    await engine.store.send(b"{}")
    delivery = await one(engine.store, visibility_timeout=1)
    delivery = await engine.store.extend(delivery, visibility_timeout=30)
    await engine.wait(1.1)
    assert await engine.other.receive(32, visibility_timeout=1) == []
    delivery = await engine.store.extend(delivery, visibility_timeout=30)
    await engine.store.delete(delivery)


async def test_an_extended_item_has_the_body_that_its_holder_gave_it(engine: Engine) -> None:
    await engine.store.send(b'{"of":"the sender"}')
    delivery = replace(await one(engine.store, visibility_timeout=30), body='{"of":"the holder: ü <&>"}'.encode())
    kept = await engine.store.extend(delivery, visibility_timeout=1)
    await engine.wait(1.1)
    again = await one(engine.other)
    assert (again.body, again.count, again.id) == (delivery.body, 2, kept.id)


async def test_who_lost_an_item_can_neither_extend_nor_delete_it(engine: Engine) -> None:
    await engine.store.send(b"{}")
    late = await one(engine.store, visibility_timeout=1)
    await engine.wait(1.1)
    held = await one(engine.other)
    with pytest.raises(Conflict):
        await engine.store.extend(late, visibility_timeout=30)
    await engine.store.delete(late)
    held = await engine.other.extend(held, visibility_timeout=30)
    await engine.other.delete(held)
    with pytest.raises(Conflict):
        await engine.other.extend(held, visibility_timeout=30)


async def test_a_delayed_item_comes_when_its_time_has_come(engine: Engine) -> None:
    await engine.store.send(b"{}", delay=1)
    assert await engine.store.receive(32, visibility_timeout=30) == []
    await engine.wait(1.1)
    assert (await one(engine.store)).count == 1


async def test_a_dead_lettered_item_is_gone_from_the_queue(engine: Engine) -> None:
    await engine.store.send(b'{"run":"run_1"}')
    await engine.store.dead_letter(await one(engine.store, visibility_timeout=1), "five failures")
    await engine.wait(1.1)
    assert await engine.store.receive(32, visibility_timeout=1) == []


# -- contents ----------------------------------------------------------------------------------------------------------

FILE = ("contents", "p/file-1")
SEED = random.Random(5).randbytes(1024 * 1024)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def staged(store: Storage, part: str, data: bytes) -> StagedPart:
    return await store.stage(*FILE, part, pieces(data))


async def content_of(store: Storage, **where: Any) -> bytes:
    return b"".join([piece async for piece in store.download(*FILE, **where)])


async def parts_of(store: Storage) -> list[StagedPart]:
    return sorted(await store.staged(*FILE), key=lambda part: part.id)


async def test_a_content_is_its_parts_in_the_order_of_the_commit(engine: Engine) -> None:
    data = {"part_a": SEED * 4 + b"a", "part_b": b"b", "part_c": SEED + b"c"}  # of more blocks than one, and of less
    parts = [await staged(engine.store, name, data[name]) for name in data]
    assert parts == [StagedPart(name, len(data[name])) for name in data]
    assert await parts_of(engine.other) == parts
    await engine.other.commit(*FILE, parts[::-1])
    assert await content_of(engine.store) == data["part_c"] + data["part_b"] + data["part_a"]
    assert await parts_of(engine.store) == parts


async def test_nothing_can_be_read_before_the_commit(store: Storage) -> None:
    assert (await content_of(store), await parts_of(store)) == (b"", [])
    await staged(store, "part_a", SEED)
    assert await content_of(store) == b""


async def test_any_range_of_a_content_can_be_read(store: Storage) -> None:
    data = SEED * 5 + b"the end"
    parts = [await staged(store, "part_a", data[:1_500_000]), await staged(store, "part_b", data[1_500_000:])]
    await store.commit(*FILE, parts)
    edges = [0, 1, 2**20 - 1, 2**20, 1_499_999, 1_500_000, 4 * 2**20, len(data) - 1, len(data), len(data) + 9]
    for offset, length in itertools.product(edges, (None, 1, 7, 2**20, 10**9)):
        end = None if length is None else offset + length
        assert await content_of(store, offset=offset, length=length) == data[offset:end], (offset, length)


async def test_the_same_commit_again_changes_nothing_and_another_one_is_a_conflict(engine: Engine) -> None:
    parts = [await staged(engine.store, "part_a", b"aa"), await staged(engine.store, "part_b", b"b")]
    await engine.store.commit(*FILE, parts)
    await engine.other.commit(*FILE, parts)
    for others in (parts[::-1], parts[:1], [*parts, parts[0]], []):
        with pytest.raises(Conflict):
            await engine.other.commit(*FILE, others)
    assert await content_of(engine.store) == b"aab"


async def test_of_many_orders_at_once_one_wins(engine: Engine) -> None:
    parts = [await staged(engine.store, f"part_{letter}", letter.encode()) for letter in "abcd"]
    orders = [list(order) for order in itertools.permutations(parts)]
    stores = [engine.store, engine.other]
    await winners([stores[i % 2].commit(*FILE, order) for i, order in enumerate(orders)])
    content = await content_of(engine.store)
    for order in orders:
        if content == "".join(part.id[-1] for part in order).encode():
            await engine.store.commit(*FILE, order)
        else:
            with pytest.raises(Conflict):
                await engine.store.commit(*FILE, order)


async def test_a_part_that_is_not_there_is_a_conflict(store: Storage) -> None:
    part = await staged(store, "part_a", b"a")
    for wrong in (StagedPart("part_b", 1), StagedPart("part_a", 5_000_000)):
        with pytest.raises(Conflict):
            await store.commit(*FILE, [part, wrong])
    await store.commit(*FILE, [part])
    assert await content_of(store) == b"a"


async def test_a_commit_drops_the_parts_that_it_does_not_name(store: Storage) -> None:
    for letter in "abc":
        await staged(store, f"part_{letter}", letter.encode() * 1_200_000)
    await store.commit(*FILE, [StagedPart("part_b", 1_200_000)])
    assert await parts_of(store) == [StagedPart("part_b", 1_200_000)]
    assert await content_of(store) == b"b" * 1_200_000


async def test_a_part_whose_bytes_stop_coming_can_be_discarded(store: Storage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield SEED * 6
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.stage(*FILE, "part_a", broken())
    torn = await parts_of(store)  # Azure cannot remove one part
    assert [part.id for part in torn] in ([], ["part_a"])
    await store.discard(*FILE)
    assert await parts_of(store) == []
    with pytest.raises(Conflict):
        await store.commit(*FILE, torn or [StagedPart("part_a", 1)])


async def test_a_discarded_content_is_gone_with_all_its_parts(store: Storage) -> None:
    await store.discard(*FILE)
    part = await staged(store, "part_a", SEED * 9)
    await store.commit(*FILE, [part])
    await staged(store, "part_b", b"late")
    for _ in range(2):
        await store.discard(*FILE)
        assert (await content_of(store), await parts_of(store)) == (b"", [])
    with pytest.raises(Conflict):
        await store.commit(*FILE, [part])


async def test_other_contents_are_left_alone(store: Storage) -> None:
    part = await staged(store, "part_a", b"mine")
    await store.commit(*FILE, [part])
    for name in ("p/file-2", "q/file-1"):
        await store.commit("contents", name, [await store.stage("contents", name, "part_a", pieces(b"other"))])
        await store.discard("contents", name)
    assert await content_of(store) == b"mine"


async def test_a_content_that_goes_while_it_is_read_is_not_read_short(store: Storage) -> None:
    await store.commit(*FILE, [await staged(store, "part_a", SEED * 9)])
    reading = store.download(*FILE)
    assert await anext(reading)
    await store.discard(*FILE)
    with pytest.raises(ContentGone):
        _ = [piece async for piece in reading]


async def test_other_writers_go_on_while_a_long_content_comes(tmp_path: Path) -> None:
    """Between any two chunks, the store takes writes of this process and of another one."""
    async with contextlib.aclosing(sqlite_engine(str(tmp_path / "store.db"))) as engines:
        engine = await anext(engines)

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(10):
                yield SEED + b"x"
                for store in (engine.store, engine.other):
                    async with asyncio.timeout(20):
                        await store.create("assistants", f"p/asst_{number}_{id(store)}", b"{}")

        part = await engine.store.stage(*FILE, "part_a", chunks())
        assert part.size == 10 * (len(SEED) + 1)


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_a_store_can_be_opened_again_and_answers(engine: Engine) -> None:
    await engine.store.open()
    await engine.store.ping()


# -- Azure Storage alone -----------------------------------------------------------------------------------------------


@dataclass
class LossyNetwork:
    """A network between the engine and the blob service that can lose a reply after the request was served."""

    upstream: int
    port: int = 0
    lost: int = 0
    _matching: list[bytes] = field(default_factory=list)

    def lose(self, matching: bytes, times: int = 1) -> None:
        """Lose the reply to the next request whose first line has the pattern `matching`, and so on."""
        self._matching += [matching] * times

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        losing = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                line = data.partition(b"\r\n")[0]
                if self._matching and re.search(self._matching[0], line):
                    self._matching.pop(0)
                    losing.set()
                upstream_writer.write(data)

        async def back() -> None:
            while data := await upstream_reader.read(65536):
                if losing.is_set():
                    self.lost += 1
                    return
                writer.write(data)

        try:
            tasks = [asyncio.ensure_future(forward()), asyncio.ensure_future(back())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            writer.close()
            upstream_writer.close()


@pytest.fixture
async def network(azurite: Azurite) -> AsyncIterator[LossyNetwork]:
    network = LossyNetwork(azurite.ports["blob"])
    server = await asyncio.start_server(network, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    yield network
    server.close()
    await asyncio.sleep(0)


async def test_an_open_that_fails_before_its_first_request_is_done_again(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("no such file")

    store = AzureStorage.from_connection_string(azurite.account())
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no such file"):
        patch.setattr("azure.storage.queue.aio.QueueServiceClient.from_connection_string", missing)
        await store.open()
    await store.open()
    try:
        await store.ping()
        await store.send(b"work")
    finally:
        await store.close()


@pytest.fixture
async def lossy(azurite: Azurite, network: LossyNetwork) -> AsyncIterator[AzureStorage]:
    """An engine over the lossy network, with a connection that has been used before."""
    store = AzureStorage.from_connection_string(azurite.account(network.port))
    await store.open()
    yield store
    await store.close()


PUT = b"PUT /"
APPEND = b"comp=appendblock"


async def test_an_append_whose_reply_was_lost_is_success_exactly_once(
    lossy: AzureStorage, network: LossyNetwork
) -> None:
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    network.lose(APPEND)
    mark, _ = await lossy.append("threads", "p/thread_1", mark, b"two\n")
    assert network.lost == 1
    mark, _ = await lossy.append("threads", "p/thread_1", mark, b"three\n")
    assert await bytes_of(lossy, "p/thread_1") == b"one\ntwo\nthree\n"


async def test_an_append_whose_reply_was_lost_is_a_conflict_if_another_was_first(
    lossy: AzureStorage, network: LossyNetwork
) -> None:
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    await lossy.append("threads", "p/thread_1", mark, b"two\n")
    network.lose(APPEND)
    with pytest.raises(Conflict):
        await lossy.append("threads", "p/thread_1", mark, b"zwei\n")
    assert network.lost == 1
    assert await bytes_of(lossy, "p/thread_1") == b"one\ntwo\n"


async def test_a_block_found_under_later_ones_is_success_and_the_next_append_a_conflict(
    lossy: AzureStorage,
) -> None:
    first, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    second, _ = await lossy.append("threads", "p/thread_1", first, b"two\n")
    third, _ = await lossy.append("threads", "p/thread_1", second, b"three\n")
    # What the engine does when the reply to `two` was lost and others went on before it asked again.
    found = await lossy._mine("threads", "p/thread_1", first, b"two\n")
    assert found is not None
    assert found.offset == second.offset
    with pytest.raises(Conflict):
        await lossy.append("threads", "p/thread_1", found, b"four\n")
    await lossy.roll_over("threads", "p/thread_1", third)
    found = await lossy._mine("threads", "p/thread_1", first, b"two\n")
    assert found is not None
    tail = await lossy.read("threads", "p/thread_1", found)
    assert tail is not None
    assert tail.restarted
    assert await lossy._mine("threads", "p/thread_1", first, b"zwo\n") is None


async def test_a_block_found_in_an_archived_generation_is_success(lossy: AzureStorage) -> None:
    """However long the new generation is by then."""
    first, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    second, _ = await lossy.append("threads", "p/thread_1", first, b"two\n")
    rolled = await lossy.roll_over("threads", "p/thread_1", second)
    await lossy.append("threads", "p/thread_1", rolled, b"longer than both of them\n")
    assert await lossy._mine("threads", "p/thread_1", first, b"two\n")


@pytest.mark.parametrize("matching", [APPEND, PUT])
async def test_a_start_whose_reply_was_lost_is_success_exactly_once(
    lossy: AzureStorage, network: LossyNetwork, matching: bytes
) -> None:
    network.lose(matching)
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    assert (network.lost, mark.offset) == (1, 4)
    assert await bytes_of(lossy, "p/thread_1") == b"one\n"


async def test_a_log_whose_starter_died_before_the_first_block_can_be_started(lossy: AzureStorage) -> None:
    await call(lossy._blob("threads", "p/thread_1").create_append_blob)
    assert await lossy.read("threads", "p/thread_1", None) is None
    won = await winners([lossy.start("threads", "p/thread_1", b"%d\n" % i) for i in range(10)])
    assert len(won) == 1


async def test_a_starter_that_stood_still_begins_no_later_generation(
    lossy: AzureStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the empty blob and its first block."""

    async def append(container: str, name: str, *given: Any) -> Any:
        monkeypatch.undo()
        mark, _ = await lossy.start(container, name, b"theirs\n")
        await lossy.roll_over(container, name, mark)
        return await lossy.append(container, name, *given)

    monkeypatch.setattr(lossy, "append", append)
    with pytest.raises(Conflict):
        await lossy.start("threads", "p/thread_1", b"late\n")
    assert await bytes_of(lossy, "p/thread_1") == b""


async def test_a_create_whose_reply_was_lost_is_a_conflict_if_another_was_first(
    lossy: AzureStorage, network: LossyNetwork
) -> None:
    await lossy.create("assistants", "p/asst_1", b"1")
    network.lose(PUT)
    with pytest.raises(Conflict):
        await lossy.create("assistants", "p/asst_1", b"2")
    assert network.lost == 1


async def test_a_create_or_replace_whose_reply_was_lost_is_success(lossy: AzureStorage, network: LossyNetwork) -> None:
    network.lose(PUT)
    etag = await lossy.create("assistants", "p/asst_1", b"1")
    network.lose(PUT)
    etag = await lossy.replace("assistants", "p/asst_1", b"2", etag)
    await lossy.replace("assistants", "p/asst_1", b"3", etag)
    assert network.lost == 2


async def test_a_write_if_newer_whose_reply_was_lost_is_success(lossy: AzureStorage, network: LossyNetwork) -> None:
    for version, created in ((1, True), (2, False), (3, False)):
        network.lose(PUT)
        await lossy.write_if_newer(replace(DOCUMENT, body=b"%d" % version, version=version, created=created))
    assert network.lost == 3
    found = await lossy.get(DOCUMENT.container, DOCUMENT.name)
    assert found is not None
    assert found.body == b"3"


async def test_a_remove_whose_reply_was_lost_is_success(lossy: AzureStorage, network: LossyNetwork) -> None:
    await lossy.create("assistants", "p/asst_1", b"1")
    network.lose(b"DELETE /")
    assert await lossy.remove("assistants", "p/asst_1")
    assert network.lost == 1


async def test_a_roll_over_whose_replies_were_lost_is_success(lossy: AzureStorage, network: LossyNetwork) -> None:
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    network.lose(rb"PUT .*/thread_1\.0 ")
    network.lose(rb"PUT .*/thread_1 ")
    mark = await lossy.roll_over("threads", "p/thread_1", mark)
    assert (network.lost, mark.generation, mark.offset) == (2, 1, 0)
    await lossy.append("threads", "p/thread_1", mark, b"two\n")
    assert await bytes_of(lossy, "p/thread_1") == b"two\n"
    assert await bytes_of(lossy, "p/thread_1.0") == b"one\n"


async def test_a_roller_that_loses_the_race_leaves_the_archive_to_the_winner(
    lossy: AzureStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block comes between the archive and the new generation."""
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")

    async def write_if_newer(document: Document) -> None:
        monkeypatch.undo()
        await lossy.write_if_newer(document)
        await lossy.append("threads", "p/thread_1", mark, b"two\n")

    monkeypatch.setattr(lossy, "write_if_newer", write_if_newer)
    with pytest.raises(Conflict):
        await lossy.roll_over("threads", "p/thread_1", mark)
    tail = await lossy.read("threads", "p/thread_1", None)
    assert tail
    await lossy.roll_over("threads", "p/thread_1", tail.mark)
    assert await bytes_of(lossy, "p/thread_1.0") == b"one\ntwo\n"


async def test_a_drop_that_was_cut_short_can_be_done_again(
    lossy: AzureStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, _ = await lossy.start("threads", "p/thread_1", b"one\n")
    await lossy.roll_over("threads", "p/thread_1", mark)
    whole = lossy._delete

    async def delete(container: str, name: str) -> None:
        if name.endswith(".0"):
            raise StorageUnavailable("a storm")
        await whole(container, name)

    with monkeypatch.context() as patch:
        patch.setattr(lossy, "_delete", delete)
        with pytest.raises(StorageUnavailable):
            await lossy.drop("threads", "p/thread_1")
    await lossy.drop("threads", "p/thread_1")
    for name in ("p/thread_1", "p/thread_1.0"):
        assert await lossy.read("threads", name, None) is None


async def test_a_late_roller_never_shortens_what_was_kept(azurite: Azurite) -> None:
    store = AzureStorage.from_connection_string(azurite.account())
    await store.open()
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    later, _ = await store.append("threads", "p/thread_1", mark, b"two\n")
    await store.roll_over("threads", "p/thread_1", later)
    # What a roller does that read the log at `mark` and stood still until now.
    await store.write_if_newer(Document("threads", "p/thread_1.0", b"one\n", mark.offset, created=True))
    assert await bytes_of(store, "p/thread_1.0") == b"one\ntwo\n"
    await store.close()


async def test_staging_and_commit_whose_replies_were_lost_are_success(
    lossy: AzureStorage, network: LossyNetwork
) -> None:
    network.lose(b"comp=block&")
    parts = [await staged(lossy, "part_a", SEED * 5), await staged(lossy, "part_b", b"b")]
    network.lose(b"comp=blocklist")
    await lossy.commit(*FILE, parts)
    assert network.lost == 2
    assert await content_of(lossy) == SEED * 5 + b"b"
    network.lose(b"comp=blocklist")
    network.lose(b"DELETE /")
    await lossy.discard(*FILE)
    assert network.lost == 4
    assert await parts_of(lossy) == []


@pytest.mark.parametrize("survived", [0, 1])
async def test_discarding_what_is_gone_makes_no_blob(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Another worker has discarded it and taken its name out of the log, and this one dies: what it leaves now is left
    for ever."""
    store = AzureStorage.from_connection_string(azurite.account())
    await store.open()
    delete, deletions = BlobClient.delete_blob, itertools.count()

    async def dying(self: BlobClient) -> None:
        if next(deletions) >= survived:
            raise asyncio.CancelledError
        await delete(self)

    monkeypatch.setattr(BlobClient, "delete_blob", dying)
    with contextlib.suppress(asyncio.CancelledError):
        await store.discard(*FILE)
    container = store._service.get_container_client(FILE[0])

    async def left() -> list[str]:
        return [name async for name in container.list_blob_names()]

    assert await call(left) == []
    await store.close()


async def test_replies_that_stay_away_are_an_unavailable_store(lossy: AzureStorage, network: LossyNetwork) -> None:
    network.lose(b"GET /", times=4)
    with pytest.raises(StorageUnavailable, match=r"^Azure Storage does not respond: [^\n]*$"):
        await lossy.get("assistants", "p/asst_1")


async def test_requests_are_counted_by_kind(azurite: Azurite) -> None:
    store = AzureStorage.from_connection_string(azurite.account())
    await store.open()
    store.operations.clear()
    mark, _ = await store.start("threads", "p/thread_1", b"one\n")
    mark, _ = await store.append("threads", "p/thread_1", mark, b"two\n")
    assert store.operations == {"blob PUT": 1, "blob PUT appendblock": 2}
    store.operations.clear()
    await store.write_if_newer(replace(DOCUMENT, version=1, created=True))
    await store.write_if_newer(replace(DOCUMENT, version=2))
    assert store.operations == {"blob PUT": 2}
    store.operations.clear()
    await store.read("threads", "p/thread_1", mark)
    await store.read("threads", "p/thread_1", None)
    await store.read("threads", "p/thread_1", Mark(0, 4))
    assert store.operations == {"blob GET": 3}
    store.operations.clear()
    await store.send(b"{}")
    await store.delete(await one(store))
    assert store.operations == {"queue POST": 1, "queue GET": 1, "queue DELETE": 1}
    store.operations.clear()
    await fill(store, ids(25))
    store.operations.clear()
    await store.page("assistants", "p/", after="p/asst_z", limit=10, newest_first=True)
    assert store.operations == {"blob GET list": 1, "blob GET": 10}
    store.operations.clear()
    await store.page("assistants", "p/", after="p/asst_z", limit=10, newest_first=True)
    assert store.operations == {"blob GET list": 1}
    store.operations.clear()
    await store.commit(*FILE, [await staged(store, "part_a", SEED * 5)])
    assert store.operations == {"blob PUT block": 2, "blob PUT blocklist": 1}
    await store.close()


async def test_a_sweep_leaves_what_a_late_writer_puts_in_the_place_of_a_tombstone(
    lossy: AzureStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the deletion."""
    await lossy.write_if_newer(replace(DOCUMENT, body=b""))

    async def listed(send: Callable[[], Awaitable[Any]]) -> Any:
        monkeypatch.undo()
        found = await send()
        await lossy.write_if_newer(replace(DOCUMENT, version=DOCUMENT.version + 1))
        return found

    monkeypatch.setattr("assistants_service.infra.azure.documents.call", listed)
    await lossy.remove_tombstones(DOCUMENT.container, "p/thread_1/")
    assert await lossy.get(DOCUMENT.container, DOCUMENT.name)


async def test_a_dead_lettered_item_is_kept_with_its_reason(azurite: Azurite) -> None:
    store = AzureStorage.from_connection_string(azurite.account())
    await store.open()
    await store.send(b'{"run":"run_1"}')
    await store.dead_letter(await one(store), "five failures")
    assert store._dead_letters is not None
    (kept,) = await call(store._dead_letters.peek_messages)
    assert json.loads(kept.content) == {"item": '{"run":"run_1"}', "reason": "five failures"}
    await store.close()


async def test_an_item_that_cannot_be_dead_lettered_stays_on_the_queue(
    lossy: AzureStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lossy.send(b"{}")
    delivery = await one(lossy)

    async def refuse(*_: object, **__: object) -> None:
        raise ClientAuthenticationError("no")

    monkeypatch.setattr(lossy._dead_letters, "send_message", refuse)
    with pytest.raises(StorageUnavailable):
        await lossy.dead_letter(delivery, "five failures")
    await lossy.extend(delivery, visibility_timeout=30)


async def test_an_unreachable_store_is_one_line() -> None:
    store = AzureStorage.from_connection_string(
        f"AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:{free_port()}/a;"
        f"QueueEndpoint=http://127.0.0.1:{free_port()}/a"
    )
    with pytest.raises(StorageUnavailable, match=r"^Azure Storage does not respond: [^\n]*$"):
        await store.open()
    with pytest.raises(StorageUnavailable, match=r"^The Azure store is closed.$"):
        await store.ping()


async def test_a_store_that_never_answers_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert azure_store.OPEN_TIMEOUT <= 5
    monkeypatch.setattr(azure_store, "OPEN_TIMEOUT", 0.2)

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    hung_up = asyncio.Event()
    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = AzureStorage.from_connection_string(
            f"AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:{port}/a;"
            f"QueueEndpoint=http://127.0.0.1:{port}/a"
        )
        with pytest.raises(StorageUnavailable, match=r"^Azure Storage did not respond within [^\n]*$"):
            await store.open()
        await hung_up.wait()


async def test_logs_are_listed_without_their_old_generations_and_without_documents(store: Storage) -> None:
    assert await store.logs("threads") == []
    mark, _ = await store.start("threads", "p/thread_1.log", b"1")
    await store.roll_over("threads", "p/thread_1.log", mark)
    await store.start("threads", "p2/thread_2.log", b"2")
    await store.start("vector-store-logs", "p/vs_1.log", b"3")
    await store.write_if_newer(Document("threads", "p/thread_1", b"{}", 1))
    assert sorted(await store.logs("threads")) == ["p/thread_1.log", "p2/thread_2.log"]


async def test_all_names_of_a_container_are_listed_page_by_page(store: Storage) -> None:
    """Of documents, tombstones, logs and their old generations, and contents."""
    mark, _ = await store.start("threads", "p/thread_1.log", b"1")
    await store.roll_over("threads", "p/thread_1.log", mark)
    await store.write_if_newer(Document("threads", "p/thread_1", b"{}", 1))
    await store.write_if_newer(Document("threads", "p2/thread_2", b"", 1))
    for name in ("p/file-a", "p/file-b", "p2/file-0"):
        await store.create("files", name, b"{}")
        await store.commit("contents", name, [await store.stage("contents", name, "part", pieces(b"1"))])
    assert sorted(await names_in(store, "files")) == ["p/file-a", "p/file-b", "p2/file-0"]
    assert sorted(await names_in(store, "contents")) == ["p/file-a", "p/file-b", "p2/file-0"]
    there = ["p/thread_1", "p/thread_1.log", "p/thread_1.log.0", "p2/thread_2"]
    assert sorted(await names_in(store, "threads")) == there
    assert await store.list_names("runs", after=None, limit=2) == []
    assert sorted(await store.list_names("contents", after=None, limit=5, prefix="p/")) == ["p/file-a", "p/file-b"]
    assert await store.list_names("contents", after="p/file-a", limit=5, prefix="p/") == ["p/file-b"]


async def names_in(store: Storage, container: str) -> list[str]:
    found: list[str] = []
    while page := await store.list_names(container, after=found[-1] if found else None, limit=2):
        assert len(page) <= 2
        found += page
    return found


async def test_bytes_are_weighed_by_prefix(store: Storage) -> None:
    assert await store.weigh("threads", "p/") == 0
    mark, _ = await store.start("threads", "p/thread_1.log", b"12345")
    mark, _ = await store.append("threads", "p/thread_1.log", mark, b"678")
    await store.start("threads", "p/thread_2.log", b"x" * 1000)
    await store.start("threads", "p2/thread_3.log", b"of another project")
    await store.start("streams", "p/thread_1/run_1", b"of another container")
    await store.write_if_newer(Document("threads", "p/thread_1", b"{}", 1))
    assert await store.weigh("threads", "p/") == 8 + 1000 + 2
    await store.roll_over("threads", "p/thread_1.log", mark)
    assert await store.weigh("threads", "p/") == 8 + 1000 + 2
    await store.drop("threads", "p/thread_2.log")
    assert await store.weigh("threads", "p/") == 8 + 2
    await store.commit(*FILE, [await staged(store, "part_a", SEED), await staged(store, "part_b", b"b")])
    assert await store.weigh("contents", "p/") == len(SEED) + 1
    assert await store.weigh("contents", "p2/") == 0


async def test_a_wrong_key_is_one_line(azurite: Azurite) -> None:
    account = azurite.account()
    store = AzureStorage.from_connection_string(account.replace("AccountKey=", "AccountKey=AAAA"))
    with pytest.raises(StorageUnavailable, match=r"^Azure Storage refuses the request: 403 [A-Za-z]*.$"):
        await store.open()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no account"),
        ("nonsense", "names no account"),
        ("AccountName=a", "contains no key"),
        ("AccountName=a;AccountKey=!", "is not Base64"),
    ],
)
def test_a_bad_connection_string_is_told_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^The storage connection string is not valid: [^\n]*{message}[^\n]*$"):
        AzureStorage.from_connection_string(text)


@pytest.mark.parametrize("url", ["http://a.blob.core.windows.net", "https://a.queue.core.windows.net", "a"])
def test_a_bad_account_url_is_told_in_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="is not a storage account"):
        AzureStorage.with_identity(url)


async def test_sqlite_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStorage(str(tmp_path / "file" / "store.db"), ManualClock())
    with pytest.raises(StorageUnavailable, match=r"^SQLite cannot open [^\n]*$"):
        await store.open()


@pytest.mark.parametrize("container", ["streams", "idempotency"])
async def test_sqlite_removes_what_is_kept_no_longer(tmp_path: Path, container: str) -> None:
    """On Azure, lifecycle rules do (tests/deployment/test_bicep.py)."""
    assert KEPT_DAYS["idempotency"] * 86_400 > LIFETIME
    clock = ManualClock()
    store, run = (
        SqliteStorage(str(tmp_path / "store.db"), clock),
        f"p/{Ids(clock).new('thread')}/{Ids(clock).new('run')}",
    )
    await store.open()
    await store.start("streams", run, b"a stream")
    await store.start("threads", run, b"a log")
    await store.create("idempotency", "p/key", json.dumps({"at": clock.now()}).encode())
    await store.write_if_newer(Document("runs", run, b"a document", 1))

    def tables() -> set[str]:
        rows = store._sql.execute(
            "SELECT container FROM documents UNION SELECT container FROM logs NATURAL JOIN blocks"
        )
        return {found for (found,) in rows}

    chores.delete_expired(store._sql, clock.now() + KEPT_DAYS[container] * 86_400)
    assert container in tables()
    chores.delete_expired(store._sql, clock.now() + KEPT_DAYS[container] * 86_400 + 1)
    assert container not in tables()
    chores.delete_expired(store._sql, clock.now() + 1_000 * 86_400)
    assert tables() == {"threads", "runs"}
    assert not store._sql.execute("SELECT 1 FROM blocks WHERE container='streams'").fetchall()
    await store.close()


async def test_sqlite_leaves_a_key_that_is_reserved_anew_while_it_tidies(tmp_path: Path) -> None:
    path, clock = tmp_path / "store.db", ManualClock()
    store = SqliteStorage(str(path), clock)
    await store.open()
    await store.create("idempotency", "p/key", b'{"at":1}')
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        reserve = "UPDATE documents SET version=version+1 WHERE name='p/key'"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as tidying:
            tidying.set_trace_callback(lambda sql: sql.startswith("DELETE") and other.execute(reserve))
            chores.delete_expired(tidying, clock.now())
    assert await store.get("idempotency", "p/key")
    await store.close()


class ReadOnly(SqliteStorage):
    """What SQLite falls back to where it may not write to the file."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)


async def test_a_sqlite_file_that_cannot_be_written_to_is_not_ready(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    good, bad = SqliteStorage(path, SystemClock()), ReadOnly(path, SystemClock())
    await good.open()
    await good.ping()
    await bad.open()
    with pytest.raises(StorageUnavailable, match="readonly"):
        await bad.ping()
    await good.ping()
    await bad.close()
    await good.close()


async def test_a_chore_that_fails_says_so_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises: a file that grows for ever would be noticed too late."""
    times = 0

    def checkpoint(_: object) -> None:
        nonlocal times
        times += 1
        raise ValueError("an unexpected name")

    monkeypatch.setattr(sqlite_store, "checkpoint", checkpoint)
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_EVERY", 0.01)
    store = SqliteStorage(f"{tmp_path}/a.db", SystemClock())
    await store.open()
    async with asyncio.timeout(10):
        while times < 3:
            await asyncio.sleep(0.01)
    await store.close()
    assert "an unexpected name" in caplog.text
