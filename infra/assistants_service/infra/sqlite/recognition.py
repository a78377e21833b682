"""Whether a file is a store of this service. The service's tables are not added to another program's database."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from assistants_service.core.ports.storage import StorageUnavailable

TIMEOUT: Final = 5.0  # seconds
TABLES: Final = "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
# Names such as `documents` are common: a column of each table tells them apart. One table is enough, because the
# process that made them may have died in between.
OURS: Final = f"""SELECT 1 FROM ({TABLES}) AS t, pragma_table_info(t.name) AS c WHERE (t.name, c.name) IN (VALUES
    ('documents', 'container'), ('logs', 'generation'), ('blocks', 'generation'), ('contents', 'parts'),
    ('chunks', 'part'), ('queue', 'visible_at'))"""  # noqa: S608


def refuse_foreign(path: str) -> None:
    """Raises ValueError for another program's file; one that does not exist, or has no tables, is fine."""
    if Path(path).exists():
        with _read(path) as db:
            if db.execute(TABLES).fetchone() and not db.execute(OURS).fetchone():
                raise ValueError(f"'{path}' is not a store of this service, but another program's database")


def existing_store(path: str) -> Path:
    """The file. Raises StorageUnavailable if it does not exist, because opening it would create an empty one, and
    ValueError if it is not a store of this service."""
    try:
        if not Path(path).exists():
            raise StorageUnavailable(f"there is no file '{path}'")
        with _read(path) as db:
            if not db.execute(OURS).fetchone():
                raise ValueError(f"'{path}' is not a store of this service")
    except (OSError, sqlite3.Error) as error:
        raise StorageUnavailable(f"'{path}' cannot be read: {error}") from None
    return Path(path)


@contextlib.contextmanager
def _read(path: str) -> Iterator[sqlite3.Connection]:
    """A connection that does not create the file. It is not read-only, because then it would leave files beside it."""
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)) as db:
        try:
            yield db
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB:
                raise
            raise ValueError(f"'{path}' is not a store of this service, and not a database of SQLite") from None
