"""A check finds each kind of damage, names what it hits, and says nothing of a whole database."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.checkpoint import Checkpoint, read_checkpoint
from pillarbox.store.disk.env import META_BYTES, PAGE_BYTES, Env
from pillarbox.store.disk.page_sums import SUM_BYTES, PageSums
from pillarbox.store.disk.records import seal_record
from pillarbox.store.disk.stream import Codec, FrameKind, build_frame
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    STATE_KEY,
    DatabaseKind,
    ItemRecord,
    Table,
    decode_record,
    derived_entries,
)
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.tables_proof import problems_of_pages
from pillarbox.store.errors import Corrupt, DiskFull, Retryable
from pillarbox.store.events import EventId
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep import verification
from pillarbox.store.upkeep.check import CheckReport, check_database, check_dismounted
from pillarbox.store.upkeep.check_findings import Finding
from pillarbox.store.upkeep.maintenance import run_maintenance
from pillarbox.store.upkeep.verification import copied_tables

if TYPE_CHECKING:
    from conftest import OpenDatabase

DATA = Path(__file__).resolve().parents[2] / "data"
ACTOR = Actor.task("test")


class Events:
    def __init__(self) -> None:
        self.ids: list[int] = []

    def report(self, event: Any) -> None:
        self.ids.append(event.event_id)


def real_mail() -> list[bytes]:
    lists = [item.raw for item in read_mbox(DATA / "lists.mbox")]
    return lists + [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))]


MAIL = real_mail()


def fill(database: Database) -> None:
    """Deliver, move, copy, flag and delete real mail, so that every table has rows."""
    with database.transaction(ACTOR) as txn:
        anna, bob = mailboxes.create(txn, "anna"), mailboxes.create(txn, "bob")
        lists = folders.create(txn, anna.root_id, "Lists")
        inner = folders.create(txn, lists.folder_id, "Python")
    items = []
    for raw in MAIL:
        prepared = messages.prepare(database.files, raw)
        with database.transaction(ACTOR) as txn:
            items += messages.deliver(txn, [anna.guid, bob.guid], prepared)[:1]
    with database.transaction(ACTOR) as txn:
        for item in items[:6]:
            messages.move(txn, item.message_id, lists.folder_id)
        for item in items[6:9]:
            messages.copy(txn, item.message_id, inner.folder_id)
        for item in items[9:12]:
            messages.delete(txn, item.message_id)
        messages.set_flags(txn, items[12].message_id, add=["\\Seen", "work"])
        gone = folders.create(txn, anna.root_id, "Gone")
        messages.copy(txn, items[13].message_id, gone.folder_id)
        folders.delete(txn, gone.folder_id, with_contents=True)
    database.finish_removals()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def database(tmp_path: Path, events: Events) -> Iterator[Database]:
    made = Database(
        tmp_path / "db",
        b"x" * 16,
        "Mail",
        DatabaseKind.MAILBOX_STORE,
        clock=VirtualClock(),
        rng=random.Random(1),
        reporter=events,
        tuning=Tuning(segment_bytes=40_000, remove_beside=False),
    )
    made.create()
    made.mount()
    fill(made)
    yield made
    made.dismount()


def check(database: Database) -> CheckReport:
    return check_database(database, ACTOR)


def rows(database: Database, table: Table) -> list[tuple[bytes, Any]]:
    with database.read(ACTOR) as reader:
        return list(reader.records(table, b"", None))


def put(database: Database, table: Table, key: bytes, value: bytes | None) -> None:
    """Write a row behind the engine's back."""
    database.files.env.apply({table: {key: value}})


def put_record(database: Database, table: Table, key: bytes, record: Any) -> None:
    put(database, table, key, seal_record(table, key, record))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


def found(report: CheckReport, table: Table, key: bytes) -> str:
    """What the report says of a row; fails when it says nothing."""
    texts = [str(each) for each in report.findings if each.table == table.name.lower() and each.key == key]
    assert texts, f"nothing was found at {table.name} {key.hex()} but {report.findings}"
    return " ".join(texts)


