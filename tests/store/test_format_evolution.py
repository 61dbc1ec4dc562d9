"""The format evolves: a newer program opens old databases, an older one refuses what it cannot know."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.checkpoint import read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import Env, put_back_meta_pages
from pillarbox.store.disk.records import seal_record
from pillarbox.store.disk.redo import Redo
from pillarbox.store.disk.stream import Position
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    LAYOUT_VERSION,
    LAYOUT_VERSION_MIN,
    META_TYPES,
    PRIMARY,
    RECORD_TYPES,
    DatabaseKind,
    ItemRecord,
    Record,
    Table,
    item_key,
)
from pillarbox.store.engine import upgrade
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.engine.replay import TableWriter, mark_restored
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import UnsupportedVersion
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.last_check import CHECKED_FILE
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
NewerProgram = Callable[[], AbstractContextManager[Table]]
RAW = b"Subject: kept\r\n\r\nHello.\r\n" * 500


def make_database(path: Path) -> Database:
    return Database(path, b"d" * 16, "Mail", DatabaseKind.MAILBOX_STORE, clock=VirtualClock(), rng=Random(7))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A database with a message, dismounted."""
    made = make_database(tmp_path / "Mail")
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    with made.transaction(ACTOR) as txn:
        (item,) = messages.deliver(txn, [anna.guid], messages.prepare(made.files, RAW))
        messages.copy(txn, item.message_id, anna.roles["junk"])
        messages.move(txn, item.message_id, anna.roles["junk"])
    made.dismount()
    return made


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, but those in which LMDB notes who reads, and what a check found."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("lock.mdb", CHECKED_FILE)
    }


def state_of(database: Database) -> list[tuple[ItemRecord, bytes]]:
    """Every message of a mounted database, with its bytes."""
    with database.read(ACTOR) as read:
        items = [item for _, item in read.records(Table.ITEM, b"", None)]
        return [(item, messages.content(read, item)) for item in items]


# -- layouts

LAYOUTS: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "MailboxRecord": (
            *("guid", "name", "user", "state", "disconnected_ms", "root_id", "roles", "size"),
            *("messages_count", "change_cn", "properties"),
        ),
        "FolderRecord": (
            *("folder_id", "mailbox", "parent_id", "name", "kind", "uid_validity", "uid_next"),
            *(
                "messages_count",
                "unread_count",
                "size",
                "highest_cn",
                "change_cn",
                "created_ms",
                "properties",
            ),
        ),
        "ItemRecord": (
            *("folder_id", "uid", "message_id", "digest", "size", "received_ms", "flags", "keywords"),
            *("categories", "arrived_cn", "change_cn", "read_cn", "subject", "sender", "to", "cc", "date_ms"),
            *("internet_message_id", "in_reply_to", "importance", "has_attachment", "conversation"),
            "properties",
        ),
        "TombstoneRecord": ("kind", "object_id", "uid", "deleted_ms", "moved_to"),
        "ContentRecord": ("references", "size", "segment", "offset", "length", "parts"),
        "BlockRecord": ("references", "size", "segment", "offset", "length"),
        "SegmentRecord": ("content_bytes", "live_bytes"),
        "SeenRecord": ("user", "intervals"),
        "DictionaryRecord": ("segment", "offset", "length"),
        "IdentityRecord": ("layout_version", "guid", "kind", "created_ms", "roots"),
        "StateRecord": ("sequence", "counter", "content_bytes", "live_bytes", "checked_ms"),
        "LeftOutRecord": ("intervals",),
    },
    2: {
        "FolderRecord": ("hidden",),
        "ItemRecord": ("size_crlf",),
        "TombstoneRecord": ("arrived_cn",),
        "StateRecord": ("restored", "above_limit_ms"),
        "LetGoRecord": ("stretches",),
        "SizingRecord": ("after", "filled"),
        "WithheldRecord": ("intervals", "forgotten"),
    },
    3: {
        "MailboxRecord": ("moved_from", "moved_root_id", "moved_counter", "arrived_cn"),
        "FolderRecord": (
            *("arrived_cn", "written", "versions", "conflict_of", "changed", "actor", "stamps", "replicas"),
            *("rights", "cleared"),
        ),
        "ItemRecord": ("versions", "conflict_of", "changed", "actor", "stamps", "role"),
        "TombstoneRecord": ("versions", "changed", "actor", "folder", "went_to"),
        "StateRecord": ("numbering", "clock_ms", "clock_counter"),
        "ReplicaRecord": ("origin", "database", "incarnation", "first_seen_ms"),
        "ReplicationRecord": ("value",),
        "MembershipRecord": ("tree", "nonce", "stamped"),
    },
}
"""The fields that each layout added. What a layout that was released has here is never changed."""

