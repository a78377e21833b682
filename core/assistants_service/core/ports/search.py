"""What the domain asks of an index of vector stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from assistants_service.core.ports.extraction import Chunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for. `vector` was made by `model`; None searches by words alone. Segments whose vectors are of
    another model, or of other dimensions, or that have none, are searched by words alone, too."""

    text: str
    vector: NDArray[np.float32] | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much vectors and words count: only the ratio matters. Of a query that has no vector, or no words, the other
    one is all that counts."""

    vector: float
    words: float


class Weight(NamedTuple):
    """A segment as the merge policy sees it. `size` of its blob in bytes, `live` is the share of its chunks whose files
    are still in the store, `model` is that of its vectors, `format` that of its words (core.search.words)."""

    name: str
    size: int
    live: float
    model: str
    format: int

    @property
    def useful(self) -> float:
        return self.size * self.live


@dataclass(frozen=True, slots=True)
class Passage:
    """A result of a search: the `number`th chunk (from 0) of a source. `score` in 0..1."""

    source: str
    number: int
    score: float
    text: str


class SegmentGone(Exception):
    """There is no such segment. If it was merged, the state of the store that names it is old: look at it again."""


class Merging(Protocol):
    """Makes one segment of several, where it is the store's log that says which segments there are."""

    def plan(self, segments: Sequence[Weight]) -> Sequence[str]:
        """The names of those that should become one next; none if all is well."""

    async def merge(self, store: str, names: Sequence[str], live: Collection[str], into: str) -> int | None:
        """Write what these hold of the `live` sources as `into`. Returns its size in bytes, None if there is nothing.

        Raises SegmentGone, and Conflict if `into` was dropped meanwhile."""


class VectorIndex(Protocol):
    """The chunks of vector stores, searched. `store` is `project/store`; one suite
    (tests/contract/test_vector_index.py) holds for all implementations.

    A store's log names its *segments*: a file that was ingested is one, named by its source. What is put is not yet
    part of the store, and what the log does not name any more is loose: neither is ever found, and both are dropped by
    name. `merging` is None if the index merges by itself. All methods raise StorageUnavailable.
    """

    merging: Merging | None

    async def put(
        self, store: str, source: str, chunks: Sequence[Chunk], vectors: NDArray[np.float32], model: str
    ) -> int:
        """Write the segment of one file: its chunks, and a vector for each, made by `model`. Returns its size in bytes.

        There is all of it or nothing. `source` names file and attempt, so the same source has the same chunks; put
        again, it is there once. Raises Conflict if it was dropped meanwhile.
        """

    async def drop(self, store: str, names: Iterable[str]) -> None:
        """Remove segments. Idempotent."""

    async def search(
        self,
        store: str,
        segments: Collection[str],
        queries: Sequence[Query],
        eligible: Collection[str],
        limit: int,
        *,
        weights: Weights,
        threshold: float = 0.0,
    ) -> list[Passage]:
        """The `limit` chunks of the `eligible` sources in these segments that fit one of the queries best, the best
        first, ties by source and number. `segments` are all that the store has now.

        A score is in 0..1 and depends on no other result. Chunks below `threshold` are left out, and those that have
        nothing in common with a query. Raises SegmentGone.
        """

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        """The chunks of a source in a segment, in their order, each with its place in the file's text; none if there is
        no such segment."""

    async def delete(self, store: str, names: Iterable[str]) -> None:
        """Remove the store: these segments, which are all that its log knows of, and what else there is. Idempotent."""

    async def tidy(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """After work on the store: bring its index into shape if that is due. `known` says of which segments the log
        knows at the time when it is called: what was there before, and is not among them, belongs to no source."""
