"""Generations of a log: a log that has become long begins again, from a snapshot of the state that it folds into."""

from __future__ import annotations

from typing import Final

from assistants_service.core import names
from assistants_service.core.log.state import C, S, View
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.storage import Conflict, Storage

ROLLOVER_AFTER: Final = 200  # commits that opening a log has to fold, unless the log is large
ROLLOVER_SHARE: Final = 16  # a generation may grow to this share of its snapshot: then it adds little to opening
ROLLOVER_AT_LAST: Final = 40_000  # commits: Azure allows 50,000 blocks, and no generation ends during a run


class Generations:
    """The generations of the logs in the container `logs`.

    `rollover_after`: number of commits after which a log begins a new generation, once the aggregate is not busy. A
    large state delays this, so that rewriting it costs each commit little, but not beyond `ROLLOVER_AT_LAST`.
    """

    def __init__(self, storage: Storage, logs: str, rollover_after: int) -> None:
        self._storage, self.logs, self._rollover_after = storage, logs, rollover_after

    async def snapshot(self, project: str, log_id: str, generation: int) -> bytes | None:
        """The snapshot that a generation begins with."""
        stored = await self._storage.get(names.SNAPSHOTS, names.snapshot(project, log_id, generation))
        return stored.body if stored else None

    async def roll_over(self, view: View[S, C], project: str, log_id: str) -> None:
        """Begin a new generation of a long log, if the aggregate is not busy. The caller holds the view's lock."""
        if view.blocks < self._rollover_after or view.state.busy or view.mark is None:
            return
        if view.mark.offset * ROLLOVER_SHARE < view.base and view.blocks < ROLLOVER_AT_LAST:
            return
        # 1. the snapshot: nothing reads it before step 2, and a later version of it wins.
        name = names.snapshot(project, log_id, view.mark.generation + 1)
        body = view.snapshot()
        await self._storage.write_if_newer(Document(names.SNAPSHOTS, name, body, view.state.version))
        # 2. the new generation, conditional on the snapshot's position.
        log = names.log(project, log_id)
        try:
            view.mark = await self._storage.roll_over(self.logs, log, view.mark)
        except Conflict:
            if await self._storage.read(self.logs, log, None) is None:  # purged before step 1: nothing else removes it
                await self._storage.remove(names.SNAPSHOTS, name)
            raise
        view.blocks, view.base = 0, len(body)
        # 3. remove the previous snapshot: a reader that was about to read it finds the log restarted, and reads again.
        if view.mark.generation > 1:
            await self._storage.remove(names.SNAPSHOTS, names.snapshot(project, log_id, view.mark.generation - 1))

    async def remove_snapshots(self, project: str, log_id: str) -> None:
        prefix = f"{names.document(project, log_id)}."
        for stored in await self._storage.page(names.SNAPSHOTS, prefix, after=None, limit=10, newest_first=False):
            await self._storage.remove(names.SNAPSHOTS, stored.name)
