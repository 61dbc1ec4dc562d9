"""`python -m pillarbox.tools.bench.planning`: sets of change numbers, and plans of a backfill.

A million numbers are missing, and a hundred stores have some of them, all of one cost and version. The
targets are 50 ms for a plan with 1,000 intervals in the need and in each source, and 250 ms with 10,000.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from pillarbox.replication.organisation.sources import Candidate, choose_sources
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.tools.bench.report import at_least_one

MISSING_COUNT: Final = 1_000_000
SOURCES_COUNT: Final = 100
TARGETS_MS: Final = {1_000: 50.0, 10_000: 250.0}
SET_TARGET_MS: Final = 5.0
_ORIGIN: Final = b"o" * 16
_ASKER: Final = b"a" * 16
_ROUNDS: Final = 3


class Shape(NamedTuple):
    """A need, and what each source has of it."""

    name: str
    needed: CNSet
    available: list[CNSet]


def cnset_of(ranges: Sequence[tuple[int, int]]) -> CNSet:
    """The set of these ranges, both ends included; by halves, since each union costs its size."""
    if len(ranges) == 1:
        return CNSet.of_range(_ORIGIN, *ranges[0])
    middle = len(ranges) // 2
    return cnset_of(ranges[:middle]) | cnset_of(ranges[middle:])


def at_random(rng: random.Random, intervals_count: int, highest: int) -> CNSet:
    """A set of about half of the numbers up to `highest`, in so many intervals at random places."""
    edges = sorted(rng.sample(range(1, highest // 2), 2 * intervals_count))
    return cnset_of([(2 * first, 2 * last) for first, last in zip(edges[::2], edges[1::2], strict=True)])


def shapes(intervals_count: int, sources_count: int = SOURCES_COUNT) -> Iterator[Shape]:
    """Needs of a million numbers, and sources that have them in several ways."""
    rng = random.Random(intervals_count)
    length = max(1, MISSING_COUNT // intervals_count)
    highest = 2 * length * intervals_count
    firsts = range(1, highest, 2 * length)
    runs = [(first, first + length - 1) for first in firsts]
    needed, sources = cnset_of(runs), range(sources_count)

    def random_sets(top: int) -> list[CNSet]:
        return [at_random(rng, intervals_count, top) for _ in sources]

    yield Shape("sources at random", needed, random_sets(highest))
    yield Shape("need and sources at random", at_random(rng, intervals_count, highest), random_sets(highest))
    spread = cnset_of([(1000 * first, 1000 * first + length - 1) for first in firsts])
    yield Shape("the same, one number of a thousand", spread, random_sets(1000 * highest))
    yield Shape("each has everything", needed, [needed for _ in sources])
    few = [CNSet.of(ChangeNumber(_ORIGIN, rng.randrange(1, highest)) for _ in range(10)) for _ in sources]
    yield Shape("each lacks a few", needed, [needed - lacked for lacked in few])
    halves = [sorted(rng.sample(runs, max(1, intervals_count // 2))) for _ in sources]
    yield Shape("each has half of the intervals", needed, [cnset_of(half) for half in halves])
    step = max(1, highest // sources_count)
    ranges = [(step * number + 1, step * (number + 1)) for number in sources]
    yield Shape("each has one range", needed, [cnset_of([each]) for each in ranges])
    piece = max(1, length // sources_count)
    pieces = [
        [(first + piece * number, first + piece * (number + 1) - 1) for first in firsts] for number in sources
    ]
    yield Shape("each has a piece of each interval", needed, [cnset_of(each) for each in pieces])


def _cost_ms(work: Callable[[], Any]) -> float:
    costs = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        costs.append(time.process_time() - began)
    return 1000 * min(costs)


def plan_ms(shape: Shape) -> float:
    """The milliseconds of one plan."""
    candidates = [Candidate(bytes([number]) * 16, 0, 6, each) for number, each in enumerate(shape.available)]
    return _cost_ms(lambda: choose_sources(_ASKER, shape.needed, candidates))


def set_costs_ms(intervals_count: int) -> dict[str, float]:
    """The milliseconds of each operation on two sets that interleave at random."""
    rng = random.Random(intervals_count)
    some, others = (at_random(rng, intervals_count, 200 * intervals_count) for _ in range(2))
    return {
        "union": _cost_ms(lambda: some | others),
        "difference": _cost_ms(lambda: some - others),
        "intersection": _cost_ms(lambda: some & others),
        "count_common": _cost_ms(lambda: some.count_common(others)),
        "covers": _cost_ms(lambda: some.covers(others)),
    }


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code 0, whether the targets are met or not."""
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.planning", description=__doc__)
    parser.add_argument("intervals", nargs="*", type=at_least_one, help="intervals of a set (1000, 10000)")
    options = parser.parse_args(arguments)
    for intervals_count in options.intervals or TARGETS_MS:
        for name, cost_ms in set_costs_ms(intervals_count).items():
            print(
                f"{intervals_count:6} intervals  {name:36}{cost_ms:8.2f} ms{_above(cost_ms, SET_TARGET_MS)}"
            )
        target_ms = TARGETS_MS.get(intervals_count, 0)
        for shape in shapes(intervals_count):
            cost_ms = plan_ms(shape)
            print(
                f"{intervals_count:6} intervals  {shape.name:36}{cost_ms:8.1f} ms{_above(cost_ms, target_ms)}"
            )
    return 0


def _above(cost_ms: float, target_ms: float) -> str:
    return "  above the target" if target_ms and cost_ms > target_ms else ""


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
