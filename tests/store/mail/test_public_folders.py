"""Public folders: one tree of two roots, and read state that each user has apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AlreadyExists, InvalidName, NotFound, Refused
from pillarbox.store.events import Category, EventId
from pillarbox.store.mail import folders, messages, public_folders
from pillarbox.store.server import Server
from pillarbox.store.upkeep.check import check_database

ANNA = Actor.administrator("anna")
BERT = Actor.administrator("bert")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server.create(tmp_path / "server", clock=VirtualClock()) as server:
        yield server


@pytest.fixture
def database(server: Server) -> Database:
    return server.database("Public Folder Store")


def post(database: Database, path: str, count: int = 1) -> int:
    """Put `count` messages into a folder; its id."""
    prepared = [messages.prepare(database.files, b"Subject: %d\r\n\r\n" % number) for number in range(count)]
    with database.transaction(ANNA) as txn:
        found = public_folders.find(txn, path)
        for each in prepared:
            messages.append(txn, found.folder_id, each)
    return found.folder_id


def unread_of(database: Database, actor: Actor, folder_id: int) -> list[int]:
    with database.read(actor) as read:
        return [item.uid for item in public_folders.unread(read, folder_id)]


def test_folders_lie_in_a_tree_below_the_subtree_of_users(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        for path in ("Sales", "Sales/Leads", "Berlin"):
            public_folders.create(txn, path)
    with database.read(ANNA) as read:
        assert ["/".join(path) for path, _ in public_folders.walk(read)] == [
            "Berlin",
            "Sales",
            "Sales/Leads",
        ]
        assert not list(public_folders.walk(read, subtree=public_folders.NON_IPM_SUBTREE))
        assert public_folders.find(read, "sales/leads").name == "Leads"
        with pytest.raises(NotFound):
            public_folders.find(read, "Sales/Offers")
        with pytest.raises(InvalidName):
            public_folders.find(read, "", subtree="SUBTREE")


def test_a_folder_needs_its_parent_and_a_free_name(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        public_folders.create(txn, "Sales")
        with pytest.raises(NotFound):
            public_folders.create(txn, "Missing/Leads")
        with pytest.raises(AlreadyExists):
            public_folders.create(txn, "SALES")


def test_making_the_tree_again_changes_nothing(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        assert public_folders.create_tree(txn) == {
            name: public_folders.root_id(txn, name)
            for name in (public_folders.IPM_SUBTREE, public_folders.NON_IPM_SUBTREE)
        }


def test_a_mailbox_store_holds_no_public_folders(server: Server) -> None:
    with server.database("Mailbox Store").transaction(ANNA) as txn:
        with pytest.raises(Refused):
            public_folders.create_tree(txn)
        with pytest.raises(Refused):
            public_folders.create(txn, "Sales")


def test_what_one_user_has_read_is_unread_for_another(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        public_folders.create(txn, "Sales")
    folder_id = post(database, "Sales", 4)
    with database.transaction(ANNA) as txn:
        public_folders.mark_read(txn, folder_id, 2, 3)
    assert unread_of(database, ANNA, folder_id) == [1, 4]
    assert unread_of(database, BERT, folder_id) == [1, 2, 3, 4]
    with database.transaction(BERT) as txn:
        public_folders.mark_read(txn, folder_id)
        public_folders.mark_unread(txn, folder_id, 2, 2)
    assert unread_of(database, BERT, folder_id) == [2]
    with database.read(BERT) as read:
        assert [public_folders.is_read(read, each) for each in folders.messages(read, folder_id)] == [
            *(True, False),
            *(True, True),
        ]


def test_messages_that_come_later_are_unread(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        public_folders.create(txn, "Sales")
    folder_id = post(database, "Sales")
    with database.transaction(ANNA) as txn:
        public_folders.mark_read(txn, folder_id, 1, 1000)
    post(database, "Sales")
    assert unread_of(database, ANNA, folder_id) == [2]


def test_read_state_goes_with_its_folder_and_the_check_finds_it_whole(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        public_folders.create(txn, "Sales")
    folder_id = post(database, "Sales", 3)
    with database.transaction(ANNA) as txn:
        public_folders.mark_read(txn, folder_id)
    assert check_database(database, ANNA).clean
    with database.transaction(ANNA) as txn:
        folders.delete(txn, folder_id, with_contents=True)
    assert check_database(database, ANNA).clean


def test_a_deleted_public_folder_is_tracked_from_medium_on(server: Server, database: Database) -> None:
    for level, expected in (("minimum", 0), ("medium", 1)):
        server.set_diagnostics(Category.PUBLIC_FOLDER_GENERAL, level)
        with database.transaction(ANNA) as txn:
            created = public_folders.create(txn, "Sales")
        with database.transaction(ANNA) as txn:
            folders.delete(txn, created.folder_id)
        events = list(server.events.query(event_id=EventId.FOLDER_DELETED))
        assert len(events) == expected
    assert "Sales" in events[0].text and "anna" in events[0].text


UIDS = st.integers(min_value=1, max_value=30)


@given(st.lists(st.tuples(st.booleans(), UIDS, UIDS)), UIDS, UIDS)
def test_intervals_are_those_of_a_set(changes: list[tuple[bool, int, int]], first: int, last: int) -> None:
    intervals: public_folders.Intervals = ()
    model: set[int] = set()
    for adds, low, high in changes:
        if adds:
            intervals = public_folders.with_interval(intervals, low, high)
            model |= set(range(low, high + 1))
        else:
            intervals = public_folders.without_interval(intervals, low, high)
            model -= set(range(low, high + 1))
    assert expanded(intervals) == sorted(model)
    for (_, end), (start, _) in itertools.pairwise(intervals):
        assert end + 1 < start
    left = tuple(public_folders.gaps(first, last, intervals))
    assert expanded(left) == sorted(set(range(first, last + 1)) - model)
    read = public_folders.ReadUids(intervals)
    assert [uid for uid in range(32) if uid in read] == sorted(model)


class CountedIntervals(tuple[tuple[int, int], ...]):
    looked_at = 0

    def __getitem__(self, at: Any) -> Any:
        CountedIntervals.looked_at += 1
        return super().__getitem__(at)


def test_few_of_the_intervals_are_looked_at_for_a_message() -> None:
    intervals = CountedIntervals((uid, uid) for uid in range(1, 8001, 2))
    read = public_folders.ReadUids(intervals)
    assert [uid for uid in range(1, 9) if uid in read] == [1, 3, 5, 7]
    public_folders.with_interval(intervals, 4000, 4000)
    public_folders.without_interval(intervals, 4001, 4001)
    assert CountedIntervals.looked_at < 200, "every interval was looked at"


def expanded(intervals: public_folders.Intervals) -> list[int]:
    return [uid for low, high in intervals for uid in range(low, high + 1)]


def test_who_puts_a_folder_back_reads_and_writes_the_read_state_of_all(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        public_folders.create(txn, "Forum")
    folder_id = post(database, "Forum", 4)
    with database.transaction(ANNA) as txn:
        public_folders.mark_read(txn, folder_id, 2, 2)
        public_folders.mark_read_for(txn, folder_id, "BERT", [4, 1])
        public_folders.mark_read_for(txn, folder_id, "bert", [3])
        found = {account: uids.intervals for account, uids in public_folders.readers(txn, folder_id)}
    assert found == {"anna": ((2, 2),), "bert": ((1, 1), (3, 4))}
    assert unread_of(database, BERT, folder_id) == [2]
    with database.transaction(ANNA) as txn:
        assert list(public_folders.readers(txn, folder_id + 1000)) == []
        with pytest.raises(NotFound):
            public_folders.mark_read_for(txn, folder_id + 1000, "bert", [1])


def test_a_folder_is_made_as_another_was(database: Database) -> None:
    with database.transaction(ANNA) as txn:
        parent = public_folders.create(txn, "Forum")
        was = folders.set_property(txn, parent.folder_id, "permissions", {"anna": ["Owner"]})
    database.clock.advance_ms(5000)  # type: ignore[attr-defined]
    with database.transaction(ANNA) as txn:
        made = folders.create_as_new(txn, parent.folder_id, "again", was)
        with pytest.raises(AlreadyExists):
            folders.create_as_new(txn, parent.folder_id, "AGAIN", was)
    assert made.folder_id != was.folder_id and made.name == "again"
    assert (made.properties, made.created_ms) == (was.properties, was.created_ms)
    assert check_database(database, ANNA).clean
