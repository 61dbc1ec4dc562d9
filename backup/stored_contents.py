"""The contents of a database in a snapshot without its tables: mailboxes and folders, with counts and sizes.

They lie in slices, each a run of keys of one table. A further snapshot reads and stores the slices in which a
record changed and names the others again, so that its cost follows the change and not the number of folders.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgpack

from pillarbox.backup.repository.pack import BlobId, BlobKind, Child, pack_value, unpack_value
from pillarbox.backup.repository.repository import Repository, Writer
from pillarbox.store.disk.tables import Table, is_hidden
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import InvalidContent

SLICE_ROWS: Final = 256
SLICED_TABLES: Final = (Table.MAILBOX, Table.FOLDER)
_ROW_TYPES: Final = {
    Table.MAILBOX: (bytes, str, int, int, int, int),
    Table.FOLDER: (int, int, bytes, str, int, int),
}

ChangedKeys = Mapping[Table, Sequence[bytes]]
"""The keys whose records changed since the snapshot before, sorted, of each table that is sliced."""


class StoredMailbox(NamedTuple):
    """A mailbox as a snapshot tells of it."""

    guid: bytes
    name: str
    state: int
    messages_count: int
    size_bytes: int
    root_id: int


class StoredFolder(NamedTuple):
    """A folder as a snapshot tells of it; `mailbox` is the GUID of its mailbox, empty for a public folder."""

    folder_id: int
    parent_id: int
    mailbox: bytes
    name: str
    messages_count: int
    size_bytes: int


class Slice(NamedTuple):
    """The rows of a table from the key `first` to where the next slice of the table begins."""

    table: Table
    first: bytes
    rows_count: int
    messages_count: int
    blob: BlobId


class Contents(NamedTuple):
    """The slices of a database, and the tree that names them."""

    tree: BlobId
    slices: tuple[Slice, ...]

    @property
    def mailboxes_count(self) -> int:
        """The number of mailboxes."""
        return sum(each.rows_count for each in self.slices if each.table is Table.MAILBOX)

    @property
    def messages_count(self) -> int:
        """The number of messages in mailboxes or, where there are none, in public folders."""
        table = Table.MAILBOX if self.mailboxes_count else Table.FOLDER
        return sum(each.messages_count for each in self.slices if each.table is table)


# --- reading ------------------------------------------------------------------------------------------------


def read_mailboxes(repository: Repository, tree_id: BlobId) -> list[StoredMailbox]:
    """The mailboxes of a stored database, by name; `tree_id` is its `contents`.

    Raises Corrupt, NotFound; InvalidContent when it is none of ours.
    """
    rows = [StoredMailbox(*row) for row in _rows(repository, tree_id, Table.MAILBOX)]
    return sorted(rows, key=lambda each: (each.name, each.guid))


def read_folders(repository: Repository, tree_id: BlobId) -> list[StoredFolder]:
    """The folders of a stored database, by id. Raises as `read_mailboxes`."""
    return sorted(StoredFolder(*row) for row in _rows(repository, tree_id, Table.FOLDER))


def _rows(repository: Repository, tree_id: BlobId, table: Table) -> Iterator[list[Any]]:
    blobs = [each.blob for each in read_slices(repository, tree_id).slices if each.table is table]
    for _, content in repository.read_many(blobs):
        try:
            for row in unpack_value(content):
                if tuple(map(type, row)) != _ROW_TYPES[table]:
                    raise ValueError("a row that is none")
                yield row
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise InvalidContent(f"a snapshot's list of contents: {error}") from error


def read_slices(repository: Repository, tree_id: BlobId) -> Contents:
    """The slices that a tree names. Raises as `read_mailboxes`."""
    tree = repository.read_tree(tree_id)
    try:
        slices = tuple(
            Slice(Table(table), bytes(first), int(rows), int(messages), child.blob_id)
            for (table, first, rows, messages), child in zip(tree.meta, tree.children, strict=True)
        )
    except (ValueError, TypeError) as error:
        raise InvalidContent(f"a snapshot's tree of contents: {error}") from error
    return Contents(tree_id, slices)


# --- storing ------------------------------------------------------------------------------------------------


def store_contents(
    writer: Writer, read: ReadTransaction, earlier: Contents | None, changed: ChangedKeys
) -> Contents:
    """Store what `read` sees; of the slices of `earlier` those that no key of `changed` falls in stay.

    Raises Corrupt when the tables are damaged, and what the repository raises.
    """
    slices: list[Slice] = []
    for table in SLICED_TABLES:
        before = [each for each in earlier.slices if each.table is table] if earlier else []
        if not before:
            slices += _store_slices(writer, read, table, b"", None)
            continue
        stops = [*(each.first for each in before[1:]), None]
        for kept, stop in zip(before, stops, strict=True):
            if _any_within(changed.get(table, ()), kept.first, stop):
                slices += _store_slices(writer, read, table, kept.first, stop)
            else:
                slices.append(kept)
    children = [Child(BlobKind.DATA, each.blob) for each in slices]
    meta = [[int(each.table), each.first, each.rows_count, each.messages_count] for each in slices]
    return Contents(writer.add_tree(children, meta).id, tuple(slices))


def _any_within(keys: Sequence[bytes], start: bytes, stop: bytes | None) -> bool:
    at = bisect_left(keys, start)
    return at < len(keys) and (stop is None or keys[at] < stop)


def _store_slices(
    writer: Writer, read: ReadTransaction, table: Table, start: bytes, stop: bytes | None
) -> Iterator[Slice]:
    """The keys from `start` to `stop` in slices; at least one, so that what comes there later has a place."""
    records = (row for row in read.records(table, start, stop) if not is_hidden(row[1]))
    first = start
    while batch := list(islice(records, SLICE_ROWS)):
        yield _store_slice(writer, table, first, [record for _, record in batch])
        first = batch[-1][0] + b"\0"
    if first == start:
        yield _store_slice(writer, table, first, [])


def _store_slice(writer: Writer, table: Table, first: bytes, records: Sequence[Any]) -> Slice:
    rows = [
        [each.guid, each.name, each.state, each.messages_count, each.size, each.root_id]
        if table is Table.MAILBOX
        else [each.folder_id, each.parent_id, each.mailbox, each.name, each.messages_count, each.size]
        for each in records
    ]
    messages_count = sum(each.messages_count for each in records)
    blob = writer.add(BlobKind.DATA, pack_value(rows)).id
    return Slice(table, first, len(rows), messages_count, blob)
