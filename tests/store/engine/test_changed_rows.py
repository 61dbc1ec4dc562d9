"""Rows of a transaction are found by ranges of keys, at a cost that does not grow with all it changed."""

from __future__ import annotations

import random

from pillarbox.store.disk.tables import Table
from pillarbox.store.engine.changed_rows import ChangedRows, ChangedTables, changed_between, merged


def key(number: int) -> bytes:
    return number.to_bytes(2, "big")


def test_a_range_has_the_rows_between_its_ends_whenever_they_came() -> None:
    rng = random.Random(1)
    rows: ChangedRows[int] = ChangedRows()
    for _ in range(2000):
        rows[key(rng.randrange(500))] = rng.choice((None, rng.randrange(9)))
        start, stop = rng.randrange(500), rng.randrange(500)
        expected = {each: row for each, row in rows.items() if key(start) <= each < key(stop)}
        assert rows.between(key(start), key(stop)) == expected
    assert rows.between(b"", None) == dict(rows)


class CountedKey(bytes):
    compared = 0

    def __lt__(self, other: bytes) -> bool:
        CountedKey.compared += 1
        return super().__lt__(other)


def test_ranges_read_between_changes_compare_each_key_a_few_times() -> None:
    rows: ChangedRows[int] = ChangedRows()
    for number in range(4000):
        rows[CountedKey(key(number * 7919 % 65521))] = 1
        rows.between(key(number), key(number + 1))
    assert CountedKey.compared < 4000 * 100, "all rows were looked at for each range"


def test_the_last_transaction_counts_and_what_it_deleted_is_gone() -> None:
    older: ChangedRows[int] = ChangedRows()
    newer: ChangedRows[int] = ChangedRows()
    older.update({b"a": 1, b"b": 1, b"d": 1})
    newer.update({b"b": 2, b"c": None})
    changed = changed_between([older, None, newer], b"", None)
    stored = [(b"a", 0), (b"c", 0), (b"e", 0)]
    expected = [(b"a", 1), (b"b", 2), (b"d", 1), (b"e", 0)]
    assert list(merged(iter(stored), changed, reverse=False)) == expected
    assert list(merged(iter(stored[::-1]), changed, reverse=True)) == expected[::-1]


def test_a_range_knows_rows_of_a_later_transaction_that_were_taken_in() -> None:
    tables: ChangedTables[int] = ChangedTables()
    tables[Table.ITEM][b"b"] = 1
    assert tables[Table.ITEM].between(b"", None) == {b"b": 1}
    later: ChangedTables[int] = ChangedTables()
    later[Table.ITEM].update({b"a": 2, b"b": 2})
    tables.take(later)
    assert tables[Table.ITEM].between(b"", b"c") == {b"a": 2, b"b": 2}
