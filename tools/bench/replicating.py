"""`python -m pillarbox.tools.bench.replicating`: two real public folder stores that replicate a folder.

Three measures. A receiver, beside local bulk delivery of the same messages in one process; target: 0.7 of
its rate. Memory of a process that holds both stores of a backfill; target: 200 MB. And what crosses the link
when a replica was put back to an old copy, 2 % of the messages changed and 2 % deleted since; target: 5 % of
what all of them took, and nothing deleted comes back.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from pillarbox.store.clock import VirtualClock
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.bench.pillarbox_side import anonymous_memory_bytes, new_target
from pillarbox.tools.bench.replicating_side import (
    BATCH_COUNT,
    BEGAN_MS,
    RECEIVER,
    SOURCE,
    Link,
    Side,
    batches,
)
from pillarbox.tools.bench.report import at_least_one
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

MEASURES: Final = ("receiver", "backfill", "restored")
RATE_AT_LEAST: Final = 0.7
MEMORY_AT_MOST: Final = 200_000_000
LINK_AT_MOST: Final = 0.05
CHANGED, DELETED = 0.02, 0.02
_POSTED_AT_ONCE: Final = 1000
_BROADCAST_MS: Final = 10_000


class Rate(NamedTuple):
    """Messages a second, and microseconds of processor for each."""

    per_second: float
    cpu_us: float


class Restored(NamedTuple):
    """Bytes on the link to a replica that was put back, those of all messages, and how it ended."""

    link_bytes: int
    all_bytes: int
    is_equal: bool
    back_count: int


def timed(count: int, work: Callable[[], object]) -> Rate:
    """The rate of work on so many messages."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return Rate(count / seconds, cpu / count * 1e6)


def new_pair(root: Path) -> tuple[Side, Side]:
    """Two stores that know each other, and a folder of which both hold a replica."""
    clock = VirtualClock(BEGAN_MS)
    source, receiver = Side(root / "source", SOURCE, clock), Side(root / "receiver", RECEIVER, clock)
    source.make_folder()
    Link(source, receiver).run(receiver.has_folder)
    return source, receiver


def broadcast(source: Side) -> None:
    """Let a store notice what was posted, and send it once it rests."""
    source.replicator.tick()
    source.clock.advance_ms(_BROADCAST_MS)
    source.replicator.tick()


def post_unheard(source: Side, raws: Iterator[bytes]) -> None:
    """Post messages whose broadcasts are lost, since the other store is away."""
    for batch in batches(raws, _POSTED_AT_ONCE):
        source.post(batch)
        broadcast(source)
        source.waiting.clear()


def receive(receiver: Side, arrived: Sequence[bytes]) -> None:
    """Apply what came over the link; while a batch is applied, another thread opens the next."""
    with ThreadPoolExecutor(1) as pool:
        opening = None
        for batch in batches(arrived, BATCH_COUNT):
            before, opening = opening, pool.submit(receiver.open, batch)
            if before:
                receiver.apply(before.result())
        if opening:
            receiver.apply(opening.result())


def receiver_rates(root: Path, raws: Sequence[bytes], rounds: int) -> list[tuple[Rate, Rate]]:
    """The rates of local bulk delivery and of a receiver, in turn."""
    source, first = new_pair(root)
    first.close()
    source.waiting.clear()
    source.post(raws)
    broadcast(source)
    arrived = list(source.leaving())
    source.close()
    rates = []
    for number in range(rounds):
        with new_target(root / f"local{number}") as target:
            local = timed(len(raws), lambda target=target: target.deliver_all(raws, 0))  # type: ignore[misc]
        first.copy(root / f"receiver{number}")
        receiver = Side(root / f"receiver{number}", RECEIVER, source.clock)
        received = timed(len(raws), lambda to=receiver: receive(to, arrived))  # type: ignore[misc]
        if receiver.known().count() < len(raws):
            raise AssertionError("the receiver did not take everything")
        receiver.close()
        rates.append((local, received))
    return rates


