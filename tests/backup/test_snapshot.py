"""What a snapshot of a running storage group promises: one instant, always a thaw, work in proportion."""

from __future__ import annotations

import threading
from contextlib import suppress
from random import Random

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.pack import BlobKind
from pillarbox.backup.repository.repository import Snapshot, SnapshotKind
from pillarbox.backup.restore import restore_to_directory
from pillarbox.backup.snapshot import (
    GroupSnapshot,
    SnapshotHook,
    SnapshotSource,
    snapshot_databases,
    source_of,
)
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import Table
from pillarbox.store.errors import Corrupt, DiskFull, NotFound, Refused, Retryable
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.server import Server
from pillarbox.store.upkeep.maintenance import compact


class Hook(SnapshotHook):
    """Writes down what it is told; raises or lets time pass where it shall."""

    def __init__(self, told: list[str], name: str, clock: VirtualClock, *, slow_ms: int = 0, bad: str = ""):
        self.told, self.name, self.clock, self.slow_ms, self.bad = told, name, clock, slow_ms, bad

    def _tell(self, what: str) -> None:
        self.told.append(f"{what} {self.name}")
        if what == self.bad:
            raise OSError("the program failed")

    def prepare(self) -> None:
        self._tell("prepare")

    def freeze(self) -> None:
        self._tell("freeze")
        self.clock.advance_ms(self.slow_ms)

    def thaw(self) -> None:
        self._tell("thaw")

    def complete(self) -> None:
        self._tell("complete")

    def abort(self) -> None:
        self._tell("abort")


def test_a_restored_snapshot_is_byte_for_byte_what_was_stored(group):
    for database in group.databases:
        group.deliver(database, group.corpus())
    assert group.restored(group.snapshot(), "out") == [group.corpus(), group.corpus()]


