"""What is promised of folders: names unique in any case, ids stable, UIDVALIDITY never repeated."""

from __future__ import annotations

import pytest

from pillarbox.store import folder, mailbox, message
from pillarbox.store.access import Actor
from pillarbox.store.database import Database
from pillarbox.store.errors import AlreadyExists, InvalidName, NotEmpty, NotFound, Refused
from pillarbox.store.tables import MailboxRecord

ACTOR = Actor.task("test")


@pytest.fixture
def anna(database: Database) -> MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailbox.create(txn, "anna")


def test_names_are_unique_in_any_case_and_keep_their_own(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        made = folder.create(txn, anna.root_id, "Ärger")
    for name in ("Ärger", "ÄRGER", "A\u0308rger"):
        with pytest.raises(AlreadyExists), database.transaction(ACTOR) as txn:
            folder.create(txn, anna.root_id, name)
    with database.transaction(ACTOR) as txn:
        folder.rename(txn, made.folder_id, "ärger")
    with database.read(ACTOR) as read:
        assert folder.by_path(read, anna.root_id, "ÄRGER").name == "ärger"


@pytest.mark.parametrize("name", ["", " a", "a ", "a/b", "a\0b", "a\nb", "x" * 256, "a\ud800"])
def test_names_that_cannot_be_are_refused(database: Database, anna: MailboxRecord, name: str) -> None:
    with pytest.raises(InvalidName), database.transaction(ACTOR) as txn:
        folder.create(txn, anna.root_id, name)


def test_a_name_used_again_gets_another_uidvalidity(database: Database, anna: MailboxRecord) -> None:
    seen = set()
    for _ in range(4):
        with database.transaction(ACTOR) as txn:
            made = folder.create(txn, anna.root_id, "Lists")
        seen.add(made.uid_validity)
        with database.transaction(ACTOR) as txn:
            folder.delete(txn, made.folder_id)
        database.dismount()
        database.mount()
    assert len(seen) == 4


def test_a_moved_folder_keeps_its_ids_and_counts_in_its_new_mailbox(
    database: Database, anna: MailboxRecord
) -> None:
    prepared = message.prepare(database.files, b"Subject: x\r\n\r\nbody")
    with database.transaction(ACTOR) as txn:
        berta = mailbox.create(txn, "berta")
        inner = folder.ensure(txn, anna.root_id, ("Lists", "Python"))
        item = message.append(txn, inner.folder_id, prepared)
        lists = folder.by_path(txn, anna.root_id, "Lists")
    with database.transaction(ACTOR) as txn:
        folder.move(txn, lists.folder_id, berta.root_id)
    with database.read(ACTOR) as read:
        assert folder.path_of(read, inner.folder_id) == ("Lists", "Python")
        assert folder.get(read, inner.folder_id).mailbox == berta.guid
        assert message.get(read, item.message_id).uid == item.uid
        assert mailbox.get(read, anna.guid).messages_count == 0
        assert mailbox.get(read, berta.guid).size == item.size


def test_a_folder_is_not_put_into_itself_and_standard_folders_stay(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        inner = folder.ensure(txn, anna.root_id, ("A", "B"))
        outer = folder.by_path(txn, anna.root_id, "A")
    inbox = anna.roles["inbox"]
    for source, target in ((outer, inner.folder_id), (outer, outer.folder_id)):
        with pytest.raises(Refused), database.transaction(ACTOR) as txn:
            folder.move(txn, source.folder_id, target)
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folder.delete(txn, inbox, with_contents=True)
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folder.rename(txn, inbox, "Other")


def test_only_an_empty_folder_is_deleted_unless_asked(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        inner = folder.ensure(txn, anna.root_id, ("A", "B"))
        outer = folder.by_path(txn, anna.root_id, "A")
    with pytest.raises(NotEmpty), database.transaction(ACTOR) as txn:
        folder.delete(txn, outer.folder_id)
    with database.transaction(ACTOR) as txn:
        folder.delete(txn, outer.folder_id, with_contents=True)
    with database.read(ACTOR) as read, pytest.raises(NotFound):
        folder.get(read, inner.folder_id)


def test_nesting_has_a_bound(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        folder.ensure(txn, anna.root_id, tuple("x" * folder.DEPTH_MAX))
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folder.ensure(txn, anna.root_id, tuple("x" * (folder.DEPTH_MAX + 1)))
    with database.transaction(ACTOR) as txn:
        depth = folder.DEPTH_MAX // 2
        deep = folder.ensure(txn, anna.root_id, tuple("y" * depth))
        tall = folder.ensure(txn, anna.root_id, ("z", *"z" * depth))
        top = folder.by_path(txn, anna.root_id, "z")
        below = folder.by_path(txn, anna.root_id, "z/z")
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folder.move(txn, top.folder_id, deep.folder_id)
    with database.transaction(ACTOR) as txn:
        folder.move(txn, below.folder_id, deep.folder_id)
        assert folder.path_of(txn, tall.folder_id) == (*"y" * depth, *"z" * depth)


def test_a_folder_moved_to_where_it_is_stays_as_it_is(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        lists = folder.create(txn, anna.root_id, "Lists")
    with database.transaction(ACTOR) as txn:
        assert folder.move(txn, lists.folder_id, anna.root_id) == lists
