"""Maintenance gives space back, and neither a message nor a promise of the stream is lost by it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store import folder, mailbox, message
from pillarbox.store.access import Actor
from pillarbox.store.check import check_database
from pillarbox.store.clock import VirtualClock
from pillarbox.store.database import Database
from pillarbox.store.events import EventId
from pillarbox.store.group_commit import Tuning
from pillarbox.store.maintenance import (
    MAILBOX_RETENTION_MS,
    compact,
    purge_disconnected,
    run_maintenance,
    train_dictionary,
)
from pillarbox.store.mbox import read_mbox
from pillarbox.store.repair import repair_database
from pillarbox.store.tables import DatabaseKind, ItemRecord, Table

DATA = Path(__file__).resolve().parents[1] / "data"
ACTOR = Actor.task("test")
MAIL = [item.raw for item in read_mbox(DATA / "lists.mbox")]
MAIL += [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))]


class Events:
    def __init__(self) -> None:
        self.ids: list[int] = []

    def report(self, event: Any) -> None:
        self.ids.append(event.event_id)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def database(tmp_path: Path, events: Events, clock: VirtualClock) -> Iterator[Database]:
    """Mounted, with the mailbox anna in it."""
    made = Database(
        tmp_path / "db",
        b"x" * 16,
        "Mail",
        DatabaseKind.MAILBOX_STORE,
        clock=clock,
        rng=random.Random(1),
        reporter=events,
        tuning=Tuning(segment_bytes=30_000),
    )
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        mailbox.create(txn, "anna")
    yield made
    made.dismount()


def deliver(database: Database, mail: list[bytes]) -> list[ItemRecord]:
    with database.read(ACTOR) as reader:
        guid = mailbox.find(reader, "anna").guid
    items = []
    for raw in mail:
        prepared = message.prepare(database.files, raw)
        with database.transaction(ACTOR) as txn:
            items += message.deliver(txn, [guid], prepared)
    return items


def delete(database: Database, items: list[ItemRecord]) -> None:
    for item in items:
        with database.transaction(ACTOR) as txn:
            message.delete(txn, item.message_id)


def contents(database: Database) -> list[tuple[ItemRecord, bytes]]:
    found = []
    with database.read(ACTOR) as reader:
        for box in mailbox.all_of(reader):
            for _, each in folder.walk(reader, box.root_id):
                found += [
                    (item, message.content(reader, item)) for item in folder.messages(reader, each.folder_id)
                ]
    return found


def tables(database: Database) -> dict[tuple[Table, bytes], bytes]:
    """Every row but those that a repair numbers anew: the sums of segments and the counters."""
    with database.read(ACTOR) as reader:
        return {
            (table, key): value
            for table in Table
            if table not in (Table.META, Table.SEGMENT)
            for key, value in reader.view.scan(table, b"", None)
        }


def assert_clean(database: Database) -> None:
    assert check_database(database, ACTOR).findings == ()


def test_space_of_deleted_mail_comes_back_and_all_else_stays(database: Database, events: Events) -> None:
    items = deliver(database, MAIL)
    delete(database, items[: len(items) * 3 // 4])
    before, size = contents(database), database.stream.total_bytes()
    segments = database.stream.segments()
    freed = compact(database, ACTOR)
    assert freed > 0 and database.stream.total_bytes() < size
    assert set(segments) - set(database.stream.segments())
    assert contents(database) == before
    assert EventId.COMPACTION_FINISHED in events.ids
    assert_clean(database)
    database.dismount()
    database.mount()
    assert contents(database) == before
    assert_clean(database)


def test_the_stream_that_is_left_still_makes_the_same_tables(database: Database) -> None:
    items = deliver(database, MAIL)
    delete(database, items[5:30])
    with database.transaction(ACTOR) as txn:
        for item in items[:5]:
            message.set_flags(txn, item.message_id, add=["\\Seen"])
    for _ in range(3):
        compact(database, ACTOR)
        delete(database, deliver(database, MAIL[:8]))
    before, rows = contents(database), tables(database)
    assert database.stream.segments()[0] > 1
    database.dismount()
    (database.path / "checkpoint").unlink()
    report = repair_database(database)
    assert report.from_stream and report.lost == () and report.restored == ()
    database.mount()
    assert contents(database) == before
    assert tables(database) == rows
    assert_clean(database)


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    delete(database, deliver(database, MAIL)[:20])
    for _ in range(3):
        compact(database, ACTOR)
    segments = database.stream.segments()
    assert compact(database, ACTOR) <= 0
    assert database.stream.segments()[: len(segments)] == segments


def test_a_segment_that_a_read_looks_at_stays_until_the_read_ends(database: Database) -> None:
    items = deliver(database, MAIL)
    with database.read(ACTOR) as reader:
        delete(database, items)
        segments = database.stream.segments()
        compact(database, ACTOR)
        assert set(segments) <= set(database.stream.segments())
        assert [message.content(reader, item) for item in items] == MAIL
    assert_clean(database)
    compact(database, ACTOR)
    assert not set(segments[:-1]) & set(database.stream.segments())
    assert_clean(database)


def test_a_damaged_segment_is_left_alone(database: Database, events: Events) -> None:
    delete(database, deliver(database, MAIL))
    path = database.stream.path(1)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damage")
    compact(database, ACTOR)
    assert 1 in database.stream.segments()
    assert EventId.DAMAGE_FOUND in events.ids


def variants(count: int) -> list[bytes]:
    """Small mail as it comes every day: real headers, each with something of its own."""
    headers = [raw.split(b"\n\n", 1)[0] for raw in MAIL]
    return [
        headers[each % len(headers)] + f"\nX-Number: {each * 7919}\n\nHello {each}\n".encode()
        for each in range(count)
    ]


def test_a_dictionary_makes_later_mail_smaller_and_is_still_known_after_a_mount(database: Database) -> None:
    prepared = [message.prepare(database.files, raw) for raw in variants(600)]
    with database.transaction(ACTOR) as txn:
        guid = mailbox.find(txn, "anna").guid
        for each in prepared[:520]:
            message.deliver(txn, [guid], each)
    plain = sum(len(each.content.skeleton.frame(database.files.dictionaries)) for each in prepared[520:])
    assert train_dictionary(database, ACTOR) == 1
    items = deliver(database, variants(600)[520:])
    with database.read(ACTOR) as reader:
        packed = sum(reader.record(Table.CONTENT, item.digest).length for item in items)
    assert packed < plain * 0.8
    assert_clean(database)
    database.dismount()
    database.mount()
    assert [raw for _, raw in contents(database)][520:] == variants(600)[520:]
    assert train_dictionary(database, ACTOR) == 0  # another would save nothing
    delete(database, [item for item, _ in contents(database)[:520]])
    compact(database, ACTOR)
    database.dismount()
    database.mount()
    assert [raw for _, raw in contents(database)] == variants(600)[520:]
    assert_clean(database)


def test_no_dictionary_is_made_of_little_mail(database: Database) -> None:
    deliver(database, MAIL)
    assert train_dictionary(database, ACTOR) == 0


def test_a_mailbox_is_purged_when_its_time_is_over(database: Database, clock: VirtualClock) -> None:
    deliver(database, MAIL[:3])
    with database.transaction(ACTOR) as txn:
        mailbox.create(txn, "bob")
        mailbox.disconnect(txn, mailbox.find(txn, "anna").guid)
    clock.advance_ms(MAILBOX_RETENTION_MS - 1)
    assert purge_disconnected(database, ACTOR) == 0
    clock.advance_ms(1)
    assert purge_disconnected(database, ACTOR) == 1
    with database.read(ACTOR) as reader:
        assert [box.name for box in mailbox.all_of(reader)] == ["bob"]
    assert contents(database) == []
    assert_clean(database)


def test_a_run_ends_with_the_event_that_tells_the_free_space(database: Database, events: Events) -> None:
    delete(database, deliver(database, MAIL))
    report = run_maintenance(database, ACTOR)
    assert report.freed_bytes > 0 and report.free_bytes >= 0
    assert events.ids[-1] == EventId.FREE_SPACE_AFTER_MAINTENANCE
    assert_clean(database)
