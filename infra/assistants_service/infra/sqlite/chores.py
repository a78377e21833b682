"""What is done to an SQLite file now and then, beside its requests."""

from __future__ import annotations

import sqlite3

from assistants_service.core import names
from assistants_service.core.ids import made_at

WAL_PAGES = 32_768  # of the log, 64 MiB: beyond that writers wait for a moment, so that it begins anew
CHECKPOINT_PATIENCE = 50  # milliseconds for which they do
DAY = 86_400


def upgrade(db: sqlite3.Connection) -> None:
    """A file of an earlier version."""
    queue = "SELECT 1 FROM pragma_table_info('queue') WHERE name='since'"
    if not db.execute(queue).fetchone():
        db.execute("BEGIN IMMEDIATE")
        if not db.execute(queue).fetchone():  # again: two processes that open it at once
            db.execute("ALTER TABLE queue ADD COLUMN since REAL NOT NULL DEFAULT 0")
        db.execute("COMMIT")


def checkpoint(db: sqlite3.Connection) -> None:
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
