"""A repair keeps every message that is whole, names the others, and never makes things worse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mailbox_stores import mailbox_store, real_mail

from pillarbox.store.access import Actor
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_rows
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, FrameKind, segment_header
from pillarbox.store.disk.tables import STATE_KEY, ItemRecord, Table, id_key
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt, PillarboxError, Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep import repair
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
MAIL = real_mail()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Mail of two mailboxes over several segments; dismounted."""
    made = mailbox_store(tmp_path / "db", Tuning(segment_bytes=40_000))
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        boxes = [mailboxes.create(txn, "anna").guid, mailboxes.create(txn, "bob").guid]
    items = []
    for raw in MAIL:
        prepared = messages.prepare(made.files, raw)
        with made.transaction(ACTOR) as txn:
            items += messages.deliver(txn, boxes, prepared)[:1]
    with made.transaction(ACTOR) as txn:
        target = mailboxes.get(txn, boxes[0]).roles["junk"]
        messages.move(txn, items[0].message_id, target)
        messages.copy(txn, items[1].message_id, target)
        messages.delete(txn, items[2].message_id)
        messages.set_flags(txn, items[3].message_id, add=["\\Seen"])
    made.dismount()
    yield made
    made.dismount()


EMPTY = (Table.SEEN, Table.DICTIONARY, Table.REMOVAL)
OF_ORGANISATIONS = (Table.REPLICA, Table.REPLICATION, Table.VERSION, Table.GONE)
FILLED = [each for each in Table if each not in (*EMPTY, *OF_ORGANISATIONS)]
TOLD_BY_OTHERS = [
    each for each in FILLED if each not in (Table.ITEM, Table.TOMBSTONE, Table.CONTENT, Table.BLOCK)
]
Contents = dict[tuple[str, str, int], tuple[ItemRecord, bytes]]


def contents(database: Database) -> Contents:
    """Every message by mailbox, folder and UID; the database is dismounted before and after."""
    database.mount()
    found: Contents = {}
    with database.read(ACTOR) as reader:
        for box in mailboxes.all_of(reader):
            for _, each in folders.walk(reader, box.root_id):
                for item in folders.messages(reader, each.folder_id):
                    found[box.name, each.name, item.uid] = item, messages.content(reader, item)
    database.dismount()
    return found


def assert_usable(database: Database) -> None:
    """It mounts, a check finds nothing, and it takes mail again."""
    database.mount()
    assert check_database(database, ACTOR).findings == ()
    with database.read(ACTOR) as reader:
        guid = next(mailboxes.all_of(reader)).guid
    prepared = messages.prepare(database.files, b"Subject: after\n\nrepair\n")
    with database.transaction(ACTOR) as txn:
        (item,) = messages.deliver(txn, [guid], prepared)
    database.dismount()
    database.mount()
    with database.read(ACTOR) as reader:
        assert messages.content(reader, messages.get(reader, item.message_id)) == prepared.raw
    database.dismount()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


def stream_bytes(database: Database) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (database.path / "stream").glob("*.stm")}


def put(database: Database, table: Table, key: bytes, value: bytes | None) -> None:
    database.mount()
    database.files.env.apply({table: {key: value}})
    database.dismount()


def damage_redo_of(database: Database, table: Table, wanted: bytes) -> None:
    """Damage every transaction that tells of a row."""
    for segment in database.stream.segments():
        for at, _, frame in list(scan_frames(database.stream, segment)):
            rows = read_rows(frame, "") if frame and frame.kind == FrameKind.REDO else ()
            if any((number, key) == (table, wanted) for number, key, _ in rows):
                flip(database.stream.path(segment), at + 60)


def first_row(database: Database, table: Table) -> tuple[bytes, bytes]:
    database.mount(read_only=True)
    with database.read(ACTOR) as reader:
        found = list(reader.view.scan(table, b"", None))[-1]
    database.dismount()
    return found


