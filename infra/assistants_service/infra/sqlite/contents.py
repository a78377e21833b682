"""Contents as rows of 1 MiB each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from assistants_service.core.ports.contents import StagedPart
from assistants_service.core.ports.storage import Conflict, ContentGone, StorageUnavailable
from assistants_service.infra.blocks import blocks
from assistants_service.infra.sqlite.connection import SqliteConnection

CHUNK = 1024 * 1024  # bytes of a part that one transaction writes: it takes 2 ms
DROPPED = 8  # chunks that one transaction deletes


class SqliteContents(SqliteConnection):
    """core.ports.storage.Contents."""

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> StagedPart:
        size = number = 0
        try:
            async for chunk in blocks(chunks, CHUNK):
                async with self._transaction() as sql:  # one each: a long upload blocks no other writer
                    place = (container, name, part, number, len(chunk), chunk)
                    # A chunk that is sent twice is stored once, as on Azure: the same id has the same bytes.
                    sql.execute("INSERT OR IGNORE INTO chunks VALUES(?, ?, ?, ?, ?, ?)", place)
                size, number = size + len(chunk), number + 1
        except Exception:
            with contextlib.suppress(StorageUnavailable):  # then it is deleted with the content
                await self._drop(container, name, "part=?", part)
            raise
        return StagedPart(part, size)

    async def staged(self, container: str, name: str) -> Sequence[StagedPart]:
        with self._errors():
            return self._parts(container, name)

    def _parts(self, container: str, name: str) -> list[StagedPart]:
        sql = "SELECT part, sum(size) FROM chunks WHERE container=? AND name=? GROUP BY part"
        return [StagedPart(*row) for row in self._sql.execute(sql, (container, name))]

    async def commit(self, container: str, name: str, parts: Sequence[StagedPart]) -> None:
        mine = json.dumps([(part.id, part.size) for part in parts])
        async with self._transaction() as sql:
            # One transaction: of two commits with different parts the first one stays, and no part is removed in
            # between.
            there = sql.execute("SELECT parts FROM contents WHERE container=? AND name=?", (container, name)).fetchone()
            if there is None and not set(parts) <= {*self._parts(container, name)}:
                raise Conflict("a part does not exist")
            if there is not None and there[0] != mine:
                raise Conflict("the content has other parts")
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
                    await asyncio.sleep(0)  # else a fast reader would block other tasks
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
        """Delete the chunks of these parts: a few in each transaction, so that deleting gigabytes does not block
        writers. Repeating `commit` or `discard` completes what a crash interrupted."""
        done = DROPPED
        while done == DROPPED:
            async with self._transaction() as sql:
                done = sql.execute(
                    "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE container=? AND name=?"  # noqa: S608
                    f" AND {which} LIMIT ?)",
                    (container, name, value, DROPPED),
                ).rowcount
            await asyncio.sleep(0)
