"""When segments are merged, and which: as log-structured merge trees do it, by tiers of size.

A file's segment is merged as often as there are tiers above it, so what a file costs does not grow with its store (it
grows with its logarithm, up to LARGEST); and a store has few segments, so that it is opened by few reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import log
from typing import Final

from assistants_service.core.ports.search import Weight
from assistants_service.core.search.words import FORMAT

SMALLEST: Final = 2**17  # bytes: segments below are of the first tier
FACTOR: Final = 8  # segments of one tier are merged into one of the next
LARGEST: Final = 2**25  # bytes that a merge writes, at most, in five times the memory. From half of it on, no more
WASTE: Final = 0.5  # a segment of which less than this share is live is written anew, as is one of an older format


def plan(segments: Sequence[Weight]) -> list[str]:
    """The names of the segments that should be merged into one next, in their order; empty if all is well.

    After that merge ask again: there may be more to do. Segments without a live chunk are named alone, for merging them
    writes nothing.
    """
    if dead := [segment.name for segment in segments if not segment.live]:
        return dead
    tiers: defaultdict[tuple[str, int], list[Weight]] = defaultdict(list)
    for segment in segments:
        if segment.useful < LARGEST / 2:
            tiers[segment.model, _tier(segment)].append(segment)
    for _, alike in sorted(tiers.items(), key=lambda tier: tier[0][1]):
        if len(alike) >= FACTOR and len(group := _fitting(alike)) > 1:
            return group
    return next(([each.name] for each in segments if each.live < WASTE or each.format < FORMAT), [])


def _tier(segment: Weight) -> int:
    return 1 + int(log(segment.useful / SMALLEST, FACTOR)) if segment.useful >= SMALLEST else 0


def _fitting(segments: Sequence[Weight]) -> list[str]:
    """As many, the first ones first, as become one of at most LARGEST."""
    taken, size = [], 0.0
    for segment in segments:
        if size + segment.useful <= LARGEST:
            taken.append(segment.name)
            size += segment.useful
    return taken
