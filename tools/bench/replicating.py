"""`python -m pillarbox.tools.bench.replicating`: two real public folder stores that replicate a folder.

Three measures. A receiver, beside local bulk delivery of the same messages in one process; target: 0.7 of
its rate. Memory of a process that holds both stores of a backfill; target: 200 MB. And what crosses the link
when a replica was put back to an old copy, 2 % of the messages changed and 2 % deleted since; target: 5 % of
what all of them took, and nothing deleted comes back.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.replication.core.hello import Start
from pillarbox.replication.ground.records import ObjectId
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.bench.pillarbox_side import anonymous_memory_bytes, new_target
from pillarbox.tools.bench.replicating_side import BATCH_COUNT, RECEIVER, SOURCE, Link, Side, batches
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


def new_pair(root: Path) -> tuple[Side, Side, ObjectId]:
    """Two stores that know each other, and a folder of which both hold a replica."""
    source, receiver = Side(root / "source", SOURCE), Side(root / "receiver", RECEIVER)
    folder = source.make_folder()
    Link(source, receiver).run(lambda: receiver.replicator.replica.held(folder) is not None)
    return source, receiver, folder


def post_unheard(source: Side, folder: ObjectId, raws: Iterator[bytes]) -> int:
    """Post messages whose broadcasts are lost, since the other store is away. Their bytes."""
    posted_bytes = 0
    for batch in batches(raws, _POSTED_AT_ONCE):
        source.post(folder, batch)
        posted_bytes += sum(map(len, batch))
        source.tick(_BROADCAST_MS)
        source.waiting.clear()
    return posted_bytes


def receive(receiver: Side, arrived: Sequence[bytes]) -> None:
    """Apply messages that came over the link; while a batch is applied, another thread opens the next."""
    with ThreadPoolExecutor(1) as pool:
        opening = None
        for batch in batches(arrived, BATCH_COUNT):
            before, opening = opening, pool.submit(receiver.open, batch)
            if before:
                receiver.apply(before.result())
        if opening:
            receiver.apply(opening.result())


def receiver_rates(root: Path, raws: Sequence[bytes], rounds: int) -> tuple[Rate, Rate]:
    """The best rates of local bulk delivery and of a receiver, in turn."""
    source, first, folder = new_pair(root)
    first.close()
    source.waiting.clear()
    source.post(folder, raws)
    source.tick(_BROADCAST_MS)
    arrived = list(iter(source.next_bytes, None))
    source.close()
    local, received = [], []
    for number in range(rounds):
        with new_target(root / f"local{number}") as target:
            local.append(timed(len(raws), lambda target=target: target.deliver_all(raws, 0)))  # type: ignore[misc]
        shutil.copytree(root / "receiver", root / f"receiver{number}")
        receiver = Side(root / f"receiver{number}", RECEIVER)
        received.append(timed(len(raws), lambda to=receiver: receive(to, arrived)))  # type: ignore[misc]
        if receiver.replicator.replica.state(folder).knowledge.known.count() < len(raws):
            raise AssertionError("the receiver did not take everything")
        receiver.close()
    return max(local), max(received)


def backfill_memory(root: Path, raws: Iterator[bytes], count: int) -> tuple[int, float, int]:
    """The most memory beyond that of the beginning in a backfill, seconds, and bytes on the link."""
    source, receiver, folder = new_pair(root)
    post_unheard(source, folder, raws)
    before = highest = anonymous_memory_bytes()
    link, began = Link(source, receiver), time.perf_counter()

    def is_done() -> bool:
        nonlocal highest
        highest = max(highest, anonymous_memory_bytes())
        return source.knows_as(receiver, folder)

    link.run(is_done)
    seconds = time.perf_counter() - began
    if receiver.replicator.replica.state(folder).knowledge.known.count() < count:
        raise AssertionError("the receiver did not get everything")
    source.close()
    receiver.close()
    return highest - before, seconds, link.bytes[SOURCE]


def restored_replica(root: Path, raws: Iterator[bytes], new: Sequence[bytes]) -> Restored:
    """Put a replica back to an old copy of its files, and let it come in sync again.

    Half of the deletions are purged at the source by then, so that only reconciling can tell of them.
    """
    source, receiver, folder = new_pair(root)
    post_unheard(source, folder, raws)
    link = Link(source, receiver)
    link.run(lambda: source.knows_as(receiver, folder))
    all_bytes = link.bytes[SOURCE]
    receiver.close()
    shutil.copytree(root / "receiver", root / "old copy")
    receiver = Side(root / "receiver", RECEIVER, Start.AGAIN, now_ms=source.now_ms)

    rng = random.Random(1)
    ids = sorted(source.live(folder))
    chosen = rng.sample(ids, round(len(ids) * (CHANGED + DELETED)))
    changed, deleted = chosen[: len(new)], chosen[len(new) :]
    link = Link(source, receiver)
    source.delete(folder, deleted[::2])
    link.run(lambda: source.knows_as(receiver, folder) and not source.holds(folder, deleted[0]))
    for message, raw in zip(changed, new, strict=True):
        source.edit(folder, message, raw)
    source.delete(folder, deleted[1::2])
    link.run(lambda: source.knows_as(receiver, folder))
    receiver.close()

    receiver = Side(root / "old copy", RECEIVER, Start.WENT_BACK, now_ms=source.now_ms)
    link = Link(source, receiver)
    link.run(lambda: source.knows_as(receiver, folder))
    live = receiver.live(folder)
    is_equal = live == source.live(folder)
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
        local, received = receiver_rates(root, list(resample(corpus, count)), options.rounds)
        ratio = received.per_second / local.per_second
        return (
            f"{received.per_second:.0f}/s and {received.cpu_us:.0f} us of processor a message; local bulk "
            f"delivery {local.per_second:.0f}/s and {local.cpu_us:.0f} us; {ratio:.2f} of its rate, target "
            f"{RATE_AT_LEAST}, {local.cpu_us / received.cpu_us:.2f} by the processor"
        )

    def memory(root: Path) -> str:
        most, seconds, link_bytes = backfill_memory(root, resample(corpus, count), count)
        return (
            f"{count} messages in {seconds:.0f} s, {link_bytes / 1e6:.1f} MB on the link, "
            f"{most / 1e6:.0f} MB of memory for both sides, target {MEMORY_AT_MOST / 1e6:.0f}"
        )

    def restored(root: Path) -> str:
        new = list(resample(corpus, round(count * CHANGED), seed=2))
        found = restored_replica(root, resample(corpus, count), new)
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