def backfill_memory(root: Path, raws: Iterator[bytes], count: int) -> tuple[int, float, int]:
    """The most memory beyond that of the beginning in a backfill, seconds, and bytes on the link."""
    source, receiver = new_pair(root)
    post_unheard(source, raws)
    before = highest = anonymous_memory_bytes()
    link, began = Link(source, receiver), time.perf_counter()

    def is_done() -> bool:
        nonlocal highest
        highest = max(highest, anonymous_memory_bytes())
        return source.known() == receiver.known()

    link.run(is_done)
    seconds = time.perf_counter() - began
    if receiver.known().count() < count:
        raise AssertionError("the receiver did not get everything")
    source.close()
    receiver.close()
    return highest - before, seconds, link.bytes[SOURCE]


def restored_replica(root: Path, raws: Iterator[bytes]) -> Restored:
    """Put a replica back to an old copy of its files, and let it come in sync again.

    Half of the deletions are purged at the source by then, so that only reconciling can tell of them.
    """
    source, receiver = new_pair(root)
    post_unheard(source, raws)
    link = Link(source, receiver)
    link.run(lambda: source.known() == receiver.known())
    all_bytes = link.bytes[SOURCE]
    receiver.close()
    receiver.copy(root / "old copy")
    receiver = Side(root / "receiver", RECEIVER, source.clock)

    rng = random.Random(1)
    ids = sorted(source.live())
    chosen = rng.sample(ids, round(len(ids) * (CHANGED + DELETED)))
    changed, deleted = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    link = Link(source, receiver)
    source.delete(deleted[::2])
    link.run(lambda: source.known() == receiver.known() and not source.holds(deleted[0]))
    source.change(changed)
    source.delete(deleted[1::2])
    link.run(lambda: source.known() == receiver.known())
    receiver.close()

    receiver = Side(root / "old copy", RECEIVER, source.clock)
    link = Link(source, receiver)
    link.run(lambda: source.known() == receiver.known())
    live = receiver.live()
    is_equal = live == source.live()
    source.close()
    receiver.close()
    return Restored(link.bytes[SOURCE], all_bytes, is_equal, len(live.keys() & set(deleted)))


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether the targets are met or not; 1 on an error."""
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.replicating", description=__doc__)
    parser.add_argument("count", nargs="?", type=at_least_one, default=5000, help="messages (5000)")
    parser.add_argument("--only", choices=MEASURES, action="append", help="one of the measures")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="rounds of the receiver (3)")
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    parser.add_argument("--dir", type=Path, help="where the stores are made")
    options = parser.parse_args(arguments)
    try:
        corpus = read_corpus(options.corpus)
    except PillarboxError as error:
        print(f"replicating: {error}", file=sys.stderr)
        return 1
    count, wanted = options.count, options.only or MEASURES

    def measure(name: str, work: Callable[[Path], str]) -> None:
        if name in wanted:
            with tempfile.TemporaryDirectory(dir=options.dir) as root:
                print(f"{name}: {work(Path(root))}", flush=True)

    def rates(root: Path) -> str:
        rounds = receiver_rates(root, list(resample(corpus, count)), options.rounds)
        by_time = [received.per_second / local.per_second for local, received in rounds]
        by_cpu = [local.cpu_us / received.cpu_us for local, received in rounds]
        local, received = (min(each.cpu_us for each in side) for side in zip(*rounds, strict=True))
        return (
            f"{received:.0f} us of processor a message at best, {local:.0f} us of local bulk delivery; of "
            f"its rate {median(by_cpu):.2f} by the processor ({min(by_cpu):.2f} to {max(by_cpu):.2f}) and "
            f"{median(by_time):.2f} by time, target {RATE_AT_LEAST}, in {len(rounds)} rounds"
        )

    def memory(root: Path) -> str:
        most, seconds, link_bytes = backfill_memory(root, resample(corpus, count), count)
        return (
            f"{count} messages in {seconds:.0f} s, {link_bytes / 1e6:.1f} MB on the link, "
            f"{most / 1e6:.0f} MB of memory for both sides, target {MEMORY_AT_MOST / 1e6:.0f}"
        )

    def restored(root: Path) -> str:
        found = restored_replica(root, resample(corpus, count))
        share = found.link_bytes / found.all_bytes
        return (
            f"{count} messages, {found.link_bytes / 1e6:.2f} MB on the link, {share:.2%} of what all took, "
            f"target {LINK_AT_MOST:.0%}; {'equal' if found.is_equal else 'NOT EQUAL'}, "
            f"{found.back_count} deleted ones back"
        )

    for name, work in zip(MEASURES, (rates, memory, restored), strict=True):
        measure(name, work)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