def test_a_database_after_moves_copies_and_deletes_is_clean(database: Database, events: Events) -> None:
    seen: list[tuple[int, int]] = []
    report = check_database(database, ACTOR, progress=lambda done, total: seen.append((done, total)))
    assert report.findings == ()
    with database.read(ACTOR) as read:
        walked = [each for box in mailboxes.all_of(read) for _, each in folders.walk(read, box.root_id)]
    database.finish_removals()
    report = check_database(database, ACTOR)
    assert report.messages == sum(each.messages_count for each in walked) and report.segments > 1
    assert report.bytes_read == sum(map(len, set(MAIL)))
    assert all(done <= total for done, total in seen)
    assert EventId.CHECK_FINISHED in events.ids


def test_it_is_clean_after_a_mount_and_read_only(database: Database) -> None:
    database.dismount()
    database.mount(read_only=True)
    assert check(database).findings == ()


def test_damage_is_reported_as_an_event(database: Database, events: Events) -> None:
    key, _ = rows(database, Table.SEGMENT)[0]
    put(database, Table.SEGMENT, key, None)
    assert not check(database).clean
    assert EventId.CHECK_FOUND_DAMAGE in events.ids


EMPTY = (Table.SEEN, Table.DICTIONARY, Table.REPLICA, Table.REPLICATION, Table.VERSION, Table.GONE)


@pytest.mark.parametrize("table", [each for each in Table if each not in EMPTY])
def test_a_flipped_bit_in_any_table_is_found(database: Database, table: Table) -> None:
    if table is Table.REMOVAL:
        with database.transaction(ACTOR) as txn:
            lists = folders.by_path(txn, mailboxes.find(txn, "anna").root_id, "Lists")
            folders.delete(txn, lists.folder_id, with_contents=True)
    with database.read(ACTOR) as reader:
        key, value = list(reader.view.scan(table, b"", None))[-1]
    put(database, table, key, value[:-1] + bytes([value[-1] ^ 1]))
    found(check(database), table, key)


@pytest.mark.parametrize(
    "table", [Table.LOCATION, Table.VIEW, Table.FEED, Table.FOLDER_NAME, Table.MAILBOX_NAME]
)
def test_a_missing_index_row_is_named(database: Database, table: Table) -> None:
    with database.read(ACTOR) as reader:
        key, _ = next(reader.view.scan(table, b"", None))
    put(database, table, key, None)
    report = check(database)
    assert "missing" in found(report, table, key)
    assert len(report.findings) == 1


def test_surplus_index_rows_are_named(database: Database) -> None:
    key, item = rows(database, Table.ITEM)[0]
    stranger: ItemRecord = item._replace(
        uid=9999, message_id=item.message_id + 5000, arrived_cn=item.arrived_cn + 5000
    )
    entries = derived_entries(Table.ITEM, key, stranger)
    for (table, row), value in entries.items():
        put(database, table, row, value)
    report = check(database)
    assert {(each.table, each.key) for each in report.findings} == {
        (table.name.lower(), row) for table, row in entries
    }


