"""What is promised of folders: names unique in any case, ids stable, UIDVALIDITY never repeated."""

from __future__ import annotations

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import MailboxRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AlreadyExists, InvalidName, NotEmpty, NotFound, Refused
from pillarbox.store.mail import folders, mailboxes, messages

ACTOR = Actor.task("test")


@pytest.fixture
def anna(database: Database) -> MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna")


def test_names_are_unique_in_any_case_and_keep_their_own(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        made = folders.create(txn, anna.root_id, "Ärger")
    for name in ("Ärger", "ÄRGER", "A\u0308rger"):
        with pytest.raises(AlreadyExists), database.transaction(ACTOR) as txn:
            folders.create(txn, anna.root_id, name)
    with database.transaction(ACTOR) as txn:
        folders.rename(txn, made.folder_id, "ärger")
    with database.read(ACTOR) as read:
        assert folders.by_path(read, anna.root_id, "ÄRGER").name == "ärger"


@pytest.mark.parametrize("name", ["", " a", "a ", ".", "..", "a/b", "a\0b", "a\nb", "x" * 256, "a\ud800"])
def test_names_that_cannot_be_are_refused(database: Database, anna: MailboxRecord, name: str) -> None:
    with pytest.raises(InvalidName), database.transaction(ACTOR) as txn:
        folders.create(txn, anna.root_id, name)


def test_a_name_used_again_gets_another_uidvalidity(database: Database, anna: MailboxRecord) -> None:
    seen = set()
    for _ in range(4):
        with database.transaction(ACTOR) as txn:
            made = folders.create(txn, anna.root_id, "Lists")
        seen.add(made.uid_validity)
        with database.transaction(ACTOR) as txn:
            folders.delete(txn, made.folder_id)
        database.dismount()
        database.mount()
    assert len(seen) == 4


def test_a_moved_folder_keeps_its_ids_and_counts_in_its_new_mailbox(
    database: Database, anna: MailboxRecord
) -> None:
    prepared = messages.prepare(database.files, b"Subject: x\r\n\r\nbody")
    with database.transaction(ACTOR) as txn:
        berta = mailboxes.create(txn, "berta")
        inner = folders.ensure(txn, anna.root_id, ("Lists", "Python"))
        item = messages.append(txn, inner.folder_id, prepared)
        lists = folders.by_path(txn, anna.root_id, "Lists")
    with database.transaction(ACTOR) as txn:
        folders.move(txn, lists.folder_id, berta.root_id)
    with database.read(ACTOR) as read:
        assert folders.path_of(read, inner.folder_id) == ("Lists", "Python")
        assert folders.get(read, inner.folder_id).mailbox == berta.guid
        assert messages.get(read, item.message_id).uid == item.uid
        assert mailboxes.get(read, anna.guid).messages_count == 0
        assert mailboxes.get(read, berta.guid).size == item.size


def test_a_folder_is_not_put_into_itself_and_standard_folders_stay(
    database: Database, anna: MailboxRecord
) -> None:
    with database.transaction(ACTOR) as txn:
        inner = folders.ensure(txn, anna.root_id, ("A", "B"))
        outer = folders.by_path(txn, anna.root_id, "A")
    inbox = anna.roles["inbox"]
    for source, target in ((outer, inner.folder_id), (outer, outer.folder_id)):
        with pytest.raises(Refused), database.transaction(ACTOR) as txn:
            folders.move(txn, source.folder_id, target)
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folders.delete(txn, inbox, with_contents=True)
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folders.rename(txn, inbox, "Other")


def test_only_an_empty_folder_is_deleted_unless_asked(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        inner = folders.ensure(txn, anna.root_id, ("A", "B"))
        outer = folders.by_path(txn, anna.root_id, "A")
    with pytest.raises(NotEmpty), database.transaction(ACTOR) as txn:
        folders.delete(txn, outer.folder_id)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, outer.folder_id, with_contents=True)
    with database.read(ACTOR) as read, pytest.raises(NotFound):
        folders.get(read, inner.folder_id)


def test_nesting_has_a_bound(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        folders.ensure(txn, anna.root_id, tuple("x" * folders.DEPTH_MAX))
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folders.ensure(txn, anna.root_id, tuple("x" * (folders.DEPTH_MAX + 1)))
    with database.transaction(ACTOR) as txn:
        depth = folders.DEPTH_MAX // 2
        deep = folders.ensure(txn, anna.root_id, tuple("y" * depth))
        tall = folders.ensure(txn, anna.root_id, ("z", *"z" * depth))
        top = folders.by_path(txn, anna.root_id, "z")
        below = folders.by_path(txn, anna.root_id, "z/z")
    with pytest.raises(Refused), database.transaction(ACTOR) as txn:
        folders.move(txn, top.folder_id, deep.folder_id)
    with database.transaction(ACTOR) as txn:
        folders.move(txn, below.folder_id, deep.folder_id)
        assert folders.path_of(txn, tall.folder_id) == (*"y" * depth, *"z" * depth)


def test_a_folder_moved_to_where_it_is_stays_as_it_is(database: Database, anna: MailboxRecord) -> None:
    with database.transaction(ACTOR) as txn:
        lists = folders.create(txn, anna.root_id, "Lists")
    with database.transaction(ACTOR) as txn:
        assert folders.move(txn, lists.folder_id, anna.root_id) == lists


def test_a_folder_that_was_called_dot_dot_before_is_found_listed_and_renamed(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        root = mailboxes.root(txn, mailboxes.create(txn, "dots"))
        made = folders.insert(txn, root.mailbox, root.folder_id, "..")
        assert folders.find(txn, root.folder_id, "..") == made
        assert made in list(folders.children(txn, root.folder_id))
        assert folders.rename(txn, made.folder_id, "dots").name == "dots"
        with pytest.raises(InvalidName):
            folders.rename(txn, made.folder_id, ".")
