"""Real processes on one repository: killed at any moment, two backing up at once, a prune beside them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

import pytest

from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import KeyFile
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.restore import restore_to_directory
from pillarbox.backup.retention import KeepRules, choose_kept
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store.access import Actor
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import RepositoryLocked
from pillarbox.store.mail import folders, mailboxes, messages

ACTOR = Actor.task("test")
KEY = KeyFile(bytes(range(32)))
CLOCK = SystemClock()
TUNING = Tuning(segment_bytes=200_000)
PER_SNAPSHOT = 7

CHILD = """
import sys
sys.path.insert(0, {here!r})
from test_processes import back_up_for_ever, deliver_for_ever
if sys.argv[3] == "deliver":
    deliver_for_ever(sys.argv[1])
back_up_for_ever(sys.argv[1], sys.argv[2], sys.argv[3] == "prune")
"""


def raw_of(seed: int) -> bytes:
    rng = random.Random(seed)
    return b"Subject: %d\r\n\r\n" % seed + rng.randbytes(rng.choice((50, 500, 5000, 60_000)))


def database_at(path: Path, name: str) -> Database:
    kind = DatabaseKind.MAILBOX_STORE
    return Database(path, name.encode().ljust(16, b"."), name, kind, clock=CLOCK, tuning=TUNING)


def open_repository(directory: Path) -> Repository:
    return Repository.open(DirectoryBackend(directory / "repository"), KEY, clock=CLOCK)


def held(database: Database) -> list[bytes]:
    with database.read(ACTOR) as read:
        inbox = mailboxes.find(read, "anna").roles["inbox"]
        return [messages.content(read, item) for item in folders.messages(read, inbox)]


def back_up_for_ever(place: str, name: str, pruning: bool) -> None:
    """The child: deliver, back up, say which snapshot holds how many messages; forget and prune between."""
    directory = Path(place)
    database = database_at(directory / name, name)
    database.mount()
    repository = open_repository(directory)
    source = SnapshotSource("server", name, [database])
    count = len(held(database))
    while True:
        for _ in range(PER_SNAPSHOT):
            prepared = messages.prepare(database.files, raw_of(count))
            with database.transaction(ACTOR) as txn:
                messages.append(txn, mailboxes.find(txn, "anna").roles["inbox"], prepared)
            count += 1
        try:
            made = GroupSnapshot(source, repository, clock=CLOCK).run()
        except RepositoryLocked:  # a prune is at work
            CLOCK.sleep_ms(5)
            continue
        sys.stdout.write(f"{made.id} {count}\n")
        sys.stdout.flush()
        if pruning:
            keep_two(repository)
        CLOCK.sleep_ms(50)  # a prune waits for a moment in which nobody backs up


def deliver_for_ever(place: str) -> None:
    """The child: one message after the other, each into database one first and then into two."""
    databases = [database_at(Path(place) / name, name) for name in ("one", "two")]
    for database in databases:
        database.mount()
    for count in range(1_000_000):
        for database in databases:
            prepared = messages.prepare(database.files, raw_of(count))
            with database.transaction(ACTOR) as txn:
                messages.append(txn, mailboxes.find(txn, "anna").roles["inbox"], prepared)
        sys.stdout.write(f"{count} {count}\n")
        sys.stdout.flush()


def keep_two(repository: Repository) -> None:
    decisions = choose_kept(repository.snapshots(), KeepRules(last=2))
    repository.forget([each.snapshot.id for each in decisions if not each.is_kept])
    prune(repository, wait_ms=10_000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a new repository and two databases, not mounted."""
    Repository.create(DirectoryBackend(tmp_path / "repository"), KEY, clock=CLOCK)
    for name in ("one", "two"):
        database = database_at(tmp_path / name, name)
        database.create()
        database.mount()
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "anna")
        database.dismount()
    return tmp_path


@contextmanager
def child(place: Path, name: str, work: str) -> Iterator[subprocess.Popen[str]]:
    code = CHILD.format(here=str(Path(__file__).parent))
    words = [sys.executable, "-c", code, str(place), name, work]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGKILL)