Change = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("table", "change", "text"),
    [
        (Table.FOLDER, lambda r: r._replace(messages_count=r.messages_count + 1), "messages_count"),
        (Table.FOLDER, lambda r: r._replace(unread_count=r.unread_count + 1), "unread_count"),
        (Table.FOLDER, lambda r: r._replace(size=r.size + 1), "size"),
        (Table.FOLDER, lambda r: r._replace(uid_next=1), "uid_next"),
        (Table.FOLDER, lambda r: r._replace(highest_cn=1), "highest_cn"),
        (Table.FOLDER, lambda r: r._replace(parent_id=r.folder_id), "within itself"),
        (Table.FOLDER, lambda r: r._replace(parent_id=77), "parent"),
        (Table.FOLDER, lambda r: r._replace(mailbox=b"?" * 16), "mailbox"),
        (Table.MAILBOX, lambda r: r._replace(messages_count=0), "messages_count"),
        (Table.MAILBOX, lambda r: r._replace(size=0), "size"),
        (Table.MAILBOX, lambda r: r._replace(root_id=5), "root"),
        (Table.ITEM, lambda r: r._replace(digest=b"?" * 24), "content does not exist"),
        (Table.ITEM, lambda r: r._replace(size=r.size + 1), "size"),
        (Table.ITEM, lambda r: r._replace(uid=r.uid + 50), "another"),
        (Table.CONTENT, lambda r: r._replace(references=r.references + 1), "references"),
        (Table.CONTENT, lambda r: r._replace(offset=r.offset + 1), "no frame"),
        (Table.CONTENT, lambda r: r._replace(segment=99), "missing"),
        (Table.BLOCK, lambda r: r._replace(references=r.references + 1), "references"),
        (Table.BLOCK, lambda r: r._replace(size=r.size + 1), "bytes"),
        (Table.SEGMENT, lambda r: r._replace(live_bytes=r.live_bytes + 1), "live_bytes"),
        (Table.SEGMENT, lambda r: r._replace(content_bytes=r.content_bytes + 1), "content_bytes"),
    ],
)
def test_a_wrong_record_is_named(database: Database, table: Table, change: Change, text: str) -> None:
    with_mail = [row for row in rows(database, table) if getattr(row[1], "messages_count", 1)]
    key, record = with_mail[0]
    put_record(database, table, key, change(record))
    assert text in found(check(database), table, key)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r._replace(counter=3), "counter"),
        (lambda r: r._replace(content_bytes=3), "content_bytes"),
        (lambda r: r._replace(live_bytes=3), "live_bytes"),
    ],
)
def test_wrong_totals_are_named(database: Database, change: Change, text: str) -> None:
    put_record(database, Table.META, STATE_KEY, change(dict(rows(database, Table.META))[STATE_KEY]))
    assert text in found(check(database), Table.META, STATE_KEY)


def test_the_identity_of_another_database_is_named(database: Database) -> None:
    identity = dict(rows(database, Table.META))[IDENTITY_KEY]
    put_record(database, Table.META, IDENTITY_KEY, identity._replace(guid=b"y" * 16))
    assert "database" in found(check(database), Table.META, IDENTITY_KEY)


def test_a_missing_block_is_named_with_its_messages(database: Database) -> None:
    key, _ = rows(database, Table.BLOCK)[0]
    put(database, Table.BLOCK, key, None)
    report = check(database)
    assert "missing" in found(report, Table.BLOCK, key)
    assert any("mailbox anna" in each.hit for each in report.findings)


def test_a_damaged_frame_names_file_offset_and_every_message_it_hits(database: Database) -> None:
    key, record = rows(database, Table.CONTENT)[0]
    path = database.stream.path(record.segment)
    flip(path, record.offset + record.length - 1)
    report = check(database)
    assert str(path) in found(report, Table.CONTENT, key)
    (content,) = [each for each in report.findings if each.table == "content"]
    assert (content.file, content.offset) == (str(path), record.offset)
    holders = [item for _, item in rows(database, Table.ITEM) if item.digest == key]
    named = [each for each in report.findings if each.table == "item"]
    assert len(named) == len(holders) > 0
    assert all(repr(holders[0].subject) in each.hit and "mailbox" in each.hit for each in named)


def test_a_damaged_redo_record_and_a_zeroed_page_are_found(database: Database) -> None:
    path = database.stream.path(1)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 20)
        file.write(bytes(20))
    flip(database.stream.path(2), 12)
    report = check(database)
    places = {(each.file, each.offset) for each in report.findings}
    assert (str(database.stream.path(2)), 0) in places
    assert any(each.file == str(path) and each.offset > 0 for each in report.findings)


def test_a_missing_segment_is_named(database: Database) -> None:
    database.dismount()
    database.mount(read_only=True)
    number = rows(database, Table.CONTENT)[0][1].segment
    database.stream.path(number).unlink()
    report = check(database)
    assert "missing" in found(report, Table.SEGMENT, number.to_bytes(4, "big"))


