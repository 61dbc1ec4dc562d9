"""Bringing the tables up to what the stream has: after a crash, in a repair, in a restore."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pillarbox.store.batches import batches
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.redo import Redo, Row, replay
from pillarbox.store.disk.stream import Position, Stream
from pillarbox.store.disk.tables import STATE_KEY, StateRecord, Table, decode_record, encode_record
from pillarbox.store.engine.changed_rows import ChangedTables
from pillarbox.store.engine.transaction import Layer, Records, derive
from pillarbox.store.errors import Corrupt

_ROWS_PER_APPLY: Final = 20_000
_BYTES_PER_APPLY: Final = 64 << 20


class Replayed(NamedTuple):
    """The end of a replay: where the last whole transaction ends, its number, and how many were applied."""

    end: Position
    sequence: int
    transactions: int


class TableWriter:
    """Applies redo records to an environment in order, many at a time."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._layer = Layer()
        self._rows = 0

    def add(self, redo: Redo) -> None:
        """Take one more transaction; it is in the tables after the next `flush`. Raises Corrupt.

        Parts of a large one may be there before: until the next checkpoint a crash replays all of it again.
        """
        for rows in batches(redo.rows, lambda row: len(row[2] or b""), _ROWS_PER_APPLY, _BYTES_PER_APPLY):
            self._add(rows)

    def _add(self, rows: list[Row]) -> None:
        before: Records = ChangedTables()
        records: Records = ChangedTables()
        changes = self._layer.changes
        with self._env.view() as view:
            for number, key, value in rows:
                table = Table(number)
                if table in self._layer.records and key in self._layer.records[table]:
                    old: Any = self._layer.records[table][key]
                else:
                    stored = view.get(table, key)
                    old = None if stored is None else decode_record(table, key, stored)
                new = None if value is None else decode_record(table, key, value)
                records[table][key] = new
                changes[table][key] = value
                before[table][key] = old
        derive(before, records, changes)
        self._layer.take(records, ChangedTables())
        self._rows += len(rows)
        if self._rows >= _ROWS_PER_APPLY:
            self.flush()

    def flush(self) -> None:
        """Apply what was taken."""
        if self._rows:
            self._env.apply(self._layer.changes)
            self._layer, self._rows = Layer(), 0


def read_state(env: Env) -> StateRecord:
    """The state that the tables of an environment have reached. Raises Corrupt when they do not tell."""
    with env.view() as view:
        value = view.get(Table.META, STATE_KEY)
        if value is None:
            raise Corrupt("meta[state] is missing", table="meta", key=STATE_KEY)
        record = decode_record(Table.META, STATE_KEY, value)
    assert isinstance(record, StateRecord)
    return record


def mark_restored(env: Env) -> None:
    """Note in the tables of an environment that the database has gone back in time; flushed by the caller.

    Every transaction from now on carries the mark on. Raises Corrupt as `read_state`.
    """
    state = read_state(env)._replace(restored=True)
    env.apply({Table.META: {STATE_KEY: encode_record(Table.META, STATE_KEY, state)}})


def find_transaction(stream: Stream, start: Position, after_sequence: int, sequence: int) -> Position:
    """Where transaction `sequence` ends; `after_sequence` is the one that ends at `start`.

    Raises Corrupt as `redo.replay`, and when the stream ends before it: the tables are ahead.
    """
    end, found = start, after_sequence
    if found == sequence:
        return end
    for redo in replay(stream, start, after_sequence):
        end, found = redo.end, redo.sequence
        if found == sequence:
            return end
    raise Corrupt(
        f"the tables have transaction {sequence}, the stream ends with {found}",
        file=str(stream.path(end.segment)),
        offset=end.offset,
    )


def replay_stream(env: Env, stream: Stream, start: Position, after_sequence: int) -> Replayed:
    """Apply every transaction from `start` on that the tables do not have.

    `after_sequence` is the number of the transaction that ends at `start`. Raises Corrupt as `redo.replay`,
    and when the tables are ahead of the stream.
    """
    held = read_state(env).sequence
    writer = TableWriter(env)
    end, sequence, applied = start, after_sequence, 0
    for redo in replay(stream, start, after_sequence):
        end, sequence = redo.end, redo.sequence
        if redo.sequence > held:
            writer.add(redo)
            applied += 1
    writer.flush()
    if sequence < held:
        raise Corrupt(
            f"the tables have transaction {held}, the stream ends with {sequence}",
            file=str(stream.path(end.segment)),
            offset=end.offset,
        )
    return Replayed(end, sequence, applied)