def test_a_whole_database_stays_as_it_is(database: Database) -> None:
    before, stream = contents(database), stream_bytes(database)
    report = repair_database(database)
    assert report.lost == () and report.dropped == () and report.restored == ()
    assert not report.from_stream and report.kept == len(before)
    assert stream_bytes(database) == stream
    assert contents(database) == before
    assert sorted(path.name for path in database.path.iterdir()) == [
        "checked",
        "checkpoint",
        "checkpoint.new",
        "lock",
        "properties",
        "stream",
    ]
    assert_usable(database)


@pytest.mark.parametrize(
    ("table", "how"), [(each, "damaged") for each in FILLED] + [(each, "missing") for each in TOLD_BY_OTHERS]
)
def test_a_record_is_taken_from_the_stream_or_computed_again(
    database: Database, table: Table, how: str
) -> None:
    before = contents(database)
    key, value = first_row(database, table)
    if (table, key) == (Table.META, STATE_KEY):
        put(database, table, b"identity", b"bad")
    elif how == "missing":
        put(database, table, key, None)
    else:
        put(database, table, key, value[:-1] + bytes([value[-1] ^ 1]))
    report = repair_database(database)
    assert (report.lost, report.dropped, report.restored, report.recovered) == ((), (), (), 0)
    assert contents(database) == before
    assert_usable(database)


def test_messages_whose_folder_is_lost_are_kept(database: Database) -> None:
    before = contents(database)
    lost = next(
        item.folder_id for (box, name, _), (item, _) in before.items() if (box, name) == ("anna", "Inbox")
    )
    damage_redo_of(database, Table.FOLDER, id_key(lost))
    put(database, Table.FOLDER, id_key(lost), None)
    report = repair_database(database)
    assert report.lost == () and any("Inbox of mailbox anna" in each for each in report.restored)
    assert {place: raw for place, (_, raw) in contents(database).items()} == {
        place: raw for place, (_, raw) in before.items()
    }
    assert_usable(database)


def test_a_lost_mailbox_comes_back_with_its_messages(database: Database) -> None:
    before = contents(database)
    key, _ = first_row(database, Table.MAILBOX)
    damage_redo_of(database, Table.MAILBOX, key)
    put(database, Table.MAILBOX, key, None)
    report = repair_database(database)
    assert report.lost == () and any(each.startswith("mailbox Recovered") for each in report.restored)
    after = contents(database)
    assert sorted(raw for _, raw in after.values()) == sorted(raw for _, raw in before.values())
    assert_usable(database)


@pytest.mark.parametrize("what", ["properties", "properties cut short", "all"])
def test_without_tables_everything_comes_from_the_stream(database: Database, what: str) -> None:
    before, stream = contents(database), stream_bytes(database)
    data, checkpoint = database.path / "properties" / "data.mdb", database.path / "checkpoint"
    if what in ("properties", "all"):
        data.write_bytes(b"\0" * 100_000)
    if what == "all":
        checkpoint.unlink()
    if what == "properties cut short":
        data.write_bytes(data.read_bytes()[: 3 * 4096])
    report = repair_database(database)
    assert report.from_stream and report.lost == ()
    assert {name: data for name, data in stream_bytes(database).items() if name in stream} == stream
    assert contents(database) == before
    assert_usable(database)


def test_without_its_checkpoint_a_database_loses_nothing(database: Database) -> None:
    before = contents(database)
    (database.path / "checkpoint").unlink()
    report = repair_database(database)
    assert (report.lost, report.dropped, report.from_stream) == ((), (), False)
    assert contents(database) == before


def test_a_message_whose_content_is_damaged_is_named_and_all_others_are_kept(database: Database) -> None:
    before = contents(database)
    key, _ = first_row(database, Table.CONTENT)
    database.mount(read_only=True)
    with database.read(ACTOR) as reader:
        record = reader.record(Table.CONTENT, key)
    database.dismount()
    flip(database.stream.path(record.segment), record.offset + record.length - 1)
    stream = stream_bytes(database)
    report = repair_database(database)
    hit = {place: item for place, (item, _) in before.items() if item.digest == key}
    assert hit
    assert sorted(each.subject for each in report.lost) == sorted(item.subject for item in hit.values())
    assert all("anna" in each.folder or "bob" in each.folder for each in report.lost)
    assert len(report.damaged_stream) == 1
    after = contents(database)
    assert after == {place: found for place, found in before.items() if place not in hit}
    assert {name: data for name, data in stream_bytes(database).items() if name in stream} == stream
    assert_usable(database)


