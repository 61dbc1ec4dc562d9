"""What is promised of the change feed: each change once, in order, with its cost, from any state on."""

from __future__ import annotations

import random

import pytest

from pillarbox.store import folder, mailbox, message
from pillarbox.store.access import Actor
from pillarbox.store.change_feed import ChangeKind, changes, vanished
from pillarbox.store.change_number import CNSet
from pillarbox.store.check import check_database
from pillarbox.store.database import Database
from pillarbox.store.errors import InvalidSetting, Refused
from pillarbox.store.tables import ItemRecord, MailboxRecord, ObjectKind
from pillarbox.store.transaction import WriteTransaction

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


def test_each_message_of_a_folder_that_is_deleted_is_told_as_deleted(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        lists = folder.create(txn, anna.root_id, "Lists").folder_id
        inner = folder.create(txn, lists, "Inner").folder_id
    first, second, other = add(database, lists), add(database, inner), add(database, anna.roles["inbox"])
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        folder.delete(txn, lists, with_contents=True)
    assert sorted(since(database, seen)) == sorted(
        (ChangeKind.DELETED, each) for each in (first, second, lists, inner)
    )
    with database.transaction(ACTOR) as txn:
        message.delete(txn, other)
    assert check_database(database, ACTOR).clean


def test_the_messages_of_a_folder_that_goes_to_another_mailbox_are_told_as_moved(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        bert = mailbox.create(txn, "bert")
        lists = folder.create(txn, anna.root_id, "Lists").folder_id
        inner = folder.create(txn, lists, "Inner").folder_id
    first, second = add(database, lists), add(database, inner)
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        folder.move(txn, lists, bert.root_id)
    told = since(database, seen)
    assert {(ChangeKind.MOVED, first), (ChangeKind.MOVED, second)} <= set(told)
    with database.read(ACTOR) as read:
        assert folder.get(read, lists).highest_cn == message.get(read, first).modseq
    assert check_database(database, ACTOR).clean


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


def test_a_state_of_another_database_is_refused(database: Database) -> None:
    with database.read(ACTOR) as read, pytest.raises(Refused, match="another database"):
        changes(read, CNSet.full(b"x" * 16, 3))


def test_a_state_that_ends_among_numbers_left_out_is_refused(database: Database, anna: MailboxRecord) -> None:
    add(database, anna.roles["inbox"])
    for _ in range(2):
        before = state_of(database)
        lost = before.highest(database.guid) + 1
        with database.transaction(ACTOR) as txn:
            txn.leave_out_numbers(lost + 100)
        assert since(database, state_of(database)) == []
        add(database, anna.roles["inbox"])
        for number in (lost, lost + 100):
            with database.read(ACTOR) as read, pytest.raises(Refused, match="restored"):
                changes(read, CNSet.full(database.guid, number))
        assert len(since(database, before)) == 1
        assert since(database, state_of(database)) == []
    assert check_database(database, ACTOR).clean


def test_uids_vanish_also_of_messages_that_came_after_the_modseq(
    database: Database, anna: MailboxRecord
) -> None:
    inbox = anna.roles["inbox"]
    first, moved, stays = (add(database, inbox) for _ in range(3))
    with database.read(ACTOR) as read:
        modseq = folder.get(read, inbox).highest_cn
    passing = add(database, inbox)
    with database.transaction(ACTOR) as txn:
        message.delete(txn, passing)
        message.move(txn, moved, anna.roles["sent"])
        message.set_flags(txn, stays, add=["\\Seen"])
        message.delete(txn, first)
    with database.read(ACTOR) as read:
        assert list(vanished(read, inbox, modseq)) == [4, 2, 1]
        assert list(vanished(read, inbox, folder.get(read, inbox).highest_cn)) == []
        assert list(vanished(read, -1, 0)) == list(vanished(read, inbox, -1)) == []


class Follower:
    """Knows the messages it was told of, page by page, and insists on what was promised of each change."""

    def __init__(self) -> None:
        self.seen = CNSet()
        self.known: dict[int, ItemRecord] = {}

    def follow(self, database: Database, limit: int) -> bool:
        """Take one page; whether it was the last."""
        with database.read(ACTOR) as read:
            page = changes(read, self.seen).page(limit)
        assert len(page.changes) == limit or (page.is_last and len(page.changes) < limit)
        for change in page.changes:
            if change.object_kind == ObjectKind.MESSAGE:
                assert (change.kind is ChangeKind.NEW) == (change.object_id not in self.known)
                assert change.item is not None
                self.known[change.object_id] = change.item
            elif change.object_kind == ObjectKind.MESSAGE_GONE:
                del self.known[change.object_id]
        self.seen = page.cnset
        return page.is_last


@pytest.mark.parametrize("seed", range(30))
def test_page_by_page_nothing_is_lost_or_told_twice_whatever_changes_meanwhile(
    database: Database, anna: MailboxRecord, seed: int
) -> None:
    rng = random.Random(seed)
    follower = Follower()

    def change_something(txn: WriteTransaction) -> None:
        places = [record.folder_id for _, record in folder.walk(txn, anna.root_id)]
        items = [item for each in places for item in folder.messages(txn, each)]
        what = rng.randrange(8) if items else 0
        if what == 0 or len(items) < 3:
            message.append(txn, rng.choice(places), message.prepare(database.files, b"A: b\n\n"))
        elif what < 3:
            flag = rng.choice(["\\Seen", "\\Flagged"])
            message.set_flags(txn, rng.choice(items).message_id, add=[flag])
        elif what < 5:
            message.move(txn, rng.choice(items).message_id, rng.choice(places))
        elif what == 5:
            message.delete(txn, rng.choice(items).message_id)
        elif what == 6:
            folder.create(txn, rng.choice(places), f"{txn.counter}")
        elif places[-1] not in anna.roles.values():
            folder.delete(txn, places[-1], with_contents=True)

    for _ in range(60):
        with database.transaction(ACTOR) as txn:
            for _ in range(rng.randrange(8)):
                change_something(txn)
        if rng.random() < 0.7:
            follower.follow(database, rng.randrange(1, 6))
    while not follower.follow(database, rng.randrange(1, 6)):
        pass
    with database.read(ACTOR) as read:
        places = [each.folder_id for _, each in folder.walk(read, anna.root_id)]
        there = [item for each in places for item in folder.messages(read, each)]
        assert follower.known == {item.message_id: item for item in there}
        assert follower.seen == changes(read, CNSet()).cnset
        with pytest.raises(InvalidSetting, match="page of 0 changes"):
            changes(read, CNSet()).page(0)


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
