"""Writes documents: the last step of a commit. Those of a client's commit may be written after its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from assistants_service.core.fanout import fan_out
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.storage import Storage, StorageUnavailable, Undecided

log = logging.getLogger(__name__)

MOST_LATE: Final = 1_000  # commits of one process whose documents are written later; clients get their answer


class DocumentWriter:
    """`late`: the tasks that write what the store refused at first."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.late: set[asyncio.Task[None]] = set()

    async def write(self, documents: Iterable[Document]) -> None:
        """A few at a time: one commit may have thousands of documents, which would block all other tasks."""
        await fan_out(self._storage.write_if_newer, documents)

    def write_late(
        self, aggregate: str, documents: Sequence[Document], known: Callable[[], Awaitable[bool]], error: Exception
    ) -> None:
        """Write the documents of an aggregate, which the store has refused with `error`, in a task, until it accepts
        them or the aggregate is not `known` any more. Raises Undecided if there are too many such tasks."""
        if len(self.late) >= MOST_LATE:
            raise Undecided(f"documents are late: {error}") from error
        task = asyncio.create_task(self._write_late(aggregate, documents, known))
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def _write_late(
        self, aggregate: str, documents: Sequence[Document], known: Callable[[], Awaitable[bool]]
    ) -> None:
        pause = 0.5
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)
            try:
                # The outage may have outlasted the aggregate and even its tombstones.
                return await self.write(documents) if await known() else None
            except Exception as error:
                if not isinstance(error, StorageUnavailable):
                    log.exception("cannot write the documents of %s, trying again", aggregate)