@pytest.mark.parametrize("offset", [0, 12, 20, 39])
def test_a_damaged_header_of_a_segment_costs_no_message(database: Database, offset: int) -> None:
    before = contents(database)
    whole = stream_bytes(database)
    path = database.stream.path(2)
    flip(path, offset)
    report = repair_database(database)
    assert report.lost == () and report.damaged_stream == ()
    assert report.restored == (f"the header of {path}",)
    assert contents(database) == before
    assert stream_bytes(database)[path.name] == whole[path.name]


def test_a_segment_of_another_database_is_not_taken_over(database: Database) -> None:
    path = database.stream.path(2)
    path.write_bytes(segment_header(2, b"y" * 16) + path.read_bytes()[SEGMENT_HEADER_BYTES:])
    foreign = path.read_bytes()
    report = repair_database(database)
    assert report.restored == () and report.lost
    assert path.read_bytes() == foreign
    assert_usable(database)


def test_damage_in_tables_and_stream_together_costs_only_what_was_hit(database: Database) -> None:
    before = contents(database)
    (database.path / "checkpoint").unlink()
    path = database.stream.path(1)
    flip(path, path.stat().st_size // 2)
    report = repair_database(database)
    assert report.dropped
    kept = {raw for _, raw in contents(database).values()}
    assert kept <= {raw for _, raw in before.values()}
    assert len(kept) >= len({raw for _, raw in before.values()}) - 1
    assert_usable(database)


def test_a_mounted_database_is_refused(database: Database) -> None:
    database.mount()
    with pytest.raises(Refused):
        repair_database(database)


def test_when_the_new_tables_fail_the_check_the_old_files_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(database)
    monkeypatch.setattr("pillarbox.store.upkeep.repair.Rebuild._derive", lambda self: None)
    with pytest.raises(Corrupt, match="nothing was changed"):
        repair_database(database)
    assert contents(database) == before
    assert not (database.path / "repair.new").exists()


@pytest.mark.parametrize("step", ["checkpoint moved", "properties moved", "new in place"])
def test_a_repair_that_was_interrupted_is_undone_by_the_next(database: Database, step: str) -> None:
    before = contents(database)
    (database.path / "checkpoint").rename(database.path / "checkpoint.before-repair")
    if step != "checkpoint moved":
        (database.path / "properties").rename(database.path / "properties.before-repair")
    if step == "new in place":
        (database.path / "properties").mkdir()
    with pytest.raises(PillarboxError):
        database.mount()
    assert not repair_database(database).from_stream
    assert contents(database) == before
    assert_usable(database)


@pytest.mark.parametrize("table", [Table.ITEM, Table.CONTENT, Table.BLOCK, Table.FOLDER, Table.TOMBSTONE])
def test_a_record_whose_key_is_damaged_is_told_by_the_stream(database: Database, table: Table) -> None:
    before = contents(database)
    database.mount()
    with database.files.env.view() as view:
        key, value = next(view.scan(table, b"", None))
    database.dismount()
    put(database, table, key, None)
    put(database, table, bytes([key[0] ^ 0x40]) + key[1:], value)
    report = repair_database(database)
    assert (report.lost, report.dropped, report.recovered) == ((), (), 0)
    assert contents(database) == before
    assert_usable(database)


def test_a_repair_flushes_each_exchange_before_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    rename, flush = Path.rename, repair.flush_directory

    def renamed(path: Path, target: Path) -> Path:
        steps.append(f"{path.name} to {Path(target).name}")
        return rename(path, target)

    def flushed(path: Path) -> None:
        steps.append(f"flush {path.name}")
        flush(path)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(repair, "flush_directory", flushed)
    repair_database(database)
    swap = steps.index("properties to properties")
    assert steps[swap - 5 : swap + 5] == [
        "checkpoint to checkpoint.before-repair",
        "flush db",
        "properties to properties.before-repair",
        "flush db",
        "flush stream",
        "properties to properties",
        "flush properties",
        "flush db",
        "checkpoint to checkpoint",
        "flush db",
    ]
