"""Logs as rows of blocks. A roll-over moves the blocks of the old generation to a name of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence

from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.logs import Mark, Project, Tail, no_documents
from assistants_service.core.ports.storage import Conflict
from assistants_service.infra.sqlite.documents import SqliteDocuments

MAX_BLOCK = 64 * 1024 * 1024  # as on Azure


class SqliteLogs(SqliteDocuments):
    """core.ports.storage.Logs. A commit and its documents are one transaction."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        async with self._transaction() as sql:
            # OR IGNORE: two processes create the same log; the second one changes nothing.
            if not sql.execute("INSERT OR IGNORE INTO logs VALUES(?, ?, 0, 0)", (container, name)).rowcount:
                raise Conflict
            return self._append(sql, container, name, Mark(0, 0), block, project), ()

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        async with self._transaction() as sql:
            return self._append(sql, container, name, mark, block, project), ()

    def _append(
        self, sql: sqlite3.Connection, container: str, name: str, mark: Mark, block: bytes, project: Project
    ) -> Mark:
        if len(block) > MAX_BLOCK:
            raise ValueError(f"a block has {MAX_BLOCK} bytes at most, this one {len(block)}")
        end = mark.offset + len(block)
        # generation and length: fails for a writer that has not seen another's block, or a roll-over.
        done = sql.execute(
            "UPDATE logs SET length=? WHERE container=? AND name=? AND generation=? AND length=?",
            (end, container, name, mark.generation, mark.offset),
        ).rowcount
        if not done:
            raise Conflict
        sql.execute("INSERT INTO blocks VALUES(?, ?, ?, ?, ?)", (container, name, mark.generation, mark.offset, block))
        for document in project():
            self._write_if_newer(document)
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
        if data is None:  # another process rolled the log over, or deleted it, in between
            return await self.read(container, name, since, limit=limit)
        return Tail(data, mark, restarted)

    def _bytes(self, container: str, name: str, mark: Mark, start: int) -> bytes | None:
        # The block that contains `start` may begin before it, as a stream may be read from any event; the last one may
        # end after `mark`.
        rows = self._sql.execute(
            "SELECT offset, data FROM blocks WHERE container=? AND name=? AND generation=? AND offset >= ("
            "SELECT max(offset) FROM blocks WHERE container=? AND name=? AND generation=? AND offset<=?)"
            " AND offset<? ORDER BY offset",
            (container, name, mark.generation, container, name, mark.generation, start, mark.offset),
        ).fetchall()
        return b"".join(row[1] for row in rows)[start - rows[0][0] : mark.offset - rows[0][0]] if rows else None

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        async with self._transaction() as sql:
            # generation and length, as in an append: no block falls between the snapshot and the new generation.
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
        """Deletes its old generations as well."""
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
        """Runs in a thread, with its own connection; a store in memory has only one."""

        def work(db: sqlite3.Connection) -> int:
            statement = (
                "SELECT (SELECT total(length) FROM logs WHERE container=:c AND name>=:low AND name<:high)"
                " + (SELECT total(length(body)) FROM documents WHERE container=:c AND name>=:low AND name<:high)"
                " + (SELECT total(size) FROM chunks WHERE container=:c AND name>=:low AND name<:high)"
            )
            values = {"c": container, "low": prefix, "high": prefix + "\U0010ffff"}
            return int(db.execute(statement, values).fetchone()[0])

        def in_thread() -> int:
            with contextlib.closing(self._connect()) as db:
                return work(db)

        with self._errors():
            return work(self._sql) if self._path == ":memory:" else await asyncio.to_thread(in_thread)
