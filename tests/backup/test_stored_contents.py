"""What a snapshot tells of mailboxes and folders is what the tables say, and costs what changed."""

from __future__ import annotations

from random import Random

import pytest

from pillarbox.backup import database_snapshot, stored_contents
from pillarbox.backup.database_snapshot import read_stored_database
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.stored_contents import StoredFolder, StoredMailbox, read_folders, read_mailboxes
from pillarbox.store.access import Actor
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import folders, mailboxes, messages

ACTOR = Actor.task("test")


def told(group, snapshot) -> tuple[list[StoredMailbox], list[StoredFolder]]:
    stored = read_stored_database(group.repository, snapshot.roots[0])
    return read_mailboxes(group.repository, stored.contents), read_folders(group.repository, stored.contents)


def in_tables(database: Database) -> tuple[list[StoredMailbox], list[StoredFolder]]:
    with database.read(ACTOR) as read:
        boxes = [
            StoredMailbox(each.guid, each.name, each.state, each.messages_count, each.size, each.root_id)
            for each in mailboxes.all_of(read)
        ]
        rows = [
            StoredFolder(
                each.folder_id, each.parent_id, each.mailbox, each.name, each.messages_count, each.size
            )
            for each in folders.all_of(read)
        ]
    return sorted(boxes, key=lambda each: (each.name, each.guid)), sorted(rows)


def change(database: Database, rng: Random, number: int) -> None:
    """Something that happens to a mailbox or folder."""
    with database.transaction(ACTOR) as txn:
        boxes = list(mailboxes.all_of(txn))
        box = rng.choice(boxes)
        made = [each for each in folders.all_of(txn) if each.name.startswith("Made")]
        match rng.randrange(5):
            case 0:
                mailboxes.create(txn, f"user {number}")
            case 1:
                folders.create(txn, box.root_id, f"Made {number}")
            case 2 if made:
                folders.delete(txn, rng.choice(made).folder_id, with_contents=True)
            case 3:
                mailboxes.rename(txn, box.guid, f"renamed {number}")
            case _:
                prepared = messages.prepare(database.files, b"Subject: %d\n\nhello\n" % number)
                messages.append(txn, box.roles["inbox"], prepared)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_changes_it_is_what_the_tables_say(
    group, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(stored_contents, "SLICE_ROWS", 5)
    monkeypatch.setattr(database_snapshot, "REDO_BYTES_MIN", 6_000)  # so that new images come in between
    rng = Random(seed)
    database = group.databases[0]
    for number in range(12):
        for step in range(rng.randrange(4)):
            change(database, rng, 10 * number + step)
        snapshot = group.snapshot()
        assert told(group, snapshot) == in_tables(database)
        entry = snapshot.manifest["databases"][0]
        boxes, _ = told(group, snapshot)
        assert entry["mailboxes_count"] == len(boxes)
        assert entry["messages_count"] == sum(each.messages_count for each in boxes)


def test_a_message_more_costs_its_slices_and_not_those_of_every_folder(group, backend) -> None:
    database = group.databases[0]
    with database.transaction(ACTOR) as txn:
        for number in range(200):
            mailboxes.create(txn, f"user {number}")
    group.snapshot()
    before = dict(backend.files)
    group.deliver(database, [b"Subject: one\n\nmore\n"])
    snapshot = group.snapshot()
    boxes, rows = told(group, snapshot)
    assert len(boxes) == 201
    assert len(rows) > 2000
    packs = [
        len(data) for key, data in backend.files.items() if key not in before and key[0] == FileKind.PACK
    ]
    whole = sum(len(str(each)) for each in (*boxes, *rows))
    assert sum(packs) < whole / 4


def test_redo_of_many_captures_is_joined_and_restores(group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_snapshot, "REDO_PIECES_MAX", 3)
    monkeypatch.setattr(database_snapshot, "IMAGE_CHUNK_BYTES", 2_000)
    mail = group.corpus()
    for end in range(1, 15):
        group.deliver(group.databases[0], mail[end - 1 : end])
        snapshot = group.snapshot()
        redo = group.repository.read_tree(read_stored_database(group.repository, snapshot.roots[0]).redo)
        assert len(redo.children) - redo.meta <= 4
        sizes = [len(group.repository.read(child.blob_id)) for child in redo.children]
        assert sizes[: redo.meta] == [2_000] * redo.meta
    assert redo.meta > 0
    assert group.restored(snapshot, "out")[0] == mail[:14]