def test_a_segment_that_cannot_be_read_is_named_and_the_rest_checked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, opened = database.stream.path(database.stream.segments()[0]), Path.open

    def failing(path: Path, *words: Any, **named: Any) -> Any:
        if path == bad:
            raise OSError(5, "Input/output error", str(path))
        return opened(path, *words, **named)

    monkeypatch.setattr(Path, "open", failing)
    report = check_database(database, ACTOR)
    assert [finding.file for finding in report.findings] == [str(bad)]
    assert "Input/output error" in report.findings[0].problem
    assert report.bytes_read


def test_a_damaged_checkpoint_is_named(database: Database) -> None:
    flip(database.path / "checkpoint", 50)
    (finding,) = check(database).findings
    assert finding.file == str(database.path / "checkpoint")


def test_several_damages_do_not_hide_one_another(database: Database) -> None:
    items = rows(database, Table.ITEM)
    with database.read(ACTOR) as reader:
        for key, _ in items[:3]:
            value = reader.view.get(Table.ITEM, key)
            assert value is not None and decode_record(Table.ITEM, key, value)
            put(database, Table.ITEM, key, value[:-1])
    report = check(database)
    for key, _ in items[:3]:
        assert "message" in found(report, Table.ITEM, key)


def bend_pages(database: Database) -> None:
    """Zero the flags of every page of the tables that is neither a meta page nor free."""
    data = database.path / "properties" / "data.mdb"
    pages = bytearray(data.read_bytes())
    for page in range(2 * 4096, len(pages), 4096):
        pages[page + 10] = 0
    with data.open("r+b") as file:
        file.write(pages)


def test_bent_pages_are_named_with_damage_of_the_stream_and_end_no_process(database: Database) -> None:
    database.dismount()
    bend_pages(database)
    path = database.stream.path(1)
    flip(path, path.stat().st_size - 30)
    findings = check_dismounted(database, ACTOR).findings
    assert any(each.file.endswith("data.mdb") for each in findings)
    assert any(each.file == str(path) for each in findings)


def test_a_garbage_meta_page_is_named_where_it_lies_and_not_in_the_copy(database: Database) -> None:
    database.dismount()
    data = database.path / "properties" / "data.mdb"
    with data.open("r+b") as file:
        file.write(b"\xff" * 4096)
    problems = [each.problem for each in check_dismounted(database, ACTOR).findings]
    assert any(str(data) in problem for problem in problems)
    assert not any("/verify" in problem for problem in problems)


@pytest.mark.parametrize("has_tables", [True, False])
def test_segments_that_are_not_there_are_named_where_the_tables_are_bent_too(
    open_database: OpenDatabase, has_tables: bool
) -> None:
    database = open_database()
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles["inbox"]
    for number in range(24):
        with database.transaction(ACTOR) as txn:
            raw = b"Subject: %d\r\n\r\n" % number + random.Random(number).randbytes(3000)
            messages.append(txn, inbox, messages.prepare(txn.files, raw))
    database.dismount()
    _, missing, *_, last = database.stream.segments()
    assert last > missing + 1
    for segment in (missing, last):
        database.stream.path(segment).unlink()
    if has_tables:
        bend_free_list(database)
    else:
        bend_pages(database)
    problems = [finding.problem for finding in check_dismounted(database, ACTOR).findings]
    (named,) = [problem for problem in problems if problem.startswith(f"segment {missing} is ")]
    assert ("missing in the stream" in named) is has_tables and "with transactions" in named
    assert any(problem.startswith("the stream ends with transaction") for problem in problems)


def bend_free_list(database: Database) -> None:
    """Let the newer meta page say that a page more is in use: LMDB reads every row all the same."""
    data = database.path / "properties" / "data.mdb"
    pages = bytearray(data.read_bytes()) + bytes(4096)
    newer = max((0, 4096), key=lambda page: int.from_bytes(pages[page + 144 : page + 152], "little"))
    last = int.from_bytes(pages[newer + 136 : newer + 144], "little") + 1
    pages[newer + 136 : newer + 144] = last.to_bytes(8, "little")
    data.write_bytes(pages[: (last + 1) * 4096])