def said(running: subprocess.Popen[str], count: int) -> list[tuple[str, int]]:
    """The next `count` snapshots that a child acknowledges, each with how many messages it holds."""
    assert running.stdout is not None
    lines = list(islice(running.stdout, count))
    return [(line.split()[0], int(line.split()[1])) for line in lines if line.endswith("\n")]


def assert_restores(repository: Repository, snapshot: Snapshot, place: Path, count: int) -> None:
    restored = restore_to_directory(repository, snapshot, place, clock=CLOCK, thorough=True)
    database = database_at(restored[0].path, restored[0].name)
    database.mount()
    found = held(database)
    database.dismount()
    assert found == [raw_of(seed) for seed in range(count)]


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(each, marks=pytest.mark.slow) for each in range(2, 40))]
)
def test_killed_at_any_moment_the_repository_is_whole_and_the_next_run_goes_on(
    place: Path, seed: int
) -> None:
    """Half of the runs also forget and prune between their backups."""
    rng = random.Random(seed)
    acknowledged: list[tuple[str, int]] = []
    for number in range(2):
        with child(place, "one", "prune" if seed % 2 else "keep") as running:
            acknowledged += said(running, rng.randint(1, 3))
            time.sleep(rng.uniform(0, 0.08))
            running.send_signal(signal.SIGKILL)
            acknowledged += said(running, 1000)
        repository = open_repository(place)
        assert check_repository(repository, read_data=1).is_whole
        last_id, count = acknowledged[-1]
        assert_restores(repository, repository.snapshot(last_id), place / f"restored{number}", count)


def test_two_back_up_at_once_while_a_third_prunes_and_nothing_is_lost(place: Path) -> None:
    with child(place, "one", "keep") as first, child(place, "two", "keep") as second:
        repository = open_repository(place)
        acknowledged = {"one": said(first, 2), "two": said(second, 2)}
        for _ in range(3):
            forget_all_but_newest(repository)
            prune_when_free(repository)
            acknowledged["one"] += said(first, 1)
            acknowledged["two"] += said(second, 1)
        for name, running in (("one", first), ("two", second)):
            running.send_signal(signal.SIGKILL)
            acknowledged[name] += said(running, 1000)
    repository = open_repository(place)
    assert check_repository(repository, read_data=1).is_whole
    for name, made in acknowledged.items():
        snapshot_id, count = made[-1]
        assert_restores(repository, repository.snapshot(snapshot_id), place / f"restored {name}", count)


def test_databases_that_another_process_writes_are_backed_up_as_of_one_moment(place: Path) -> None:
    repository = open_repository(place)
    snapshots = []
    with child(place, "both", "deliver") as running:
        said(running, 3)
        databases = [database_at(place / name, name) for name in ("one", "two")]
        for database in databases:
            database.mount(read_only=True)
        for _ in range(4):
            source = SnapshotSource("server", "both", databases)
            snapshots.append(GroupSnapshot(source, repository, clock=CLOCK).run())
            said(running, 2)
        for database in databases:
            database.dismount()
    counts = []
    for number, snapshot in enumerate(snapshots):
        found = []
        for each in restore_to_directory(repository, snapshot, place / f"out{number}", clock=CLOCK):
            database = database_at(each.path, each.name)
            database.mount()
            found.append(held(database))
            database.dismount()
        assert len(found[0]) - len(found[1]) in (0, 1), "the first gets each message first"
        assert found[0] == [raw_of(seed) for seed in range(len(found[0]))]
        assert found[1] == found[0][: len(found[1])]
        counts.append(len(found[0]))
    assert counts[0] >= 3 and counts == sorted(set(counts))


def prune_when_free(repository: Repository) -> None:
    for _ in range(5_000):
        try:
            prune(repository)
            return
        except RepositoryLocked:  # somebody backs up
            CLOCK.sleep_ms(7)
    pytest.fail("two that back up left a prune no moment")


def forget_all_but_newest(repository: Repository) -> None:
    """Of each database's snapshots all but the newest."""
    by_group: dict[str, list[Snapshot]] = {}
    for each in repository.snapshots():
        by_group.setdefault(each.manifest["group"], []).append(each)
    old: Sequence[Snapshot] = list(chain.from_iterable(each[:-1] for each in by_group.values()))
    repository.forget([each.id for each in old])
