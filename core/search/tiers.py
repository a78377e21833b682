"""When segments are merged, and which: as log-structured merge trees do it, by tiers of size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Weight(NamedTuple):
    """A segment as the merge policy sees it: `size` of its blob in bytes, `live` is the share of its chunks whose files
    are still in the store. `model` is that of its vectors."""

    name: str
    size: int
    live: float
    model: str


def plan(segments: Sequence[Weight]) -> list[str]:
    """The names of segments that should become one, oldest first as given; empty if all is well as it is."""
    raise NotImplementedError
