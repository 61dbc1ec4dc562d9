"""What is promised of mailboxes: found in any case, reconnected whole, purged without a rest."""

from __future__ import annotations

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AlreadyExists, InvalidName, NotFound, Refused
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import mailboxes, messages

ACTOR = Actor.task("test")


class Told:
    def __init__(self, events: list[Event]) -> None:
        self.report = events.append


def test_a_mailbox_has_its_standard_folders_and_is_found_in_any_case(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "Anna")
    assert set(anna.roles) == set(mailboxes.STANDARD_FOLDERS)
    with database.read(ACTOR) as read:
        assert mailboxes.find(read, "aNNA") == anna
        with pytest.raises(InvalidName):
            mailboxes.find(read, "")
    with pytest.raises(AlreadyExists), database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "ANNA")


def test_a_renamed_mailbox_frees_its_name(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    with database.transaction(ACTOR) as txn:
        mailboxes.rename(txn, anna.guid, "berta")
        mailboxes.create(txn, "anna")
    with database.read(ACTOR) as read:
        assert mailboxes.find(read, "berta").guid == anna.guid
        assert [box.name for box in mailboxes.all_of(read)] == ["anna", "berta"]


def test_a_disconnected_mailbox_keeps_its_mail_and_is_reconnected(database: Database) -> None:
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\nbody")
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna", user=b"u" * 16)
        item = messages.deliver(txn, [anna.guid], prepared)[0]
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        mailboxes.reconnect(txn, anna.guid)
    with database.transaction(ACTOR) as txn:
        assert mailboxes.disconnect(txn, anna.guid).disconnected_ms == txn.now_ms
    with database.transaction(ACTOR) as txn:
        assert mailboxes.reconnect(txn, anna.guid, b"v" * 16).state == mailboxes.CONNECTED
    with database.read(ACTOR) as read:
        assert messages.content(read, messages.get(read, item.message_id)) == prepared.raw


def test_a_mailbox_disconnected_twice_keeps_its_former_user_and_its_time(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna", user=b"u" * 16)
    with database.transaction(ACTOR) as txn:
        first = mailboxes.disconnect(txn, anna.guid)
    with database.transaction(ACTOR) as txn:
        assert mailboxes.disconnect(txn, anna.guid) == first
    assert first.properties["former_user"] == (b"u" * 16).hex()


def test_a_purged_mailbox_leaves_nothing_but_tombstones(database: Database) -> None:
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\n" + b"body " * 2000)
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
        messages.deliver(txn, [anna.guid], prepared)
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, anna.guid)
    database.finish_removals()
    with database.read(ACTOR) as read:
        with pytest.raises(NotFound):
            mailboxes.get(read, anna.guid)
        for table in (Table.MAILBOX, Table.FOLDER, Table.ITEM, Table.CONTENT, Table.BLOCK, Table.LOCATION):
            assert read.view.count(table) == 0
        assert read.state().live_bytes == 0


def test_the_event_log_tells_who_disconnected_and_who_purged_a_mailbox(database: Database) -> None:
    told: list[Event] = []
    database.reporter = Told(told)
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
        mailboxes.disconnect(txn, anna.guid)
    with database.transaction(Actor.administrator("root")) as txn:
        mailboxes.purge(txn, anna.guid)
    assert [(event.event_id, event.text) for event in told] == [
        (EventId.MAILBOX_DISCONNECTED, "Mailbox anna was disconnected by test."),
        (EventId.MAILBOX_DELETED, "Mailbox anna was deleted by root."),
    ]


def test_a_public_folder_store_holds_no_mailboxes(open_database) -> None:  # type: ignore[no-untyped-def]
    public = open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE)
    with pytest.raises(Refused), public.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
