"""Transactions: what reads see, and what one transaction changes, before it is handed over (`commits`).

A read sees one state of the database, never blocks and is never blocked. A write sees that state, what others
have committed since that is not applied yet, and its own changes. Records are put and deleted whole; the rows
of index tables follow from them (`tables.index_rows`) and cannot be written otherwise.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, cast

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import Dictionaries
from pillarbox.store.disk.env import Env, ReadView
from pillarbox.store.disk.records import pack, unpack, unseal
from pillarbox.store.disk.stream import Frame, Position, parse_frame
from pillarbox.store.disk.tables import (
    INDEXED,
    LEFT_OUT_KEY,
    SOURCES,
    STATE_KEY,
    Entry,
    LeftOutRecord,
    Record,
    StateRecord,
    Table,
    changed_rows,
    decode_index,
    decode_record,
    encode_record,
)
from pillarbox.store.engine.changed_rows import ChangedRows, ChangedTables, changed_between, merged
from pillarbox.store.errors import Corrupt, InvalidSetting, Refused
from pillarbox.store.ids import LOCAL_BASE, guid_text, new_guid

Changes = ChangedTables[bytes]
Records = ChangedTables[Record]
NamedMailboxes = list[tuple[bytes, bytes]]
"""Mailboxes, each as (name key, GUID)."""


class FrameSource(Protocol):
    """Where content frames are read from: the stream's segments, or a snapshot in a backup repository."""

    def read(self, segment: int, offset: int, length: int) -> Frame:
        """The frame of `length` bytes at a place. Raises Corrupt when it is damaged or not there."""
        ...


class DatabaseFiles:
    """The files that transactions read and write: tables, frames and dictionaries of one database.

    `unsure_numbering` is a replica number under which no change may be numbered until others were asked what
    they know of it, 0 for none (`numbering`).
    """

    def __init__(
        self,
        guid: bytes,
        env: Env,
        frames: FrameSource,
        dictionaries: Dictionaries,
        rng: random.Random,
    ) -> None:
        self.rng = rng
        self.guid = guid
        self.env = env
        self.frames = frames
        self.dictionaries = dictionaries
        self.unsure_numbering = 0


