"""What a restore promises: the rules on where it may go, and never wrong bytes."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pillarbox.backup import restore
from pillarbox.backup.capture import Capture
from pillarbox.backup.database_snapshot import Progress, read_stored_segments
from pillarbox.backup.replaced import new_place
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.restore import (
    Destination,
    RecoverySource,
    RestorableDatabase,
    RestoredDatabase,
    ServerState,
    choose_destination,
    put_back_interrupted,
    read_restorable,
    restorable_databases,
    restore_in_place,
    restore_to_directory,
)
from pillarbox.backup.salvage import salvage_files
from pillarbox.backup.snapshot import SnapshotSource, snapshot_databases
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.disk.tables import LAYOUT_VERSION, DatabaseKind
from pillarbox.store.engine.change_feed import changes
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    DiskFull,
    InvalidContent,
    InvalidName,
    NotFound,
    PillarboxError,
    Refused,
    UnsupportedVersion,
    WriterBusy,
)
from pillarbox.store.mail import folders, mailboxes
from pillarbox.store.upkeep.check import check_database

GUID = b"g" * 16
DATABASE = RestorableDatabase(
    GUID, "Store", DatabaseKind.MAILBOX_STORE, "First", "server", "First Administrative Group", 1, b"r" * 32
)
SERVER = ServerState({GUID})
RECOVERY = replace(SERVER, has_recovery_group=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", 5), ("guid", b"short"), ("guid", "text" * 4), ("stream_bytes", "many"), ("records_bytes", -1)],
)
def test_a_database_that_is_described_in_another_way_is_refused(key, value):
    entry = {"name": "Store", "guid": GUID, "stream_bytes": 1, "records_bytes": None, key: value}
    snapshot = Snapshot("1" * 64, 0, (b"r" * 32,), {"format": 1, "databases": [entry]})
    with pytest.raises(InvalidContent, match="describes a database"):
        list(snapshot_databases(snapshot))


def test_a_snapshot_of_a_newer_program_is_refused_by_its_format():
    snapshot = Snapshot("1" * 64, 0, (b"r" * 32,), {"format": 2, "databases": "told in another way"})
    with pytest.raises(UnsupportedVersion, match="format 2"):
        restorable_databases(snapshot)


def put_back(group, snapshot, databases, **options: Any) -> list[RestoredDatabase]:
    """Restore databases in place, all of the snapshot when none is named."""
    options = {
        "names": [each.name for each in restorable_databases(snapshot)],
        "kept_in": new_place(group.directory, group.clock.now_ms()),
        "server": server_of(group),
        "clock": group.clock,
        **options,
    }
    return restore_in_place(group.repository, snapshot, databases, **options)


def server_of(group, **state: object) -> ServerState:
    return ServerState({each.guid for each in group.databases}, **state)  # type: ignore[arg-type]


def test_a_database_goes_back_over_that_of_the_same_guid_only():
    assert choose_destination([DATABASE], SERVER) is Destination.ORIGINAL
    with pytest.raises(Conflict, match="no database of GUID"):
        choose_destination([replace(DATABASE, guid=b"h" * 16)], SERVER)


def test_with_a_recovery_group_a_restore_goes_there_unless_overridden():
    assert choose_destination([DATABASE], RECOVERY) is Destination.RECOVERY_GROUP
    assert choose_destination([DATABASE], replace(RECOVERY, recovery_override=True)) is Destination.ORIGINAL


@pytest.mark.parametrize(
    ("databases", "server", "error"),
    [
        ([replace(DATABASE, kind=DatabaseKind.PUBLIC_FOLDER_STORE)], RECOVERY, Refused),
        ([replace(DATABASE, administrative_group="Elsewhere")], RECOVERY, Refused),
        ([DATABASE, replace(DATABASE, group="Second")], RECOVERY, Refused),
        ([DATABASE], replace(RECOVERY, recovery_source=RecoverySource("server", "Second")), Refused),
        ([replace(DATABASE, layout=0)], RECOVERY, UnsupportedVersion),
        ([replace(DATABASE, layout=LAYOUT_VERSION + 1)], SERVER, UnsupportedVersion),
    ],
    ids=["public", "administrative group", "two groups", "another group there", "too old", "too new"],
)
def test_what_must_not_be_restored_is_refused(databases, server, error):
    with pytest.raises(error):
        choose_destination(databases, server)


def test_a_restore_in_place_brings_back_what_was_and_the_database_goes_on(group):
    group.deliver(group.databases[0], group.corpus()[:7])
    snapshot = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[7:])
    names = ["Store 1"]
    put_back(group, snapshot, group.databases, names=names)
    assert group.contents(group.databases[0]) == group.corpus()[:7]
    group.deliver(group.databases[0], group.corpus()[7:9])
    assert group.contents(group.databases[0]) == group.corpus()[:9]
    assert sorted(path.name for path in group.directory.iterdir()) == ["db1", "db2", "replaced"]


def is_marked(database: Database) -> bool:
    with database.read(Actor.task("test")) as read:
        return read.state().restored


def test_every_restore_marks_the_database_as_put_back(group):
    """Before a replica goes on, it must take a new identity: others may know what came after."""
    database = group.databases[0]
    snapshot = group.snapshot()
    assert not is_marked(database)
    restored = restore_to_directory(group.repository, snapshot, group.directory / "out", clock=group.clock)
    elsewhere = group.open_restored(restored[0].path, 1, group.clock)
    assert is_marked(elsewhere)
    group.deliver(elsewhere, group.corpus()[:1])
    elsewhere.dismount()
    elsewhere.mount()
    assert is_marked(elsewhere), "what is done later does not take it away"
    elsewhere.dismount()
    put_back(group, snapshot, group.databases)
    assert is_marked(database)
    assert check_database(database, Actor.task("test")).clean


def test_a_restore_in_place_goes_over_no_database_that_is_not_named(group):
    group.deliver(group.databases[0], group.corpus()[:3])
    snapshot = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[3:5])
    with pytest.raises(Refused, match="no database to be replaced is named"):
        put_back(group, snapshot, group.databases, names=[])
    put_back(group, snapshot, group.databases, names=["Store 2"])
    assert group.contents(group.databases[0]) == group.corpus()[:5]


def test_what_a_restore_in_place_replaced_is_kept_whole(group):
    group.deliver(group.databases[0], group.corpus()[:3])
    snapshot = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[3:7])
    kept = []
    for _ in range(2):  # the second in the same moment
        done = put_back(group, snapshot, group.databases)
        kept += [each.replaced for each in done if each.name == "Store 1"]
    assert group.contents(group.databases[0]) == group.corpus()[:3]
    assert len(set(kept)) == 2 and not list(group.directory.glob("*.replaced"))
    for place, count in zip(kept, (7, 3), strict=True):
        replaced = group.open_restored(place, 1, group.clock)
        assert group.contents(replaced) == group.corpus()[:count]
        replaced.dismount()


def test_of_a_database_on_another_disk_what_was_replaced_stays_beside_it(group, monkeypatch):
    snapshot = group.snapshot()
    rename = Path.rename

    def across_disks(path: Path, target: Path) -> Path:
        if "replaced" in target.parts:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across_disks)
    (first, second), (third, _) = (put_back(group, snapshot, group.databases) for _ in range(2))
    assert first.replaced.parent == second.replaced.parent == group.directory
    assert first.replaced != third.replaced and first.replaced.is_dir() and third.replaced.is_dir()


@pytest.mark.parametrize("is_lost", [False, True], ids=["still there", "lost"])
def test_a_restore_in_place_gives_out_nothing_twice(group, is_lost):
    """A message that came after the backup had UID, id and change number; another must not get them."""
    database = group.databases[0]
    capture = Capture(SnapshotSource("server", "First", group.databases), group.repository, clock=group.clock)
    snapshot = group.snapshot()
    seen = []
    for letter in "ABC":
        group.deliver(database, [b"Subject: one\n\n%s\n" % (letter * 9).encode()])
        with database.read(Actor.task("test")) as read:
            inbox = folders.get(read, mailboxes.find(read, "anna").roles["inbox"])
            (item,) = folders.messages(read, inbox.folder_id)
        seen.append((inbox.uid_validity, item.message_id, item.arrived_cn))
        assert capture.capture() is not None
        if is_lost:
            database.dismount()
            shutil.rmtree(database.path)
        put_back(group, snapshot, group.databases)
        if is_lost:
            database.mount()
    for numbers in zip(*seen, strict=True):
        assert sorted(set(numbers)) == list(numbers)
    assert check_database(database, Actor.task("test")).clean


def test_a_state_of_after_the_backup_is_refused_when_that_was_restored(group):
    database = group.databases[0]
    group.deliver(database, group.corpus()[:2])
    snapshot = group.snapshot()

    def state():
        with database.read(Actor.task("test")) as read:
            return changes(read, CNSet()).cnset

    before = state()
    group.deliver(database, group.corpus()[2:3])
    lost = state()
    put_back(group, snapshot, group.databases)
    group.deliver(database, group.corpus()[3:4])
    with database.read(Actor.task("test")) as read:
        with pytest.raises(Refused, match="restored"):
            changes(read, lost)
        assert changes(read, before).cost().new == 1
        assert list(changes(read, changes(read, before).cnset)) == []


def test_a_restore_in_place_stops_for_a_recovery_group_and_changes_nothing(group):
    group.deliver(group.databases[0], group.corpus()[:3])
    snapshot = group.snapshot()
    server = server_of(group, has_recovery_group=True)
    with pytest.raises(Refused, match="recovery storage group"):
        put_back(group, snapshot, group.databases, server=server)
    assert group.contents(group.databases[0]) == group.corpus()[:3]


def test_a_restore_in_place_puts_the_names_of_the_mailboxes_right(group, tmp_path):
    database = group.databases[0]
    database.dismount()
    database.mailbox_names = MailboxNames(tmp_path / "names", database.guid)
    database.mount()
    snapshot = group.snapshot()
    with database.transaction(Actor.task("test")) as txn:
        mailboxes.rename(txn, mailboxes.find(txn, "anna").guid, "anne")
    assert b"anna" not in database.mailbox_names.read()
    database.dismount()
    put_back(group, snapshot, [database], names=["Store 1"])
    assert database.mailbox_names.read().keys() >= {b"anna"} and b"anne" not in database.mailbox_names.read()


def test_one_database_of_two_is_restored_when_named(group):
    snapshot = group.snapshot()
    place = group.directory / "out"
    restored = restore_to_directory(group.repository, snapshot, place, names=["Store 2"], clock=group.clock)
    assert [each.name for each in restored] == ["Store 2"]
    assert [path.name for path in (place / "First").iterdir()] == ["Store 2"]
    with pytest.raises(NotFound, match="no database 'Store 3'"):
        restorable_databases(snapshot, ["Store 3"])


def test_a_restore_never_goes_over_what_is_there(group):
    snapshot = group.snapshot()
    place = group.directory / "out"
    restore_to_directory(group.repository, snapshot, place, clock=group.clock)
    with pytest.raises(AlreadyExists):
        restore_to_directory(group.repository, snapshot, place, clock=group.clock)


@pytest.mark.parametrize("name", ["../out", "/etc", "..", "a\0b", ""])
def test_a_name_that_leads_out_of_the_directory_is_refused(group, name):
    snapshot = group.snapshot()
    hostile = replace(snapshot, manifest={**snapshot.manifest, "group": name})
    with pytest.raises(InvalidName):
        restorable_databases(hostile)


def test_a_damaged_repository_never_restores_other_bytes_silently(group, backend):
    """Every pack in turn with a flipped byte, and every pack gone: an error, or exactly what was stored."""
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    keys = [key for key in backend.files if key[0] == FileKind.PACK]
    errors = 0
    for number, key in enumerate(keys):
        whole = backend.files[key]
        for place in range(50, len(whole), len(whole) // 6):
            backend.files[key] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            errors += not _restores_rightly(group, snapshot, f"flip{number}-{place}")
        del backend.files[key]
        errors += not _restores_rightly(group, snapshot, f"gone{number}")
        backend.files[key] = whole
    assert errors >= len(keys)


def _restores_rightly(group, snapshot, place: str) -> bool:
    try:
        found = group.restored(snapshot, place)
    except PillarboxError:
        assert not list((group.directory / place).glob("*/*.restoring"))
        return False
    assert found == [group.corpus(), []]
    return True


def test_a_database_that_was_damaged_when_backed_up_replaces_nothing(group):
    database = group.databases[0]
    group.deliver(database, group.corpus())
    path = database.stream.path(1)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    snapshot = group.snapshot()
    with pytest.raises(Corrupt, match="damaged"):
        put_back(group, snapshot, group.databases)
    assert sorted(each.name for each in group.directory.iterdir()) == ["db1", "db2"]


def test_a_thorough_restore_refuses_what_was_damaged_when_backed_up(group):
    """Without it the files come back as they were backed up, and a read of the damaged message says so."""
    database = group.databases[0]
    group.deliver(database, group.corpus())
    path = database.stream.path(1)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    snapshot = group.snapshot()
    place = group.directory / "out"
    with pytest.raises(Corrupt, match="damaged"):
        restore_to_directory(group.repository, snapshot, place, clock=group.clock, thorough=True)
    assert not list(place.glob("*/*"))
    with pytest.raises(Corrupt):
        group.restored(snapshot, "out")


def test_what_has_no_room_on_the_disk_is_refused_before_it_is_written(group, monkeypatch):
    """Also an enemy's few blobs that stand for any size."""
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    usage = shutil.disk_usage(group.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    written: list[int] = []
    with pytest.raises(DiskFull, match="100000 are free"):
        restore_to_directory(
            group.repository, snapshot, group.directory / "out", clock=group.clock, progress=written.append
        )
    assert written == [] and not list(group.directory.glob("out/*/*"))


def fill_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Let the disk be full from the `number`-th flush of a file on; the flushes that were asked for."""
    asked: list[int] = []
    flush = os.fsync

    def full(descriptor: int) -> None:
        asked.append(descriptor)
        if len(asked) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    return asked


@pytest.mark.parametrize("number", range(1, 9))
def test_on_a_disk_that_becomes_full_nothing_half_made_is_left_and_what_was_there_serves(
    group, monkeypatch, number
):
    group.deliver(group.databases[0], group.corpus()[:5])
    snapshot = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[5:8])
    before = group.contents(group.databases[0])
    for bring_back in (
        lambda: restore_to_directory(
            group.repository, snapshot, group.directory / "out", clock=group.clock, names=["Store 1"]
        ),
        lambda: put_back(group, snapshot, group.databases, names=["Store 1"]),
    ):
        with monkeypatch.context() as patch:
            asked = fill_disk(patch, number)
            with pytest.raises(DiskFull):
                bring_back()
            assert len(asked) >= number
        left = [*group.directory.glob("out/*/*"), *group.directory.glob("*.restoring")]
        assert all(path.suffix == ".restoring" and not list(path.iterdir()) for path in left)
        assert group.contents(group.databases[0]) == before
    assert group.restored(snapshot, "out")[0] == before[:5]


@pytest.mark.parametrize("part", ["image_bytes", "redo_bytes"])
def test_tables_that_are_larger_than_they_say_are_refused(group, monkeypatch, part):
    group.snapshot()
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    read = restore.read_stored_database
    monkeypatch.setattr(restore, "read_stored_database", lambda *of: replace(read(*of), **{part: 10}))
    with pytest.raises(Corrupt, match="larger than the snapshot says"):
        restore_to_directory(group.repository, snapshot, group.directory / "out", clock=group.clock)


def test_a_restored_database_counts_on_from_where_it_was(group):
    group.deliver(group.databases[0], group.corpus()[:3])
    snapshot = group.snapshot()
    restored = restore_to_directory(group.repository, snapshot, group.directory / "out", clock=group.clock)
    database = group.open_restored(restored[0].path, 1, group.clock)
    group.deliver(database, group.corpus()[3:5])
    database.dismount()
    database.mount()
    assert group.contents(database) == group.corpus()[:5]
    database.dismount()


def restore_both(group, snapshot) -> None:
    put_back(group, snapshot, group.databases)


def in_both(group) -> list[list[bytes]]:
    return [group.contents(database) for database in group.databases]


def test_of_several_databases_all_are_replaced_or_none(group, monkeypatch):
    """The second of two cannot be mounted once it is restored: both are again what they were, and mounted."""
    corpus = group.corpus()
    snapshot = group.snapshot()
    for database in group.databases:
        group.deliver(database, corpus[:3])
    second = group.databases[1]
    mount, mounts = second.mount, []

    def fail_once(**options: object) -> None:
        mounts.append(options)
        if len(mounts) == 1:
            raise Corrupt("cannot be mounted")
        mount(**options)

    monkeypatch.setattr(second, "mount", fail_once)
    with pytest.raises(Corrupt, match="cannot be mounted"):
        restore_both(group, snapshot)
    assert in_both(group) == [corpus[:3], corpus[:3]]
    assert sorted(path.name for path in group.directory.iterdir()) == ["db1", "db2"]
    restore_both(group, snapshot)
    assert in_both(group) == [[], []]


def test_a_restore_in_place_stops_before_a_database_that_another_process_writes(group):
    corpus = group.corpus()
    snapshot = group.snapshot()
    group.deliver(group.databases[0], corpus[:3])
    writer = group.databases[1]
    here = Database(writer.path, writer.guid, writer.name, writer.kind, clock=group.clock)
    with pytest.raises(WriterBusy):
        put_back(group, snapshot, [group.databases[0], here])
    group.deliver(writer, corpus[:2])
    assert in_both(group) == [corpus[:3], corpus[:2]]


@pytest.mark.parametrize("renames", [1, 2, 3, 4])
def test_a_crash_during_the_exchange_costs_nothing(group, monkeypatch, tmp_path_factory, renames):
    """After each rename: each database is as it was or as it was restored, and a restore goes through."""
    corpus = group.corpus()
    for database in group.databases:
        group.deliver(database, corpus[:2])
    snapshot = group.snapshot()
    for database in group.databases:
        group.deliver(database, corpus[2:4])
    crashed = tmp_path_factory.mktemp("crash") / "group"
    copy_after_renames(monkeypatch, renames, group.directory, crashed)
    restore_both(group, snapshot)
    monkeypatch.undo()

    group.close()
    group.directory = crashed
    group.databases = [
        Database(crashed / each.path.name, each.guid, each.name, each.kind, clock=group.clock)
        for each in group.databases
    ]
    put_back_interrupted(group.databases)
    for database in group.databases:
        database.mount()
    assert all(held in (corpus[:2], corpus[:4]) for held in in_both(group))
    restore_both(group, snapshot)
    assert in_both(group) == [corpus[:2], corpus[:2]]
    assert sorted(path.name for path in crashed.iterdir()) == ["db1", "db2", "replaced"]


def test_a_database_that_a_crash_left_without_files_is_restored_all_the_same(group):
    snapshot = group.snapshot()
    database = group.databases[0]
    database.dismount()
    database.path.rename(database.path.with_name("db1.replaced"))
    restore_both(group, snapshot)
    database.mount()
    assert in_both(group) == [[], []]
    assert sorted(path.name for path in group.directory.iterdir()) == ["db1", "db2", "replaced"]


def copy_after_renames(monkeypatch, count: int, directory: Path, copy: Path) -> None:
    """What a crash after that many renames of databases' directories leaves in `directory`, in `copy`."""
    rename, done = Path.rename, []

    def copying(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if path.parent == directory:
            done.append(path)
            if len(done) == count:
                shutil.copytree(directory, copy)
        return renamed

    monkeypatch.setattr(Path, "rename", copying)


def test_of_two_restores_to_one_place_the_second_is_refused_and_the_first_is_whole(group):
    group.deliver(group.databases[0], group.corpus()[:5])
    snapshot = group.snapshot()
    refused = []

    def restore_one(progress: Progress | None = None) -> Path:
        place = group.directory / "out"
        return restore_to_directory(
            group.repository, snapshot, place, names=["Store 1"], clock=group.clock, progress=progress
        )[0].path

    def again(_: int) -> None:
        with pytest.raises(WriterBusy, match="being restored"):
            restore_one()
        refused.append(True)

    first = group.open_restored(restore_one(again), 1, group.clock)
    assert refused
    assert group.contents(first) == group.corpus()[:5]
    first.dismount()


def test_of_two_restores_in_place_the_second_is_refused_and_the_first_is_whole(group):
    group.deliver(group.databases[0], group.corpus()[:5])
    snapshot = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[5:8])
    refused = []

    def in_place(progress: Progress | None = None) -> None:
        put_back(group, snapshot, group.databases, progress=progress)

    def again(_: int) -> None:
        with pytest.raises(WriterBusy, match="being restored"):
            in_place()
        refused.append(True)

    in_place(again)
    assert refused
    assert group.contents(group.databases[0]) == group.corpus()[:5]


def test_a_place_that_holds_what_a_crash_left_is_cleared(group):
    group.deliver(group.databases[0], group.corpus()[:2])
    snapshot = group.snapshot()
    left = group.directory / "out" / "First" / "Store 1.restoring"
    (left / "stream").mkdir(parents=True)
    (left / "stream" / "00000009.stm").write_bytes(b"of another restore")
    (left / "checkpoint").write_bytes(b"of another restore")
    assert group.restored(snapshot, "out")[0] == group.corpus()[:2]
    assert not list((group.directory / "out").rglob("00000009.stm"))
    assert not left.exists()


def test_databases_are_named_in_any_case(group):
    snapshot = group.snapshot()
    assert [each.name for each in restorable_databases(snapshot, ["STORE 2"])] == ["Store 2"]
    with pytest.raises(NotFound, match="'Store 9'"):
        restorable_databases(snapshot, ["store 1", "Store 9"])


# -- what is damaged in the repository


LARGE = [
    b"Subject: number %d\r\nFrom: sender%d@example.org\r\n\r\n" % (number, number)
    + Random(number).randbytes(600_000).hex().encode()
    for number in range(4)
]


def lose_chunk(group, snapshot, monkeypatch, index: int) -> None:
    """A chunk in the middle of the first database's stream is damaged in the repository."""
    repository = group.repository
    stored = read_restorable(repository, restorable_databases(snapshot)[0])
    chunks = [
        chunk for segment in read_stored_segments(repository, stored).values() for chunk in segment.chunks
    ]
    read, hit = repository.read, chunks[index]

    def damaged(blob_id):
        if blob_id == hit:
            raise Corrupt("packs/x is damaged")
        return read(blob_id)

    monkeypatch.setattr(repository, "read", damaged)
    monkeypatch.setattr(repository, "read_many", lambda ids: ((each, damaged(each)) for each in ids))


def test_a_restore_that_is_to_keep_going_brings_back_all_that_is_whole_and_names_the_rest(group, monkeypatch):
    group.deliver(group.databases[0], LARGE)
    snapshot = group.snapshot()
    lose_chunk(group, snapshot, monkeypatch, 5)
    with pytest.raises(Corrupt, match="packs/x"):
        restore_to_directory(group.repository, snapshot, group.directory / "out", clock=group.clock)
    done, _ = restore_to_directory(
        group.repository, snapshot, group.directory / "out", clock=group.clock, fill=salvage_files
    )
    assert done.lost and all(each.folder == "anna: Inbox" for each in done.lost)
    lost = {int(each.subject.split()[1]) for each in done.lost}
    assert [each.sender for each in done.lost] == [f"sender{number}@example.org" for number in sorted(lost)]
    restored = group.open_restored(done.path, 1, group.clock)
    assert group.contents(restored) == [raw for number, raw in enumerate(LARGE) if number not in lost]
    assert 0 < len(lost) < len(LARGE)
    restored.dismount()
    put_back(group, snapshot, group.databases, fill=salvage_files)
    assert group.contents(group.databases[0]) == [
        raw for number, raw in enumerate(LARGE) if number not in lost
    ]


def test_where_the_tables_are_damaged_they_are_made_from_the_stream(group, monkeypatch):
    group.deliver(group.databases[0], LARGE[:2])
    snapshot = group.snapshot()
    stored = read_restorable(group.repository, restorable_databases(snapshot)[0])
    read_tree = group.repository.read_tree

    def damaged(blob_id):
        if blob_id == stored.image:
            raise Corrupt("packs/x is damaged")
        return read_tree(blob_id)

    monkeypatch.setattr(group.repository, "read_tree", damaged)
    done, _ = restore_to_directory(
        group.repository, snapshot, group.directory / "out", clock=group.clock, fill=salvage_files
    )
    restored = group.open_restored(done.path, 1, group.clock)
    assert group.contents(restored) == LARGE[:2] and done.lost == ()
    assert check_database(restored, Actor.task("test")).clean
    restored.dismount()


def test_with_nothing_damaged_keeping_going_changes_nothing(group):
    group.deliver(group.databases[0], group.corpus()[:3])
    snapshot = group.snapshot()
    done, _ = restore_to_directory(
        group.repository, snapshot, group.directory / "out", clock=group.clock, fill=salvage_files
    )
    assert done.lost == ()


def test_every_directory_that_a_restore_makes_is_flushed_with_the_one_above_it(group, monkeypatch):
    """Else a power loss after the restore could take the whole of it."""
    snapshot = group.snapshot()
    flushed: list[Path] = []
    monkeypatch.setattr(restore, "flush_directory", flushed.append)
    out = group.directory / "new" / "out"
    restore_to_directory(group.repository, snapshot, out, clock=group.clock)
    assert {group.directory, out.parent, out, out / "First"} <= set(flushed)
