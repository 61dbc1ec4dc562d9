"""A store that holds no replica of a public folder, or not all of its content, refuses what would be lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord
from pillarbox.store.engine import replication_state
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import NoReplica
from pillarbox.store.ids import guid_text
from pillarbox.store.mail import copying, folders, messages, public_folders
from pillarbox.store.upkeep.joining import finish_joining, join

ANNA = Actor.user("anna")
ME, LOWER, HIGHER = b"m" * 16, b"a" * 16, b"z" * 16
REMOVED, DELETE_PENDING, ACTIVE = 0, 1, 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    made = Database(
        tmp_path / "store",
        ME,
        "store",
        DatabaseKind.PUBLIC_FOLDER_STORE,
        clock=VirtualClock(),
        rng=random.Random(1),
    )
    made.create()
    made.mount()
    do(made, public_folders.create_tree)
    yield made
    made.dismount()


def do(store: Database, change: Callable[[WriteTransaction], Any]) -> Any:
    with store.transaction(ANNA) as txn:
        return change(txn)


def a_folder(store: Database, name: str, replicas: dict[bytes, int]) -> FolderRecord:
    """A folder with a message, and this replica list afterwards."""
    made = do(store, lambda txn: public_folders.create(txn, name))
    post(store, made.folder_id)
    for database, state in replicas.items():
        do(store, lambda txn, of=database, to=state: public_folders.set_replica(txn, made.folder_id, of, to))
    found: FolderRecord = do(store, lambda txn: folders.get(txn, made.folder_id))
    return found


def post(store: Database, folder_id: int) -> int:
    ready = messages.prepare(store.files, b"Subject: x\r\n\r\nx\r\n")
    return int(do(store, lambda txn: messages.append(txn, folder_id, ready)).message_id)


GONE = {ME: REMOVED, HIGHER: ACTIVE, LOWER: DELETE_PENDING}
LEAVING = {ME: DELETE_PENDING, HIGHER: ACTIVE}


@pytest.mark.parametrize("replicas", [GONE, LEAVING])
def test_without_a_replica_that_serves_clients_posts_and_deletions_are_referred(
    store: Database, replicas: dict[bytes, int]
) -> None:
    join(store, ANNA, b"t" * 16)
    here = a_folder(store, "Here", {})
    there = a_folder(store, "There", replicas).folder_id
    message = post(store, here.folder_id)
    before = do(store, lambda txn: (folders.get(txn, there), txn.content_bytes, txn.counter))
    calls: list[Callable[[WriteTransaction], Any]] = [
        lambda txn: messages.move(txn, message, there),
        lambda txn: messages.copy(txn, message, there),
        lambda txn: messages.copy_folder(txn, here.folder_id, there),
        lambda txn: folders.delete(txn, there, with_contents=True),
    ]
    for call in calls:
        with pytest.raises(NoReplica) as refused:
            do(store, call)
        assert refused.value.databases == (HIGHER,)
        assert guid_text(HIGHER) in refused.value.hint and "folder referral" in refused.value.hint
    with pytest.raises(NoReplica):
        post(store, there)
    with pytest.raises(NoReplica):
        copying.copy_folder(store, ANNA, here.folder_id, there)
    assert do(store, lambda txn: (folders.get(txn, there), txn.content_bytes, txn.counter)) == before


def test_a_folder_is_not_deleted_with_one_below_it_that_is_elsewhere(store: Database) -> None:
    join(store, ANNA, b"t" * 16)
    top = a_folder(store, "Top", {})
    a_folder(store, "Top/Inner", GONE)
    with pytest.raises(NoReplica, match="Inner"):
        do(store, lambda txn: folders.delete(txn, top.folder_id, with_contents=True))


def test_a_replica_that_lacks_content_takes_posts_and_is_not_deleted(store: Database) -> None:
    join(store, ANNA, b"t" * 16)
    folder_id = a_folder(store, "News", {HIGHER: ACTIVE}).folder_id
    do(store, lambda txn: replication_state.keep(txn, Kept.LACKING, b"", folder_id))
    post(store, folder_id)
    with pytest.raises(NoReplica, match="lacks some") as refused:
        do(store, lambda txn: folders.delete(txn, folder_id, with_contents=True))
    assert refused.value.databases == (HIGHER,)
    do(store, lambda txn: replication_state.keep(txn, Kept.LACKING, None, folder_id))
    do(store, lambda txn: folders.delete(txn, folder_id, with_contents=True))


def test_where_all_replicas_leave_the_highest_guid_serves(store: Database) -> None:
    join(store, ANNA, b"t" * 16)
    post(store, a_folder(store, "Ours", {ME: DELETE_PENDING, LOWER: DELETE_PENDING}).folder_id)
    theirs = a_folder(store, "Theirs", {ME: DELETE_PENDING, HIGHER: DELETE_PENDING}).folder_id
    with pytest.raises(NoReplica):
        post(store, theirs)


def test_a_store_that_has_joined_no_organisation_refuses_nothing(store: Database) -> None:
    folder_id = a_folder(store, "News", {}).folder_id
    do(store, lambda txn: replication_state.keep(txn, Kept.LACKING, b"", folder_id))
    post(store, folder_id)
    do(store, lambda txn: folders.delete(txn, folder_id, with_contents=True))


def test_while_a_store_joins_its_folders_are_whole(store: Database) -> None:
    folder_id = a_folder(store, "News", {}).folder_id
    join(store, ANNA, b"t" * 16)
    finish_joining(store, ANNA)
    post(store, folder_id)
    do(store, lambda txn: folders.delete(txn, folder_id, with_contents=True))
