"""What an SQLite file gives back to the disk: deleted rows leave free pages in it, for what comes next."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from assistants_service.core.ports.storage import StorageUnavailable


def vacuum(path: str) -> tuple[int, int]:
    """Write the file anew, without free pages. Its bytes before and after, the write-ahead log's included. Meanwhile it
    needs up to twice as much on the disk, and nothing else can be written.

    Raises StorageUnavailable if it cannot, and then nothing has changed.
    """
    file = existing(path)
    before = _size(file)
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as db:
            db.execute("VACUUM")
            # The new file is in the write-ahead log now; this makes it the file.
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise StorageUnavailable(f"'{path}' cannot be written anew: {error}") from None
    if busy:
        raise StorageUnavailable(f"'{path}' is being read: its bytes are given back a while after that has ended")
    return before, _size(file)


def existing(path: str) -> Path:
    """The file. Raises StorageUnavailable if there is none: opening it would make an empty one."""
    file = Path(path).expanduser()
    if not file.exists():
        raise StorageUnavailable(f"there is no file '{path}'")
    return file


def _size(file: Path) -> int:
    parts = (file, file.with_name(f"{file.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())