def test_pages_that_are_bent_while_the_database_is_mounted_are_named(database: Database) -> None:
    database.checkpoint()
    data = database.path / "properties" / "data.mdb"
    whole = data.read_bytes()
    bend_pages(database)
    try:
        assert any(each.file.endswith("data.mdb") for each in check(database).findings)
    finally:
        with data.open("r+b") as file:  # in place, since it is mapped
            file.write(whole)


def test_the_time_that_verification_takes_is_told(database: Database, events: Events) -> None:
    check(database)
    assert EventId.TABLES_VERIFIED in events.ids


def test_a_redo_record_behind_the_end_that_a_mount_would_refuse_is_found(database: Database) -> None:
    database.dismount()
    checkpoint = read_checkpoint(database.path)
    header = struct.pack("<QQII", checkpoint.sequence + 1, checkpoint.sequence + 1, 0, 0)
    frame = build_frame(FrameKind.REDO, Codec.PLAIN, 0, 3, header, b"\x91\x92\x00")
    path = database.stream.path(checkpoint.position.segment)
    with path.open("r+b") as file:
        file.seek(checkpoint.position.offset)
        file.write(frame)
    with pytest.raises(Corrupt):
        database.mount()
    database.mount(read_only=True)
    (found,) = check_database(database, ACTOR).findings
    assert (found.file, found.offset) == (str(path), checkpoint.position.offset)
    path.write_bytes(path.read_bytes()[: checkpoint.position.offset + len(frame) - 1])
    assert check_database(database, ACTOR).clean  # torn: what an interrupted flush left


def test_tables_of_an_older_time_are_found(database: Database) -> None:
    """Whole in themselves, but a mount refuses them: the stream has gone on behind the checkpoint."""
    data = database.path / "properties" / "data.mdb"
    database.dismount()
    older = data.read_bytes()
    database.mount()
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "clara")
    database.dismount()
    data.write_bytes(older)
    (found,) = check_dismounted(database, ACTOR).findings
    assert (found.file, "checkpoint" in str(found)) == (str(data), True)
    with pytest.raises(Corrupt):
        database.mount()


