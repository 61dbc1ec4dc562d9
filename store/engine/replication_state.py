"""The replication state table: what a replicator keeps, in the transactions of the changes it is about.

The store understands one kind of row, the CNSET of what is known here of a folder; the rest is for those who
keep it. Knowledge that survived a crash without its objects would lose them for ever, so it has no file of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import ReplicationRecord, Table, replication_key, split_replication_key
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.ids import GUID_BYTES

NOBODY: Final = bytes(GUID_BYTES)
"""The GUID of a row that is about this database itself."""


class Kept(IntEnum):
    """Kinds of rows. `value` of `KNOWN` is an encoded CNSET, that of `LACKING` is empty; the store reads no
    other kind."""

    KNOWN = 1
    STORE = 2  # of the whole database: numberings, quarantine
    FOLDER = 3  # of one folder: life, expired and purged numbers, a leaving replica's statement
    ROW = 4  # of one folder: what another database said last, by its GUID
    COPY = 5  # a copy of a bundle that is to be handed on, by a number and its maker's GUID
    COPY_SLICE = 6  # a part of its bytes
    LACKING = 7  # of one folder: there while the replica here lacks content that others have
    UNTOLD = 8  # the notice of a conflict that was not told yet, by its key
    ONCE_HEARD = 9  # of the whole database: how high numbers reach that were heard and are not kept


def kept(reader: Reader, kind: Kept, folder_id: int = 0, guid: bytes = NOBODY) -> bytes | None:
    """The value of a row, None when there is none. Raises Corrupt."""
    record: ReplicationRecord | None = reader.record(
        Table.REPLICATION, replication_key(kind, folder_id, guid)
    )
    return None if record is None else record.value


def all_kept(reader: Reader, kind: Kept, folder_id: int | None = None) -> Iterator[tuple[int, bytes, bytes]]:
    """(folder id, GUID, value) of every row of a kind, of one folder or of all. Raises Corrupt."""
    first, last = (0, None) if folder_id is None else (folder_id, folder_id + 1)
    start = replication_key(kind, first, NOBODY)
    stop = replication_key(kind + 1, 0, NOBODY) if last is None else replication_key(kind, last, NOBODY)
    for key, record in reader.records(Table.REPLICATION, start, stop):
        _, folder, guid = split_replication_key(key)
        yield folder, guid, record.value


def keep(
    txn: WriteTransaction, kind: Kept, value: bytes | None, folder_id: int = 0, guid: bytes = NOBODY
) -> None:
    """Keep a value in the place of the one before; None lets it go. The same value once more is no change."""
    if value != kept(txn, kind, folder_id, guid):
        record = None if value is None else ReplicationRecord(value=value)
        txn.put(Table.REPLICATION, replication_key(kind, folder_id, guid), record)


def known(reader: Reader, folder_id: int) -> CNSet:
    """The numbers that are known here of a folder's content. Raises Corrupt."""
    value = kept(reader, Kept.KNOWN, folder_id)
    return CNSet() if value is None else CNSet.decode(value)


def is_lacking(reader: Reader, folder_id: int) -> bool:
    """True when the replica of a folder that is here lacks content that others have. Raises Corrupt."""
    return kept(reader, Kept.LACKING, folder_id) is not None
