"""Aggregates: load one, change it, project the changes. This is the only place that implements the order of a commit.

A view is an aggregate's folded state, cached in memory; a refresh reads only what was appended to its log. What is
specific to threads or vector stores is in the repository.py of each.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Generic

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.fanout import fan_out
from assistants_service.core.ids import Ids
from assistants_service.core.log.events import Commit, Event, to_block
from assistants_service.core.log.state import C, S, UnreadableLog, View, decoding
from assistants_service.core.log.views import Views
from assistants_service.core.notifier import Listener, Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable, Undecided, Unsent
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.resources import BY_CONTAINER, Resource
from assistants_service.core.work_items import WorkItem, to_body

log = logging.getLogger(__name__)

MAX_BLOCK: Final = 4 * 1024 * 1024  # bytes of one commit
PROJECTION_WINDOW: Final = 60.0  # seconds before the writer of an unprojected commit is presumed dead
ROLLOVER_AFTER: Final = 200  # commits that opening a log has to fold, unless the log is large
ROLLOVER_SHARE: Final = 16  # a generation may grow to this share of its snapshot: then it adds little to opening
ROLLOVER_AT_LAST: Final = 40_000  # commits: Azure allows 50,000 blocks, and no generation ends during a run
MOST_LATE: Final = 1_000  # commits of one process whose documents are written later; clients get their answer
TRIES: Final = 500  # attempts of one command; each lost race means that another writer succeeded

Command = Callable[[S], Sequence[Event]]  # pure: from the state to events, or an ApiError
ItemOf = Callable[[int], WorkItem]  # from the version seen to the work item


class Repository(ABC, Generic[S, C]):
    """The aggregates of one kind, of all projects, over one store.

    `rollover_after`: number of commits after which a log begins a new generation, once the aggregate is not busy. A
    large state delays this, so that rewriting it costs each commit little, but not beyond `ROLLOVER_AT_LAST`.
    `view_bytes`: how many bytes of log the cached views may represent.
    """

    logs: ClassVar[str]  # the container of the logs
    resource: ClassVar[Resource]  # the aggregate itself
    # Changes that have no work item. Created objects need none either: `fetch` writes a missing document.
    projected_again: ClassVar[frozenset[str]]

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
        self._storage, self._clock, self._ids, self._notifier = storage, clock, ids, notifier
        self._telemetry = telemetry
        self._rollover_after, self._views = rollover_after, Views[S, C](self._blank, view_bytes)
        self._late: set[asyncio.Task[None]] = set()  # projections that the store refused at first

    # -- specific to each kind of aggregate ------------------------------------------------------------------------

    @abstractmethod
    def _blank(self) -> View[S, C]: ...

    @abstractmethod
    def _commits(self, data: bytes) -> list[Commit[Any]]:
        """Decode whole lines of a log. Raises ValueError for what this version cannot decode."""

    @abstractmethod
    def _documents(self, project: str, changes: Sequence[C]) -> list[Document]:
        """The projections of the changes."""

    @abstractmethod
    def _find(self, state: S, container: str, ids: tuple[str, ...]) -> Struct:
        """The object that this document shows. Raises the 404 if there is none."""

    def _record_metrics(self, project: str, changes: Sequence[C]) -> None:
        """Record the changes in telemetry."""

    # -- reading ---------------------------------------------------------------------------------------------------

    async def load(self, project: str, log_id: str) -> View[S, C]:
        """The aggregate as of the log's current end. Its state is empty (version 0) if it does not exist."""
        view = self._views.at(project, log_id)
        try:
            async with view.lock:
                await self._refresh(view, project, log_id)
        finally:
            self._views.keep(view, project, log_id)
        return view

    async def read(self, project: str, log_id: str) -> S:
        """The state. Raises the 404 for an unknown or deleted aggregate."""
        state = (await self.load(project, log_id)).state
        self._check_known(state, log_id)
        return state

    def _check_known(self, state: S, log_id: str) -> None:
        if not state.known:
            raise self._unknown(log_id)

    def _unknown(self, log_id: str) -> ApiError:
        return self.resource.unknown(log_id)

    async def cached(self, project: str, log_id: str) -> S:
        """The cached state, without reading the log if there is one: for a caller that commits next, which fails on
        stale state."""
        view = self._views.get((project, log_id))
        if view is None or view.mark is None:
            view = await self.load(project, log_id)
        return view.state

    def listen(self, project: str, log_id: str) -> Listener:
        """Get notified of the next commit of this process."""
        return self._notifier.listen(self._topic(project, log_id))

    def _topic(self, project: str, log_id: str) -> str:
        return f"{self.logs}/{project}/{log_id}"

    # -- writing ---------------------------------------------------------------------------------------------------

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
                await self._roll_over(view, project, log_id)
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
            await self._write_documents(rest)
        except StorageUnavailable as error:
            if not by_client:
                raise  # the work item stays, and the worker that gets it next projects
            if len(self._late) >= MOST_LATE:
                raise Undecided(f"documents are late: {error}") from error
            # The commit is stored, so the client gets its answer: an error would make it try again.
            late = asyncio.create_task(self._write_documents_late(project, log_id, rest))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def _write_documents(self, documents: Iterable[Document]) -> None:
        """A few at a time: one commit may have thousands of documents, which would block all other tasks."""
        await fan_out(self._storage.write_if_newer, documents)

    async def _write_documents_late(self, project: str, log_id: str, documents: Sequence[Document]) -> None:
        pause = 0.5
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)
            try:
                state = (await self.load(project, log_id)).state
                # The outage may have outlasted the aggregate and even its tombstones.
                return await self._write_documents(documents) if state.known else None
            except Exception as error:
                if not isinstance(error, StorageUnavailable):
                    log.exception("cannot write the documents of %s %s, trying again", self.logs, log_id)

    async def fetch(self, container: str, project: str, *ids: str) -> Stored:
        """The document of an object: `ids` are the aggregate's, then its own. Raises the 404 if there is none."""
        view = self._views.get((project, ids[0]))
        if view and view.state.deleted:
            raise self._unknown(ids[0])
        name = names.document(project, *ids)
        stored = await self._storage.get(container, name)
        if stored is None:
            # Unknown; or its writer died between commit and projection, and the log has it.
            state = await self.read(project, ids[0])
            body = encode(self._find(state, container, ids))
            await self._storage.write_if_newer(Document(container, name, body, state.version))
            stored = await self._storage.get(container, name)
        if stored is None:
            raise BY_CONTAINER[container].unknown(ids[-1])
        return stored

    async def _forget_snapshots(self, project: str, log_id: str) -> None:
        prefix = f"{names.document(project, log_id)}."
        for stored in await self._storage.page(names.SNAPSHOTS, prefix, after=None, limit=10, newest_first=False):
            await self._storage.remove(names.SNAPSHOTS, stored.name)

    # -- views -----------------------------------------------------------------------------------------------------

    async def _refresh(self, view: View[S, C], project: str, log_id: str) -> None:
        """Fold what was appended to the log. The caller holds the view's lock."""
        cold = view.mark is None
        tail = await self._storage.read(self.logs, names.log(project, log_id), view.mark)
        if cold or tail is None or tail.restarted:
            view.reset()
        if tail is None:
            return None
        if view.mark and not tail.data:  # nothing was appended
            view.mark = tail.mark
            return None
        if view.mark is None and tail.mark.generation:
            snapshot = await self._snapshot(project, log_id, tail.mark.generation)
            if snapshot is None:
                return await self._refresh_again(view, project, log_id, tail.mark.generation)
            with decoding(f"{names.SNAPSHOTS}/{names.snapshot(project, log_id, tail.mark.generation)}"):
                view.begin(snapshot)
        with decoding(f"{self.logs}/{names.log(project, log_id)}"):
            commits = self._commits(tail.data)
        before = view.state.version
        view.mark = None  # if the fold fails half-way, the log is read from the start
        changes = view.fold(commits)
        view.mark, view.weight = tail.mark, view.weight + len(tail.data)
        # A process that reads a commit after its writer's death projects it before it commits itself. So of a log that
        # this process has not read before, only the most recent commits can lack their projection.
        recent = len(commits) if not cold else sum(c.at > commits[-1].at - PROJECTION_WINDOW for c in commits)
        if view.state.deleted:  # only the deletion: a purge may have removed all other documents for good
            recent = min(recent, 1)
        await self._project_missing(project, [c for c in changes if c.version > before + len(commits) - recent])

    async def _refresh_again(self, view: View[S, C], project: str, log_id: str, generation: int) -> None:
        """Reload without the missing snapshot: the log may have been rolled over again in between. Raises UnreadableLog
        if it was not."""
        name = names.log(project, log_id)
        tail = await self._storage.read(self.logs, name, None)
        if tail is not None and tail.mark.generation == generation:
            snapshot = names.snapshot(project, log_id, generation)
            raise UnreadableLog(f"{self.logs}/{name} lacks its snapshot, {names.SNAPSHOTS}/{snapshot}")
        await self._refresh(view, project, log_id)

    async def _project_missing(self, project: str, changes: Sequence[C]) -> None:
        """Write documents whose writer may have died between commit and projection."""
        await self._write_documents(
            self._documents(project, [change for change in changes if change.name in self.projected_again])
        )

    async def _roll_over(self, view: View[S, C], project: str, log_id: str) -> None:
        """Begin a new generation of a long log, if the aggregate is not busy."""
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

    async def _snapshot(self, project: str, log_id: str, generation: int) -> bytes | None:
        """The snapshot that a generation begins with."""
        stored = await self._storage.get(names.SNAPSHOTS, names.snapshot(project, log_id, generation))
        return stored.body if stored else None
