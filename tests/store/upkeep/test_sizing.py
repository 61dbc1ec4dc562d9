"""Daily maintenance fills in the sizes that records of layout 1 lack, a batch at a time."""

from __future__ import annotations

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import SIZING_KEY, ContentRecord, SizingRecord, Table
from pillarbox.store.engine.change_feed import changes
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep import sizing
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import run_maintenance
from pillarbox.store.upkeep.sizing import fill_in_sizes

ACTOR = Actor.task("test")


@pytest.fixture
def old(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database whose messages lack their sizes; they are filled in two at a time."""
    monkeypatch.setattr(sizing, "_BATCH_MESSAGES", 2)
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    for number in range(5):
        prepared = messages.prepare(database.files, b"Subject: x\n\n" + b"line\n" * number)
        with database.transaction(ACTOR) as txn:
            messages.deliver(txn, [anna.guid], prepared)
    with database.transaction(ACTOR) as txn:
        for key, item in list(txn.records(Table.ITEM, b"", None)):
            txn.put(Table.ITEM, key, item._replace(size_crlf=None))
        txn.put(Table.META, SIZING_KEY, SizingRecord(after=b"", filled=0))
    return database


def sizes(database: Database) -> list[int | None]:
    with database.read(ACTOR) as read:
        return [item.size_crlf for _, item in read.records(Table.ITEM, b"", None)]


def place(database: Database) -> SizingRecord | None:
    with database.read(ACTOR) as read:
        found: SizingRecord | None = read.record(Table.META, SIZING_KEY)
        return found


EXPECTED = [14 + 6 * number for number in range(5)]


def test_a_message_knows_its_size_with_crlf_from_its_delivery_on(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    prepared = messages.prepare(database.files, b"Subject: x\n\nbody\n")
    with database.transaction(ACTOR) as txn:
        (item,) = messages.deliver(txn, [anna.guid], prepared)
        copied = messages.copy(txn, item.message_id, anna.roles["sent"])
    assert item.size_crlf == copied.size_crlf == item.size + 3
    with database.read(ACTOR) as read:
        assert messages.size_crlf(read, messages.get(read, item.message_id)) == item.size + 3


def test_a_size_that_a_record_lacks_is_computed_when_asked(old: Database) -> None:
    with old.read(ACTOR) as read:
        items = [item for _, item in read.records(Table.ITEM, b"", None)]
        assert [messages.size_crlf(read, item) for item in items] == EXPECTED


def test_sizes_are_filled_in_and_no_client_is_told(old: Database) -> None:
    with old.read(ACTOR) as read:
        seen = changes(read, CNSet()).cnset
    run_maintenance(old, ACTOR)
    assert sizes(old) == EXPECTED
    assert place(old) is None
    assert fill_in_sizes(old, ACTOR) == 0
    with old.read(ACTOR) as read:
        assert list(changes(read, seen)) == []
    assert check_database(old, ACTOR).findings == ()


def test_what_is_not_done_in_time_is_done_by_the_next_run(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = old.clock
    assert isinstance(clock, VirtualClock)
    took = sizing._next_batch

    def slow(*arguments: object) -> object:
        clock.advance_ms(10)
        return took(*arguments)

    monkeypatch.setattr(sizing, "_next_batch", slow)
    assert fill_in_sizes(old, ACTOR, until_ms=clock.now_ms()) == 0
    assert fill_in_sizes(old, ACTOR, until_ms=clock.now_ms() + 15) == 4
    assert sizes(old) == [*EXPECTED[:4], None]
    assert fill_in_sizes(old, ACTOR) == 1
    assert sizes(old) == EXPECTED


def test_a_message_that_moves_behind_the_pass_is_found_by_the_next(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Inbox comes before the folder that is made later, and is passed first."""
    with old.transaction(ACTOR) as txn:
        anna = mailboxes.find(txn, "anna")
        late = folders.create(txn, anna.root_id, "Late")
        moved = next(folders.messages(txn, anna.roles["inbox"]))
        messages.move(txn, moved.message_id, late.folder_id)
    took, batches = sizing._next_batch, 0

    def moving(*arguments: object) -> object:
        nonlocal batches
        batches += 1
        if batches == 2:
            with old.transaction(ACTOR) as txn:
                messages.move(txn, moved.message_id, anna.roles["inbox"])
                gone = next(folders.messages(txn, anna.roles["inbox"]))
                messages.move(txn, gone.message_id, anna.roles["sent"])
        return took(*arguments)

    monkeypatch.setattr(sizing, "_next_batch", moving)
    fill_in_sizes(old, ACTOR)
    assert None not in sizes(old)
    assert place(old) is None


def test_a_message_whose_content_is_damaged_is_passed_over(old: Database) -> None:
    with old.read(ACTOR) as read:
        _, item = next(read.records(Table.ITEM, b"", None))
        content: ContentRecord = read.record(Table.CONTENT, item.digest)
    with old.transaction(ACTOR) as txn:
        txn.put(Table.CONTENT, item.digest, content._replace(length=content.length - 1))
    assert fill_in_sizes(old, ACTOR) == 4
    assert sizes(old) == [None, *EXPECTED[1:]]
    assert place(old) is None
