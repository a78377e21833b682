"""Search in vector stores, used by the search endpoint and by runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

from assistants_service.core import names
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import EmbeddingError, Embeddings
from assistants_service.core.ports.search import Passage, Query, SegmentGone, Weights
from assistants_service.core.protocol.vector_stores.resources import Attributes
from assistants_service.core.search.filters import Filter
from assistants_service.core.vector_stores.commands import VectorStoreCommands
from assistants_service.core.vector_stores.lookups import file_of, usable_store
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import FileState, StoreState

log = logging.getLogger(__name__)

TRIES: Final = 10  # of one search, if segments are merged during it
STORES: Final = 256  # whose lost segments are remembered


@dataclass(frozen=True, slots=True)
class Found:
    """A passage of a file. `number` counts the chunks of the file, from 0; `score` is in 0..1."""

    store_id: str
    file_id: str
    filename: str
    attributes: Attributes
    number: int
    score: float
    text: str


class Search(Protocol):
    """The part of a Searcher that runs use."""

    async def search_stores(
        self,
        project: str,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        limit: int,
        threshold: float,
        weights: Weights | None,
    ) -> Sequence[Found]:
        """Raises ApiError for a missing or expired store, and StorageUnavailable."""


@dataclass(frozen=True, slots=True)
class Searcher:
    """Searches the stores of all projects. API and worker in one process share one, including its cache."""

    stores: VectorStoreRepository
    embeddings: Embeddings
    clock: Clock
    lost: dict[str, frozenset[str]] = field(default_factory=dict)  # segments by store

    async def search_stores(
        self,
        project: str,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        limit: int = 10,
        filter: Filter | None = None,
        weights: Weights | None = None,
        threshold: float = 0.0,
    ) -> list[Found]:
        """The `limit` passages of these stores that match one of the queries best, the best first; each passage once,
        and those with the same score in the order of store, file and place.

        `filter` applies to the attributes of files, before ranking; `threshold` is a score in 0..1. The files that are
        completed at the start are searched. Without `weights` those of the embedding model apply. The use is recorded
        in the stores' logs once an hour.

        Raises the 404 for a store that is unknown to the project, the 400 for an expired one, StorageUnavailable, and
        DamagedSegment. If the queries cannot be embedded at present, only words are searched.
        """
        # The stores first: a refused search costs no vectors.
        states = {store_id: await self._usable(project, store_id) for store_id in dict.fromkeys(store_ids)}
        asked = await self._queries(queries)
        found: list[Found] = []
        for store_id, state in states.items():
            found += await self._search(
                project, store_id, state, asked, limit, filter, weights or self.embeddings.weights, threshold
            )
        found.sort(key=lambda each: (-each.score, each.store_id, each.file_id, each.number))
        return found[:limit]

    async def _queries(self, texts: Sequence[str]) -> list[Query]:
        try:
            vectors = await self.embeddings.embed(texts, "query")
        except EmbeddingError as error:
            log.warning("searching by words only: %s", error)
            return [Query(text) for text in texts]
        return [Query(text, vector, self.embeddings.model) for text, vector in zip(texts, vectors, strict=True)]

    async def _usable(self, project: str, store_id: str) -> StoreState:
        state = await self.stores.read(project, store_id)
        usable_store(state, self.clock.now())
        return state

    async def _search(
        self,
        project: str,
        store_id: str,
        state: StoreState,
        queries: Sequence[Query],
        limit: int,
        filter: Filter | None,
        weights: Weights,
        threshold: float,
    ) -> list[Found]:
        store = names.document(project, store_id)
        for left in reversed(range(TRIES)):
            eligible = _eligible(state, filter)  # now: the state may change while the index is read
            try:
                passages = await self.stores.index.search(
                    store,
                    state.segments.keys() - self.lost.get(store, frozenset()),
                    queries,
                    eligible.keys(),
                    limit,
                    weights=weights,
                    threshold=threshold,
                )
                break
            except SegmentGone:  # merged in the meantime: the log names the new segment. Or it is lost
                if not left:
                    raise
                missing = await self.stores.index.missing(store, list(state.segments))
                state = await self._usable(project, store_id)
                self._note_lost(store, missing & state.segments.keys())
        await self._note_use(project, store_id, state)
        return [_found(store_id, eligible[passage.source], passage) for passage in passages]

    def _note_lost(self, store: str, segments: AbstractSet[str]) -> None:
        """These segments were in the log before they were missed, and still are: no merge has removed them. The rest of
        the store is searched without them."""
        if segments:
            while len(self.lost) >= STORES:
                del self.lost[next(iter(self.lost))]
            self.lost[store] = frozenset(segments)
            log.error(
                "%d segments of vector store %s are missing from the storage, and their content is not found:"
                " run `assistants reindex %s`",
                len(segments),
                store,
                store.partition("/")[2],
            )

    async def _note_use(self, project: str, store_id: str, state: StoreState) -> None:
        commands = VectorStoreCommands(self.clock.now())
        if commands.use(state):
            await self.stores.commit(project, store_id, commands.use, by_client=True)

    async def content(self, project: str, store_id: str, file_id: str) -> list[str]:
        """The text of a completed file, in chunks without their overlap; empty for any other file. Raises the 404 for
        an unknown store or file."""
        for left in reversed(range(TRIES)):
            state = await self.stores.read(project, store_id)
            file_state = file_of(state, file_id)
            segment = state.source_segments.get(file_state.source)
            if segment is None:
                return []
            chunks = await self.stores.index.read(names.document(project, store_id), segment, file_state.source)
            if chunks or not left:
                break
        pieces, end = [], 0
        for start, text in chunks:
            pieces.append(text[max(0, end - start) :])
            end = start + len(text)
        return pieces


def _eligible(state: StoreState, filter: Filter | None) -> Mapping[str, FileState]:
    """The completed files that match the filter, by source, with their current attributes."""
    searchable = (
        each for each in state.files if each.file.status == "completed" and each.source in state.source_segments
    )
    return {each.source: each for each in searchable if filter is None or filter.matches(each.file.attributes)}


def _found(store_id: str, file_state: FileState, passage: Passage) -> Found:
    return Found(
        store_id,
        file_state.id,
        file_state.filename,
        file_state.file.attributes,
        passage.number,
        passage.score,
        passage.text,
    )
