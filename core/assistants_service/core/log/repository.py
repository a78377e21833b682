"""Changing aggregates. This is the only place that implements the order of a commit.

How they are read is in reader.py. What is specific to threads or vector stores is in the repository.py of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ids import Ids
from assistants_service.core.log.events import Commit, Event, to_block
from assistants_service.core.log.generations import ROLLOVER_AFTER
from assistants_service.core.log.reader import AggregateReader
from assistants_service.core.log.state import C, S, View
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable, Undecided, Unsent
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.work_items import WorkItem, to_body

MAX_BLOCK: Final = 4 * 1024 * 1024  # bytes of one commit
TRIES: Final = 500  # attempts of one command; each lost race means that another writer succeeded

Command = Callable[[S], Sequence[Event]]  # pure: from the state to events, or an ApiError
ItemOf = Callable[[int], WorkItem]  # from the version seen to the work item


class Repository(AggregateReader[S, C]):
    """The aggregates of one kind, of all projects, over one store."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        *,
        rollover_after: int = ROLLOVER_AFTER,
        view_bytes: int = 32 * 1024 * 1024,
        telemetry: Telemetry = SILENCE,
    ) -> None:
        super().__init__(storage, notifier, rollover_after=rollover_after, view_bytes=view_bytes)
        self._clock, self._ids, self._telemetry = clock, ids, telemetry

    def _record_metrics(self, project: str, changes: Sequence[C]) -> None:
        """Record the changes in telemetry."""

    async def start(self, project: str, log_id: str, events: Sequence[Event], item_of: ItemOf | None = None) -> list[C]:
        """Create an aggregate. Raises Conflict if one with this id exists or existed."""
        view = self._blank()
        async with view.lock:
            await self._enqueue(item_of, 0)
            changes, rest = await self._append(view, project, log_id, events)
        self._views.keep(view, project, log_id)
        await self._after(project, log_id, rest, enqueued=item_of is not None, by_client=True)
        return changes

    async def commit(
        self,
        project: str,
        log_id: str,
        command: Command[S],
        item_of: ItemOf | None = None,
        *,
        by_client: bool = False,
    ) -> list[C]:
        """Commit the events that the command returns, as one transaction; nothing if it returns none.

        Raises what the command raises, after evaluating it on the newest state. `by_client`: raises the 404 for an
        unknown or deleted aggregate; and once the commit is stored, the client gets its answer even if the store
        refuses the documents for a while.
        """
        view = self._views.at(project, log_id)
        try:
            async with view.lock:
                changes, rest = await self._commit(view, project, log_id, command, item_of, by_client=by_client)
        finally:
            self._views.keep(view, project, log_id)
        # 4. project: a crash before this leaves a document behind the log, never ahead of it.
        await self._after(project, log_id, rest, enqueued=item_of is not None, by_client=by_client)
        return changes

    async def _commit(
        self,
        view: View[S, C],
        project: str,
        log_id: str,
        command: Command[S],
        item_of: ItemOf | None,
        *,
        by_client: bool,
    ) -> tuple[list[C], Sequence[Document]]:
        fresh = view.mark is None
        if fresh:
            await self._refresh(view, project, log_id)
        for _ in range(TRIES):
            try:
                if by_client:
                    self._check_known(view.state, log_id)
                # 1. decide, on the cached view: if it is stale, the append fails.
                events = command(view.state)
            except ApiError:
                if fresh:
                    raise
                events = ()
            if not events and fresh:
                return [], ()
            if not events:  # neither a refusal nor "nothing to do" may rest on stale state
                await self._refresh(view, project, log_id)
                fresh = True
                continue
            if view.mark is None:
                raise self._unknown(log_id)
            try:
                await self._generations.roll_over(view, project, log_id)
                # 2. enqueue: a crash after this leaves a work item that finds nothing new, and is dropped.
                await self._enqueue(item_of, view.state.version)
                # 3. append, at the end of the decision's state: fails if another process has written in between.
                return await self._append(view, project, log_id, events)
            except Conflict:
                await self._refresh(view, project, log_id)
                fresh = True
        raise Conflict

    async def _append(
        self, view: View[S, C], project: str, log_id: str, events: Sequence[Event]
    ) -> tuple[list[C], Sequence[Document]]:
        commit = Commit(id=self._ids.nonce(), at=self._clock.now(), events=tuple(events))
        block = to_block(commit)
        if len(block) > MAX_BLOCK:
            message = f"The request is too large: it needs {len(block)} bytes of storage, and the limit is {MAX_BLOCK}."
            raise ApiError(message, status=413)
        changes: list[C] = []
        folded = False

        def fold() -> Sequence[Document]:
            nonlocal folded
            folded = True
            changes.extend(view.fold([commit]))
            return self._documents(project, changes)

        name = names.log(project, log_id)
        mark, view.mark = view.mark, None  # if the append fails half-way, the log is read from the start
        try:
            if mark is None:
                # Create-if-missing: an id that was made twice.
                view.mark, rest = await self._storage.start(self.logs, name, block, fold)
            else:
                view.mark, rest = await self._storage.append(self.logs, name, mark, block, fold)
        except (Conflict, Unsent):
            if not folded:  # else the view contains what is not in the log
                view.mark = mark
            raise
        except StorageUnavailable as error:
            raise Undecided(str(error)) from error
        view.weight += len(block)
        self._record_metrics(project, changes)
        return changes, rest

    async def _enqueue(self, item_of: ItemOf | None, seen: int) -> None:
        if item_of is not None:
            await self._storage.send(to_body(item_of(seen)))

    async def _after(
        self, project: str, log_id: str, rest: Sequence[Document], *, enqueued: bool, by_client: bool
    ) -> None:
        self._notifier.notify(self._topic(project, log_id))
        if enqueued:
            self._notifier.notify("work")
        try:
            await self._writer.write(rest)
        except StorageUnavailable as error:
            if not by_client:
                raise  # the work item stays, and the worker that gets it next projects
            # The commit is stored, so the client gets its answer: an error would make it try again.
            known = partial(self._is_known, project, log_id)
            self._writer.write_late(f"{self.logs} {log_id}", rest, known, error)

    async def _is_known(self, project: str, log_id: str) -> bool:
        return (await self.load(project, log_id)).state.known
