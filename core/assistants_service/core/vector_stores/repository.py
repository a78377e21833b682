"""The repository of vector stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.log.generations import ROLLOVER_AFTER
from assistants_service.core.log.repository import Repository
from assistants_service.core.log.state import View
from assistants_service.core.notifier import Notifier
from assistants_service.core.paging import Index, PackedLayout
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.storage import Storage
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.protocol.vector_stores.resources import VectorStore, VectorStoreFile, VectorStoreFileBatch
from assistants_service.core.resources import VECTOR_STORE
from assistants_service.core.search.embedded import EmbeddedIndex
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.fold import apply
from assistants_service.core.vector_stores.lookups import batch_of, file_of, store_of
from assistants_service.core.vector_stores.state import (
    BatchState,
    FileState,
    Reindexing,
    SegmentState,
    StoreChange,
    StoreObject,
    StoreState,
)
from assistants_service.core.work_items import MaintainStore


class StoreSnapshot(Struct, kw_only=True, frozen=True):
    """The first line of a snapshot. The files follow, then the batches."""

    version: int
    store: VectorStore | None
    deleted: bool
    files: PackedLayout
    batches: PackedLayout
    waiting: dict[str, None]
    segments: dict[str, SegmentState]
    source_segments: dict[str, str] = msgspec.field(name="homes")  # the stored name is the original one
    orphaned: dict[str, str] = msgspec.field(name="loose")
    attempt: int
    deliveries: dict[str, int] = msgspec.field(default_factory=dict)
    merging_since: float = 0.0
    reindexing: dict[str, Reindexing] = msgspec.field(default_factory=dict)


_decoder = msgspec.json.Decoder(StoreSnapshot)


class StoreView(View[StoreState, StoreChange]):
    def blank(self) -> StoreState:
        return StoreState()

    def unpack(self, snapshot: bytes) -> None:
        head = snapshot.index(b"\n") + 1
        line, rest = _decoder.decode(snapshot[:head]), memoryview(snapshot)[head:]
        batches_at = sum(line.files.groups)
        fields: dict[str, Any] = {field: getattr(line, field) for field in line.__struct_fields__}
        fields["files"] = Index.unpack(line.files, rest[:batches_at], FileState, self.opened)
        fields["batches"] = Index.unpack(line.batches, rest[batches_at:], BatchState, self.opened)
        self.state = StoreState(**fields)

    def snapshot(self) -> bytes:
        state = self.state
        (files, file_bodies), (batches, batch_bodies) = state.files.pack(), state.batches.pack()
        fields: dict[str, Any] = {field: getattr(state, field) for field in state.__struct_fields__}
        head = StoreSnapshot(**(fields | {"files": files, "batches": batches}))
        return b"".join((encode(head), b"\n", *file_bodies, *batch_bodies))

    def fold(self, commits: Sequence[e.Commit]) -> list[StoreChange]:
        self.blocks += len(commits)
        return [change for commit in commits for change in apply(self.state, commit)]


class VectorStoreRepository(Repository[StoreState, StoreChange]):
    """The vector stores, and their index."""

    logs = names.STORE_LOGS
    resource = VECTOR_STORE
    # Changes by clients. Those by a worker are projected by the next holder of its work item.
    projected_again = frozenset(
        {
            "vector_store.created",
            "vector_store.updated",
            "vector_store.deleted",
            "vector_store.file.updated",
            "vector_store.file.deleted",
            "vector_store.file.cancelled",
            "vector_store.file_batch.created",
            "vector_store.file_batch.updated",
        }
    )

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        *,
        rollover_after: int = ROLLOVER_AFTER,
        index: EmbeddedIndex | None = None,
    ) -> None:
        super().__init__(storage, clock, ids, notifier, rollover_after=rollover_after)
        self.index = index or EmbeddedIndex(storage)

    def _blank(self) -> StoreView:
        return StoreView()

    def _commits(self, data: bytes) -> list[e.Commit]:
        return e.from_lines(data)

    def _documents(self, project: str, changes: Sequence[StoreChange]) -> list[Document]:
        """The projections of the changes: the last state of each object. A file that was only attached has none; its
        document is created on the first request for it, so that a batch of 500 does not wait for 500 documents."""
        last = {change.object.id: change for change in changes}
        return [_document(project, change) for change in last.values() if change.name != "vector_store.file.created"]

    def _find(self, state: StoreState, container: str, ids: tuple[str, ...]) -> StoreObject:
        match container:
            case names.STORE_FILES:
                return file_of(state, ids[1]).file
            case names.STORE_BATCHES:
                return batch_of(state, ids[1]).batch
        return store_of(state, ids[0])

    # -- for the worker --------------------------------------------------------------------------------------------

    async def project(self, project: str, store_id: str, item_id: str | None) -> None:
        """Write the documents of the files that ended by this work item (None: by any), of the batches and of the
        store, after a crash."""
        state = (await self.load(project, store_id)).state
        if state.store is None or state.deleted:  # they would keep the deletion's tombstones from being written
            return
        mine = "" if item_id is None else f"{item_id}/"
        ended = (each.file for each in state.files if each.item.startswith(mine) and each.id not in state.waiting)
        objects: list[StoreObject] = [state.store, *(batch_state.batch for batch_state in state.batches), *ended]
        await self._project_changes(project, [StoreChange(state.version, "", each) for each in objects])

    async def expire(self, project: str, store_id: str) -> float | None:
        """Commit the expiry of the store, if it has expired. Returns the time of the next check, if any. Readers see it
        at once, so it does not matter how late this happens."""
        now = self._clock.now()
        if _overdue((await self.load(project, store_id)).state, now):
            await self.commit(
                project,
                store_id,
                lambda state: [e.StoreExpired()] if _overdue(state, now) else (),
                lambda seen: MaintainStore(project=project, store_id=store_id, seen=seen, sent_at=now),
            )
        state = await self.cached(project, store_id)
        if state.store is None or state.deleted:
            return None
        if state.store.status == "expired":  # the process that committed it may have died before projecting it
            cancelled = (file_state.file for file_state in state.files if file_state.file.status == "cancelled")
            objects: list[StoreObject] = [
                state.store,
                *(batch_state.batch for batch_state in state.batches),
                *cancelled,
            ]
            await self._project_changes(project, [StoreChange(state.version, "", each) for each in objects])
            return None
        return state.store.expires_at

    async def purge(self, project: str, store_id: str) -> None:
        """Empty the documents of a deleted store, and remove its index and its notes of files. Tombstones stay until
        `purge_tombstones`, and so does the log, by which `purge_tombstones` finds what may still be being written."""
        state = (await self.load(project, store_id)).state
        if state.store is None or not state.deleted:
            return
        objects: list[StoreObject] = [state.store, *(batch_state.batch for batch_state in state.batches)]
        objects += [file_state.file for file_state in state.files]
        await self._project_changes(
            project, [StoreChange(state.version, "vector_store.deleted", each) for each in objects]
        )
        await self.index.delete(names.document(project, store_id), (*state.segments, *state.orphaned))
        for file_id in state.files.order:  # including those that were detached
            await self._storage.remove(names.FILE_STORES, names.document(project, file_id, store_id))

    async def purge_tombstones(self, project: str, store_id: str) -> None:
        """Remove the last traces of a store that was purged long ago. Idempotent."""
        state = (await self.load(project, store_id)).state
        await self.index.delete(names.document(project, store_id), (*state.segments, *state.orphaned))
        await self._storage.remove(names.VECTOR_STORES, names.document(project, store_id))
        for container in (names.STORE_FILES, names.STORE_BATCHES):
            await self._storage.remove_tombstones(container, names.document(project, store_id, ""))
        # The log goes last, because it leads to all of this, then its snapshot, without which it cannot be read.
        await self._storage.drop(names.STORE_LOGS, names.log(project, store_id))
        self._views.forget(project, store_id)
        await self._generations.remove_snapshots(project, store_id)

    async def detach_file(self, project: str, file_id: str) -> None:
        """Detach a deleted file from all stores that may contain it, found by their notes."""
        folder = f"{names.document(project, file_id)}/"
        while notes := await self._storage.page(names.FILE_STORES, folder, after=None, limit=100, newest_first=False):
            for note in notes:
                await self._detach_file(project, note.name.removeprefix(folder), file_id)
                await self._storage.remove(names.FILE_STORES, note.name)

    async def _detach_file(self, project: str, store_id: str, file_id: str) -> None:
        now = self._clock.now()
        changes = await self.commit(
            project,
            store_id,
            lambda state: [e.FileDetached(file_id=file_id)] if state.known and state.files.get(file_id) else (),
            lambda seen: MaintainStore(project=project, store_id=store_id, seen=seen, sent_at=now),
        )
        state = await self.cached(project, store_id)
        if not changes and state.known and state.store and file_id in state.files.places:
            # Another process has done it, and may have died before projecting it.
            gone = Document(names.STORE_FILES, names.document(project, store_id, file_id), b"", state.version)
            await self._storage.write_if_newer(gone)
            await self._project_changes(project, [StoreChange(state.version, "", state.store)])

    async def _project_changes(self, project: str, changes: Sequence[StoreChange]) -> None:
        await self._writer.write(_document(project, change) for change in changes)


GONE = ("vector_store.deleted", "vector_store.file.deleted")
# A file that has ended is most often projected for the first time.
FIRST = (
    *("vector_store.created", "vector_store.file_batch.created"),
    *("vector_store.file.completed", "vector_store.file.failed"),
)


def _document(project: str, change: StoreChange) -> Document:
    resource = change.object
    match resource:
        case VectorStore():
            container, ids = names.VECTOR_STORES, [resource.id]
        case VectorStoreFile():
            container, ids = names.STORE_FILES, [resource.vector_store_id, resource.id]
        case VectorStoreFileBatch():
            container, ids = names.STORE_BATCHES, [resource.vector_store_id, resource.id]
    body = b"" if change.name in GONE else encode(resource)
    return Document(container, names.document(project, *ids), body, change.version, created=change.name in FIRST)


def _overdue(state: StoreState, now: float) -> bool:
    store = state.store if state.known else None
    return bool(store and store.status != "expired" and store.expires_at is not None and now >= store.expires_at)
