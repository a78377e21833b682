"""Reading aggregates: their views, which follow their logs, and their documents.

A view is an aggregate's folded state, cached in memory; a refresh reads only what was appended to its log. What is
specific to threads or vector stores is in the repository.py of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.log.document_writer import DocumentWriter
from assistants_service.core.log.events import Commit
from assistants_service.core.log.generations import Generations
from assistants_service.core.log.state import C, S, UnreadableLog, View, decoding
from assistants_service.core.log.views import Views
from assistants_service.core.notifier import Listener, Notifier
from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.storage import Storage
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.resources import BY_CONTAINER, Resource

PROJECTION_WINDOW: Final = 60.0  # seconds before the writer of an unprojected commit is presumed dead


class AggregateReader(ABC, Generic[S, C]):
    """Reads the aggregates of one kind, of all projects. It writes only documents that another process, which has died,
    should have written. `rollover_after` is that of Generations; `view_bytes`: how many bytes of log the cached views
    may represent."""

    logs: ClassVar[str]  # the container of the logs
    resource: ClassVar[Resource]  # the aggregate itself
    # Changes that have no work item. Created objects need none either: `fetch` writes a missing document.
    projected_again: ClassVar[frozenset[str]]

    def __init__(self, storage: Storage, notifier: Notifier, *, rollover_after: int, view_bytes: int) -> None:
        self._storage, self._notifier = storage, notifier
        self._views, self._writer = Views[S, C](self._blank, view_bytes), DocumentWriter(storage)
        self._generations = Generations(storage, self.logs, rollover_after)

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
            snapshot = await self._generations.snapshot(project, log_id, tail.mark.generation)
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
        await self._writer.write(
            self._documents(project, [change for change in changes if change.name in self.projected_again])
        )
