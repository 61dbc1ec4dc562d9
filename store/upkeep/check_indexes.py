"""The check of index tables: each row follows from a record, and each record has its rows."""

from __future__ import annotations

import struct
from collections import Counter

from pillarbox.store.disk.records import unseal
from pillarbox.store.disk.tables import (
    FolderRecord,
    ItemRecord,
    ObjectKind,
    Record,
    Table,
    derived_entries,
    id_key,
    item_key,
    pair_key,
    split_feed_value,
    split_pair_key,
    split_triple_key,
)
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.upkeep.check_findings import CheckedState


class IndexCheck:
    """Looks up the rows of each record, and then for rows that are of none."""

    def __init__(self, checked: CheckedState) -> None:
        self._checked = checked
        self._rows_count: Counter[Table] = Counter()
        self._named_rows: set[tuple[Table, bytes]] = set()

    def check_rows_of(self, table: Table, key: bytes, record: Record) -> None:
        """Look up the index rows that a record brings with it."""
        for (index, index_key), expected in derived_entries(table, key, record).items():
            found = self._checked.view.get(index, index_key)
            if found is not None:
                self._rows_count[index] += 1
            if found == expected:
                continue
            problem = "is missing" if found is None else self._index_problem(index, index_key, found)
            self._named_rows.add((index, index_key))
            text = (
                self._checked.message_text(record)
                if isinstance(record, ItemRecord)
                else self._checked.key_text(table, key)
            )
            self._checked.found(index, index_key, problem, text)

    @staticmethod
    def _index_problem(index: Table, key: bytes, found: bytes) -> str:
        try:
            unseal(index, key, found, index.name.lower())
        except Corrupt as error:
            return str(error)
        return "points elsewhere"

    def check_surplus(self, table: Table) -> None:
        """Each row belongs to a record; they are looked at one by one only when there are too many."""
        if self._checked.count(table) == self._rows_count[table]:
            return
        for key, value in self._checked.rows(table):
            if (table, key) in self._named_rows:
                continue
            try:
                body = unseal(table, key, value, table.name.lower())
                owner = self._owner(table, key, body)
                surplus = owner is None or (table, key) not in derived_entries(*owner)
            except PillarboxError as error:
                if isinstance(error, Corrupt) and error.table not in ("", table.name.lower()):
                    continue  # the record it belongs to cannot be read, and was named
                self._checked.found(table, key, error, self._checked.key_text(table, key))
                continue
            except (struct.error, ValueError, TypeError):
                surplus = True
            if surplus:
                self._checked.found(table, key, "belongs to no record", self._checked.key_text(table, key))

    def _owner(self, table: Table, key: bytes, body: bytes) -> tuple[Table, bytes, Record] | None:
        """The record that an index row says it comes from, if it is there."""
        owner, owner_key = self._owner_key(table, key, body)
        record = self._checked.reader.record(owner, owner_key)
        return None if record is None else (owner, owner_key, record)

    def _owner_key(self, table: Table, key: bytes, body: bytes) -> tuple[Table, bytes]:
        if table == Table.LOCATION:
            return Table.ITEM, body
        if table == Table.VIEW:
            return Table.ITEM, key[:8] + key[-4:]
        if table == Table.FOLDER_NAME:
            return Table.FOLDER, body
        if table == Table.REMOVAL:
            return Table.FOLDER, key
        if table == Table.MAILBOX_NAME:
            return Table.MAILBOX, body
        if table == Table.GONE:
            return Table.TOMBSTONE, key[8:]
        if table == Table.VERSION:
            return self._version_owner_key(key, body)
        kind, object_id, folder_id, uid = split_feed_value(body)
        if kind == ObjectKind.MESSAGE:
            return Table.ITEM, item_key(folder_id, uid)
        if kind == ObjectKind.FOLDER:
            return Table.FOLDER, id_key(object_id)
        if kind == ObjectKind.MAILBOX:
            root: FolderRecord | None = self._checked.reader.record(Table.FOLDER, id_key(object_id))
            return Table.MAILBOX, root.mailbox if root else b"\0"
        return Table.TOMBSTONE, pair_key(folder_id, split_pair_key(key)[1])

    @staticmethod
    def _version_owner_key(key: bytes, body: bytes) -> tuple[Table, bytes]:
        kind, _, folder_id, uid = split_feed_value(body)
        row_id = split_triple_key(key)[2]
        if kind == ObjectKind.MESSAGE:
            return Table.ITEM, item_key(folder_id, uid)
        if kind == ObjectKind.FOLDER:
            return Table.FOLDER, id_key(row_id)
        return Table.TOMBSTONE, pair_key(folder_id, row_id)
