"""The format evolves: a newer program opens old databases, an older one refuses what it cannot know."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.records import seal_record
from pillarbox.store.disk.tables import (
    PRIMARY,
    DatabaseKind,
    Record,
    Table,
)
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import UnsupportedVersion
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
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
    """Every file below a directory, but those in which LMDB notes who reads."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


# -- a field more


def lengthen(database: Database, table: Table) -> None:
    """Give the records of a table a field that this program does not know, behind the engine's back."""
    database.mount()
    env = database.files.env
    with database.read(ACTOR) as read:
        rows: list[tuple[bytes, Record]] = list(read.records(table, b"", None))
    env.apply({table: {key: seal_record(table, key, (*record, "new")) for key, record in rows}})
    database.dismount()


READABLE = [table for table in PRIMARY if table not in (Table.META, Table.SEEN, Table.DICTIONARY)]


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
