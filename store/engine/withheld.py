"""Change numbers that the feed tells of later: those of what is copied in many transactions.

A copy takes all its numbers in its first transaction. Until its last one shows it, no CNSET holds any of
them, so that whoever follows the feed is told of the whole copy then, however far it had followed before.
"""

from __future__ import annotations

from typing import Final

from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import NEVER_TOLD, WITHHELD_KEY, Table, WithheldRecord
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, Refused
from pillarbox.store.ids import counter_of

# Pages of a walk through the feed that began before so many copies: it has to begin anew.
_INTERVALS_MAX: Final = 64


def withhold(txn: WriteTransaction, count: int) -> int:
    """Take `count` numbers that the feed is not to tell of yet; the counter of the first."""
    first = txn.take_numbers(count)
    record = _record(txn)
    _put(txn, record, [*record.intervals, (first, first + count - 1, 0)])
    return first


def tell(txn: WriteTransaction, first: int) -> None:
    """Let the feed tell of the numbers from counter `first` on. Raises Corrupt when none are withheld."""
    _end(txn, first, counter_of(txn.next_cn()))


def never_tell(txn: WriteTransaction, first: int) -> None:
    """Keep the numbers from counter `first` on from the feed for good. Raises Corrupt as `tell`."""
    _end(txn, first, NEVER_TOLD)


def never_tell_any(txn: WriteTransaction) -> None:
    """Keep all numbers from the feed for good that are withheld."""
    for first, _, told in _record(txn).intervals:
        if not told:
            never_tell(txn, first)


def withheld(reader: Reader, begun: int | None = None) -> CNSet:
    """The numbers that a reader of the feed is not told of.

    `begun` is the database's counter when the first page of a walk was made: what was withheld then stays so
    to the end of that walk. Raises Refused for a walk that is too old to tell; Corrupt.
    """
    record = _record(reader)
    if begun is not None and begun < record.forgotten:
        raise Refused(
            "much was copied since the first of these pages", hint="begin with the first page again"
        )
    found = CNSet()
    for first, last, told in record.intervals:
        if told in (0, NEVER_TOLD) or (begun is not None and begun < told):
            found |= CNSet.of_range(reader.files.guid, first, last)
    return found


def not_told_yet(reader: Reader) -> CNSet:
    """The numbers of copies that are not complete: they may still be told of. Raises Corrupt."""
    found = CNSet()
    for first, last, told in _record(reader).intervals:
        if not told:
            found |= CNSet.of_range(reader.files.guid, first, last)
    return found


def _record(reader: Reader) -> WithheldRecord:
    record: WithheldRecord | None = reader.record(Table.META, WITHHELD_KEY)
    return WithheldRecord(intervals=(), forgotten=0) if record is None else record


def _end(txn: WriteTransaction, first: int, told: int) -> None:
    record = _record(txn)
    found = [each for each in record.intervals if each[0] == first and not each[2]]
    if not found:
        raise Corrupt(f"the numbers from {first} on are not withheld", table="meta", key=WITHHELD_KEY)
    _put(txn, record, [(*each[:2], told) if each in found else each for each in record.intervals])


def _put(txn: WriteTransaction, record: WithheldRecord, intervals: list[tuple[int, int, int]]) -> None:
    """Of those that have ended the last ones are kept."""
    ended = [each for each in intervals if each[2]]
    dropped = ended[: max(0, len(ended) - _INTERVALS_MAX)]
    forgotten = max([record.forgotten, *(told for _, _, told in dropped if told != NEVER_TOLD)])
    kept = tuple(each for each in intervals if each not in dropped)
    txn.put(Table.META, WITHHELD_KEY, WithheldRecord(intervals=kept, forgotten=forgotten))
