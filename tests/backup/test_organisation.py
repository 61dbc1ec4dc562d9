"""A store of an organisation comes back from a backup with its numbers, and numbers its changes anew."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from random import Random

from pillarbox.backup.recovery_group import restore_to_server
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.snapshot import GroupSnapshot, source_of
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine import numbering, replication_state
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.mail import apply_folders, apply_messages, folders, messages, public_folders
from pillarbox.store.mail.apply_messages import MessageState
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import has_joined, join

ADMIN = Actor.administrator("root")
PUBLIC = "Public Folder Store"
# Folders have another UIDVALIDITY after a restore, which is no change to other stores.
TABLES = (Table.ITEM, Table.TOMBSTONE, Table.REPLICA, Table.REPLICATION, Table.VERSION, Table.GONE)


def held_by(database):
    with database.read(ADMIN) as read:
        rows = {(table, key): value for table in TABLES for key, value in read.view.scan(table, b"", None)}
        return rows, {each: apply_folders.state_of(read, each) for each in apply_folders.ids(read)}


def test_a_restore_brings_numbers_and_indexes_back_and_numbering_begins_anew(
    world, tmp_path: Path, mail_corpus: list[bytes]
) -> None:
    server = Server.create(tmp_path / "server", clock=world.clock, rng=Random(1), zone=UTC)
    public = server.database(PUBLIC)
    with public.transaction(ADMIN) as txn:
        folder = public_folders.create(txn, "Posts")
    join(public, ADMIN, b"t" * 16)
    prepared = messages.prepare(public.files, mail_corpus[0])
    with public.transaction(ADMIN) as txn:
        other = numbering.replica_number(txn, b"o" * 16, b"d" * 16, 1) << 48
        items = [messages.append(txn, folder.folder_id, prepared) for _ in range(3)]
        messages.delete(txn, items[0].message_id)
        apply_messages.apply(txn, folder.folder_id, other | 7, MessageState({2: 9}, ()))
        replication_state.keep(txn, Kept.STORE, b"kept")
    repository = world.create(MemoryBackend())
    source = source_of(server, server.group(FIRST_GROUP))
    snapshot = GroupSnapshot(source, repository, clock=world.clock).run()
    before = held_by(public)
    with public.transaction(ADMIN) as txn:
        folders.rename(txn, folder.folder_id, "Later")
        messages.delete(txn, items[1].message_id)
    restore_to_server(repository, "here", snapshot, server, names=[PUBLIC], clock=world.clock)
    public = server.database(PUBLIC)
    assert held_by(public) == before
    assert check_database(public, ADMIN).clean
    with public.transaction(ADMIN) as txn:
        assert has_joined(txn) and txn.state().restored
        assert numbering.begin_numbering(txn, b"n" * 16) == 2
        assert not txn.state().restored
        posted = messages.append(txn, folder.folder_id, prepared)
    assert posted.message_id >> 48 == 3 and posted.arrived_cn >> 48 == 1
    server.close()
