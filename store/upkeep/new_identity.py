"""Another GUID for a database whose files were copied, so that the copy is a database of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.checkpoint import read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, Stream, segment_header
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    DatabaseKind,
    IdentityRecord,
    Table,
    decode_record,
    encode_record,
)
from pillarbox.store.engine.database import PROPERTIES, STREAM, Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import Corrupt


def give_new_identity(path: PathLike, guid: bytes, new_guids: Mapping[bytes, bytes]) -> None:
    """Give the files of a database at `path`, cleanly closed and mounted by nobody, another GUID.

    `new_guids` has that of each database that is copied with it, by its old one: marks of moves between them
    name the copies then. Interrupted, the files are of no use: give it to a fresh copy. Raises Corrupt,
    DiskFull.
    """
    path = as_path(path, "path")
    new_guid = new_guids[guid]
    for number in Stream(path / STREAM, guid).segments():
        _write_header(Stream(path / STREAM, guid).path(number), number, new_guid)
    identity = _write_identity(path, new_guid)
    database = Database(path, new_guid, path.name, DatabaseKind(identity.kind))
    database.mount()
    try:
        # In the stream too: a repair that takes it for the truth must not find the old GUID as its last word.
        with database.transaction(Actor.task("new identity")) as txn:
            txn.put(Table.META, IDENTITY_KEY, identity)
            _rename_in_marks(txn, new_guids)
    finally:
        database.dismount()


def _rename_in_marks(txn: WriteTransaction, new_guids: Mapping[bytes, bytes]) -> None:
    """In both databases of a move: by a tombstone that names another one its copy would count for nothing."""
    for key, box in list(txn.records(Table.MAILBOX, b"", None)):
        if box.moved_from in new_guids:
            txn.put(Table.MAILBOX, key, box._replace(moved_from=new_guids[box.moved_from]))
    moved = (row for row in txn.records(Table.TOMBSTONE, b"", None) if row[1].went_to in new_guids)
    for key, tombstone in list(moved):
        txn.put(Table.TOMBSTONE, key, tombstone._replace(went_to=new_guids[tombstone.went_to]))


def _write_header(path: Path, number: int, guid: bytes) -> None:
    with path.open("r+b") as file:
        header = segment_header(number, guid)
        assert len(header) == SEGMENT_HEADER_BYTES
        file.write(header)


def _write_identity(path: Path, guid: bytes) -> IdentityRecord:
    env = Env(path / PROPERTIES)
    try:
        with env.view() as view:
            value = view.get(Table.META, IDENTITY_KEY)
        if value is None:
            raise Corrupt("meta[identity] is missing", table="meta", key=IDENTITY_KEY)
        found = decode_record(Table.META, IDENTITY_KEY, value)
        assert isinstance(found, IdentityRecord)
        identity = found._replace(guid=guid)
        env.apply({Table.META: {IDENTITY_KEY: encode_record(Table.META, IDENTITY_KEY, identity)}})
        env.sync()
        pin = env.pin()
        env.keep(pin)
        checkpoint = read_checkpoint(path)
        changed = checkpoint._replace(database=guid, meta_pages=pin.meta_pages, tables_sums=b"")
        write_checkpoint(path, changed)
    finally:
        env.close()
    return identity
