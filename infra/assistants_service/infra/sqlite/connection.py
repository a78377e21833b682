"""The connection to an SQLite file: statements run on the event loop, transactions are queued."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import (
    Full,
    StorageUnavailable,
    Unsent,
)

# Seconds that a write waits for another process's transaction (each takes well under a millisecond), and the pauses.
BUSY_TIMEOUT, BUSY_PAUSE = 5.0, 0.01
PAGE = 2048  # bytes: a commit writes whole pages, and most rows are far smaller than SQLite's default of 4,096


class SqliteConnection:
    """Shared by the parts of the engine. `path` is a file, or ":memory:"."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self.operations: Counter[str] = Counter()  # transactions; reads cost next to nothing
        self.retries: Counter[str] = Counter()
        self._waiting = asyncio.Lock()
        self._db: sqlite3.Connection | None = None
        self._looked = math.inf  # the time of the last read of the queue

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageUnavailable("the SQLite store is closed")
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        with contextlib.ExitStack() as failed:
            failed.callback(db.close)
            db.execute(f"PRAGMA page_size={PAGE}")  # of a new file; an existing one keeps its own
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("PRAGMA cache_size=-16384")
            failed.pop_all()
        return db

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[sqlite3.Connection]:
        """All or nothing. Nothing may be awaited inside, because all callers share the connection. Raises Unsent if it
        certainly had no effect, and StorageUnavailable if that is unknown."""
        try:
            await self._begin()
            sql = self._sql
            try:
                yield sql
            except BaseException:
                _undo(sql)
                raise
        except sqlite3.Error as error:
            raise _undone(error) from error
        self._commit(sql)

    def _commit(self, sql: sqlite3.Connection) -> None:
        try:
            sql.execute("COMMIT")
        except sqlite3.Error as error:
            _undo(sql)
            # On a full disk, the end of the transaction, which makes it valid, was not written whole. After another
            # disk error it may be there, for the next process that opens the file.
            certain = getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
            raise (_undone(error) if certain else StorageUnavailable(f"SQLite: {error}")) from error

    async def _begin(self) -> None:
        """Wait for another process's transaction without blocking this process's other work."""
        self.operations["transaction"] += 1
        if self._begun():
            return
        end = time.monotonic() + BUSY_TIMEOUT
        async with self._waiting:  # one at a time tries again, however many wait
            while not self._begun():
                if time.monotonic() > end:
                    raise Unsent(f"SQLite: '{self._path}' has been locked for {BUSY_TIMEOUT:g} s")
                self.retries["busy"] += 1
                await asyncio.sleep(BUSY_PAUSE)

    def _begun(self) -> bool:
        try:
            self._sql.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailable(f"SQLite: {error}") from error


def _undone(error: sqlite3.Error) -> Unsent:
    full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return (Full if full else Unsent)(f"SQLite: {error}")


def _undo(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # some errors end it by themselves
        db.execute("ROLLBACK")
