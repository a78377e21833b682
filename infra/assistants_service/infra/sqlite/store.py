"""The embedded storage engine: one SQLite file (or memory), for one machine.

A commit and its documents are one transaction. WAL with synchronous=NORMAL: acknowledged writes survive the death of
every process; a crash of the operating system may lose the most recent ones. Statements run on the event loop itself:
they take 10 to 100 microseconds, less than a hop to a thread and back. Checkpoints, which fsync, run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import (
    StorageUnavailable,
)
from assistants_service.infra.sqlite.chores import checkpoint, delete_expired, upgrade
from assistants_service.infra.sqlite.connection import BUSY_PAUSE
from assistants_service.infra.sqlite.contents import SqliteContents
from assistants_service.infra.sqlite.logs import SqliteLogs
from assistants_service.infra.sqlite.queue import SqliteQueue
from assistants_service.infra.sqlite.recognition import refuse_foreign

log = logging.getLogger(__name__)

# Tables of large rows have a rowid: without one, a search would read whole rows on its way, even snapshots of
# megabytes.
SCHEMA = """
CREATE TABLE IF NOT EXISTS documents(
    container TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL,
    UNIQUE(container, name));
CREATE TABLE IF NOT EXISTS logs(
    container TEXT, name TEXT, generation INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY(container, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks(
    container TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, offset INTEGER NOT NULL,
    data BLOB NOT NULL, UNIQUE(container, name, generation, offset));
CREATE TABLE IF NOT EXISTS contents(
    container TEXT NOT NULL, name TEXT NOT NULL, parts TEXT NOT NULL, UNIQUE(container, name));
CREATE TABLE IF NOT EXISTS chunks(
    container TEXT NOT NULL, name TEXT NOT NULL, part TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL,
    data BLOB NOT NULL, UNIQUE(container, name, part, number, size));
CREATE TABLE IF NOT EXISTS queue(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, body BLOB NOT NULL,
    visible_at REAL NOT NULL, count INTEGER NOT NULL DEFAULT 0, since REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS queue_visible ON queue(name, visible_at);
"""
CHECKPOINT_EVERY = 2.0  # seconds between checks of the write-ahead log
WRITE_EVERY = 5.0  # seconds between test writes for health checks
ROOM = 16 * 1024 * 1024  # bytes that must be free on the disk: more than the largest commit with its documents
EXPIRY_EVERY = 3600.0  # seconds between deletions of expired data


class SqliteStorage(SqliteLogs, SqliteContents, SqliteQueue):
    """`path` is a file, or ":memory:" for a store that exists as long as this object (tests, simulations)."""

    def __init__(self, path: str, clock: Clock) -> None:
        super().__init__(path, clock)
        self._chores: list[asyncio.Task[None]] = []
        self._written = -WRITE_EVERY

    async def open(self) -> None:
        if self._db is not None:
            return
        try:
            if self._path != ":memory:":
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
                refuse_foreign(self._path)
            with contextlib.ExitStack() as failed:
                db = failed.enter_context(contextlib.closing(self._connect()))
                db.executescript(SCHEMA)
                upgrade(db)
                db.execute(f"PRAGMA busy_timeout={int(BUSY_PAUSE * 1000)}")  # from here on, `_begin` waits
                failed.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailable(f"SQLite cannot open '{self._path}': {error}") from None
        self._db = db  # only a whole store: after a failure, the next `open` does all of it again
        if self._path != ":memory:":
            self._chores = [
                asyncio.create_task(self._every(CHECKPOINT_EVERY, checkpoint)),
                asyncio.create_task(self._every(EXPIRY_EVERY, lambda db: delete_expired(db, self._clock.now()))),
            ]

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self._chores = []
        if self._db is not None:
            self._db.close()
            self._db = None

    async def ping(self) -> None:
        """Writes, at most once in WRITE_EVERY seconds, because a read-only store is of no use."""
        with self._errors():
            if self._path != ":memory:":
                self._check_file(Path(self._path))
            if time.monotonic() < self._written + WRITE_EVERY:
                self._sql.execute("SELECT 1 FROM queue LIMIT 1").fetchone()
                return
        async with self._transaction() as sql:
            sql.execute("SELECT 1 FROM queue LIMIT 1")
            sql.execute("PRAGMA user_version=0")
        self._written = time.monotonic()

    def _check_file(self, file: Path) -> None:
        """SQLite goes on writing to a file that was moved or deleted, and those writes are lost when the process ends.
        And on a full disk, a small write may still fit into the write-ahead log."""
        file.stat()
        if shutil.disk_usage(file.parent).free < ROOM:
            raise StorageUnavailable(f"SQLite: the disk of '{self._path}' is full")

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        tables = ("documents", "logs", "contents", "chunks")
        within = "container=:c AND name>=:prefix AND name<:end AND name>:after"
        each = " UNION ".join(f"SELECT name FROM {table} WHERE {within}" for table in tables)  # noqa: S608
        values = {"c": container, "prefix": prefix, "end": prefix + "\U0010ffff", "after": after or "", "limit": limit}
        with self._errors():
            return [name for (name,) in self._sql.execute(f"{each} ORDER BY name LIMIT :limit", values)]

    async def _every(self, seconds: float, chore: Callable[[sqlite3.Connection], None]) -> None:
        """Repeats work that waits for the disk or reads everything: in a thread, with its own connection."""

        def work() -> None:
            with contextlib.closing(self._connect()) as db:
                chore(db)

        while True:
            try:
                await asyncio.to_thread(work)
            except Exception as error:
                # A busy moment is not an error: the next time will do.
                if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    log.warning("SQLite: background maintenance failed, trying again in %g s", seconds, exc_info=error)
            await asyncio.sleep(seconds)