TABLES: dict[int, dict[int, str]] = {
    1: {
        0: "META",
        1: "MAILBOX",
        2: "FOLDER",
        3: "ITEM",
        4: "TOMBSTONE",
        5: "CONTENT",
        6: "BLOCK",
        7: "SEGMENT",
        8: "SEEN",
        9: "DICTIONARY",
        16: "FOLDER_NAME",
        17: "MAILBOX_NAME",
        18: "LOCATION",
        19: "VIEW",
        20: "FEED",
    },
    2: {
        21: "REMOVAL",
    },
    3: {
        10: "REPLICA",
        11: "REPLICATION",
        22: "VERSION",
        23: "GONE",
    },
}
"""The tables that each layout added, by number."""

RECORDS = {kind.__name__: kind for kind in (*RECORD_TYPES.values(), *META_TYPES.values())}


@pytest.mark.parametrize("name", RECORDS)
def test_fields_are_added_at_the_end_alone_and_with_defaults(name: str) -> None:
    kind = RECORDS[name]
    assert max(LAYOUTS) == LAYOUT_VERSION
    fields = [field for layout in sorted(LAYOUTS) for field in LAYOUTS[layout].get(name, ())]
    assert list(kind._fields) == fields, (
        "a new field goes to the end, and into the newest layout of this list"
    )
    first = min(layout for layout in LAYOUTS if name in LAYOUTS[layout])
    assert list(kind._field_defaults) == fields[len(LAYOUTS[first][name]) :]


@pytest.mark.parametrize("name", RECORDS)
def test_the_document_says_since_when_a_field_is_there_and_its_default(name: str) -> None:
    title = re.sub(r"(?<!^)(?=[A-Z])", " ", name).capitalize()
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text().split(f"### {title}\n")[1]
    rows = [line.strip("|").split("|") for line in text.split("\n#")[0].splitlines() if line.startswith("| ")]
    documented = [[cell.strip() for cell in row[1:5]] for row in rows[1:]]
    defaults = {
        field: json.dumps(default, default=bytes.decode).replace("null", "nil")
        for field, default in RECORDS[name]._field_defaults.items()
    }
    assert [(row[0], row[2], row[3]) for row in documented] == [
        (field, str(layout), defaults.get(field, ""))
        for layout in sorted(LAYOUTS)
        for field in LAYOUTS[layout].get(name, ())
    ]


def test_numbers_of_tables_are_kept() -> None:
    assert {int(table): table.name for table in Table} == {
        number: name for layout in TABLES.values() for number, name in layout.items()
    }


def test_there_is_a_step_to_every_layout_but_the_lowest() -> None:
    assert sorted(upgrade.STEPS) == list(range(LAYOUT_VERSION_MIN + 1, LAYOUT_VERSION + 1))


def layout_of(database: Database) -> int:
    with database.read(ACTOR) as read:
        return int(read.record(Table.META, IDENTITY_KEY).layout_version)


class Crash(Exception):
    """The process ends here."""


class WorkOfStep:
    """A step to the next layout that marks one message a transaction, and ends the process at a batch."""

    def __init__(self, crash_at: int) -> None:
        self.batches = 0
        self._crash_at = crash_at

    def __call__(self, txn: WriteTransaction) -> bool:
        unmarked = [(key, item) for key, item in txn.records(Table.ITEM, b"", None) if item[-1] == "red"]
        for key, item in unmarked[:1]:
            txn.put(Table.ITEM, key, item._replace(colour="blue"))
        self.batches += 1
        if self.batches == self._crash_at:
            raise Crash
        return len(unmarked) <= 1


@pytest.mark.parametrize("crash_at", [1, 2, 0])
def test_an_upgrade_goes_on_where_a_crash_ended_it(
    database: Database, newer_program: NewerProgram, crash_at: int
) -> None:
    with newer_program():
        step = WorkOfStep(crash_at)
        upgrade.STEPS[LAYOUT_VERSION + 1] = step
        if crash_at:
            with pytest.raises(Crash):
                database.mount()
            database = make_database(database.path)
        events: list[Event] = []
        database.reporter = type("Reporter", (), {"report": staticmethod(events.append)})()
        database.mount()
        (told,) = [event for event in events if event.event_id == EventId.DATABASE_UPGRADED]
        assert told.details == {"before": LAYOUT_VERSION, "layout": LAYOUT_VERSION + 1}
        assert layout_of(database) == LAYOUT_VERSION + 1
        assert {item[-1] for item, _ in state_of(database)} == {"blue"}
        assert step.batches == 2 + bool(crash_at)
        database.dismount()
        events.clear()
        database.mount()
        assert EventId.DATABASE_UPGRADED not in {event.event_id for event in events}
        assert step.batches == 2 + bool(crash_at)
        assert check_database(database, ACTOR).clean
        database.dismount()


