"""Periodic maintenance of an SQLite file."""

from __future__ import annotations

import sqlite3

from assistants_service.core import names
from assistants_service.core.ids import made_at

WAL_PAGES = 32_768  # of the write-ahead log, 64 MiB: beyond that, writers wait briefly so that it can restart
CHECKPOINT_PATIENCE = 50  # milliseconds for which they wait
DAY = 86_400


def upgrade(db: sqlite3.Connection) -> None:
    """Upgrade a file of an earlier version."""
    queue = "SELECT 1 FROM pragma_table_info('queue') WHERE name='since'"
    if not db.execute(queue).fetchone():
        db.execute("BEGIN IMMEDIATE")
        if not db.execute(queue).fetchone():  # checked again: two processes may open it at once
            db.execute("ALTER TABLE queue ADD COLUMN since REAL NOT NULL DEFAULT 0")
        db.execute("COMMIT")


def checkpoint(db: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the file. Under load that never reaches the end, where the log would restart."""
    _, pages, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages > WAL_PAGES:
        # Little is left to copy. But it waits for readers of the log (a backup, a count of a project's bytes), and
        # writers wait for it: rather try again later.
        db.execute(f"PRAGMA busy_timeout={CHECKPOINT_PATIENCE}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def delete_expired(db: sqlite3.Connection, now: float) -> None:
    """Delete what has outlived names.KEPT_DAYS, as lifecycle rules do on Azure: in small transactions, because other
    writers wait for them."""
    streams, keys = (now - names.KEPT_DAYS[container] * DAY for container in (names.STREAMS, names.IDEMPOTENCY))
    for (name,) in db.execute("SELECT name FROM logs WHERE container=?", (names.STREAMS,)).fetchall():
        if made_at(name) < streams:
            db.execute("BEGIN IMMEDIATE")
            for table in ("logs", "blocks"):
                db.execute(f"DELETE FROM {table} WHERE container=? AND name=?", (names.STREAMS, name))  # noqa: S608
            db.execute("COMMIT")
    old = "SELECT name, version FROM documents WHERE container=? AND json_extract(CAST(body AS TEXT), '$.at')<?"
    for name, version in db.execute(old, (names.IDEMPOTENCY, keys)).fetchall():
        # version: the key may have been reserved again.
        delete = "DELETE FROM documents WHERE container=? AND name=? AND version=?"
        db.execute(delete, (names.IDEMPOTENCY, name, version))
