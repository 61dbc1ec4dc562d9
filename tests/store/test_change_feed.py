"""What is promised of the change feed: each change once, in order, with its cost, from any state on."""

from __future__ import annotations

import pytest

from pillarbox.store import folder, mailbox, message
from pillarbox.store.access import Actor
from pillarbox.store.change_feed import ChangeKind, changes
from pillarbox.store.change_number import CNSet
from pillarbox.store.check import check_database
from pillarbox.store.database import Database
from pillarbox.store.errors import Refused
from pillarbox.store.tables import MailboxRecord, ObjectKind

ACTOR = Actor.task("test")


@pytest.fixture
def anna(database: Database) -> MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailbox.create(txn, "anna")


def state_of(database: Database) -> CNSet:
    with database.read(ACTOR) as read:
        return changes(read, CNSet()).cnset


def since(database: Database, seen: CNSet, folder_id: int = 0) -> list[tuple[ChangeKind, int]]:
    with database.read(ACTOR) as read:
        found = changes(read, seen, folder_id)
        listed = list(found)
        assert found.cost().changes == len(listed)
        return [(change.kind, change.object_id) for change in listed]


def add(database: Database, folder_id: int) -> int:
    prepared = message.prepare(database.files, b"Subject: x\r\n\r\nbody")
    with database.transaction(ACTOR) as txn:
        return message.append(txn, folder_id, prepared).message_id


def test_each_kind_of_change_is_told_once(database: Database, anna: MailboxRecord) -> None:
    inbox, sent = anna.roles["inbox"], anna.roles["sent"]
    flagged, read, moved, deleted = (add(database, inbox) for _ in range(4))
    seen = state_of(database)
    assert since(database, seen) == []
    new = add(database, inbox)
    with database.transaction(ACTOR) as txn:
        message.set_flags(txn, flagged, add=["\\Flagged"])
        message.set_flags(txn, flagged, add=["work"])
        message.set_flags(txn, read, add=["\\Seen"])
        message.move(txn, moved, sent)
        message.delete(txn, deleted)
    assert since(database, seen) == [
        (ChangeKind.NEW, new),
        (ChangeKind.CHANGED, flagged),
        (ChangeKind.READ, read),
        (ChangeKind.MOVED, moved),
        (ChangeKind.DELETED, deleted),
    ]
    assert since(database, seen, sent) == [(ChangeKind.NEW, moved)]
    assert (ChangeKind.DELETED, moved) in since(database, seen, inbox)
    assert since(database, state_of(database)) == []


def test_what_came_and_went_unseen_is_not_told(database: Database, anna: MailboxRecord) -> None:
    seen = state_of(database)
    passing = add(database, anna.roles["inbox"])
    with database.transaction(ACTOR) as txn:
        message.delete(txn, passing)
    assert since(database, seen) == []


def test_the_cost_is_known_before_anything_is_fetched(database: Database, anna: MailboxRecord) -> None:
    seen = state_of(database)
    add(database, anna.roles["inbox"])
    add(database, anna.roles["inbox"])
    with database.read(ACTOR) as read:
        cost = changes(read, seen).cost()
    assert (cost.new, cost.changes, cost.content_bytes) == (2, 2, 2 * len(b"Subject: x\r\n\r\nbody"))


def test_a_message_moved_into_a_folder_that_is_deleted_is_told_as_deleted(
    database: Database, anna: MailboxRecord
) -> None:
    moved = add(database, anna.roles["inbox"])
    with database.transaction(ACTOR) as txn:
        lists = folder.create(txn, anna.root_id, "Lists")
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        message.move(txn, moved, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        folder.delete(txn, lists.folder_id, with_contents=True)
    told = since(database, seen)
    assert told == [(ChangeKind.DELETED, moved), (ChangeKind.DELETED, lists.folder_id)]


def test_a_message_deleted_in_a_folder_that_is_deleted_too_is_told_as_deleted(
    database: Database, anna: MailboxRecord
) -> None:
    """Who last saw it in another folder would keep it for ever."""
    moved = add(database, anna.roles["inbox"])
    with database.transaction(ACTOR) as txn:
        lists = folder.create(txn, anna.root_id, "Lists")
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        message.move(txn, moved, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        message.delete(txn, moved)
    with database.transaction(ACTOR) as txn:
        folder.delete(txn, lists.folder_id)
    told = since(database, seen)
    assert told == [(ChangeKind.DELETED, moved), (ChangeKind.DELETED, lists.folder_id)]
    assert not check_database(database, ACTOR).findings


def test_a_purged_mailbox_is_told_with_each_of_its_folders(database: Database, anna: MailboxRecord) -> None:
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        mailbox.purge(txn, anna.guid)
    with database.read(ACTOR) as read:
        kinds = [change.object_kind for change in changes(read, seen)]
    assert kinds == [ObjectKind.FOLDER_GONE] * (1 + len(anna.roles)) + [ObjectKind.MAILBOX_GONE]


def test_a_state_from_the_future_is_refused(database: Database, anna: MailboxRecord) -> None:
    future = CNSet.full(database.guid, 10**6)
    with database.read(ACTOR) as read, pytest.raises(Refused, match="restored"):
        changes(read, future)


def test_a_state_with_gaps_gets_exactly_what_is_missing(database: Database, anna: MailboxRecord) -> None:
    inbox = anna.roles["inbox"]
    before = state_of(database)
    first = add(database, inbox)
    after_first = state_of(database)
    add(database, inbox)
    after_second = state_of(database)
    third = add(database, inbox)
    seen = before | (after_second - after_first)
    assert since(database, seen) == [(ChangeKind.NEW, first), (ChangeKind.NEW, third)]
