"""The embedded storage engine: one SQLite file (or memory), for one machine.

A commit and its documents are one transaction. WAL with synchronous=NORMAL: what was acknowledged survives the death of
every process; an operating system that dies may lose the last moments. Statements run on the event loop itself, since
one takes 10 to 100 microseconds, less than a hop to a thread and back; the checkpoints, which fsync, run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from assistants_service.core import names
from assistants_service.core.ids import made_at
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import (
    Conflict,
    ContentGone,
    Delivery,
    Document,
    Full,
    Mark,
    Part,
    Project,
    StorageUnavailable,
    Stored,
    Tail,
    Unsent,
    nothing,
)
from assistants_service.infra.blocks import blocks

log = logging.getLogger(__name__)

# Tables of large rows have a rowid: in one without, a search reads whole rows on its way, snapshots of megabytes too.
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
# Seconds that a write waits for another process's transaction (each takes well under a millisecond), and how it waits.
BUSY_TIMEOUT, BUSY_PAUSE = 5.0, 0.01
CHECKPOINT_EVERY = 2.0  # seconds between looks at the write-ahead log
PAGE = 2048  # bytes: a commit writes whole pages, and most rows are far smaller than SQLite's own 4,096
WAL_PAGES = 32_768  # of the log, 64 MiB: beyond that writers wait for a moment, so that it begins anew
CHECKPOINT_PATIENCE = 50  # milliseconds for which they do
WRITE_EVERY = 5.0  # seconds between tries whether the file can be written to, for health checks
ROOM = 16 * 1024 * 1024  # bytes that a disk must have left: the largest commit with its documents, and then some
TIDY_EVERY = 3600.0  # seconds between looks for what is kept no longer
DAY = 86_400
MAX_BLOCK = 64 * 1024 * 1024  # as on Azure
CHUNK = 1024 * 1024  # bytes of a part that one transaction writes: it takes 2 ms
DROPPED = 8  # chunks that one transaction deletes


class SqliteStorage:
    """`path` is a file, or ":memory:" for an engine that lives and dies with this object (tests, simulations)."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self.operations: Counter[str] = Counter()  # transactions; reads cost next to nothing
        self.retries: Counter[str] = Counter()
        self._waiting = asyncio.Lock()
        self._db: sqlite3.Connection | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = -WRITE_EVERY
        self._looked = math.inf  # the time of the last look at the queue

    async def open(self) -> None:
        if self._db is not None:
            return
        try:
            if self._path != ":memory:":
                Path(self._path).expanduser().parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connect()
            self._db.executescript(SCHEMA)
            _upgrade(self._db)
            self._db.execute(f"PRAGMA busy_timeout={int(BUSY_PAUSE * 1000)}")  # from here on, waiting is `_begin`'s
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailable(f"SQLite cannot open '{self._path}': {error}") from None
        if self._path != ":memory:":
            self._chores = [
                asyncio.create_task(self._every(CHECKPOINT_EVERY, _checkpoint)),
                asyncio.create_task(self._every(TIDY_EVERY, lambda db: tidy(db, self._clock.now()))),
            ]

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self._chores = []
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def folder_beside(self, suffix: str) -> str:
        """A place for files that belong to this store: beside its own, or one that vanishes with this object."""
        if self._path != ":memory:":
            return str(Path(self._path).expanduser().with_suffix(f".{suffix}"))
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="assistants-", ignore_cleanup_errors=True)
        return self._folder.name

    async def ping(self) -> None:
        """With a write, as a store that can only be read is of no use; at most one each WRITE_EVERY seconds. One more
        page may find room in the write-ahead log of a disk that is full, so that is asked, too."""
        if self._path != ":memory:" and shutil.disk_usage(Path(self._path).expanduser().parent).free < ROOM:
            raise StorageUnavailable(f"SQLite: the disk of '{self._path}' is full")
        with self._errors():
            if time.monotonic() < self._written + WRITE_EVERY:
                self._sql.execute("SELECT 1 FROM queue LIMIT 1").fetchone()
                return
        async with self._transaction() as sql:
            sql.execute("PRAGMA user_version=0")
        self._written = time.monotonic()

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        tables = ("documents", "logs", "contents", "chunks")
        within = "container=:c AND name>=:prefix AND name<:end AND name>:after"
        each = " UNION ".join(f"SELECT name FROM {table} WHERE {within}" for table in tables)  # noqa: S608
        values = {"c": container, "prefix": prefix, "end": prefix + "\U0010ffff", "after": after or "", "limit": limit}
        with self._errors():
            return [name for (name,) in self._sql.execute(f"{each} ORDER BY name LIMIT :limit", values)]

    # -- documents -------------------------------------------------------------------------------------------------

    async def get(self, container: str, name: str) -> Stored | None:
        with self._errors():
            row = self._sql.execute(
                "SELECT body, version FROM documents WHERE container=? AND name=?", (container, name)
            ).fetchone()
        return Stored(name, row[0], f'"{row[1]}"') if row and row[0] else None

    async def create(self, container: str, name: str, body: bytes) -> str:
        async with self._transaction() as sql:
            # OR IGNORE: two creators of one name; the second finds nothing changed.
            done = sql.execute("INSERT OR IGNORE INTO documents VALUES(?, ?, 1, ?)", (container, name, body)).rowcount
        if not done:
            raise Conflict
        return '"1"'

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        version = int(etag.strip('"'))
        async with self._transaction() as sql:
            # version=?: a writer that read before another one wrote.
            done = sql.execute(
                "UPDATE documents SET body=?, version=version+1 WHERE container=? AND name=? AND version=?",
                (body, container, name, version),
            ).rowcount
        if not done:
            raise Conflict
        return f'"{version + 1}"'

    async def remove(self, container: str, name: str) -> bool:
        async with self._transaction() as sql:
            statement = "DELETE FROM documents WHERE container=? AND name=?"
            return bool(sql.execute(statement, (container, name)).rowcount)

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        low, high = prefix, prefix + "\U0010ffff"
        if after is not None:
            low, high = (low, after) if newest_first else (after, high)
        order = "DESC" if newest_first else "ASC"
        sql = (
            "SELECT name, body, version FROM documents WHERE container=? AND name>? AND name<?"  # noqa: S608
            f" AND length(body)>0 ORDER BY name {order} LIMIT ?"
        )
        with self._errors():
            rows = self._sql.execute(sql, (container, low, high, limit)).fetchall()
        return [Stored(name, body, f'"{version}"') for name, body, version in rows]

    async def advance(self, document: Document) -> None:
        async with self._transaction():
            self._advance(document)

    def _advance(self, document: Document) -> None:
        # WHERE: a late writer of an older version changes nothing.
        self._sql.execute(
            "INSERT INTO documents VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET body=excluded.body,"
            " version=excluded.version WHERE excluded.version > documents.version",
            (document.container, document.name, document.version, document.body),
        )

    async def sweep(self, container: str, prefix: str) -> None:
        async with self._transaction() as sql:
            sql.execute(
                "DELETE FROM documents WHERE container=? AND name>=? AND name<? AND length(body)=0",
                (container, prefix, prefix + "\U0010ffff"),
            )

    # -- logs ------------------------------------------------------------------------------------------------------

    async def start(
        self, container: str, name: str, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        async with self._transaction() as sql:
            # OR IGNORE: two creators of one log; the second finds nothing changed.
            if not sql.execute("INSERT OR IGNORE INTO logs VALUES(?, ?, 0, 0)", (container, name)).rowcount:
                raise Conflict
            return self._append(sql, container, name, Mark(0, 0), block, project), ()

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        async with self._transaction() as sql:
            return self._append(sql, container, name, mark, block, project), ()

    def _append(
        self, sql: sqlite3.Connection, container: str, name: str, mark: Mark, block: bytes, project: Project
    ) -> Mark:
        if len(block) > MAX_BLOCK:
            raise ValueError(f"a block has {MAX_BLOCK} bytes at most, this one {len(block)}")
        end = mark.offset + len(block)
        # generation and length: a writer that has not seen another's block, or a roll-over.
        done = sql.execute(
            "UPDATE logs SET length=? WHERE container=? AND name=? AND generation=? AND length=?",
            (end, container, name, mark.generation, mark.offset),
        ).rowcount
        if not done:
            raise Conflict
        sql.execute("INSERT INTO blocks VALUES(?, ?, ?, ?, ?)", (container, name, mark.generation, mark.offset, block))
        for document in project():
            self._advance(document)
        return Mark(mark.generation, end)

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        with self._errors():
            row = self._sql.execute(
                "SELECT generation, length FROM logs WHERE container=? AND name=?", (container, name)
            ).fetchone()
            if row is None:
                return None
            mark = Mark(row[0], row[1])
            restarted = since is not None and since.generation != mark.generation
            start = 0 if since is None or restarted else since.offset
            if start >= mark.offset:
                return Tail(b"", mark, restarted)
            if since and limit and not restarted:
                mark = Mark(mark.generation, min(mark.offset, start + limit))
            data = self._bytes(container, name, mark, start)
        if data is None:  # another process rolled the log over, or dropped it, in between
            return await self.read(container, name, since, limit=limit)
        return Tail(data, mark, restarted)

    def _bytes(self, container: str, name: str, mark: Mark, start: int) -> bytes | None:
        # The block that holds `start` may begin before it, as a stream may be read from any frame; the last one may end
        # after `mark`.
        rows = self._sql.execute(
            "SELECT offset, data FROM blocks WHERE container=? AND name=? AND generation=? AND offset >= ("
            "SELECT max(offset) FROM blocks WHERE container=? AND name=? AND generation=? AND offset<=?)"
            " AND offset<? ORDER BY offset",
            (container, name, mark.generation, container, name, mark.generation, start, mark.offset),
        ).fetchall()
        return b"".join(row[1] for row in rows)[start - rows[0][0] : mark.offset - rows[0][0]] if rows else None

    async def roll(self, container: str, name: str, mark: Mark) -> Mark:
        async with self._transaction() as sql:
            # generation and length, as for an append: no other block falls between the snapshot and the new generation.
            done = sql.execute(
                "UPDATE logs SET generation=generation+1, length=0"
                " WHERE container=? AND name=? AND generation=? AND length=?",
                (container, name, mark.generation, mark.offset),
            ).rowcount
            if not done:
                raise Conflict
            archive = f"{name}.{mark.generation}"
            sql.execute("INSERT INTO logs VALUES(?, ?, 0, ?)", (container, archive, mark.offset))
            sql.execute(
                "UPDATE blocks SET name=?, generation=0 WHERE container=? AND name=? AND generation=?",
                (archive, container, name, mark.generation),
            )
        return Mark(mark.generation + 1, 0)

    async def drop(self, container: str, name: str) -> None:
        """And what was kept of its old generations."""
        async with self._transaction() as sql:
            row = sql.execute("SELECT generation FROM logs WHERE container=? AND name=?", (container, name)).fetchone()
            for gone in [name, *(f"{name}.{generation}" for generation in range(row[0] if row else 0))]:
                sql.execute("DELETE FROM logs WHERE container=? AND name=?", (container, gone))
                sql.execute("DELETE FROM blocks WHERE container=? AND name=?", (container, gone))

    async def logs(self, container: str) -> Sequence[str]:
        with self._errors():
            rows = self._sql.execute("SELECT name FROM logs WHERE container=? AND name LIKE '%.log'", (container,))
            return [name for (name,) in rows]

    async def weigh(self, container: str, prefix: str) -> int:
        """In a thread, with its own connection; of a store in memory, there is but one."""

        def work(db: sqlite3.Connection) -> int:
            statement = (
                "SELECT (SELECT total(length) FROM logs WHERE container=:c AND name>=:low AND name<:high)"
                " + (SELECT total(length(body)) FROM documents WHERE container=:c AND name>=:low AND name<:high)"
                " + (SELECT total(size) FROM chunks WHERE container=:c AND name>=:low AND name<:high)"
            )
            values = {"c": container, "low": prefix, "high": prefix + "\U0010ffff"}
            return int(db.execute(statement, values).fetchone()[0])

        def apart() -> int:
            with contextlib.closing(self._connect()) as db:
                return work(db)

        with self._errors():
            return work(self._sql) if self._path == ":memory:" else await asyncio.to_thread(apart)

    # -- contents --------------------------------------------------------------------------------------------------

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> Part:
        size = number = 0
        try:
            async for chunk in blocks(chunks, CHUNK):
                async with self._transaction() as sql:  # one each: a long upload holds up no other writer
                    place = (container, name, part, number, len(chunk), chunk)
                    # Sent twice, a chunk is there once, as on Azure: the same id has the same bytes.
                    sql.execute("INSERT OR IGNORE INTO chunks VALUES(?, ?, ?, ?, ?, ?)", place)
                size, number = size + len(chunk), number + 1
        except Exception:
            with contextlib.suppress(StorageUnavailable):  # then it goes with the content
                await self._drop(container, name, "part=?", part)
            raise
        return Part(part, size)

    async def staged(self, container: str, name: str) -> Sequence[Part]:
        with self._errors():
            return self._parts(container, name)

    def _parts(self, container: str, name: str) -> list[Part]:
        sql = "SELECT part, sum(size) FROM chunks WHERE container=? AND name=? GROUP BY part"
        return [Part(*row) for row in self._sql.execute(sql, (container, name))]

    async def commit(self, container: str, name: str, parts: Sequence[Part]) -> None:
        mine = json.dumps([(part.id, part.size) for part in parts])
        async with self._transaction() as sql:
            # One transaction: of two orders of the parts the first one stays, and no part goes in between.
            there = sql.execute("SELECT parts FROM contents WHERE container=? AND name=?", (container, name)).fetchone()
            if there is None and not set(parts) <= {*self._parts(container, name)}:
                raise Conflict("a part is not there")
            if there is not None and there[0] != mine:
                raise Conflict("there is a content of other parts")
            sql.execute("INSERT OR IGNORE INTO contents VALUES(?, ?, ?)", (container, name, mine))
        await self._drop_others(container, name, [part.id for part in parts])

    async def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        with self._errors():
            row = self._sql.execute(
                "SELECT parts FROM contents WHERE container=? AND name=?", (container, name)
            ).fetchone()
        end, start = (None if length is None else offset + length), 0
        for part, size in json.loads(row[0]) if row else ():
            for number in range(-(-size // CHUNK)):
                low, high = start + number * CHUNK, start + min(size, (number + 1) * CHUNK)
                if end is not None and low >= end:
                    return
                if high > offset:
                    await asyncio.sleep(0)  # a reader that takes all at once would hold up everybody else
                    data = self._chunk(container, name, part, number)
                    yield data[max(0, offset - low) : None if end is None else end - low]
            start += size

    def _chunk(self, container: str, name: str, part: str, number: int) -> bytes:
        with self._errors():
            row = self._sql.execute(
                "SELECT data FROM chunks WHERE container=? AND name=? AND part=? AND number=?",
                (container, name, part, number),
            ).fetchone()
        if row is None:
            raise ContentGone(f"SQLite: the content {container}/{name} is gone")
        return bytes(row[0])

    async def discard(self, container: str, name: str) -> None:
        async with self._transaction() as sql:
            sql.execute("DELETE FROM contents WHERE container=? AND name=?", (container, name))
        await self._drop_others(container, name, [])

    async def _drop_others(self, container: str, name: str, kept: Sequence[str]) -> None:
        await self._drop(container, name, "part NOT IN (SELECT value FROM json_each(?))", json.dumps(kept))

    async def _drop(self, container: str, name: str, which: str, value: str) -> None:
        """Delete the chunks of these parts: a few in each transaction, so that the deletion of gigabytes holds up
        no writer. The same `commit` or `discard` again does what a crash left undone."""
        done = DROPPED
        while done == DROPPED:
            async with self._transaction() as sql:
                done = sql.execute(
                    "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE container=? AND name=?"  # noqa: S608
                    f" AND {which} LIMIT ?)",
                    (container, name, value, DROPPED),
                ).rowcount
            await asyncio.sleep(0)

    # -- queue -----------------------------------------------------------------------------------------------------

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        async with self._transaction():
            self._send("work", body, delay)

    def _send(self, queue: str, body: bytes, delay: float) -> None:
        now = self._clock.now()
        self._sql.execute(
            "INSERT INTO queue(name, body, visible_at, since) VALUES(?, ?, ?, ?)", (queue, body, now + delay, now)
        )

    async def receive(self, limit: int, *, hide: float) -> list[Delivery]:
        now = self._clock.now()
        if now < self._looked:
            await self._put_back(now)
        self._looked = now
        with self._errors():
            # Looked at first without a write lock: polling an empty queue costs other writers nothing.
            ids = self._sql.execute(
                "SELECT id FROM queue WHERE name='work' AND visible_at<=? ORDER BY visible_at, id LIMIT ?", (now, limit)
            ).fetchall()
        if not ids:
            return []
        async with self._transaction() as sql:
            rows = [
                # visible_at again: two receivers of one item; the second finds it hidden.
                sql.execute(
                    "UPDATE queue SET visible_at=?, since=?, count=count+1 WHERE id=? AND visible_at<=?"
                    " RETURNING id, body, count",
                    (now + hide, now, item, now),
                ).fetchone()
                for (item,) in ids
            ]
        return [Delivery(str(row[0]), row[1], row[2], str(row[2])) for row in rows if row]

    async def _put_back(self, now: float) -> None:
        """The clock went back, perhaps while no process ran. What was hidden by the time before is hidden for as long
        again, from now on, and no longer."""
        with self._errors():
            if not self._sql.execute("SELECT 1 FROM queue WHERE since>? LIMIT 1", (now,)).fetchone():
                return
        async with self._transaction() as sql:
            # since: of two processes that notice, the second changes nothing.
            sql.execute("UPDATE queue SET visible_at=visible_at-since+:now, since=:now WHERE since>:now", {"now": now})

    async def extend(self, delivery: Delivery, *, hide: float) -> Delivery:
        now = self._clock.now()
        async with self._transaction() as sql:
            # count is the receipt: a holder whose time ran out, and whose item was delivered to another.
            done = sql.execute(
                "UPDATE queue SET visible_at=?, since=?, body=? WHERE id=? AND count=?",
                (now + hide, now, delivery.body, int(delivery.id), int(delivery.receipt)),
            ).rowcount
        if not done:
            raise Conflict
        return delivery

    async def delete(self, delivery: Delivery) -> None:
        async with self._transaction():
            self._delete(delivery)

    def _delete(self, delivery: Delivery) -> None:
        # count: as in extend; another holder's item stays.
        self._sql.execute("DELETE FROM queue WHERE id=? AND count=?", (int(delivery.id), int(delivery.receipt)))

    async def bury(self, delivery: Delivery, reason: str) -> None:
        item = json.dumps({"item": delivery.body.decode(errors="replace"), "reason": reason}).encode()
        async with self._transaction():
            self._send(names.BURIED, item, 0)
            self._delete(delivery)

    # -- the connection --------------------------------------------------------------------------------------------

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageUnavailable("the SQLite store is closed")
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        db.execute(f"PRAGMA page_size={PAGE}")  # of a new file; one that is there keeps its own
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("PRAGMA cache_size=-16384")
        return db

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[sqlite3.Connection]:
        """All or nothing. Nothing may be awaited inside: the connection is everybody's. Raises Unsent if it was
        nothing, and StorageUnavailable if that cannot be told."""
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
            # On a full disk, what makes the rest count, which comes last, was not written whole. After another fault of
            # the disk it may be there, for the process that opens the file next.
            certain = getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
            raise (_undone(error) if certain else StorageUnavailable(f"SQLite: {error}")) from error

    async def _begin(self) -> None:
        """Wait for another process's transaction without holding up this process's other work."""
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
        except sqlite3.Error as error:
            raise StorageUnavailable(f"SQLite: {error}") from error

    async def _every(self, seconds: float, chore: Callable[[sqlite3.Connection], None]) -> None:
        """What waits for the disk, or looks at everything: in a thread, with a connection of its own."""

        def work() -> None:
            with contextlib.closing(self._connect()) as db:
                chore(db)

        while True:
            try:
                await asyncio.to_thread(work)
            except Exception as error:
                # A busy moment is no failure: the next time will do.
                if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    log.warning("SQLite: a chore failed, and is tried again in %g s", seconds, exc_info=error)
            await asyncio.sleep(seconds)


def _undone(error: sqlite3.Error) -> Unsent:
    full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return (Full if full else Unsent)(f"SQLite: {error}")


def _undo(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # some errors end it by themselves
        db.execute("ROLLBACK")


def _upgrade(db: sqlite3.Connection) -> None:
    """A file of an earlier version."""
    queue = "SELECT 1 FROM pragma_table_info('queue') WHERE name='since'"
    if not db.execute(queue).fetchone():
        db.execute("BEGIN IMMEDIATE")
        if not db.execute(queue).fetchone():  # again: two processes that open it at once
            db.execute("ALTER TABLE queue ADD COLUMN since REAL NOT NULL DEFAULT 0")
        db.execute("COMMIT")


def _checkpoint(db: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the file. Under load that never gets to its end, where the log would begin anew."""
    _, pages, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages > WAL_PAGES:
        # Next to nothing is left to copy. But it waits for what reads from the log (a backup, a count of a project's
        # bytes), and writers wait for it: rather it is tried again.
        db.execute(f"PRAGMA busy_timeout={CHECKPOINT_PATIENCE}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def tidy(db: sqlite3.Connection, now: float) -> None:
    """Remove what is kept no longer (names.KEPT_DAYS), as lifecycle rules do on Azure: in small transactions, as others
    wait for them."""
    streams, keys = (now - names.KEPT_DAYS[container] * DAY for container in (names.STREAMS, names.IDEMPOTENCY))
    for (name,) in db.execute("SELECT name FROM logs WHERE container=?", (names.STREAMS,)).fetchall():
        if made_at(name) < streams:
            db.execute("BEGIN IMMEDIATE")
            for table in ("logs", "blocks"):
                db.execute(f"DELETE FROM {table} WHERE container=? AND name=?", (names.STREAMS, name))  # noqa: S608
            db.execute("COMMIT")
    old = "SELECT name, version FROM documents WHERE container=? AND json_extract(CAST(body AS TEXT), '$.at')<?"
    for name, version in db.execute(old, (names.IDEMPOTENCY, keys)).fetchall():
        # version: a request that has reserved with this key anew.
        delete = "DELETE FROM documents WHERE container=? AND name=? AND version=?"
        db.execute(delete, (names.IDEMPOTENCY, name, version))
