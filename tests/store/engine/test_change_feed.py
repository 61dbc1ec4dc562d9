"""What is promised of the change feed: each change once, in order, with its cost, from any state on."""

from __future__ import annotations

import random

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import ItemRecord, MailboxRecord, ObjectKind, Table, item_key
from pillarbox.store.engine.change_feed import ChangeKind, changes, vanished
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import InvalidSetting, Refused
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")


@pytest.fixture
def anna(database: Database) -> MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna")


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
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\nbody")
    with database.transaction(ACTOR) as txn:
        return messages.append(txn, folder_id, prepared).message_id


def test_each_kind_of_change_is_told_once(database: Database, anna: MailboxRecord) -> None:
    inbox, sent = anna.roles["inbox"], anna.roles["sent"]
    flagged, read, moved, deleted = (add(database, inbox) for _ in range(4))
    seen = state_of(database)
    assert since(database, seen) == []
    new = add(database, inbox)
    with database.transaction(ACTOR) as txn:
        messages.set_flags(txn, flagged, add=["\\Flagged"])
        messages.set_flags(txn, flagged, add=["work"])
        messages.set_flags(txn, read, add=["\\Seen"])
        messages.move(txn, moved, sent)
        messages.delete(txn, deleted)
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
        messages.delete(txn, passing)
    assert since(database, seen) == []


def test_what_came_into_a_folder_and_went_unseen_is_not_told_there(
    database: Database, anna: MailboxRecord
) -> None:
    inbox, sent, junk = (anna.roles[role] for role in ("inbox", "sent", "junk"))
    passing, ended = add(database, inbox), add(database, inbox)
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, passing, sent)
        messages.move(txn, passing, junk)
        messages.move(txn, ended, sent)
        messages.delete(txn, ended)
    assert since(database, seen, sent) == []
    assert since(database, seen, junk) == [(ChangeKind.NEW, passing)]
    assert since(database, seen, inbox) == [(ChangeKind.DELETED, passing), (ChangeKind.DELETED, ended)]
    assert since(database, seen) == [(ChangeKind.MOVED, passing), (ChangeKind.DELETED, ended)]


def test_a_message_that_comes_back_into_a_folder_is_told_as_often_as_it_was_known_there(
    database: Database, anna: MailboxRecord
) -> None:
    inbox, sent = anna.roles["inbox"], anna.roles["sent"]
    message = add(database, inbox)
    before = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, message, sent)
        messages.move(txn, message, inbox)
    back = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, message, sent)
    assert since(database, before, inbox) == [(ChangeKind.DELETED, message)]
    assert since(database, back, inbox) == [(ChangeKind.DELETED, message)]


def test_a_tombstone_that_does_not_say_when_its_message_came_goes_by_the_id(
    database: Database, anna: MailboxRecord
) -> None:
    """Such are those of layout 1."""
    sent = anna.roles["sent"]
    passing = add(database, anna.roles["inbox"])
    seen = state_of(database)
    unseen = add(database, sent)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, passing, sent)
        messages.delete(txn, passing)
        messages.delete(txn, unseen)
        for key, tombstone in list(txn.records(Table.TOMBSTONE, b"", None)):
            txn.put(Table.TOMBSTONE, key, tombstone._replace(arrived_cn=0))
    assert since(database, seen, sent) == [(ChangeKind.DELETED, passing)]


def test_the_id_that_another_database_gave_is_no_number_of_this_one(
    database: Database, anna: MailboxRecord
) -> None:
    """Its counter says nothing about when the message came here."""
    inbox, sent = anna.roles["inbox"], anna.roles["sent"]
    before = state_of(database)
    local = add(database, inbox)
    foreign = 7 << COUNTER_BITS | 1
    with database.transaction(ACTOR) as txn:
        item = messages.get(txn, local)
        txn.put(Table.ITEM, item_key(inbox, item.uid), item._replace(message_id=foreign))
    assert since(database, before) == since(database, before, inbox) == [(ChangeKind.NEW, foreign)]
    assert check_database(database, ACTOR).findings == ()
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, foreign, sent)
        messages.delete(txn, foreign)
    assert since(database, before, inbox) == since(database, seen, sent) == []
    assert since(database, seen) == since(database, seen, inbox) == [(ChangeKind.DELETED, foreign)]
    assert check_database(database, ACTOR).findings == ()


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
        lists = folders.create(txn, anna.root_id, "Lists")
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, moved, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, lists.folder_id, with_contents=True)
    told = since(database, seen)
    assert told == [(ChangeKind.DELETED, moved), (ChangeKind.DELETED, lists.folder_id)]
    database.finish_removals()
    told = since(database, seen)
    assert told == [(ChangeKind.DELETED, lists.folder_id), (ChangeKind.DELETED, moved)]