def test_a_page_of_an_older_time_under_a_mounted_database_is_found(database: Database) -> None:
    """It is sound, and so may be its rows: only the sums of the checkpoint tell."""
    data = database.path / "properties" / "data.mdb"
    database.checkpoint()
    older = data.read_bytes()
    churn(database)
    database.checkpoint()
    newer = data.read_bytes()
    sums = read_checkpoint(database.path).tables_sums
    free = PageSums.known(sums).free
    pages = [page for page in range(2, len(sums) // SUM_BYTES) if page not in free]
    changed = [each for each in pages if page_of(older, each) not in (b"", page_of(newer, each))]
    assert changed
    with data.open("r+b") as file:
        for page in changed:
            os.pwrite(file.fileno(), page_of(older, page), page * PAGE_BYTES)
            assert any(f"page {page} " in str(each) for each in check(database).findings)
            with pytest.raises(Corrupt):
                run_maintenance(database, ACTOR)
            os.pwrite(file.fileno(), page_of(newer, page), page * PAGE_BYTES)
    assert check(database).clean


def page_of(data: bytes, page: int) -> bytes:
    return data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]


def test_a_check_beside_checkpoints_finds_nothing_in_pages_that_are_used_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def read(path: Path) -> Checkpoint:
        found = read_checkpoint(path)
        reads.append(found)
        if len(reads) % 2:
            churn(database)
        return found

    monkeypatch.setattr("pillarbox.store.engine.database.read_checkpoint", read)
    database.prove_tables()
    assert len(reads) > 2, "some pages were used again, and then the next checkpoint was asked"


def test_on_a_disk_without_room_it_is_said_that_pages_were_not_verified(
    database: Database, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(env: Env, directory: Path) -> None:
        raise DiskFull("no space left on the disk")

    monkeypatch.setattr(Env, "copy_pages_to", full)
    assert check_database(database, ACTOR).clean
    assert events.ids.count(EventId.TABLES_NOT_VERIFIED) == 1
    run_maintenance(database, ACTOR)
    assert events.ids.count(EventId.TABLES_NOT_VERIFIED) == 2
    assert not list(database.path.glob("verify*"))


_CHECKS = """
import sys
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.upkeep.check import check_dismounted
database = Database(Path(sys.argv[1]), b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    for finding in check_dismounted(database, Actor.task("test")).findings:
        print(finding)
"""


def test_checks_of_one_database_at_one_time_find_nothing_in_a_sound_one(database: Database) -> None:
    database.dismount()
    command = [sys.executable, "-c", _CHECKS, str(database.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen(command, text=True, **pipes) as one,
        subprocess.Popen(command, text=True, **pipes) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=60) for process in (one, other)] == [("", "")] * 2
    assert not list(database.path.glob("verify*"))


def torn_copies(monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """Have each copy of a property file be interrupted behind its meta pages."""

    def copied(source: Path, target: Path) -> None:
        begun = source.read_bytes()[:META_BYTES]
        between()
        target.write_bytes(begun + source.read_bytes()[META_BYTES:])

    monkeypatch.setattr(verification.shutil, "copyfile", copied)


def churn(database: Database) -> None:
    """Write pages anew that were in use before."""
    with database.transaction(ACTOR) as txn:
        root_id = mailboxes.find(txn, "anna").root_id
        made = folders.ensure(txn, root_id, ("Churned",))
    for number in range(60):
        with database.transaction(ACTOR) as txn:
            folders.rename(txn, made.folder_id, f"Churned {number}")
        if number % 4 == 0:
            database.checkpoint()
    with database.transaction(ACTOR) as txn:
        folders.rename(txn, made.folder_id, "Churned")


def test_a_process_that_writes_and_ends_meanwhile_tears_no_copy(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.dismount()
    other = Database(database.path, database.guid, "Mail", database.kind, clock=VirtualClock())
    wrote: list[bool] = []

    def write() -> None:
        if not wrote:
            database.mount()
            churn(database)
            database.dismount()
            wrote.append(True)

    torn_copies(monkeypatch, write)
    assert check_dismounted(other, ACTOR).findings == ()


def test_a_process_that_begins_to_write_meanwhile_tears_no_copy(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.dismount()
    other = Database(database.path, database.guid, "Mail", database.kind, clock=VirtualClock())
    ways: list[str] = []

    def write() -> None:
        database.mount()
        churn(database)

    def copied_in_use(path: Path, copy: Path) -> None:
        ways.append("in use")
        database.files.env.copy_pages_to(copy)  # this process has it open, and can open it only once

    torn_copies(monkeypatch, write)
    monkeypatch.setattr(verification, "copy_pages_in_use", copied_in_use)
    with copied_tables(other) as copy:
        assert problems_of_pages(copy, other.clock, other.report) == []
    assert ways == ["in use"]


def test_a_database_that_is_mounted_all_the_time_is_called_busy_and_not_damaged(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.dismount()
    other = Database(database.path, database.guid, "Mail", database.kind, clock=VirtualClock())

    numbers = count()

    def write() -> None:
        database.mount()
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, f"another {next(numbers)}")
        database.dismount()

    torn_copies(monkeypatch, write)
    with pytest.raises(Retryable):
        check_dismounted(other, ACTOR)
    assert not list(database.path.glob("verify*"))


def test_each_verification_has_a_copy_of_its_own(database: Database) -> None:
    with copied_tables(database) as first:
        assert check_database(database, ACTOR).clean
        assert problems_of_pages(first, database.clock, database.report) == []


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (
            Finding("item", b"\x01", "a.stm", 5, "it is damaged", "a message"),
            "item[01]: it is damaged (a message)",
        ),
        (Finding("", b"", "a.stm", 5, "a bad head", ""), "a.stm at 5: a bad head"),
        (
            Finding("", b"", "data.mdb", -1, "page 7 is bent", "the tables"),
            "data.mdb: page 7 is bent (the tables)",
        ),
        (Finding("", b"", "data.mdb", -1, "data.mdb is missing", ""), "data.mdb is missing"),
    ],
)
def test_a_finding_names_its_place_once(finding: Finding, text: str) -> None:
    assert str(finding) == text