class Reader:
    """The reads that both kinds of transactions have. `actor` is who asks."""

    def __init__(self, files: DatabaseFiles, view: ReadView, actor: Actor) -> None:
        self.files = files
        self.actor = actor
        self.view = view
        self._read: dict[Table, tuple[bytes, Any]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {guid_text(self.files.guid)} by {self.actor.account}>"

    def record(self, table: Table, key: bytes) -> Any:
        """The record under a key of a primary table, or None. Raises Corrupt."""
        read = self._read.get(table)
        if read is not None and read[0] == key:
            return read[1]  # the folder of many messages, and what is changed because of what it was
        record = self._stored(table, key)
        self._read[table] = key, record
        return record

    def _stored(self, table: Table, key: bytes) -> Any:
        value = self.view.get(table, key)
        return None if value is None else decode_record(table, key, value)

    def index(self, table: Table, key: bytes) -> bytes | None:
        """The body of an index row, or None. Raises Corrupt."""
        value = self.view.get(table, key)
        return None if value is None else decode_index(table, key, value)

    def records(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """(key, record) of a primary table with start <= key < stop, in key order or the reverse."""
        for key, value in self.view.scan(table, start, stop, reverse=reverse):
            yield key, decode_record(table, key, value)

    def indexes(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, body) of an index table with start <= key < stop, in key order or the reverse."""
        for key, value in self.view.scan(table, start, stop, reverse=reverse):
            yield key, decode_index(table, key, value)

    def frame(self, segment: int, offset: int, length: int) -> Frame:
        """The frame of `length` bytes at a place of the stream. Raises Corrupt."""
        return self.files.frames.read(segment, offset, length)

    def state(self) -> StateRecord:
        """Sequence and change number counters of the state that is read. Raises Corrupt when missing."""
        found = self.record(Table.META, STATE_KEY)
        if found is None:
            raise Corrupt("meta[state] is missing", table="meta", key=STATE_KEY)
        return cast(StateRecord, found)


class ReadTransaction(Reader):
    """A read of one state. Use it as a context, or close it; the longer it is open the more space it pins.

    `damaged` is told of damage that ends the context.
    """

    def __init__(
        self,
        files: DatabaseFiles,
        view: ReadView,
        actor: Actor,
        damaged: Callable[[Corrupt], None] | None = None,
    ) -> None:
        super().__init__(files, view, actor)
        self._damaged = damaged

    def close(self) -> None:
        """Let the state go. Closing twice is harmless."""
        self.view.close()

    def __enter__(self) -> ReadTransaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._damaged is not None and isinstance(error, Corrupt):
            self._damaged(error)


class Layer:
    """Committed changes that the tables do not have yet: index rows as stored, records decoded.

    `placed` are their frames, which may not be in the stream yet, by their place.
    """

    def __init__(self) -> None:
        self.changes: Changes = ChangedTables()
        self.records: Records = ChangedTables()
        self.placed: dict[Position, bytes] = {}

    def take(self, records: Records, changes: Changes) -> None:
        """Add a later transaction's changes, which are this layer's from now on."""
        self.records.take(records)
        self.changes.take(changes)


class WriteTransaction(Reader):
    """The changes of one transaction in the making. One thread uses it, between `begin` and commit or abort.

    `layers` are what is committed and not applied, the newest first; `state` is the database's after the last
    of them; `position` is where this transaction's first frame will lie. `leaves_rows` is set where rows of
    hidden folders are left to be removed later. `copies_count` is how many messages it has copied.
    `numbering` is the replica number under which changes are numbered for other stores, 0 where none are;
    `clock` the latest stamp of the hybrid clock. `awaited` and `left_count` are of `shown_folders`: the
    folders that wait in Lost and Found by the parent that they wait for, None until they are looked for, and
    how many left another place.
    """

    def __init__(
        self,
        files: DatabaseFiles,
        actor: Actor,
        layers: Sequence[Layer],
        state: StateRecord,
        position: Position,
        now_ms: int,
    ) -> None:
        super().__init__(files, files.env.view(), actor)
        self.now_ms = now_ms
        self.placed: dict[Position, bytes] = {}
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.leaves_rows = False
        self.copies_count = 0
        self.awaited: dict[int, set[int]] | None = None
        self.left_count = 0
        self.counter = state.counter
        self.content_bytes = state.content_bytes
        self.live_bytes = state.live_bytes
        self.checked_ms = state.checked_ms
        self.restored = state.restored
        self.above_limit_ms = state.above_limit_ms
        self.numbering = state.numbering
        self.clock = state.clock_ms, state.clock_counter
        self.position = position
        self._sequence = state.sequence + 1
        self._layers = layers
        self._records: Records = ChangedTables()
        # Of the records changed since: those that index rows were last made from.
        self._indexed: Records = ChangedTables()
        self._changes: Changes = ChangedTables()

    # -- changing

    def next_cn(self) -> int:
        """A change number that nobody had before; also the id of what is created with it."""
        self.counter += 1
        return LOCAL_BASE | self.counter

    def take_numbers(self, count: int) -> int:
        """Take `count` new change numbers, for later transactions; the counter of the first."""
        first = self.counter + 1
        self.counter += count
        return first

    def leave_out_numbers(self, up_to: int) -> None:
        """Give out only change numbers whose counter is above `up_to`. Call it before any is given out.

        A state that ends among those left out is then not of this database (`change_feed.changes`).
        """
        if up_to > self.counter:
            before: LeftOutRecord | None = self.record(Table.META, LEFT_OUT_KEY)
            intervals = (*(before.intervals if before else ()), (self.counter + 1, up_to))
            self.put(Table.META, LEFT_OUT_KEY, LeftOutRecord(intervals=intervals))
            self.counter = up_to + 1  # not among them: a state of now is of this database

    def put(self, table: Table, key: bytes, record: Record | None) -> None:
        """Store a record of a primary table, in the place of the one that is there; None deletes it."""
        rows = self._records[table]
        if table in INDEXED:
            indexed = self._indexed[table]
            if key not in indexed:
                indexed[key] = rows[key] if key in rows else super().record(table, key)
        rows[key] = record

    def insert(self, table: Table, key: bytes, record: Record) -> None:
        """`put` of a record under a key that was never used: nothing is looked up."""
        self._records[table][key] = record
        if table in INDEXED:
            self._indexed[table][key] = None

    def delete(self, table: Table, key: bytes) -> None:
        """Delete a record of a primary table."""
        self.put(table, key, None)

    def set_size_check(self, checked_ms: int, above_limit_ms: int) -> None:
        """Keep when the size was last checked and first reported above its limit (0: it is not), ms UTC."""
        self.checked_ms, self.above_limit_ms = checked_ms, above_limit_ms
        self.put(Table.META, STATE_KEY, self.state())

    def new_guid(self) -> bytes:
        """A GUID that nobody had before."""
        return new_guid(self.files.rng)

    def append_frame(self, frame: bytes) -> Position:
        """Add a content frame that is written with this transaction; where it will lie."""
        placed = self.position
        self.placed[placed] = frame
        self.position = Position(placed.segment, placed.offset + len(frame))
        return placed

    def report(self, event_id: int, **details: Any) -> None:
        """Report an event once the transaction is durable."""
        self.events.append((event_id, details))

    # -- reading

    def record(self, table: Table, key: bytes) -> Any:
        rows = self._records.get(table)
        if rows is not None and key in rows:
            return rows[key]
        return super().record(table, key)

    def _stored(self, table: Table, key: bytes) -> Any:
        for layer in self._layers:
            rows = layer.records.get(table)
            if rows is not None and key in rows:
                return rows[key]
        return super()._stored(table, key)

    def frame(self, segment: int, offset: int, length: int) -> Frame:
        place = Position(segment, offset)
        for placed in (self.placed, *(layer.placed for layer in self._layers)):
            if place in placed:
                return parse_frame(placed[place], 0, "what is not written yet", offset)
        return super().frame(segment, offset, length)

    def index(self, table: Table, key: bytes) -> bytes | None:
        self._settle(SOURCES[table])
        return self._index_in(self._all_changes(), table, key)

    def _index_in(self, changes: Iterable[Changes], table: Table, key: bytes) -> bytes | None:
        for each in changes:
            rows = each.get(table)
            if rows is not None and key in rows:
                value = rows[key]
                return None if value is None else unseal(table, key, value, table.name.lower())
        return super().index(table, key)

    def records(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        tables = (*(layer.records for layer in reversed(self._layers)), self._records)
        changed = changed_between([rows.get(table) for rows in tables], start, stop)
        return merged(super().records(table, start, stop, reverse=reverse), changed, reverse)

    def indexes(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._settle(SOURCES[table])
        tables = (*(layer.changes for layer in reversed(self._layers)), self._changes)
        sealed = changed_between([rows.get(table) for rows in tables], start, stop)
        name = table.name.lower()
        changed = {
            key: None if value is None else unseal(table, key, value, name) for key, value in sealed.items()
        }
        return merged(super().indexes(table, start, stop, reverse=reverse), changed, reverse)

    def state(self) -> StateRecord:
        return StateRecord(
            sequence=self._sequence,
            counter=self.counter,
            content_bytes=self.content_bytes,
            live_bytes=self.live_bytes,
            checked_ms=self.checked_ms,
            restored=self.restored,
            above_limit_ms=self.above_limit_ms,
            numbering=self.numbering,
            clock_ms=self.clock[0],
            clock_counter=self.clock[1],
        )

    def _all_changes(self) -> Iterator[Changes]:
        yield self._changes
        for layer in self._layers:
            yield layer.changes

    # -- committing

    @property
    def frames(self) -> list[bytes]:
        """The content frames that are written with this transaction, in order."""
        return list(self.placed.values())

    @property
    def changed(self) -> bool:
        """True when there is something to commit."""
        return any(self._records.values())

    def named_mailboxes(self) -> tuple[NamedMailboxes, NamedMailboxes]:
        """The mailboxes that this transaction gives a name, if only the same one, and those that lose one."""
        self._settle()
        rows = self._changes[Table.MAILBOX_NAME]
        name = Table.MAILBOX_NAME.name.lower()
        come = [(key, unseal(Table.MAILBOX_NAME, key, value, name)) for key, value in rows.items() if value]
        before = [layer.changes for layer in self._layers]
        lost = [
            (key, guid)
            for key, value in rows.items()
            if value is None and (guid := self._index_in(before, Table.MAILBOX_NAME, key)) is not None
        ]
        return come, lost

    def finish(self) -> tuple[list[tuple[int, bytes, bytes | None]], Records, Changes]:
        """The rows of the redo record, the records, and all changes to the tables. For the group commit.

        Raises InvalidSetting when a record holds what cannot be stored.
        """
        self.insert(Table.META, STATE_KEY, self.state())  # the one before is known, and has no index rows
        self._settle()
        rows: list[tuple[int, bytes, bytes | None]] = []
        with _STORABLE:
            for table, records in self._records.items():
                number, values = int(table), self._changes[table]
                for key, record in records.items():
                    value = values[key] = None if record is None else encode_record(table, key, record)
                    rows.append((number, key, value))
        return rows, self._records, self._changes

    def _settle(self, sources: Iterable[Table] = INDEXED) -> None:
        """Bring the index rows that follow from the records of some tables in line with them."""
        before = {table: self._indexed.pop(table) for table in sources if table in self._indexed}
        if before:
            with _STORABLE:
                derive(before, self._records, self._changes)

    def close(self) -> None:
        """Let the state that was read go, and take no more changes. What it changed is the group's by now."""
        self._records = _Ended()
        self.view.close()


class _Ended(Records):
    """Stands in for the records of a transaction that has ended."""

    def get(self, *_: Any) -> Any:
        raise Refused("this transaction has ended", hint="begin another one")

    def __missing__(self, table: Table) -> Any:
        self.get(table)


class _Storable:
    """Raises InvalidSetting in its block for a value without a stored form: properties may be of any type."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (TypeError, ValueError, OverflowError, struct.error)):
            raise InvalidSetting(
                f"a value of this transaction cannot be stored: {error}",
                hint="numbers have 64 bits, text is Unicode; lists and dictionaries hold these and bytes",
            ) from error


_STORABLE: Final = _Storable()


def as_stored(value: Any) -> Any:
    """A value as it is read again, sharing nothing with it. Raises InvalidSetting for what has none."""
    with _STORABLE:
        return unpack(pack(value))


def derive(before: Mapping[Table, ChangedRows[Record]], after: Records, changes: Changes) -> None:
    """Put into `changes` the index rows that follow from the records `before` being those of `after` now.

    All rows that go are taken out before any is put in: a folder may take the name that another had. Rows of
    two primary tables never stand under one key of an index, so each table can be brought in by itself.
    """
    come: list[Entry] = []
    for table, records in before.items():
        if table in INDEXED:
            for key, old in records.items():
                places, rows = changed_rows(table, key, old, after[table][key])
                for index_table, index_key in places:
                    changes[index_table][index_key] = None
                come += rows
    for index_table, index_key, value in come:
        changes[index_table][index_key] = value
