"""Plays random histories of the service, one for each seed, on all cores: `make sim`. A failure names its seed, and
`make sim ARGS="--seed N"` plays that one again, line by line."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import random_histories

HISTORIES = 10_000
REPORT_EVERY = 5.0  # seconds


def play(seed: int) -> tuple[int, Counter[str], str]:
    """The seed, what happened, and how it failed, if it did."""
    try:
        return seed, random_histories.play(seed).counts, ""
    except Exception as error:
        return seed, Counter(), f"{type(error).__name__}: {error}"


def replay(seed: int, coding: bool | None) -> int:
    try:
        world = random_histories.play(seed, print, coding=coding)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"\nseed {seed} holds; digest {world.trace.digest}")
    return 0


def play_all(seeds: Sequence[int], jobs: int) -> int:
    counts: Counter[str] = Counter()
    failures: list[int] = []
    began = reported = time.monotonic()
    with multiprocessing.Pool(jobs) as pool:
        for number, (seed, happened, failure) in enumerate(pool.imap_unordered(play, seeds, chunksize=10), 1):
            counts += happened
            if failure:
                failures.append(seed)
                print(f'seed {seed}: {failure[:1000]}\n    make sim ARGS="--seed {seed}"', flush=True)
            if time.monotonic() - reported > REPORT_EVERY or number == len(seeds):
                reported = time.monotonic()
                seconds = reported - began
                print(f"{number:,} of {len(seeds):,} histories, {len(failures)} failed, {seconds:.0f} s", flush=True)
    print("\n".join(summary(counts)))
    print(
        f"\n{len(seeds):,} histories, seeds {seeds[0]} to {seeds[-1]}: {len(failures)} broke a promise {failures or ''}"
    )
    return 1 if failures else 0


def summary(counts: Counter[str]) -> Iterator[str]:
    """Of what happened, by kind."""
    kinds = sorted({name.partition(": ")[0] for name in counts})
    for kind in kinds:
        yield f"\n{kind}"
        for name, count in counts.most_common():
            if name.startswith(f"{kind}: "):
                yield f"  {count:>9,}  {name.removeprefix(f'{kind}: ')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, and tell what happens")
    parser.add_argument("--code", action="store_true", default=None, help="with code_interpreter in it, in any case")
    parser.add_argument("--first", type=int, default=0, help="first of many seeds")
    parser.add_argument("--seeds", type=int, default=HISTORIES, help="how many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args()
    if given.seed is not None:
        return replay(given.seed, given.code)
    return play_all(range(given.first, given.first + given.seeds), given.jobs)


if __name__ == "__main__":
    sys.exit(main())
