"""Rebuilds the index of vector stores from their files' contents, where vectors come from another model, words have an
older format, or segments are missing.

The files to read again are committed to the store's log, after a work item is sent, as when files are attached; the
worker's ingestion does the rest. Until then the old index of a file is searched. After a crash at any point the work
continues, or the command is run again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from assistants_service.core import names
from assistants_service.core.fanout import fan_out
from assistants_service.core.log.events import Event
from assistants_service.core.log.state import UnreadableLog
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.search.words import FORMAT
from assistants_service.core.vector_stores.events import FilesReindexing
from assistants_service.core.vector_stores.lookups import has_expired
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import StoreState
from assistants_service.core.work_items import MaintainStore

AT_ONCE: Final = 8  # stores examined concurrently


class NoVectors(Exception):
    """There is no embedding model on this platform: files would lose their vectors."""


@dataclass(slots=True)
class StoreProgress:
    """A vector store of which `files` are to be read again. `left` are not done yet; `failed` contains the errors of
    those that keep their old index. A file that is detached in the meantime is in none of them."""

    project: str
    store_id: str
    files: frozenset[str]
    left: frozenset[str]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reindexer:
    """`everything`: also read files again whose index is up to date. `unreadable` are stores whose log cannot be
    read."""

    stores: VectorStoreRepository
    embeddings: Embeddings
    clock: Clock
    everything: bool = False
    unreadable: list[str] = field(default_factory=list)

    @staticmethod
    def find(logs: Collection[str], project: str | None, store_ids: Collection[str]) -> list[str]:
        """The logs of the project, and of the stores, if any are named. Raises ValueError for a store that does not
        exist."""
        found = [name for name in logs if project is None or name.startswith(f"{project}/")]
        if missing := [store for store in store_ids if not any(_ids(name)[1] == store for name in found)]:
            raise ValueError(f"No vector store has the id {', '.join(missing)}.")
        return [name for name in found if not store_ids or _ids(name)[1] in store_ids]

    async def begin(self, logs: Sequence[str]) -> list[StoreProgress]:
        """Request reading for all files that need it; returns the stores with such files. Earlier requests that are not
        done are included. Raises EmbeddingError, NoVectors and StorageUnavailable."""
        # One vector shows the dimensions, and whether the model is available.
        width = (await self.embeddings.embed(["assistants"])).shape[1]
        if not width:
            raise NoVectors
        begun = await fan_out(partial(self._begin, f"{self.embeddings.model} {width}"), logs, AT_ONCE)
        return [progress for progress in begun if progress and progress.files]

    async def _begin(self, model: str, name: str) -> StoreProgress | None:
        project, store_id = _ids(name)
        try:
            segments = list((await self.stores.load(project, store_id)).state.segments)
            missing = await self.stores.index.missing(names.document(project, store_id), segments)
            await self.stores.load(project, store_id)  # after this, the log does not name segments that a merge removed
        except UnreadableLog:
            self.unreadable.append(store_id)
            return None
        now = self.clock.now()

        def command(state: StoreState) -> Sequence[Event]:
            if not state.known or state.store is None or has_expired(state.store, now):
                return ()
            files = tuple(file for file in self._outdated(state, model, missing) if not state.to_read(file))
            return [FilesReindexing(file_ids=files)] if files else ()

        await self.stores.commit(
            project,
            store_id,
            command,
            lambda seen: MaintainStore(project=project, store_id=store_id, seen=seen, sent_at=now),
        )
        left = _left(await self.stores.cached(project, store_id))
        return StoreProgress(project, store_id, left, left)

    def _outdated(self, state: StoreState, model: str, missing: Collection[str]) -> Iterator[str]:
        for file in state.files:
            name = state.source_segments.get(file.source, "") if file.file.status == "completed" else ""
            if name:
                segment = state.segments[name]
                old = segment.model != model or segment.format < FORMAT or name in missing
                if old or self.everything:
                    yield file.id

    async def refresh(self, stores: Sequence[StoreProgress]) -> None:
        """Refresh those that are not done. Raises StorageUnavailable."""
        await fan_out(self._refresh, [store for store in stores if store.left], AT_ONCE)

    async def _refresh(self, store: StoreProgress) -> None:
        state = (await self.stores.load(store.project, store.store_id)).state
        store.left = _left(state) & store.files
        errors = {again.id: again.error for again in state.reindexing.values() if again.error and state.known}
        store.failed = {file_id: error for file_id, error in errors.items() if file_id in store.files}


def _left(state: StoreState) -> frozenset[str]:
    return frozenset(file.id for file in state.reindexing.values() if not file.error) if state.known else frozenset()


def _ids(log: str) -> tuple[str, str]:
    project, _, store_id = log.removesuffix(".log").partition("/")
    return project, store_id
