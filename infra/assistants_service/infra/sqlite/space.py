"""Compacts an SQLite file: deleted rows leave free pages in it, which are reused, but not returned to the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.infra.sqlite.recognition import existing_store


def vacuum(path: str) -> tuple[int, int]:
    """Rewrite the file without free pages. Returns its size before and after, in bytes, with the write-ahead log. This
    needs up to twice as much space on the disk, and blocks all writes.

    Raises StorageUnavailable if it fails, and ValueError for another program's file; then nothing has changed.
    """
    file = existing_store(path)
    try:
        before = _size(file)
        with contextlib.closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as db:
            db.execute("VACUUM")
            # The new content is still in the write-ahead log; this moves it to the file.
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        after = _size(file)
    except (OSError, sqlite3.Error) as error:
        raise StorageUnavailable(f"'{path}' cannot be rewritten: {error}") from None
    if busy:
        raise StorageUnavailable(f"'{path}' is being read: its space is freed some time after that has ended")
    return before, after


def _size(file: Path) -> int:
    parts = (file, file.with_name(f"{file.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())