def test_a_database_of_the_lowest_layout_is_read_without_an_upgrade(
    database: Database, newer_program: NewerProgram
) -> None:
    with newer_program():
        upgrade.STEPS[LAYOUT_VERSION + 1] = WorkOfStep(1)
        database.mount(read_only=True)
        assert layout_of(database) == LAYOUT_VERSION
        assert [raw for _, raw in state_of(database)] == [RAW, RAW]
        database.dismount()


def everything_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory with its bytes and when it was changed."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("clean", [True, False])
def test_a_newer_database_is_refused_by_number_and_nothing_is_touched(
    database: Database, newer_program: NewerProgram, clean: bool
) -> None:
    with newer_program():
        database.mount()
        if clean:
            database.dismount()
        else:
            killed = shutil.copytree(database.path, database.path.with_name("killed"))
            database.dismount()
            database = make_database(killed)
    before = everything_of(database.path)
    for refused in (
        database.mount,
        lambda: database.mount(read_only=True),
        lambda: repair_database(database),
    ):
        with pytest.raises(UnsupportedVersion, match=f"layout {LAYOUT_VERSION + 1}") as raised:
            refused()
        assert f"{LAYOUT_VERSION_MIN} to {LAYOUT_VERSION}" in raised.value.hint
        assert everything_of(database.path) == before


@pytest.mark.parametrize("lost", ["checkpoint", "checkpoint and tables"])
def test_a_repair_refuses_a_newer_database_that_has_lost_its_checkpoint(
    database: Database, newer_program: NewerProgram, lost: str
) -> None:
    with newer_program():
        database.mount()
        database.dismount()
    (database.path / "checkpoint").unlink()
    if lost != "checkpoint":
        shutil.rmtree(database.path / PROPERTIES)
    before = files_of(database.path)
    with pytest.raises(UnsupportedVersion, match=f"layout {LAYOUT_VERSION + 1}"):
        repair_database(database)
    assert files_of(database.path) == before


def test_replay_refuses_a_record_of_a_newer_program(database: Database) -> None:
    env = Env(database.path / PROPERTIES)
    value = seal_record(Table.SEGMENT, b"key", (1, 2, "new"))
    redo = Redo(sequence=9, flush_first=9, rows=((int(Table.SEGMENT), b"key", value),), end=Position(1, 40))
    with pytest.raises(UnsupportedVersion, match="segment"):
        TableWriter(env).add(redo)
    env.close()


def test_a_database_that_went_back_in_time_says_so_from_then_on(database: Database) -> None:
    env = Env(database.path / PROPERTIES)
    mark_restored(env)
    env.sync()
    changed = read_checkpoint(database.path)._replace(meta_pages=env.pin().meta_pages, tables_sums=b"")
    write_checkpoint(database.path, changed)
    env.close()
    for _ in range(2):
        database.mount()
        with database.transaction(ACTOR) as txn:
            txn.set_size_check(5, 0)
        with database.read(ACTOR) as read:
            assert read.state().restored
        database.dismount()
    shutil.rmtree(database.path / PROPERTIES)
    repair_database(database)
    database.mount()
    with database.read(ACTOR) as read:
        assert read.state().restored
    database.dismount()


# -- a field and a table more


def test_a_newer_program_reads_an_old_database_without_changing_it(
    database: Database, newer_program: NewerProgram
) -> None:
    database.mount(read_only=True)
    expected = state_of(database)
    database.dismount()
    before = files_of(database.path)
    with newer_program() as table:
        database.mount(read_only=True)
        assert [(tuple(item)[:-1], raw) for item, raw in state_of(database)] == expected
        assert {item[-1] for item, _ in state_of(database)} == {"red"}
        with database.read(ACTOR) as read:
            assert list(read.records(table, b"", None)) == []
            assert list(read.records(table, b"", None, reverse=True)) == []
            assert read.record(table, b"key") is None
            assert read.view.count(table) == 0
        assert check_database(database, ACTOR).clean
        database.dismount()
    assert files_of(database.path) == before


