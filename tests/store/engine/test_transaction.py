"""What is promised of transactions: all or nothing, alone, read as of one moment, never nested."""

from __future__ import annotations

import threading

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, InvalidSetting, NotFound, Refused
from pillarbox.store.mail import folders, mailboxes, messages

ACTOR = Actor.task("test")


def names(database: Database) -> list[str]:
    with database.read(ACTOR) as read:
        return [found.name for found in mailboxes.all_of(read)]


def test_a_read_sees_the_state_it_began_with(database: Database) -> None:
    read = database.read(ACTOR)
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    assert list(mailboxes.all_of(read)) == []
    read.close()
    assert names(database) == ["anna"]


def test_what_is_not_committed_is_seen_by_the_transaction_alone(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
        folders.create(txn, anna.root_id, "Lists")
        assert mailboxes.find(txn, "ANNA") == anna
        assert "Lists" in [child.name for child in folders.children(txn, anna.root_id)]
        assert names(database) == []


def test_an_exception_undoes_everything(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\n" + b"x" * 9000)
    with database.read(ACTOR) as read:
        before = [list(read.view.scan(table, b"", None)) for table in Table]
    with pytest.raises(ZeroDivisionError), database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "berta")
        messages.append(txn, anna.roles["inbox"], prepared)
        mailboxes.purge(txn, anna.guid)
        raise ZeroDivisionError
    with database.read(ACTOR) as read:
        assert [list(read.view.scan(table, b"", None)) for table in Table] == before


def test_a_second_transaction_of_the_same_thread_is_refused_and_the_first_goes_on(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        with pytest.raises(Refused), database.transaction(ACTOR):
            pytest.fail("a nested transaction was begun")
        mailboxes.create(txn, "anna")
    assert names(database) == ["anna"]


def test_a_transaction_of_another_thread_waits_for_this_one(database: Database) -> None:
    done = threading.Event()

    def other() -> None:
        with database.transaction(ACTOR) as txn:
            assert mailboxes.find(txn, "anna")
            mailboxes.create(txn, "berta")
        done.set()

    thread = threading.Thread(target=other)
    with database.transaction(ACTOR) as txn:
        thread.start()
        assert not done.wait(0.05)
        mailboxes.create(txn, "anna")
    thread.join(10)
    assert names(database) == ["anna", "berta"]


def test_deleted_and_made_again_in_one_transaction_is_consistent(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, anna.guid)
        again = mailboxes.create(txn, "anna", guid=anna.guid)
        folders.create(txn, again.root_id, "Lists")
    with database.read(ACTOR) as read:
        assert mailboxes.find(read, "anna") == again
        assert folders.by_path(read, again.root_id, "lists").mailbox == anna.guid
        with pytest.raises(NotFound):
            folders.get(read, anna.root_id)


def test_merged_scans_give_own_changes_in_key_order_in_both_directions(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        root = mailboxes.create(txn, "anna").root_id
        for name in ("b", "d"):
            folders.create(txn, root, name)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, folders.by_path(txn, root, "b").folder_id)
        for name in ("a", "c", "e"):
            folders.create(txn, root, name)
        rows = list(txn.indexes(Table.FOLDER_NAME, b"", None))
        assert [key for key, _ in rows] == sorted(key for key, _ in rows)
        assert list(txn.indexes(Table.FOLDER_NAME, b"", None, reverse=True)) == rows[::-1]
        short = [child.name for child in folders.children(txn, root) if len(child.name) == 1]
        assert short == ["a", "c", "d", "e"]


def test_events_are_reported_only_when_committed(database: Database) -> None:
    reported: list[object] = []

    class Recorder:
        def report(self, event: object) -> None:
            reported.append(event)

    database.reporter = Recorder()  # type: ignore[assignment]
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    with pytest.raises(ZeroDivisionError), database.transaction(ACTOR) as txn:
        mailboxes.disconnect(txn, anna.guid)
        raise ZeroDivisionError
    assert reported == []
    with database.transaction(ACTOR) as txn:
        mailboxes.disconnect(txn, anna.guid)
        assert reported == []
    assert len(reported) == 1


def test_nothing_is_written_for_a_transaction_that_changed_nothing(database: Database) -> None:
    with database.read(ACTOR) as read:
        before = read.state()
    with database.transaction(ACTOR) as txn:
        list(mailboxes.all_of(txn))
    with database.read(ACTOR) as read:
        assert read.state() == before


def test_a_dismounted_database_says_why(database: Database) -> None:
    database.dismount("the disk is being replaced")
    with pytest.raises(Dismounted, match="being replaced"), database.transaction(ACTOR):
        pytest.fail("a transaction was begun")
    with pytest.raises(Dismounted, match="being replaced"):
        database.read(ACTOR)


def test_after_its_end_a_transaction_is_refused_as_such(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        pass
    with pytest.raises(Refused, match="has ended"):
        mailboxes.find(txn, "anna")


@pytest.mark.parametrize("value", [object(), 1 << 64, "\udcff", {("a",): set()}])
def test_what_cannot_be_stored_is_refused_and_undoes_its_transaction_alone(
    database: Database, value: object
) -> None:
    with database.transaction(ACTOR) as txn:
        guid = mailboxes.create(txn, "anna").guid
    with pytest.raises(InvalidSetting, match="cannot be stored"), database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bert")
        mailboxes.set_property(txn, guid, "colour", value)
    assert names(database) == ["anna"]
    with database.transaction(ACTOR) as txn:
        mailboxes.set_property(txn, guid, "colour", "green")


def test_a_time_of_receipt_that_is_none_is_refused(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles[mailboxes.INBOX]
    prepared = messages.prepare(database.files, b"Subject: a\n\n")
    with pytest.raises(InvalidSetting), database.transaction(ACTOR) as txn:
        messages.append(txn, inbox, prepared, received_ms=1 << 63)
