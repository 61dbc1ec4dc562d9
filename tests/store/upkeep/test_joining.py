"""Joining an organisation: what was there gets its number in batches; who does not join pays nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.records import open_record, seal, unseal
from pillarbox.store.disk.tables import (
    DERIVED,
    MEMBERSHIP_KEY,
    DatabaseKind,
    FolderRecord,
    ItemRecord,
    Table,
    id_key,
)
from pillarbox.store.engine import change_feed, numbering
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import Refused
from pillarbox.store.ids import COUNTER_BITS, counter_of
from pillarbox.store.mail import copying, folders, messages, public_folders, versions
from pillarbox.store.upkeep import joining
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import has_joined, join
from pillarbox.store.upkeep.maintenance import run_maintenance
from pillarbox.store.upkeep.repair import repair_database

if TYPE_CHECKING:
    from conftest import OpenDatabase

ACTOR = Actor.user("anna")
TREE = b"t" * 16
RAW = b"Subject: %d\r\n\r\nbody\r\n"
OF_ORGANISATIONS = (Table.REPLICA, Table.REPLICATION, Table.VERSION, Table.GONE)


@pytest.fixture
def store(open_database: OpenDatabase) -> Database:
    """A public folder store with a folder of seven messages, one of them flagged."""
    made = open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE)
    with made.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        news = public_folders.create(txn, "News")
        for number in range(7):
            item = messages.append(txn, news.folder_id, messages.prepare(made.files, RAW % number))
        messages.set_flags(txn, item.message_id, add=["\\Flagged", "work"])
    return made


def news_of(txn: WriteTransaction) -> list[ItemRecord]:
    return list(folders.messages(txn, public_folders.find(txn, "News").folder_id))


def everything(database: Database) -> tuple[list[ItemRecord], list[FolderRecord]]:
    with database.read(ACTOR) as read:
        items = [item for _, item in read.records(Table.ITEM, b"", None)]
        return items, [record for _, record in read.records(Table.FOLDER, b"", None)]


def test_all_that_is_there_gets_the_number_of_its_last_change(store: Database) -> None:
    join(store, ACTOR, TREE)
    items, records = everything(store)
    assert [item.versions for item in items] == [(max(item.arrived_cn, item.change_cn),) for item in items]
    assert [bool(record.versions) for record in records] == [bool(record.parent_id) for record in records]
    numbers = [item.versions for item in items] + [record.versions for record in records if record.parent_id]
    assert len(set(numbers)) == len(items) + 1
    with store.read(ACTOR) as read:
        assert has_joined(read)
        ((number, own),) = numbering.replicas(read)
        assert (number, own.database, own.incarnation) == (1, store.guid, 1)
        assert own.origin != store.guid
        for item in items:
            assert versions.records_of(read, item.folder_id, item.versions) == [
                (Table.ITEM, id_key(item.folder_id) + item.uid.to_bytes(4, "big"))
            ]
    assert check_database(store, ACTOR).clean


def test_to_clients_nothing_has_changed_by_joining(store: Database) -> None:
    with store.read(ACTOR) as read:
        before = change_feed.changes(read, CNSet()).cnset
    join(store, ACTOR, TREE)
    with store.read(ACTOR) as read:
        told = [change.object_id for change in change_feed.changes(read, before)]
        assert told == [public_folders.root_id(read, public_folders.LOST_AND_FOUND)]


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize("goes_on", ["join", "maintenance"])
def test_joining_goes_on_where_a_crash_ended_it_and_the_store_serves_meanwhile(
    store: Database, monkeypatch: pytest.MonkeyPatch, goes_on: str
) -> None:
    monkeypatch.setattr(joining, "_BATCH_ROWS", 2)
    batches = 0

    def crash(number: int, real=joining._stamp_batch):  # type: ignore[no-untyped-def]
        def stamp(txn: WriteTransaction) -> int:
            nonlocal batches
            batches += 1
            if batches == number:
                raise Crash
            return int(real(txn))

        return stamp

    with monkeypatch.context() as patch:
        patch.setattr(joining, "_stamp_batch", crash(5))
        with pytest.raises(Crash):
            join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        assert not has_joined(txn)
        assert [bool(item.versions) for item in news_of(txn)] == [True] * 2 + [False] * 5
        messages.set_flags(txn, news_of(txn)[6].message_id, add=["later"])
        made = messages.append(txn, news_of(txn)[0].folder_id, messages.prepare(store.files, b"new"))
    store.dismount()
    store.mount()
    if goes_on == "join":
        join(store, ACTOR, TREE)
    else:
        run_maintenance(store, ACTOR)
    with store.transaction(ACTOR) as txn:
        assert has_joined(txn)
        found = news_of(txn)
        assert all(item.versions for item in found)
        assert found[-1].versions == made.versions == (made.message_id,)
        assert found[6].versions == (found[6].change_cn,)
    assert check_database(store, ACTOR).clean


def test_a_store_joins_one_tree_and_once(store: Database) -> None:
    join(store, ACTOR, TREE)
    before = everything(store)
    join(store, ACTOR, TREE)
    assert everything(store) == before
    with pytest.raises(Refused, match="tree"):
        join(store, ACTOR, b"u" * 16)


def test_a_mailbox_store_joins_nothing(database: Database) -> None:
    with pytest.raises(Refused, match="mailbox store"):
        join(database, ACTOR, TREE)
    with database.read(ACTOR) as read:
        assert read.record(Table.META, MEMBERSHIP_KEY) is None and not read.state().numbering


def test_a_store_that_has_not_joined_has_no_row_and_no_byte_more(store: Database) -> None:
    with store.transaction(ACTOR) as txn:
        found = news_of(txn)
        messages.delete(txn, found[0].message_id)
        messages.copy(txn, found[1].message_id, found[1].folder_id)
        folders.rename(txn, found[0].folder_id, "Old news")
    with store.read(ACTOR) as read:
        assert [read.view.count(table) for table in OF_ORGANISATIONS] == [0] * 4
        for table, fields in ((Table.ITEM, 24), (Table.FOLDER, 14), (Table.TOMBSTONE, 6)):
            for key, value in read.view.scan(table, b"", None):
                stored = open_record(table, key, value, table.name.lower())
                assert len(stored) == fields, "a field of organisations is written"


# -- changes made after it


def test_every_change_made_here_has_its_number_its_stamp_and_who_made_it(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(Actor.user("bert")) as txn:
        before = news_of(txn)
        old = before[0]
        posted = messages.append(txn, old.folder_id, messages.prepare(store.files, b"a"), flags=["work"])
        edited = messages.set_categories(txn, old.message_id, ["red"])
        read = messages.set_flags(txn, before[1].message_id, add=["\\Seen"])
        made = folders.create(txn, old.folder_id, "Sub")
        renamed = folders.rename(txn, made.folder_id, "Below")
    assert posted.versions == (posted.message_id,) == (posted.arrived_cn,)
    assert edited.versions == (edited.change_cn,), "the context of one origin is its last number"
    assert read.versions == before[1].versions, "who read it is no change to others"
    assert {posted.actor, edited.actor, renamed.actor} == {"bert"}
    assert old.changed < posted.changed < edited.changed < made.changed < renamed.changed
    assert renamed.versions == (renamed.change_cn,)
    assert [name for name, *_ in renamed.stamps] == [versions.PARENT]
    assert check_database(store, ACTOR).clean


def test_replica_list_and_permissions_are_entries_with_a_stamp_each(store: Database) -> None:
    with store.transaction(ACTOR) as txn, pytest.raises(Refused, match="organisation"):
        public_folders.set_rights(txn, public_folders.find(txn, "News").folder_id, "bert", 3)
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        folder_id = public_folders.find(txn, "News").folder_id
        first = public_folders.set_replica(txn, folder_id, b"d" * 16, 2)
        second = public_folders.set_replica(txn, folder_id, b"c" * 16, 1)
        third = public_folders.set_rights(txn, folder_id, "bert", 3)
    own = (store.guid, 2, 1)  # a folder that was there before is held by its own store
    listed = [own, (b"c" * 16, 1, 1), (b"d" * 16, 2, 1)]
    assert [(row[0], row[1], row[4]) for row in second.replicas] == listed
    assert second.replicas[2] == first.replicas[1], "another entry keeps its stamp"
    assert second.replicas[1][2:4] > first.replicas[1][2:4]
    assert third.replicas == second.replicas and third.rights[0][:2] == ("bert", 3)
    assert third.versions == (third.change_cn,)


def test_a_property_that_a_change_leaves_keeps_its_stamp(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        item = news_of(txn)[6]
        assert item.stamps == ()
        first = messages.set_categories(txn, item.message_id, ["red"])
        second = messages.set_flags(txn, item.message_id, remove=["work"])
    number = item.versions[0] >> COUNTER_BITS
    assert first.stamps == tuple((name, *item.changed, number) for name in ("\\Flagged", "keyword work"))
    assert second.stamps == (
        ("\\Flagged", *item.changed, number),
        ("category red", *first.changed, number),
        ("keyword work", *second.changed, number),  # removed: an older value is not to bring it back
    )


def test_a_deletion_leaves_a_tombstone_that_says_which_version_it_is(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        item = news_of(txn)[3]
        messages.delete(txn, item.message_id)
    with store.read(ACTOR) as read:
        ((key, tombstone),) = read.records(Table.TOMBSTONE, b"", None)
        assert tombstone.versions == (int.from_bytes(key[8:], "big"),)
        assert (tombstone.object_id, tombstone.actor) == (item.message_id, "anna")
        ((gone, _),) = read.indexes(Table.GONE, id_key(item.message_id), id_key(item.message_id + 1))
        assert gone[8:] == key
        assert versions.records_of(read, item.folder_id, tombstone.versions) == [(Table.TOMBSTONE, key)]
        assert not versions.records_of(read, item.folder_id, item.versions)
    assert check_database(store, ACTOR).clean


def test_a_message_that_is_moved_is_another_message_for_other_stores(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        item = news_of(txn)[0]
        other = public_folders.create(txn, "Other")
        moved = messages.move(txn, item.message_id, other.folder_id)
        assert messages.content(txn, moved) == RAW % 0
    assert moved.message_id == moved.versions[0] == moved.arrived_cn != item.message_id
    with store.read(ACTOR) as read:
        ((_, tombstone),) = read.records(Table.TOMBSTONE, b"", None)
        assert (tombstone.object_id, tombstone.moved_to) == (item.message_id, other.folder_id)
        assert tombstone.versions
    assert check_database(store, ACTOR).clean


def test_a_folder_that_is_copied_is_one_of_its_own_with_messages_of_its_own(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.read(ACTOR) as read:
        news, root_id = public_folders.find(read, "News"), public_folders.root_id(read)
    made = copying.copy_folder(store, ACTOR, news.folder_id, root_id, "Copy")
    with store.transaction(ACTOR) as txn:
        originals, copies = news_of(txn), list(folders.messages(txn, made.folder_id))
        assert made.versions == (made.folder_id,)
        assert [item.versions for item in copies] == [(item.message_id,) for item in copies]
        assert not {item.versions for item in copies} & {item.versions for item in originals}
    assert check_database(store, ACTOR).clean


def test_each_mount_that_asks_for_it_has_a_nonce_of_its_own(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        first, second = numbering.renew_nonce(txn), numbering.renew_nonce(txn)
    with store.read(ACTOR) as read:
        found = numbering.membership(read)
        assert found is not None and found.nonce == second != first


def test_a_deleted_folder_keeps_the_numbers_of_its_content_and_its_record(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        items = news_of(txn)
        record = public_folders.find(txn, "News")
        folders.delete(txn, record.folder_id, with_contents=True)
    store.finish_removals()
    with store.read(ACTOR) as read:
        own = numbering.replica(read, 1).origin
        tombstones = [row for _, row in read.records(Table.TOMBSTONE, b"", None) if row.versions]
        (tombstone,) = tombstones
        kept = FolderRecord(*tombstone.folder)
        assert (kept.name, kept.parent_id) == (record.name, record.parent_id)
        assert CNSet.decode(kept.cleared or b"") == numbering.as_cnset(
            read, [item.versions[0] for item in items]
        )
        assert all(entry.origin == own for entry in [numbering.as_change_number(read, tombstone.versions[0])])
        assert not list(read.indexes(Table.VERSION, id_key(record.folder_id), id_key(record.folder_id + 1)))
    assert check_database(store, ACTOR).clean


def test_after_going_back_in_time_changes_have_a_new_origin_and_ids_that_are_no_change_numbers(
    store: Database,
) -> None:
    join(store, ACTOR, TREE)
    with store.read(ACTOR) as read:
        seen = change_feed.changes(read, CNSet()).cnset
    with store.transaction(ACTOR) as txn:
        assert numbering.begin_numbering(txn, b"o" * 16) == 2
        old = news_of(txn)[0]
        edited = messages.set_flags(txn, old.message_id, add=["\\Flagged"])
        posted = messages.append(txn, old.folder_id, messages.prepare(store.files, b"a"))
        made = folders.create(txn, old.folder_id, "Sub")
    assert edited.versions == (2 << COUNTER_BITS | counter_of(edited.change_cn), old.versions[0])
    assert posted.message_id == 2 << COUNTER_BITS | counter_of(posted.arrived_cn)
    assert (posted.arrived_cn >> COUNTER_BITS, made.arrived_cn >> COUNTER_BITS) == (1, 1)
    with store.transaction(ACTOR) as txn:
        told = {change.object_id: change.kind for change in change_feed.changes(txn, seen)}
        assert told == {
            old.message_id: change_feed.ChangeKind.CHANGED,
            posted.message_id: change_feed.ChangeKind.NEW,
            made.folder_id: change_feed.ChangeKind.NEW,
        }
        seen = change_feed.changes(txn, seen).cnset
        folders.rename(txn, made.folder_id, "Below")
        messages.delete(txn, posted.message_id)
    with store.read(ACTOR) as read:
        told = {change.object_id: change.kind for change in change_feed.changes(read, seen)}
        assert told == {
            made.folder_id: change_feed.ChangeKind.CHANGED,
            posted.message_id: change_feed.ChangeKind.DELETED,
        }
    assert check_database(store, ACTOR).clean


# -- check and repair


@pytest.mark.parametrize("lost", ["nothing", "index", "tables"])
def test_a_repair_brings_back_numbers_and_indexes_from_the_stream_alone(store: Database, lost: str) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        messages.delete(txn, news_of(txn)[3].message_id)
        folders.rename(txn, public_folders.find(txn, "News").folder_id, "Old")
    before = rows_of(store)
    if lost == "index":
        env = store.files.env
        for table in (Table.VERSION, Table.GONE):
            with env.view() as view:
                keys = [key for key, _ in view.scan(table, b"", None)]
            env.apply({table: dict.fromkeys(keys)})
        assert len(check_database(store, ACTOR).findings) == sum(
            1 for table, _ in before if table in (Table.VERSION, Table.GONE)
        )
    store.dismount()
    if lost == "tables":
        for file in (store.path / PROPERTIES).iterdir():
            file.unlink()
    repair_database(store)
    store.mount()
    after = rows_of(store)
    assert {place for place in before if before[place] != after.get(place)} <= {(Table.META, b"state")}
    with store.read(ACTOR) as read:
        assert read.state().numbering == 1
    assert check_database(store, ACTOR).clean


def rows_of(database: Database) -> dict[tuple[Table, bytes], bytes]:
    with database.read(ACTOR) as read:
        return {(table, key): value for table in Table for key, value in read.view.scan(table, b"", None)}


def test_rows_of_the_new_indexes_that_belong_to_no_record_are_found(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        messages.delete(txn, news_of(txn)[3].message_id)
    env = store.files.env
    surplus: dict[Table, dict[bytes, bytes | None]] = {}
    for table in (Table.VERSION, Table.GONE):
        assert table in DERIVED
        with env.view() as view:
            key, value = next(iter(view.scan(table, b"", None)))
        other = key[:-1] + bytes([key[-1] ^ 1])
        surplus[table] = {other: seal(table, other, unseal(table, key, value, "row"))}
    env.apply(surplus)
    assert {finding.table for finding in check_database(store, ACTOR).findings} == {"version", "gone"}


def test_what_joined_survives_a_crash_by_replay(store: Database, tmp_path: Path) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        messages.delete(txn, news_of(txn)[3].message_id)
    before = rows_of(store)
    copy = shutil.copytree(store.path, tmp_path / "killed")
    killed = Database(copy, store.guid, "DB", store.kind, clock=store.clock)
    killed.mount()
    assert rows_of(killed) == before
    killed.dismount()


def test_a_new_folder_has_the_active_replicas_of_the_one_that_it_is_in(store: Database) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        top = public_folders.create(txn, "Sales")
        assert [row[:2] for row in top.replicas] == [(store.guid, 2)]
        public_folders.set_replica(txn, top.folder_id, b"d" * 16, 2)
        public_folders.set_replica(txn, top.folder_id, b"e" * 16, 1)
        inner = public_folders.create(txn, "Sales/North")
    assert [row[:2] for row in inner.replicas] == [(store.guid, 2), (b"d" * 16, 2)]


def test_a_database_that_went_back_in_time_gives_no_number_under_its_old_replica_guid(
    store: Database,
) -> None:
    join(store, ACTOR, TREE)
    with store.transaction(ACTOR) as txn:
        before = public_folders.create(txn, "Before")
        txn.restored = True
    with store.transaction(ACTOR) as txn:
        after = public_folders.create(txn, "After")
        again = public_folders.create(txn, "Again")
    numbers = [record.versions[0] >> COUNTER_BITS for record in (before, after, again)]
    assert numbers == [1, 2, 2]
    with store.read(ACTOR) as read:
        assert numbering.replica(read, 2).incarnation == 2
        assert not read.state().restored
