"""Joining an organisation: a public folder store begins to number its changes for the other stores of a tree.

What is made and changed from then on has its number at once. What was there before gets one in batches,
while the store serves: the number of its last change, under the first numbering of the database. No change
number is taken for it, since to clients nothing has changed. The tables say how far this has come, and
a replicator speaks of the store only once all is numbered: a number that came late would be among those that
other stores believe to have.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from pillarbox.store.access import Actor
from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    MEMBERSHIP_KEY,
    DatabaseKind,
    FolderRecord,
    IdentityRecord,
    ItemRecord,
    MembershipRecord,
    Table,
    is_hidden,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Refused
from pillarbox.store.ids import COUNTER_BITS, GUID_BYTES, counter_of, guid_text
from pillarbox.store.mail import folders, public_folders, versions

# In one transaction: others wait meanwhile.
_BATCH_ROWS: Final = 256
_FIRST: Final = (int(Table.FOLDER), b"")
_NEXT_TABLE: Final = {Table.FOLDER: Table.ITEM}


def join(database: Database, actor: Actor, tree: bytes) -> None:
    """Make a mounted public folder store one of the stores of a tree (GUID), and number all that is in it.

    Returns when all has its number; interrupted, it goes on when it is called again, or with the next daily
    maintenance. A store that has joined the tree stays as it is. Raises Refused for a mailbox store, and for
    a store of another tree; Dismounted, ReadOnly, DiskFull.
    """
    check_kind(tree, "tree", bytes, f"the GUID of the tree: {GUID_BYTES} bytes")
    with database.transaction(actor) as txn:
        _begin(txn, tree)
    finish_joining(database, actor)


def _begin(txn: WriteTransaction, tree: bytes) -> None:
    identity: IdentityRecord = txn.record(Table.META, IDENTITY_KEY)
    if identity.kind != DatabaseKind.PUBLIC_FOLDER_STORE:
        raise Refused("a mailbox store holds no public folders", hint="name a public folder store")
    joined = numbering.membership(txn)
    if joined is not None and joined.tree != tree:
        raise Refused(
            f"the store is one of tree {guid_text(joined.tree)}", hint="a store is in one tree for ever"
        )
    if joined is None:
        public_folders.create_tree(txn)
        public_folders.create_lost_and_found(txn)
        numbering.begin_numbering(txn, txn.new_guid())
        numbering.next_stamp(txn)  # later than any stamp of what was there before
        txn.put(Table.META, MEMBERSHIP_KEY, MembershipRecord(tree=tree, nonce=b"", stamped=_FIRST))


def has_joined(reader: Reader) -> bool:
    """True when the database is a store of a tree, and all that is in it has its number."""
    joined = numbering.membership(reader)
    return joined is not None and not joined.stamped


def finish_joining(database: Database, actor: Actor, *, until_ms: int | None = None) -> int:
    """Number what was there before the store joined, in batches; how much. Nothing where all is numbered.

    After `until_ms` (ms UTC) no further batch is begun. Raises as `join`.
    """
    stamped_count = 0
    while until_ms is None or database.clock.now_ms() < until_ms:
        with database.read(actor) as reader:
            joined = numbering.membership(reader)
            if joined is None or not joined.stamped:
                break
        with database.transaction(actor) as txn:
            stamped_count += _stamp_batch(txn)
    return stamped_count


def _stamp_batch(txn: WriteTransaction) -> int:
    joined = numbering.membership(txn)
    if joined is None or not joined.stamped:
        return 0
    number, after = joined.stamped
    table = Table(number)
    rows = list(islice(txn.records(table, after + b"\0" if after else b"", None), _BATCH_ROWS))
    stamped = _stamp(txn, table, rows)
    if rows:
        place: tuple[Any, ...] = (number, rows[-1][0])
    else:
        place = (int(_NEXT_TABLE[table]), b"") if table in _NEXT_TABLE else ()
    txn.put(Table.META, MEMBERSHIP_KEY, joined._replace(stamped=place))
    return stamped


def _stamp(txn: WriteTransaction, table: Table, rows: Iterable[tuple[bytes, Any]]) -> int:
    count = 0
    for key, record in rows:
        if not record.versions and _is_replicated(txn, record):
            txn.put(table, key, _stamped(txn, record))
            count += 1
    return count


def _is_replicated(txn: WriteTransaction, record: ItemRecord | FolderRecord) -> bool:
    if isinstance(record, FolderRecord):
        return bool(record.parent_id) and not is_hidden(record)
    return folders.is_there(txn, record.folder_id)


def _stamped(txn: WriteTransaction, record: ItemRecord | FolderRecord) -> ItemRecord | FolderRecord:
    """A record with the number of its last change; its time is that of its arrival, which expiry goes by."""
    if isinstance(record, ItemRecord):
        cn, time_ms = max(record.arrived_cn, record.change_cn), record.received_ms
    else:
        cn, time_ms = record.change_cn, record.created_ms
    version = numbering.FIRST_NUMBERING << COUNTER_BITS | counter_of(cn)
    stamp = (max(min(time_ms, txn.now_ms), 0), 0)
    stamped = record._replace(versions=(version,), changed=stamp)
    if isinstance(stamped, FolderRecord):
        here = (txn.files.guid, versions.ACTIVE, *stamp, numbering.FIRST_NUMBERING)
        stamped = stamped._replace(replicas=(here,))
    return stamped