def test_a_message_deleted_in_a_folder_that_is_deleted_too_is_told_as_deleted(
    database: Database, anna: MailboxRecord
) -> None:
    """Who last saw it in another folder would keep it for ever."""
    moved = add(database, anna.roles["inbox"])
    with database.transaction(ACTOR) as txn:
        lists = folders.create(txn, anna.root_id, "Lists")
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, moved, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, moved)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, lists.folder_id)
    told = since(database, seen)
    assert told == [(ChangeKind.DELETED, moved), (ChangeKind.DELETED, lists.folder_id)]
    assert not check_database(database, ACTOR).findings


def test_each_message_of_a_folder_that_is_deleted_is_told_as_deleted(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        lists = folders.create(txn, anna.root_id, "Lists").folder_id
        inner = folders.create(txn, lists, "Inner").folder_id
    first, second, other = add(database, lists), add(database, inner), add(database, anna.roles["inbox"])
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, lists, with_contents=True)
    assert sorted(since(database, seen)) == sorted((ChangeKind.DELETED, each) for each in (lists, inner))
    database.finish_removals()
    assert sorted(since(database, seen)) == sorted(
        (ChangeKind.DELETED, each) for each in (first, second, lists, inner)
    )
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, other)
    assert check_database(database, ACTOR).clean


def test_the_messages_of_a_folder_that_goes_to_another_mailbox_are_told_as_moved(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        bert = mailboxes.create(txn, "bert")
        lists = folders.create(txn, anna.root_id, "Lists").folder_id
        inner = folders.create(txn, lists, "Inner").folder_id
    first, second = add(database, lists), add(database, inner)
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        folders.move(txn, lists, bert.root_id)
    told = since(database, seen)
    assert {(ChangeKind.MOVED, first), (ChangeKind.MOVED, second)} <= set(told)
    with database.read(ACTOR) as read:
        assert folders.get(read, lists).highest_cn == messages.get(read, first).modseq
    assert check_database(database, ACTOR).clean


def test_a_purged_mailbox_is_told_with_each_of_its_folders(database: Database, anna: MailboxRecord) -> None:
    seen = state_of(database)
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, anna.guid)
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
        modseq = folders.get(read, inbox).highest_cn
    passing = add(database, inbox)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, passing)
        messages.move(txn, moved, anna.roles["sent"])
        messages.set_flags(txn, stays, add=["\\Seen"])
        messages.delete(txn, first)
    with database.read(ACTOR) as read:
        assert list(vanished(read, inbox, modseq)) == [4, 2, 1]
        assert list(vanished(read, inbox, folders.get(read, inbox).highest_cn)) == []
        for nothing in (vanished(read, -1, 0), vanished(read, 0, 0), vanished(read, inbox, -1)):
            assert list(nothing) == []


class Follower:
    """Knows the messages it was told of, page by page, and insists on what was promised of each change."""

    def __init__(self) -> None:
        self.seen = CNSet()
        self.after: bytes | None = None
        self.known: dict[int, ItemRecord] = {}

    def follow(self, database: Database, limit: int) -> None:
        """Take one page."""
        with database.read(ACTOR) as read:
            found = changes(read, self.seen)
            page = found.page(limit, self.after)
        assert len(page.changes) == limit or page.next is None
        for change in page.changes:
            if change.object_kind == ObjectKind.MESSAGE:
                assert change.kind is ChangeKind.NEW or change.object_id in self.known
                assert change.item is not None
                self.known[change.object_id] = change.item
            elif change.object_kind == ObjectKind.MESSAGE_GONE:
                self.known.pop(change.object_id, None)
        self.after = page.next
        if page.next is None:
            self.seen = found.cnset


