"""Another GUID for a database whose files were copied, so that the copy is a database of its own."""

from __future__ import annotations

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
from pillarbox.store.errors import Corrupt


def give_new_identity(path: PathLike, guid: bytes, new_guid: bytes) -> None:
    """Give the files of a database at `path`, cleanly closed and mounted by nobody, another GUID.

    Interrupted, they are of no use: give it to a fresh copy. Raises Corrupt, DiskFull.
    """
    path = as_path(path, "path")
    for number in Stream(path / STREAM, guid).segments():
        _write_header(Stream(path / STREAM, guid).path(number), number, new_guid)
    identity = _write_identity(path, new_guid)
    database = Database(path, new_guid, path.name, DatabaseKind(identity.kind))
    database.mount()
    try:
        # In the stream too: a repair that takes it for the truth must not find the old GUID as its last word.
        with database.transaction(Actor.task("new identity")) as txn:
            txn.put(Table.META, IDENTITY_KEY, identity)
    finally:
        database.dismount()


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
