"""Rows that transactions change before the tables have them, found by key and by ranges of keys."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

from pillarbox.store.disk.tables import Table

RowT = TypeVar("RowT")


class ChangedRows(dict[bytes, RowT | None], Generic[RowT]):
    """Rows of one table by key; None stands for a row that is deleted. No key is ever taken out.

    Keys are put in order when a range is first asked for, and those that came since at the next time: a
    transaction that only puts rows pays nothing, and one that reads ranges between its changes sorts each key
    O(log n) times.
    """

    # A delivery makes twenty of them: nothing is set up before a range is asked for.
    _ordered = 0
    _runs: Sequence[list[bytes]] = ()

    def between(self, start: bytes, stop: bytes | None) -> dict[bytes, RowT | None]:
        """The rows with start <= key < stop; no stop: to the last."""
        if not self:
            return {}
        self._order_new_keys()
        return {key: self[key] for run in self._runs for key in _slice(run, start, stop)}

    def _order_new_keys(self) -> None:
        """Add the keys that came since as a sorted run; a run is joined with the one before of its length."""
        came = len(self) - self._ordered
        if not came:
            return
        runs = list(self._runs)
        run = sorted(islice(reversed(self), came))  # keys stand in the order in which they came
        while runs and len(runs[-1]) <= 2 * len(run):
            run = sorted(runs.pop() + run)
        self._runs = (*runs, run)
        self._ordered = len(self)


class ChangedTables(defaultdict[Table, ChangedRows[RowT]], Generic[RowT]):
    """Changed rows by table; a table that is asked for by `[]` is there."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(ChangedRows)

    def take(self, later: ChangedTables[RowT]) -> None:
        """Put in the rows of a later transaction, which belong to this one from now on."""
        for table, rows in later.items():
            if table in self:
                self[table].update(rows)
            else:
                self[table] = rows


def _slice(run: list[bytes], start: bytes, stop: bytes | None) -> list[bytes]:
    return run[bisect_left(run, start) : None if stop is None else bisect_left(run, stop)]


def changed_between(
    layers: Iterable[ChangedRows[RowT] | None], start: bytes, stop: bytes | None
) -> dict[bytes, RowT | None]:
    """The rows with start <= key < stop of several transactions, the oldest first: the last one counts."""
    found: dict[bytes, RowT | None] = {}
    for rows in layers:
        if rows is not None:
            found.update(rows.between(start, stop))
    return found


def merged(
    stored: Iterator[tuple[bytes, RowT]], changed: dict[bytes, RowT | None], reverse: bool
) -> Iterator[tuple[bytes, RowT]]:
    """Stored rows in key order or the reverse, with the changed rows in their place."""
    if not changed:
        yield from stored
        return
    kept = ((key, row) for key, row in stored if key not in changed)
    new = ((key, row) for key, row in sorted(changed.items(), reverse=reverse) if row is not None)
    yield from heapq.merge(kept, new, key=lambda row: row[0], reverse=reverse)
