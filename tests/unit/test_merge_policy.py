"""The merge policy: few segments, and each file written a few times, however many there are."""

from __future__ import annotations

from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from assistants_service.core.ports.search import Weight
from assistants_service.core.search.merge_policy import FACTOR, LARGEST, SMALLEST, WASTE, plan
from assistants_service.core.search.words import FORMAT

quickly = settings(deadline=None, max_examples=60)  # other tests take the processor meanwhile
weights = st.lists(
    st.builds(
        Weight,
        st.just(""),
        st.integers(1, 2 * LARGEST) | st.integers(1, 2 * SMALLEST),
        st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([1, FORMAT]),
    ),
    max_size=60,
).map(lambda made: [segment._replace(name=str(number)) for number, segment in enumerate(made)])


def merged(segments: list[Weight], taken: list[str]) -> list[Weight]:
    """After the merge: what it wrote stands last, as the newest."""
    parts = [segment for segment in segments if segment.name in taken]
    rest = [segment for segment in segments if segment.name not in taken]
    size = ceil(sum(segment.useful for segment in parts))
    return [*rest, Weight("+".join(taken), size, 1.0, parts[0].model, FORMAT)] if size else rest  # of the newest format


@quickly
@given(weights)
def test_merging_comes_to_an_end_and_leaves_little_to_read(segments: list[Weight]) -> None:
    living = {segment.name for segment in segments if segment.live}
    for _ in range(2 * len(segments) + 1):
        taken = plan(segments)
        if not taken:
            break
        parts = [segment for segment in segments if segment.name in taken]
        assert [segment.name for segment in parts] == taken
        assert len({segment.model for segment in parts if segment.live}) <= 1
        assert len(parts) == 1 or sum(segment.size * segment.live for segment in parts) <= LARGEST
        segments = merged(segments, taken)
    assert plan(segments) == []
    assert all(segment.live >= WASTE and segment.format == FORMAT for segment in segments)
    small = [segment for segment in segments if segment.useful < LARGEST / 2]
    tiers = 4  # below LARGEST / 2
    assert len(small) <= 2 * tiers * (FACTOR - 1)
    held = [name for segment in segments for name in segment.name.split("+")]
    assert len(held) == len(set(held))
    assert living <= set(held)


def test_what_a_file_costs_does_not_grow_with_its_store() -> None:
    """Files one by one, merged as they come: bytes written for each, in a store of 100 and in one of 10,000."""
    size, written, cost = SMALLEST // 2, 0, {}
    segments: list[Weight] = []
    for number in range(1, 10_001):
        segments.append(Weight(str(number), size, 1.0, "", FORMAT))
        written += size
        while taken := plan(segments):
            segments = [segment for segment in segments if segment.name not in taken] + [
                Weight(f"m{written}", sum(int(s.size) for s in segments if s.name in taken), 1.0, "", FORMAT)
            ]
            written += segments[-1].size
        cost[number] = written / number / size
    assert cost[10_000] <= 5  # itself, and once for each tier
    assert cost[10_000] <= 2 * cost[100]
    assert len(segments) <= 10_000 * size / (LARGEST / 2) + 4 * FACTOR
