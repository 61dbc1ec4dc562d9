"""What is deleted is gone at once for everybody, and its rows go in batches that others hardly notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, Table, id_key
from pillarbox.store.engine import change_feed
from pillarbox.store.engine.change_feed import ChangeKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.pace import BATCH_ROWS
from pillarbox.store.engine.removal import Batches, Remover, pending
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import NotFound
from pillarbox.store.mail import folders, mailboxes, messages, public_folders, views
from pillarbox.store.upkeep import repair
from pillarbox.store.upkeep.check import check_database
from tests.conftest import WAKE, OpenDatabase

ACTOR = Actor.task("test")
COUNT = 300


@pytest.fixture(autouse=True)
def removal_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remover, "wake", WAKE)


@pytest.fixture
def lists(database: Database) -> FolderRecord:
    """A folder of a mailbox `anna` with another one below it, and 300 messages in each."""
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
        folder = folders.create(txn, anna.root_id, "Lists")
        inner = folders.create(txn, folder.folder_id, "Inner")
    prepared = [messages.prepare(database.files, b"Subject: %d\r\n\r\nbody" % at) for at in range(COUNT)]
    with database.transaction(ACTOR) as txn:
        for each in prepared:
            messages.append(txn, folder.folder_id, each)
            messages.append(txn, inner.folder_id, each)
    return folder


def delete(database: Database, folder_id: int) -> None:
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, folder_id, with_contents=True)


def rows(database: Database, table: Table) -> int:
    with database.read(ACTOR) as read:
        return read.view.count(table)


def test_a_deletion_touches_folders_only_and_the_messages_go_in_batches(
    database: Database, lists: FolderRecord
) -> None:
    delete(database, lists.folder_id)
    assert rows(database, Table.ITEM) == 2 * COUNT
    batches, left = Batches(), 2 * COUNT
    while left:
        with database.transaction(ACTOR) as txn:
            assert batches.remove(txn)
        assert left - BATCH_ROWS <= rows(database, Table.ITEM) < left
        left = rows(database, Table.ITEM)
        assert check_database(database, ACTOR).clean
    database.finish_removals()
    assert rows(database, Table.CONTENT) == rows(database, Table.REMOVAL) == 0
    with database.read(ACTOR) as read:
        assert read.state().live_bytes == 0 and read.record(Table.FOLDER, id_key(lists.folder_id)) is None


def test_nothing_meets_a_hidden_folder(database: Database, lists: FolderRecord) -> None:
    with database.read(ACTOR) as read:
        item = next(folders.messages(read, lists.folder_id))
        (inner,) = folders.children(read, lists.folder_id)
        other = mailboxes.find(read, "anna").roles["inbox"]
    prepared = messages.prepare(database.files, b"Subject: late\r\n\r\nx")
    delete(database, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.find(txn, "anna")
        assert (anna.messages_count, anna.size) == (0, 0)
        assert "Lists" not in [found.name for _, found in folders.walk(txn, anna.root_id)]
        for folder_id in (lists.folder_id, inner.folder_id):
            assert folders.find(txn, folder_id, "Inner") is None
            assert list(folders.children(txn, folder_id)) == list(folders.messages(txn, folder_id)) == []
            for refused in (
                lambda: folders.get(txn, folder_id),  # noqa: B023
                lambda: views.page(txn, folder_id),  # noqa: B023
                lambda: views.search(txn, folder_id, views.Query()),  # noqa: B023
                lambda: messages.append(txn, folder_id, prepared),  # noqa: B023
                lambda: folders.create(txn, folder_id, "new"),  # noqa: B023
                lambda: folders.move(txn, folder_id, anna.root_id),  # noqa: B023
                lambda: folders.delete(txn, folder_id, with_contents=True),  # noqa: B023
            ):
                with pytest.raises(NotFound):
                    refused()
        for refused in (
            lambda: messages.get(txn, item.message_id),
            lambda: messages.get_by_uid(txn, item.folder_id, item.uid),
            lambda: messages.set_flags(txn, item.message_id, add=["\\Seen"]),
            lambda: messages.move(txn, item.message_id, other),
            lambda: messages.copy(txn, item.message_id, other),
            lambda: messages.delete(txn, item.message_id),
        ):
            with pytest.raises(NotFound):
                refused()
        again = folders.create(txn, anna.root_id, "Lists")
    database.finish_removals()
    with database.read(ACTOR) as read:
        assert folders.get(read, again.folder_id).name == "Lists"


def test_a_purged_mailbox_can_be_made_again_before_its_rows_are_gone(
    database: Database, lists: FolderRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        guid = mailboxes.find(txn, "anna").guid
        mailboxes.purge(txn, guid)
        made = mailboxes.create(txn, "anna", guid=guid)
    with database.read(ACTOR) as read:
        assert mailboxes.get(read, guid).messages_count == 0
        assert len(list(folders.walk(read, made.root_id))) == len(mailboxes.STANDARD_FOLDERS)
    assert check_database(database, ACTOR).clean
    database.finish_removals()
    assert check_database(database, ACTOR).clean
    assert rows(database, Table.FOLDER) == 1 + len(mailboxes.STANDARD_FOLDERS)


def test_the_feed_tells_of_folders_at_once_and_of_each_message_with_its_batch(
    database: Database, lists: FolderRecord
) -> None:
    with database.read(ACTOR) as read:
        seen = change_feed.changes(read, CNSet()).cnset
        known = {item.message_id for item in folders.messages(read, lists.folder_id)}
    delete(database, lists.folder_id)
    with database.read(ACTOR) as read:
        told = [change.object_id for change in change_feed.changes(read, seen)]
        assert len(told) == 2 and lists.folder_id in told
        in_folder = {change.object_id for change in change_feed.changes(read, CNSet(), lists.folder_id)}
        assert in_folder == known
        fresh = change_feed.changes(read, CNSet())
        assert all(change.item is None for change in fresh), "a message of a deleted folder is told as new"
    database.finish_removals()
    with database.read(ACTOR) as read:
        changes = list(change_feed.changes(read, seen))
    assert {change.kind for change in changes} == {ChangeKind.DELETED}
    assert known < {change.object_id for change in changes} and len(changes) == 2 + 2 * COUNT


def test_an_interrupted_removal_goes_on_after_a_mount(
    open_database: OpenDatabase, database: Database, lists: FolderRecord
) -> None:
    delete(database, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        Batches().remove(txn)
    database.dismount()
    database.tuning = Tuning()
    database.mount()
    for thread in threading.enumerate():
        if thread.name == "pillarbox removal":
            thread.join()
    assert rows(database, Table.ITEM) == 0 and check_database(database, ACTOR).clean


def test_a_removal_that_fails_as_nobody_foresaw_begins_again_with_the_next_wake(
    database: Database, lists: FolderRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fault(_: object) -> object:
        raise LookupError("a fault of the program")

    begin: list[Callable[[Actor], Any]] = [fault]
    remover = Remover(lambda actor: begin[-1](actor), database.clock)
    delete(database, lists.folder_id)
    for step in (fault, database.transaction):
        begin.append(step)
        remover.wake()
        for thread in threading.enumerate():
            if thread.name == "pillarbox removal":
                thread.join()
    assert told and rows(database, Table.ITEM) == 0


@pytest.mark.parametrize(
    ("error", "told"), [(RuntimeError, nullcontext()), (KeyboardInterrupt, pytest.raises(KeyboardInterrupt))]
)
def test_a_removal_whose_thread_did_not_start_begins_with_the_next_wake(
    database: Database,
    lists: FolderRecord,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    told: AbstractContextManager[object],
) -> None:
    """What was deleted is durable by then: that no thread can be had is no error of the deletion."""

    def fail(thread: threading.Thread) -> None:
        raise error

    remover = Remover(database.transaction, database.clock)
    delete(database, lists.folder_id)
    with monkeypatch.context() as patch, told:
        patch.setattr(threading.Thread, "start", fail)
        remover.wake()
    remover.wake()
    for thread in threading.enumerate():
        if thread.name == "pillarbox removal":
            thread.join()
    assert rows(database, Table.ITEM) == 0


def test_a_removal_rests_for_its_own_time_and_not_for_that_of_others(
    database: Database, lists: FolderRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for a turn is the others' time: a removal that rested for it too would take for ever."""
    clock = VirtualClock()
    rests: list[float] = []

    @contextmanager
    def begin(actor: Actor) -> Iterator[WriteTransaction]:
        with database.transaction(ACTOR) as other:
            other.next_cn()
            folders.set_property(other, lists.parent_id, "others", other.counter)
        clock.advance_ms(1000)  # the wait for the turn
        with database.transaction(actor) as txn:
            yield txn
        clock.advance_ms(10)

    delete(database, lists.folder_id)
    remover = Remover(begin, clock)
    monkeypatch.setattr(remover._ended, "wait", rests.append)
    remover.finish()
    assert len(rests) >= 3 and set(rests) == {0.018}
    assert rows(database, Table.ITEM) == 0


