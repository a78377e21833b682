"""Documents as rows, one each, in wire format."""

from __future__ import annotations

from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.storage import Conflict
from assistants_service.infra.sqlite.connection import SqliteConnection


class SqliteDocuments(SqliteConnection):
    """core.ports.storage.Documents."""

    async def get(self, container: str, name: str) -> Stored | None:
        with self._errors():
            row = self._sql.execute(
                "SELECT body, version FROM documents WHERE container=? AND name=?", (container, name)
            ).fetchone()
        return Stored(name, row[0], f'"{row[1]}"') if row and row[0] else None

    async def create(self, container: str, name: str, body: bytes) -> str:
        async with self._transaction() as sql:
            # OR IGNORE: two processes create the same name; the second one changes nothing.
            done = sql.execute("INSERT OR IGNORE INTO documents VALUES(?, ?, 1, ?)", (container, name, body)).rowcount
        if not done:
            raise Conflict
        return '"1"'

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        version = int(etag.strip('"'))
        async with self._transaction() as sql:
            # version=?: fails for a writer that read before another one wrote.
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

    async def write_if_newer(self, document: Document) -> None:
        async with self._transaction():
            self._write_if_newer(document)

    def _write_if_newer(self, document: Document) -> None:
        # WHERE: a late writer of an older version changes nothing.
        self._sql.execute(
            "INSERT INTO documents VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET body=excluded.body,"
            " version=excluded.version WHERE excluded.version > documents.version",
            (document.container, document.name, document.version, document.body),
        )

    async def remove_tombstones(self, container: str, prefix: str) -> None:
        async with self._transaction() as sql:
            sql.execute(
                "DELETE FROM documents WHERE container=? AND name>=? AND name<? AND length(body)=0",
                (container, prefix, prefix + "\U0010ffff"),
            )