def test_a_snapshot_shows_one_instant_of_both_databases_while_mail_arrives(group):
    """A delivers first, then B: at any instant A has as many as B, or one more."""
    first, second = group.databases
    mail = group.corpus()
    stop, started = threading.Event(), threading.Event()

    def deliver_alternately() -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            group.deliver(first, [mail[number % len(mail)]])
            group.deliver(second, [mail[number % len(mail)]])
            if number == 3:
                started.set()

    thread = threading.Thread(target=deliver_alternately)
    thread.start()
    try:
        started.wait(30)
        snapshots = [group.snapshot() for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    for number, snapshot in enumerate(snapshots):
        in_first, in_second = group.restored(snapshot, f"out{number}")
        assert len(in_first) - len(in_second) in (0, 1)
        assert in_first == [mail[at % len(mail)] for at in range(len(in_first))]
        assert in_second == in_first[: len(in_second)]


def test_a_further_snapshot_reads_and_writes_what_is_new(group, backend, monkeypatch):
    database = group.databases[0]
    noise = Random(5)
    group.deliver(database, [b"Subject: big\n\n" + noise.randbytes(60_000).hex().encode() for _ in range(40)])
    group.snapshot()
    stored = sum(len(data) for data in backend.files.values())
    read = 0
    original = type(database.stream).read_bytes

    def counted(stream, segment, offset, length):
        nonlocal read
        read += length
        return original(stream, segment, offset, length)

    monkeypatch.setattr(type(database.stream), "read_bytes", counted)
    group.deliver(database, [b"Subject: small\n\none more\n"])
    read = 0
    snapshot = group.snapshot()
    more = sum(len(data) for data in backend.files.values()) - stored
    assert stored > 2_000_000
    assert read < 5 * 262_144, "no more than the last chunks, and what proves that they continue"
    assert more < 0.3 * stored
    assert len(group.restored(snapshot, "out")[0]) == 41


def test_a_segment_that_compaction_removes_meanwhile_is_no_part_of_the_snapshot(group):
    database = group.databases[0]
    noise = Random(6)
    group.deliver(database, [b"Subject: big\n\n" + noise.randbytes(60_000).hex().encode() for _ in range(40)])
    actor = Actor.task("test")
    with database.read(actor) as held:
        inbox = mailboxes.find(held, "anna").roles["inbox"]
        items = list(folders.messages(held, inbox))
        with database.transaction(actor) as txn:
            for item in items:
                if txn.record(Table.CONTENT, item.digest).segment == 2:
                    messages.delete(txn, item.message_id)
        compact(database, actor)
        assert 2 in database.stream.segments(), "a read still looks at it"
    compacted = []

    def compact_once(_: int) -> None:
        if not compacted:
            compacted.append(compact(database, actor))

    snapshot = group.snapshot(progress=compact_once)
    assert 2 not in database.stream.segments()
    assert group.restored(snapshot, "out")[0] == group.contents(database)


def test_a_segment_that_is_missing_fails_the_snapshot(group):
    database = group.databases[0]
    noise = Random(7)
    group.deliver(database, [b"Subject: big\n\n" + noise.randbytes(60_000).hex().encode() for _ in range(40)])
    database.stream.path(2).unlink()
    with pytest.raises(Corrupt, match="missing"):
        group.snapshot()


def test_a_snapshot_of_nothing_new_stores_nothing_but_itself(group, backend):
    group.deliver(group.databases[0], group.corpus())
    group.snapshot()
    packs = [key for key in backend.files if key[0] == FileKind.PACK]
    group.snapshot()
    assert [key for key in backend.files if key[0] == FileKind.PACK] == packs


def test_snapshots_before_and_after_many_changes_each_restore_their_own_moment(group):
    mail = group.corpus() * 4
    snapshots = []
    for end in range(20, len(mail) + 1, 20):
        group.deliver(group.databases[0], mail[end - 20 : end])
        snapshots.append((end, group.snapshot()))
    for end, snapshot in snapshots:
        assert group.restored(snapshot, f"out{end}")[0] == mail[:end]


def test_a_stream_that_was_taken_back_is_not_mixed_with_what_it_was(group):
    """A database restored to an earlier moment writes other bytes at the same positions."""
    database = group.databases[0]
    group.deliver(database, group.corpus()[:5])
    early = group.snapshot()
    group.deliver(database, group.corpus()[5:15])
    group.snapshot()
    restored = restore_to_directory(group.repository, early, group.directory / "back", clock=group.clock)
    database.dismount()
    group.databases[0] = group.open_restored(restored[0].path, 1, group.clock)
    group.deliver(group.databases[0], group.corpus()[15:])
    expected = group.corpus()[:5] + group.corpus()[15:]
    assert group.restored(group.snapshot(), "out")[0] == expected


def test_hooks_are_called_in_order(group):
    told: list[str] = []
    hooks = [Hook(told, "a", group.clock), Hook(told, "b", group.clock)]
    group.snapshot(hooks=hooks)
    steps = ["prepare a", "prepare b", "freeze a", "freeze b", "thaw b", "thaw a", "complete a", "complete b"]
    assert told == steps


def test_a_freeze_that_takes_too_long_thaws_and_fails_the_backup(group):
    told: list[str] = []
    hooks = [Hook(told, "a", group.clock), Hook(told, "b", group.clock, slow_ms=501)]
    with pytest.raises(Retryable, match="longer than 500 ms"):
        group.snapshot(hooks=hooks, freeze_timeout_ms=500)
    assert told == [
        "prepare a", "prepare b", "freeze a", "freeze b", "thaw b", "thaw a", "abort a", "abort b",
    ]  # fmt: skip
    assert group.repository.snapshots() == []
    group.deliver(group.databases[0], group.corpus()[:1])
    assert len(group.contents(group.databases[0])) == 1


def test_databases_thaw_when_the_second_cannot_freeze(group):
    group.databases[1].dismount()
    with pytest.raises(Refused, match="not mounted"):
        group.snapshot()
    group.deliver(group.databases[0], group.corpus()[:1])
    assert len(group.contents(group.databases[0])) == 1


@pytest.mark.parametrize("bad", ["prepare", "freeze"])
def test_a_hook_that_fails_aborts_the_backup_and_all_go_on(group, bad):
    told: list[str] = []
    with pytest.raises(OSError, match="the program failed"):
        group.snapshot(hooks=[Hook(told, "a", group.clock, bad=bad), Hook(told, "b", group.clock)])
    assert "abort a" in told and "complete a" not in told
    assert told.count("thaw a") == told.count("freeze a")
    group.deliver(group.databases[0], group.corpus()[:1])


def test_an_incremental_needs_a_full_and_says_which_moment_it_follows(group):
    with pytest.raises(Refused, match="no full backup"):
        group.snapshot(kind=SnapshotKind.INCREMENTAL)
    full = group.snapshot()
    first = group.snapshot(kind=SnapshotKind.INCREMENTAL)
    group.snapshot(kind=SnapshotKind.COPY)
    second = group.snapshot(kind=SnapshotKind.INCREMENTAL)
    since_full = group.snapshot(kind=SnapshotKind.DIFFERENTIAL)
    assert first.manifest["based_on_ms"] == full.time_ms
    assert second.manifest["based_on_ms"] == first.time_ms
    assert since_full.manifest["based_on_ms"] == full.time_ms


def test_a_group_without_databases_is_no_backup(group):
    with pytest.raises(NotFound, match="no mounted database"):
        GroupSnapshot(SnapshotSource("server", "First", []), group.repository, clock=group.clock).run()


def test_a_backup_killed_at_any_write_leaves_earlier_ones_whole_and_the_next_continues(
    group, world, backend, killed_everywhere
):
    database = group.databases[0]
    group.deliver(database, group.corpus()[:10])
    early = group.snapshot()
    group.deliver(database, group.corpus()[10:])
    source = SnapshotSource("server", "First", group.databases)

    def back_up(storage: MemoryBackend) -> Snapshot:
        return GroupSnapshot(source, world.open(storage), clock=world.clock).run()

    survivors = 0

    def survives(storage: MemoryBackend) -> None:
        nonlocal survivors
        survivors += 1
        repository = world.open(storage)
        assert check_repository(repository, read_data=1).is_whole
        assert repository.snapshot(early.id) == early
        back_up(storage)
        assert check_repository(repository, read_data=1).is_whole

    assert killed_everywhere(backend, back_up, survives) > 5
    assert survivors > 5


def test_a_full_disk_of_the_repository_is_told_as_that_whichever_thread_meets_it(group, backend):
    group.deliver(group.databases[0], [Random(1).randbytes(3_000_000)])

    def full(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.PACK:
            raise DiskFull("no space left on the disk")

    backend.before = full
    with group.repository.writer(pack_bytes=100_000, uploads=1) as writer:
        for number in range(20):
            with suppress(DiskFull):
                writer.add(BlobKind.DATA, Random(number).randbytes(50_000))
        with pytest.raises(DiskFull):
            writer.add(BlobKind.DATA, b"more")
    with pytest.raises(DiskFull):
        group.snapshot()


def test_messages_of_public_folders_are_counted(world, tmp_path, mail_corpus):
    with Server.create(tmp_path / "server", clock=world.clock, rng=Random(1)) as server:
        database = server.database("Public Folder Store")
        with database.transaction(Actor.task("test")) as txn:
            folder = public_folders.create(txn, "Announcements")
        for raw in mail_corpus[:3]:
            prepared = messages.prepare(database.files, raw)
            with database.transaction(Actor.task("test")) as txn:
                messages.append(txn, folder.folder_id, prepared)
        repository = world.create(MemoryBackend())
        source = source_of(server, server.group("First Storage Group"))
        snapshot = GroupSnapshot(source, repository, clock=world.clock).run()
    counts = {each["name"]: each["messages_count"] for each, _ in snapshot_databases(snapshot)}
    assert counts == {"Mailbox Store": 0, "Public Folder Store": 3}