def test_a_repair_keeps_what_is_hidden_hidden(database: Database, lists: FolderRecord) -> None:
    delete(database, lists.folder_id)
    database.dismount()
    (database.path / "properties" / "data.mdb").unlink()
    repair.repair_database(database)
    database.mount()
    with database.read(ACTOR) as read:
        anna = mailboxes.find(read, "anna")
        assert anna.messages_count == 0 and pending(read)
        assert len(list(folders.walk(read, anna.root_id))) == len(mailboxes.STANDARD_FOLDERS)
    database.finish_removals()
    assert check_database(database, ACTOR).clean and rows(database, Table.ITEM) == 0


def test_read_state_and_moves_away_go_with_a_public_folder(
    open_database: OpenDatabase, tmp_path: Path
) -> None:
    database = open_database(tmp_path / "public", kind=DatabaseKind.PUBLIC_FOLDER_STORE)
    with database.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        news = public_folders.create(txn, "News").folder_id
        kept = public_folders.create(txn, "Kept").folder_id
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\nx")
    with database.transaction(ACTOR) as txn:
        moved = [messages.append(txn, news, prepared).message_id for _ in range(200)]
        messages.append(txn, news, prepared)
        public_folders.mark_read(txn, news)
        for message_id in moved:
            messages.move(txn, message_id, kept)
    delete(database, news)
    database.finish_removals()
    assert rows(database, Table.SEEN) == 0 and rows(database, Table.ITEM) == len(moved)
    with database.read(ACTOR) as read:
        assert not [key for key, found in read.records(Table.TOMBSTONE, b"", None) if found.moved_to]
    assert check_database(database, ACTOR).clean