class Churn:
    """Changes messages and folders of a mailbox at random."""

    def __init__(self, database: Database, anna: MailboxRecord, seed: int) -> None:
        self.rng = random.Random(seed)
        self._database = database
        self._anna = anna

    def run(self, count: int) -> None:
        """Make `count` changes in one transaction."""
        with self._database.transaction(ACTOR) as txn:
            for _ in range(count):
                self._change(txn)

    def _change(self, txn: WriteTransaction) -> None:
        rng = self.rng
        places = [record.folder_id for _, record in folders.walk(txn, self._anna.root_id)]
        items = [item for each in places for item in folders.messages(txn, each)]
        what = rng.randrange(8) if items else 0
        if what == 0 or len(items) < 3:
            messages.append(txn, rng.choice(places), messages.prepare(txn.files, b"A: b\n\n"))
        elif what < 3:
            flag = rng.choice(["\\Seen", "\\Flagged"])
            messages.set_flags(txn, rng.choice(items).message_id, add=[flag])
        elif what < 5:
            messages.move(txn, rng.choice(items).message_id, rng.choice(places))
        elif what == 5:
            messages.delete(txn, rng.choice(items).message_id)
        elif what == 6:
            folders.create(txn, rng.choice(places), f"{txn.counter}")
        elif places[-1] not in self._anna.roles.values():
            folders.delete(txn, places[-1], with_contents=True)


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 20))]
)
def test_page_by_page_nothing_is_lost_whatever_changes_meanwhile(
    database: Database, anna: MailboxRecord, seed: int
) -> None:
    churn, follower = Churn(database, anna, seed), Follower()
    for _ in range(60):
        churn.run(churn.rng.randrange(8))
        if churn.rng.random() < 0.7:
            follower.follow(database, churn.rng.randrange(1, 6))
    database.finish_removals()
    follower.follow(database, 3)
    while follower.after is not None:
        follower.follow(database, churn.rng.randrange(1, 6))
    with database.read(ACTOR) as read:
        follower.follow(database, 1000)
        places = [each.folder_id for _, each in folders.walk(read, anna.root_id)]
        there = [item for each in places for item in folders.messages(read, each)]
        assert follower.known == {item.message_id: item for item in there}
        assert follower.seen == changes(read, CNSet()).cnset


@pytest.mark.parametrize("seed", range(10))
def test_all_pages_together_are_all_changes(database: Database, anna: MailboxRecord, seed: int) -> None:
    churn = Churn(database, anna, seed)
    churn.run(20)
    seen = state_of(database)
    churn.run(40)
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bert")
    for since_then in (CNSet(), seen):
        for limit in (1, 3, 1000):
            with database.read(ACTOR) as read:
                found = changes(read, since_then)
                page = found.page(limit)
                told = page.changes
                while page.next is not None:
                    page = found.page(limit, page.next)
                    told = [*told, *page.changes]
                assert told == list(found)


def test_what_is_no_page_is_refused(database: Database, anna: MailboxRecord) -> None:
    with database.read(ACTOR) as read:
        found = changes(read, CNSet())
        for refused in ({"limit": 0}, {"limit": 1, "after": b"x"}, {"limit": 1, "after": b"\xff" * 24}):
            with pytest.raises(InvalidSetting):
                found.page(**refused)
        lost = found.page(1).next
    with database.transaction(ACTOR) as txn:
        txn.leave_out_numbers(txn.counter + 100)
    assert lost is not None
    with database.read(ACTOR) as read:
        assert changes(read, CNSet()).page(1, lost).changes
        later = lost[:16] + (int.from_bytes(lost[16:]) + 1).to_bytes(8)
        with pytest.raises(Refused, match="restored"):
            changes(read, CNSet()).page(1, later)


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
