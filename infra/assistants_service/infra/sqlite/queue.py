"""The work queue as rows, each hidden until a time."""

from __future__ import annotations

import json

from assistants_service.core import names
from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict
from assistants_service.infra.sqlite.connection import SqliteConnection


class SqliteQueue(SqliteConnection):
    """core.ports.storage.Queue."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        async with self._transaction():
            self._send("work", body, delay)

    def _send(self, queue: str, body: bytes, delay: float) -> None:
        now = self._clock.now()
        self._sql.execute(
            "INSERT INTO queue(name, body, visible_at, since) VALUES(?, ?, ?, ?)", (queue, body, now + delay, now)
        )

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        now = self._clock.now()
        if now < self._looked:
            await self._put_back(now)
        self._looked = now
        with self._errors():
            # First without a write lock: polling an empty queue costs other writers nothing.
            ids = self._sql.execute(
                "SELECT id FROM queue WHERE name='work' AND visible_at<=? ORDER BY visible_at, id LIMIT ?", (now, limit)
            ).fetchall()
        if not ids:
            return []
        async with self._transaction() as sql:
            rows = [
                # visible_at again: if two processes receive the same item, the second one finds it hidden.
                sql.execute(
                    "UPDATE queue SET visible_at=?, since=?, count=count+1 WHERE id=? AND visible_at<=?"
                    " RETURNING id, body, count",
                    (now + visibility_timeout, now, item, now),
                ).fetchone()
                for (item,) in ids
            ]
        return [Delivery(str(row[0]), row[1], row[2], str(row[2])) for row in rows if row]

    async def _put_back(self, now: float) -> None:
        """The clock was set back, perhaps while no process ran. Hide items for as long as they were to be hidden,
        counted from now, and no longer."""
        with self._errors():
            if not self._sql.execute("SELECT 1 FROM queue WHERE since>? LIMIT 1", (now,)).fetchone():
                return
        async with self._transaction() as sql:
            # since: if two processes notice this, the second one changes nothing.
            sql.execute("UPDATE queue SET visible_at=visible_at-since+:now, since=:now WHERE since>:now", {"now": now})

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        now = self._clock.now()
        async with self._transaction() as sql:
            # count is the receipt: it fails after the item was delivered to another worker.
            done = sql.execute(
                "UPDATE queue SET visible_at=?, since=?, body=? WHERE id=? AND count=?",
                (now + visibility_timeout, now, delivery.body, int(delivery.id), int(delivery.receipt)),
            ).rowcount
        if not done:
            raise Conflict
        return delivery

    async def delete(self, delivery: Delivery) -> None:
        async with self._transaction():
            self._delete(delivery)

    def _delete(self, delivery: Delivery) -> None:
        # count: as in extend; another worker's item stays.
        self._sql.execute("DELETE FROM queue WHERE id=? AND count=?", (int(delivery.id), int(delivery.receipt)))

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        item = json.dumps({"item": delivery.body.decode(errors="replace"), "reason": reason}).encode()
        async with self._transaction():
            self._send(names.DEAD_LETTERS, item, 0)
            self._delete(delivery)
