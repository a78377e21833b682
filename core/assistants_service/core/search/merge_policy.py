"""When segments are merged, and which: by tiers of size, as in log-structured merge trees.

A file's segment is merged as many times as there are tiers above it, so the cost of a file grows only with the
logarithm of the store's size (up to LARGEST); and a store has few segments, so few reads open it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import log
from typing import Final

from assistants_service.core.ports.search import Weight
from assistants_service.core.search.words import FORMAT

SMALLEST: Final = 2**17  # bytes: smaller segments are in the first tier
FACTOR: Final = 8  # segments of one tier that are merged into one of the next
LARGEST: Final = 2**25  # bytes of a merge's result; it takes five times the memory. Half of it is not merged again
WASTE: Final = 0.5  # a segment with a smaller live share is rewritten, as is one of an older format


def plan(segments: Sequence[Weight]) -> list[str]:
    """The names of the segments to merge into one next, in order; empty if no merge is due.

    After that merge, call it again: more merges may be due. Segments without live chunks are named separately, because
    merging them writes nothing.
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
    """The first segments that together fit into LARGEST."""
    taken, size = [], 0.0
    for segment in segments:
        if size + segment.useful <= LARGEST:
            taken.append(segment.name)
            size += segment.useful
    return taken
