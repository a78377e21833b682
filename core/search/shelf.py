"""The stores that were searched last, opened: their segments in memory, within a bound."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.ports import Contents
from core.search.ranking import HYBRID, Query, Weights


@dataclass(frozen=True, slots=True)
class Passage:
    """A result: the `number`th chunk (from 0) of a source, with its text. `score` in 0..1."""

    source: str
    number: int
    score: float
    text: str


class Shelf:
    """`limit` in bytes: what is used least is forgotten. A store that is larger than the limit is kept alone."""

    def __init__(self, contents: Contents, container: str, limit: int) -> None: ...

    async def search(
        self,
        store: str,
        segments: Sequence[str],
        queries: Sequence[Query],
        eligible: Collection[str],
        limit: int,
        *,
        weights: Weights = HYBRID,
        threshold: float = 0.0,
    ) -> list[Passage]:
        """As core.search.ranking.search, over segments by name; `store` is whose they are. Segments that the last search
        in this store has seen are not read again.

        Raises core.search.segment.DamagedSegment if one is not there or not whole, StorageUnavailable.
        """
        raise NotImplementedError

    def forget(self, store: str) -> None:
        """The store was deleted."""
        raise NotImplementedError
