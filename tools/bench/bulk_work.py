"""`python -m pillarbox.tools.bench.bulk_work`: deliveries beside a purge, and how bulk work grows."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind, MailboxRecord
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError
from pillarbox.store.ids import GUID_BYTES
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.upkeep.repair import repair_database
from pillarbox.tools.bench.report import Verdict, at_least_one

PURGE_COUNT: Final = 100_000
FOLDERS_COUNT: Final = 4_000
MAILBOXES_COUNT: Final = 5_000
INTERVALS_COUNT: Final = 4_000
_ACTOR: Final = Actor.user("bench")
_WINDOW_S: Final = 2.0
_GROWTH_AT_MOST: Final = 2.3


@dataclass(frozen=True)
class Waits:
    """Deliveries of one caller, each waiting for its own: how many a second, and how long they took."""

    rate: float
    longest_ms: float
    p999_ms: float


@dataclass(frozen=True)
class PurgeRound:
    """A purge alone, one beside deliveries, and deliveries alone before and after both."""

    alone_s: float
    beside_s: float
    rates_alone: tuple[float, float]
    beside: Waits

    @property
    def kept_rate(self) -> float:
        """The part of their rate that the deliveries kept."""
        return self.beside.rate / statistics.mean(self.rates_alone)

    @property
    def times_longer(self) -> float:
        """The time of the purge beside deliveries, as a multiple of its time alone."""
        return self.beside_s / self.alone_s


def purge_round(root: Path, count: int) -> PurgeRound:
    """Purge two mailboxes of `count` messages, one alone and one beside deliveries."""
    database = _new(root, DatabaseKind.MAILBOX_STORE)
    try:
        with database.transaction(_ACTOR) as txn:
            mailboxes.create(txn, "reader")
        first, second = (_fill(database, name, count) for name in ("first", "second"))
        before = _deliver_for(database, _WINDOW_S)
        alone_s = _purge(database, first)
        took: list[float] = []
        purge = threading.Thread(target=lambda: took.append(_purge(database, second)))
        purge.start()
        beside = _deliver_while(database, purge.is_alive)
        purge.join()
        after = _deliver_for(database, _WINDOW_S)
    finally:
        database.dismount()
    return PurgeRound(alone_s, took[0], (before.rate, after.rate), beside)


def _new(path: Path, kind: DatabaseKind) -> Database:
    tuning = Tuning(remove_beside=False)  # the measure itself does so
    database = Database(path, bytes(GUID_BYTES), "Bench", kind, tuning=tuning)
    database.create()
    database.mount()
    return database


def _fill(database: Database, name: str, count: int) -> MailboxRecord:
    with database.transaction(_ACTOR) as txn:
        box = mailboxes.create(txn, name)
    for start in range(0, count, 1000):
        prepared = [
            messages.prepare(database.files, b"Subject: %d\nFrom: a%d@example.org\n\nbody\n" % (at, at % 977))
            for at in range(start, min(start + 1000, count))
        ]
        with database.transaction(_ACTOR) as txn:
            for each in prepared:
                messages.append(txn, box.roles[mailboxes.INBOX], each)
    return box


def _purge(database: Database, box: MailboxRecord) -> float:
    start = time.perf_counter()
    with database.transaction(_ACTOR) as txn:
        mailboxes.purge(txn, box.guid)
    database.finish_removals()
    return time.perf_counter() - start


def _deliver_for(database: Database, window_s: float) -> Waits:
    end = time.perf_counter() + window_s
    return _deliver_while(database, lambda: time.perf_counter() < end)


def _deliver_while(database: Database, goes_on: Callable[[], bool]) -> Waits:
    waits: list[float] = []
    begun = time.perf_counter()
    while goes_on() or not waits:
        start = time.perf_counter()
        deliver(database, _ACTOR, "reader", b"Subject: %d\nFrom: a@example.org\n\nbody\n" % len(waits))
        waits.append(time.perf_counter() - start)
    rate = len(waits) / (time.perf_counter() - begun)
    waits.sort()
    return Waits(rate, waits[-1] * 1000, waits[int(len(waits) * 0.999)] * 1000)


# -- how it grows


def tree_deleted(root: Path, count: int) -> float:
    """Processor seconds that a tree of `count` folders takes to be deleted and removed."""
    database = _new(root, DatabaseKind.MAILBOX_STORE)
    try:
        with database.transaction(_ACTOR) as txn:
            top = folders.create(txn, mailboxes.create(txn, "reader").root_id, "top").folder_id
            for number in range(count):
                folders.create(txn, top, f"folder {number}")
        start = time.process_time()
        with database.transaction(_ACTOR) as txn:
            folders.delete(txn, top, with_contents=True)
        database.finish_removals()
        return time.process_time() - start
    finally:
        database.dismount()


def mailboxes_repaired(root: Path, count: int) -> float:
    """Processor seconds that the repair of `count` empty mailboxes takes."""
    database = _new(root, DatabaseKind.MAILBOX_STORE)
    with database.transaction(_ACTOR) as txn:
        for number in range(count):
            mailboxes.create(txn, f"user {number}")
    database.dismount()
    start = time.process_time()
    repair_database(database)
    return time.process_time() - start


def unread_listed(root: Path, count: int) -> float:
    """Processor seconds that unread messages take to be listed between `count` intervals of read ones."""
    database = _new(root, DatabaseKind.PUBLIC_FOLDER_STORE)
    try:
        prepared = messages.prepare(database.files, b"Subject: x\n\ny\n")
        with database.transaction(_ACTOR) as txn:
            public_folders.create_tree(txn)
            folder_id = public_folders.create(txn, "News").folder_id
            for _ in range(2 * count):
                messages.append(txn, folder_id, prepared)
            for uid in range(1, 2 * count, 2):
                public_folders.mark_read(txn, folder_id, uid, uid)
        with database.read(_ACTOR) as read:
            start = time.process_time()
            for item in public_folders.unread(read, folder_id):
                public_folders.is_read(read, item)
            return time.process_time() - start
    finally:
        database.dismount()


GROWTHS: Final = {
    "a tree of {:,} folders deleted": (tree_deleted, FOLDERS_COUNT),
    "{:,} empty mailboxes repaired": (mailboxes_repaired, MAILBOXES_COUNT),
    "unread of {:,} intervals listed": (unread_listed, INTERVALS_COUNT),
}


@dataclass(frozen=True)
class Growth:
    """Processor seconds of one piece of work, and of the same at half the size."""

    name: str
    half_s: float
    whole_s: float


def growths(root: Path, part: int, rounds: int) -> list[Growth]:
    """The least times of some rounds; the sizes are the 1/`part` of those that are asked for."""
    found = []
    for number, (name, (measure, count)) in enumerate(GROWTHS.items()):
        sizes = [max(1, count // part // 2), max(1, count // part)]
        times = [
            [measure(root / f"{number}-{turn}-{size}", size) for size in sizes] for turn in range(rounds)
        ]
        half_s, whole_s = (min(column) for column in zip(*times, strict=True))
        found.append(Growth(name.format(sizes[1]), half_s, whole_s))
    return found


def verdicts(purges: Sequence[PurgeRound], grown: Sequence[Growth]) -> list[Verdict]:
    """The targets, and the figures that were reached: of the rounds the median, of waits the longest."""
    kept = statistics.median(purge.kept_rate for purge in purges)
    longer = statistics.median(purge.times_longer for purge in purges)
    longest = max(purge.beside.longest_ms for purge in purges)
    p999 = max(purge.beside.p999_ms for purge in purges)
    found = [
        Verdict("deliveries beside a purge / alone", kept, 0.7, kept >= 0.7),
        Verdict("the longest delivery beside a purge, ms (at most)", longest, 250, longest <= 250),
        Verdict("99.9 % of the deliveries beside a purge, ms (at most)", p999, 250, p999 <= 250),
        Verdict("a purge beside deliveries / alone (at most)", longer, 3, longer <= 3),
    ]
    for growth in grown:
        times = growth.whole_s / max(growth.half_s, 1e-9)
        what = f"{growth.name} / half of it (at most)"
        found.append(Verdict(what, times, _GROWTH_AT_MOST, times <= _GROWTH_AT_MOST))
    return found


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether targets are met or not; 1 on an error."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir=options.dir) as made:
            root = Path(made)
            purges = [purge_round(root / str(at), options.count) for at in range(options.rounds)]
            grown = growths(root, options.part, options.rounds)
    except PillarboxError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    judged = verdicts(purges, grown)
    if options.json:
        told = {"purges": [asdict(purge) for purge in purges], "growths": [asdict(each) for each in grown]}
        print(json.dumps(told | {"targets": [verdict._asdict() for verdict in judged]}, indent=2))
        return 0
    for purge in purges:
        print(f"purge: alone {purge.alone_s:.2f} s, beside deliveries {purge.beside_s:.2f} s")
        before, after = purge.rates_alone
        print(f"deliveries a second: {before:.0f} before, {purge.beside.rate:.0f} beside, {after:.0f} after")
    for growth in grown:
        print(f"{growth.name}: {growth.whole_s:.3f} s of processor, half of it {growth.half_s:.3f} s")
    for verdict in judged:
        word = "met" if verdict.met else "MISSED"
        print(f"{verdict.what:72s}{verdict.reached:8.2f}  target {verdict.wanted:6.2f}  {word}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.bulk_work", description=__doc__)
    parser.add_argument("count", type=at_least_one, nargs="?", default=PURGE_COUNT, help="messages purged")
    parser.add_argument("--rounds", type=at_least_one, default=1, help="rounds, each side in turn")
    parser.add_argument("--part", type=at_least_one, default=1, help="grow work of 1/PART of its size")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    return parser


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