@pytest.mark.parametrize("then", ["nothing", "repair of the tables", "repair from the stream"])
def test_a_newer_program_writes_what_is_new_and_keeps_what_is_old(
    database: Database, newer_program: NewerProgram, then: str
) -> None:
    with newer_program() as table:
        database.mount()
        old, untouched = [item for item, _ in state_of(database)]
        with database.transaction(ACTOR) as txn:
            key = item_key(old.folder_id, old.uid)
            txn.put(Table.ITEM, key, old._replace(colour="blue"))
            txn.put(table, b"key", RECORD_TYPES[table](1, 2, "green"))
        database.dismount()
        if then != "nothing":
            if then == "repair from the stream":
                shutil.rmtree(database.path / PROPERTIES)
            assert repair_database(database).from_stream == (then == "repair from the stream")
        database.mount()
        found = state_of(database)
        assert [(item[-1], raw) for item, raw in found] == [("blue", RAW), ("red", RAW)]
        assert found[1][0] == untouched
        with database.read(ACTOR) as read:
            assert read.record(table, b"key") == (1, 2, "green")
        assert check_database(database, ACTOR).clean
        database.dismount()


@pytest.mark.parametrize("crash", ["kill", "power loss"])
def test_tables_that_are_made_at_the_mount_leave_the_checkpoint_whole(
    database: Database,
    newer_program: NewerProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crash: str,
) -> None:
    """Right after a power loss the checkpoint's meta pages are put back, the file has pages of later."""
    database.mount()
    expected = state_of(database)
    database.dismount()
    meta_pages = read_checkpoint(database.path).meta_pages
    make_missing_tables = Env.make_missing_tables

    def make_and_copy(env: Env) -> None:
        make_missing_tables(env)
        shutil.copytree(database.path, tmp_path / "crashed")

    with newer_program():
        with monkeypatch.context() as patch:
            patch.setattr(Env, "make_missing_tables", make_and_copy)
            database.mount()
            database.dismount()
        crashed = make_database(tmp_path / "crashed")
        (crashed.path / PROPERTIES / "lock.mdb").unlink()
        if crash == "power loss":
            put_back_meta_pages(crashed.path / PROPERTIES, meta_pages)
        crashed.mount()
        assert [(item[:-1], raw) for item, raw in state_of(crashed)] == expected
        assert check_database(crashed, ACTOR).clean
        crashed.dismount()


READS_A_TABLE_THAT_COMES = """
import sys
from pathlib import Path
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.tables import Table
env = Env(Path(sys.argv[1]), read_only=True)
with env.view() as view:
    print(view.get(Table.SEEN, b"key"), view.count(Table.SEEN), flush=True)
    sys.stdin.readline()
    print(view.get(Table.SEEN, b"key"), flush=True)
with env.view() as view:
    print(view.get(Table.SEEN, b"key"), view.count(Table.SEEN), flush=True)
"""


def test_a_process_that_reads_sees_a_table_that_the_writing_one_makes_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "properties"
    with monkeypatch.context() as patch:
        patch.setattr(Table, "_member_names_", [name for name in Table._member_names_ if name != "SEEN"])
        Env(path, create=True).close()
    env = Env(path)
    command = [sys.executable, "-c", READS_A_TABLE_THAT_COMES, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin and reader.stdout
        assert reader.stdout.readline() == "None 0\n"
        env.make_missing_tables()
        env.apply({Table.SEEN: {b"key": b"value"}})
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "None\n"
        assert reader.stdout.readline() == "b'value' 1\n"
    env.close()


def lengthen(database: Database, table: Table) -> None:
    """Give the records of a table a field that this program does not know, behind the engine's back."""
    database.mount()
    env = database.files.env
    with database.read(ACTOR) as read:
        rows: list[tuple[bytes, Record]] = list(read.records(table, b"", None))
    env.apply({table: {key: seal_record(table, key, (*record, "new")) for key, record in rows}})
    database.dismount()


NOT_IN_A_MAILBOX_STORE = (Table.META, Table.SEEN, Table.DICTIONARY, Table.REPLICA, Table.REPLICATION)
READABLE = [table for table in PRIMARY if table not in NOT_IN_A_MAILBOX_STORE]


@pytest.mark.parametrize("table", READABLE, ids=lambda table: table.name)
def test_a_record_with_a_field_more_is_refused_by_check_and_repair_and_stays(
    database: Database, table: Table
) -> None:
    lengthen(database, table)
    database.mount(read_only=True)
    with pytest.raises(UnsupportedVersion, match=table.name.lower()):
        check_database(database, ACTOR)
    database.dismount()
    before = files_of(database.path)
    with pytest.raises(UnsupportedVersion, match=table.name.lower()):
        repair_database(database)
    assert files_of(database.path) == before
