"""Resumes work after the queue was lost, for example by a restore, which does not include it. Unfinished deletions are
resumed as well.

Logs and documents show what is left to do; an unfinished deletion is found by the names that remain. Claims by lost
work items are released, then new items are sent. After a crash, run this again: repetition is harmless, even while
workers are running. A worker whose claim is released loses its unfinished work, and an item without work is dropped.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from assistants_service.core import names
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import decode_file
from assistants_service.core.log.events import Event
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Stored
from assistants_service.core.ports.storage import Storage, StorageUnavailable
from assistants_service.core.resources import VECTOR_STORE
from assistants_service.core.threads.events import RunQueued
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.vector_stores.events import FileReleased, ItemTakenOver, SegmentsDropped
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import StoreState
from assistants_service.core.work_items import (
    AdvanceRun,
    CleanUpFile,
    CleanUpStore,
    CleanUpUpload,
    MaintainStore,
    PurgeFile,
    PurgeStore,
    PurgeThread,
    WorkItem,
    to_body,
)

log = logging.getLogger(__name__)

PAGE: Final = 100  # documents per read
NAMES: Final = 1_000  # names per read
TAKEN: Final = "resumed/1"  # the name of a delivery that never happened: it replaces lost items in claims


@dataclass(frozen=True, slots=True)
class Resumption:
    """`enqueued` counts the work items that were sent, by kind. `unreadable` lists container and name of what could not
    be read and was not resumed."""

    storage: Storage
    threads: ThreadRepository
    stores: VectorStoreRepository
    clock: Clock
    enqueued: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    _in_use: set[str] = field(default_factory=set)  # names of contents without a document that a thread refers to

    async def run(self) -> None:
        """Resume in all projects. Reads every log. Raises StorageUnavailable; then it can be run again."""
        # Before the logs: a content that a call has already stored is in its thread's log when that is read, or never
        # will be, because the claim of its run is released.
        unshown = [name async for some in self._names(names.CONTENTS) for name in await self._unshown(some)]
        known: set[str] = set()
        for container, resume in ((names.THREADS, self._thread), (names.STORE_LOGS, self._store)):
            logs = await self.storage.logs(container)
            known.update(name.removesuffix(".log") for name in logs)
            await fan_out(partial(self._log, container, resume), logs)
        for container, enqueue in (
            (names.FILES, self._file),
            (names.UPLOADS, self._upload),
            (names.FILE_STORES, self._note),
        ):
            async for some in self._pages(container):
                await fan_out(partial(self._document, container, enqueue), some)
        await fan_out(self._content, [name for name in unshown if name not in self._in_use])
        for container in (names.THREADS, names.SNAPSHOTS):
            async for some_names in self._names(container):
                await fan_out(self._purge, sorted({*map(_log_of, some_names)} - known))

    async def _log(self, container: str, resume: Callable[[str, str], Awaitable[None]], name: str) -> None:
        project, _, log_id = name.removesuffix(".log").partition("/")
        await self._try(f"{container}/{name}", resume(project, log_id))

    async def _document(self, container: str, enqueue: Callable[[Stored], Awaitable[None]], stored: Stored) -> None:
        await self._try(f"{container}/{stored.name}", enqueue(stored))

    async def _try(self, what: str, going_on: Awaitable[None]) -> None:
        """An unreadable object does not keep others from being resumed."""
        try:
            await going_on
        except StorageUnavailable:
            raise
        except Exception as error:
            why = error if isinstance(error, UnreadableLog) else type(error).__name__  # other errors may quote content
            log.error("cannot resume %s: %s", what, why)
            self.unreadable.append(what)

    # -- logs ------------------------------------------------------------------------------------------------------

    async def _thread(self, project: str, thread_id: str) -> None:
        state, now = (await self.threads.load(project, thread_id)).state, self.clock.now()
        if state.deleted:
            await self._send(PurgeThread(project=project, thread_id=thread_id, sent_at=now))
            return
        if state.active_run:
            run_id = state.active_run.id
            await self.threads.commit(project, thread_id, partial(_released_run, run_id))
            await self._send(AdvanceRun(project=project, thread_id=thread_id, run_id=run_id, sent_at=now))
        state = await self.threads.cached(project, thread_id)
        self._in_use.update(names.document(project, file_id) for file_id in state.referenced_files)

    async def _store(self, project: str, store_id: str) -> None:
        state, now = (await self.stores.load(project, store_id)).state, self.clock.now()
        if state.deleted:
            await self._send(PurgeStore(project=project, store_id=store_id, sent_at=now))
        if not state.known or state.store is None:
            return
        if state.store.expires_at is not None and state.store.status != "expired":
            await self._send(CleanUpStore(project=project, store_id=store_id, sent_at=now))
        if any(state.unread()) or state.orphaned:
            await self.stores.commit(project, store_id, _released_files)
            await self._drop_unowned(project, store_id)
            await self._send(MaintainStore(project=project, store_id=store_id, sent_at=now))
        await self.stores.project(project, store_id, "")  # lists show this document, and the backup may have an old one

    async def _drop_unowned(self, project: str, store_id: str) -> None:
        """Remove segments that only the holder of a lost item would remove: first invalidate the claims by a commit,
        then remove the blobs, then their names."""
        state = await self.stores.cached(project, store_id)
        unowned = tuple(name for name, item in state.orphaned.items() if item == TAKEN)
        if unowned and state.known:
            await self.stores.index.drop(names.document(project, store_id), unowned)
            dropped = [SegmentsDropped(names=unowned)]
            await self.stores.commit(project, store_id, lambda state: dropped if state.known else ())

    # -- documents -------------------------------------------------------------------------------------------------

    async def _file(self, stored: Stored) -> None:
        project, _, file_id = stored.name.partition("/")
        if decode_file(stored.body).expires_at is not None:
            await self._send(CleanUpFile(project=project, file_id=file_id, sent_at=self.clock.now()))

    async def _upload(self, stored: Stored) -> None:
        project, _, upload_id = stored.name.partition("/")
        await self._send(CleanUpUpload(project=project, upload_id=upload_id, sent_at=self.clock.now()))

    async def _note(self, stored: Stored) -> None:
        """Detach a deleted file from the stores that contain it."""
        project, file_id, _ = stored.name.split("/")
        if await self.storage.get(names.FILES, names.document(project, file_id)) is None:
            await self._send(PurgeFile(project=project, file_id=file_id, sent_at=self.clock.now()))

    # -- what is in no log and no document any more --------------------------------------------------------------------

    async def _unshown(self, contents: Sequence[str]) -> list[str]:
        """The contents that have no document."""
        files = await fan_out(partial(self.storage.get, names.FILES), contents)
        return [name for name, file in zip(contents, files, strict=True) if file is None]

    async def _content(self, name: str) -> None:
        """Bytes of a file that was deleted or never created: the worker removes them a day later, so that an upload in
        progress can still complete."""
        project, _, file_id = name.partition("/")
        await self._send(CleanUpFile(project=project, file_id=file_id, sent_at=self.clock.now()))

    async def _purge(self, name: str) -> None:
        """Resume a purge that has already removed the log, and left tombstones and snapshots."""
        (project, _, log_id), now = name.partition("/"), self.clock.now()
        if log_id.startswith(VECTOR_STORE.prefix):
            await self._send(PurgeStore(project=project, store_id=log_id, sent_at=now))
        else:
            await self._send(PurgeThread(project=project, thread_id=log_id, sent_at=now))

    async def _names(self, container: str) -> AsyncIterator[Sequence[str]]:
        after = None
        while found := await self.storage.list_names(container, after=after, limit=NAMES):
            yield found
            after = found[-1]

    async def _pages(self, container: str) -> AsyncIterator[Sequence[Stored]]:
        after, newest_first = None, container == names.FILES  # the engines' order
        while page := await self.storage.page(container, "", after=after, limit=PAGE, newest_first=newest_first):
            yield page
            after = page[-1].name

    async def _send(self, item: WorkItem) -> None:
        await self.storage.send(to_body(item))
        self.enqueued[str(item.__struct_config__.tag)] += 1


def _released_run(run_id: str, state: ThreadState) -> Sequence[Event]:
    run_state = state.runs.get(run_id)
    lost = run_state and run_state.run.status == "in_progress" and not state.deleted
    return [RunQueued(run_id=run_id)] if lost else ()


def _released_files(state: StoreState) -> Sequence[Event]:
    if not state.known:
        return ()
    claimed = [file for file in state.unread() if file.item]
    released: list[Event] = [FileReleased(file_id=file.id) for file in claimed]
    sources = {file.source for file in claimed}
    others = tuple(name for name, item in state.orphaned.items() if item not in ("", TAKEN) and name not in sources)
    return [*released, ItemTakenOver(names=others, item=TAKEN)] if others else released


def _log_of(name: str) -> str:
    """Project and id of the log that a name belongs to: that of a log, a document, a generation or a snapshot."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"
