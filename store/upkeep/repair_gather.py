"""The first part of a repair: all that is whole, from the stream, and from the old tables what that lacks.

The stream is the truth: each row is as the last whole redo record left it. The old tables tell what no whole
redo record tells: rows that are not in the stream, and rows of a later change number than the stream has.
Both kinds come from redo records that are damaged; or from a page of the tables that is older than it should
be, and then a tombstone, or the message itself in another place, says that the row is out of date.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.store.disk.checkpoint import Checkpoint
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import Redo, read_redo
from pillarbox.store.disk.stream import Frame, FrameKind, Position, disk_error
from pillarbox.store.disk.tables import (
    LEFT_OUT_KEY,
    PRIMARY,
    STATE_KEY,
    FolderRecord,
    Hidden,
    ItemRecord,
    LeftOutRecord,
    MailboxRecord,
    ObjectKind,
    StateRecord,
    Table,
    decode_record,
    is_silent,
    segment_key,
    split_pair_key,
)
from pillarbox.store.disk.tables_process import TableRows
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt
from pillarbox.store.ids import counter_of
from pillarbox.store.upkeep.let_go import stretch_digest
from pillarbox.store.upkeep.missing_segments import missing_text, runs_of_missing
from pillarbox.store.upkeep.repair_draft import Draft

# No stored value begins with a zero byte: the version of a record comes first.
_DELETED: Final = b"\0"
_CONTENT_TABLES: Final = frozenset({Table.CONTENT, Table.BLOCK})


class Place(NamedTuple):
    """A whole content frame in the stream."""

    kind: int
    segment: int
    offset: int
    length: int


class Stretch(NamedTuple):
    """Bytes of the stream that are of no use: no whole frame, or a redo record that cannot be read."""

    segment: int
    offset: int
    length: int
    digest: bytes


class OldTables(NamedTuple):
    """The directory of a copy of the old tables, the checkpoint, and why there is no copy, if so."""

    path: Path
    checkpoint: Checkpoint | None
    problem: str


class Gap(NamedTuple):
    """Transactions that are not in the stream, by their numbers, and the segments on both sides."""

    first: int
    last: int
    segment_before: int
    segment_after: int


class Gathered(NamedTuple):
    """The findings of the gathering beside the rows.

    `sequence` is the last transaction known of, `segment` the first segment number that was never used.
    `content_bytes` are those of each segment's content frames, `stray` the content frames of which no whole
    redo record tells. `perhaps_missing` are segments that are lost if compaction has not given them back.
    `spare` are rows of the old tables not taken, for content that the stream's row does not lead to;
    `from_tables` are the rows that were. `deleted` counts by digest the messages that a tombstone tells to be
    deleted, and no redo record. `unread` are segments that the disk does not give, in
    words; `unreadable` says why the old tables were of no use, if so. `is_end_known` where something proves
    that no transaction is missing behind the last one: the old tables or a clean checkpoint.
    """

    sequence: int
    segment: int
    content_bytes: Counter[int]
    stray: dict[bytes, Place]
    spare: dict[tuple[Table, bytes], bytes]
    from_tables: set[tuple[Table, bytes]]
    deleted: Counter[bytes]
    stretches: list[Stretch]
    dropped: list[str]
    perhaps_missing: list[str]
    unread: list[str]
    unreadable: str
    is_end_known: bool


def gather(database: Database, draft: Draft, old: OldTables) -> Gathered:
    """Fill the draft's primary tables. Raises UnsupportedVersion for what a newer program wrote, DiskFull."""
    return _Gathering(database, draft, old).run()


class _Gathering:
    def __init__(self, database: Database, draft: Draft, old: OldTables) -> None:
        self._database = database
        self._stream = database.stream
        self._draft = draft
        self._old = old
        self._sequence = self._counter = self._segment = 0
        self._last_of_last_segment = -1
        self._last_segment = 0
        self._is_unbroken = False  # nothing damaged or missing since the last transaction that was read
        self._gaps: list[Gap] = []
        self._late: list[tuple[int, Place]] = []
        self._given_back: set[int] = set()
        self._perhaps_missing: list[str] = []
        self._content_bytes: Counter[int] = Counter()
        self._stray: dict[bytes, Place] = {}
        self._spare: dict[tuple[Table, bytes], bytes] = {}
        self._from_tables: set[tuple[Table, bytes]] = set()
        self._damaged: dict[tuple[Table, bytes], bytes] = {}
        self._stretches: list[Stretch] = []
        self._dropped: list[str] = []
        self._unread: list[str] = []
        self._unreadable = ""

    def run(self) -> Gathered:
        self._replay()
        self._draft.flush()
        self._take_late()
        sequence_in_stream = self._sequence
        self._take_tables()
        self._name_damaged()
        self._name_missing_segments()
        if self._unreadable:
            self._name_missing(sequence_in_stream)
        self._drop_unreadable()
        # Where a transaction is missing, what it deleted or moved away may be there still.
        settling = _Settling(self._draft)
        if self._from_tables or self._gaps or self._stretches or self._unread:
            settling.run()
        # A number is left out where transactions are missing at the end: the next one does not follow.
        follows = self._last_of_last_segment in (-1, self._sequence) and sequence_in_stream == self._sequence
        return Gathered(
            self._sequence,
            self._segment + (1 if follows else 2),
            self._content_bytes,
            self._stray,
            self._spare,
            self._from_tables,
            settling.deleted,
            self._stretches,
            self._dropped,
            self._perhaps_missing,
            self._unread,
            self._unreadable,
            not self._unreadable or self._is_end(sequence_in_stream),
        )

    def _is_end(self, sequence: int) -> bool:
        """Tell whether a database that was closed cleanly had come to that transaction, and no further."""
        checkpoint = self._old.checkpoint
        return checkpoint is not None and checkpoint.clean and checkpoint.sequence == sequence

    # -- the stream

    def _replay(self) -> None:
        for segment in self._stream.segments():
            self._is_unbroken = self._is_unbroken and segment == self._segment + 1
            self._segment = segment
            self._last_of_last_segment = -1
            try:
                self._stream.read_bytes(segment, 0, 1)
                self._replay_segment(segment)
            except Corrupt as error:  # a segment of another database, or of another number
                self._let_go(segment, 0, self._stream.size(segment), str(error))
            except OSError as error:
                self._is_unbroken = False
                self._unread.append(str(disk_error(error, str(self._stream.path(segment)))))

    def _replay_segment(self, segment: int) -> None:
        path = str(self._stream.path(segment))
        pending: dict[bytes, Place] = {}
        for offset, length, frame in scan_frames(self._stream, segment):
            if frame is None:
                self._let_go(
                    segment, offset, length, f"{length} bytes at {offset} of {path} are no whole frame"
                )
                self._last_of_last_segment = -1
            elif frame.kind != FrameKind.REDO:
                self._content_bytes[segment] += length
                pending[frame.digest] = Place(frame.kind, segment, offset, length)
                continue
            else:
                redo = self._redo(segment, offset, frame)
                if redo is not None:
                    self._take_redo(redo, pending)
            self._keep_stray(pending)
        self._keep_stray(pending)

    def _redo(self, segment: int, offset: int, frame: Frame) -> Redo | None:
        path = str(self._stream.path(segment))
        try:
            redo = read_redo(frame, Position(segment, offset + frame.length), path)
            if redo.sequence <= self._sequence:
                self._late.append((redo.sequence, Place(frame.kind, segment, offset, frame.length)))
                raise Corrupt(f"{path} at {offset}: transaction {redo.sequence} follows {self._sequence}")
        except Corrupt as error:
            self._let_go(segment, offset, frame.length, str(error))
            return None
        if self._sequence and redo.sequence > self._sequence + 1:
            self._gaps.append(Gap(self._sequence + 1, redo.sequence - 1, self._last_segment, segment))
            if self._is_unbroken:  # cut off between two frames: there are no bytes to remember it by
                self._stretches.append(
                    Stretch(segment, offset, 0, stretch_digest(self._stream, segment, offset, 0))
                )
        self._is_unbroken = True
        self._sequence = self._last_of_last_segment = redo.sequence
        self._last_segment = segment
        return redo

    def _take_redo(self, redo: Redo, pending: dict[bytes, Place]) -> None:
        for number, key, value in redo.rows:
            if (number, key) == (Table.META, STATE_KEY) and value is not None:
                self._counter = self._counter_in(value)
        for number, key, value in redo.rows:
            table = Table(number)
            if table in _CONTENT_TABLES:
                pending.pop(key, None)
                self._stray.pop(key, None)
            elif table == Table.SEGMENT and value is None:
                self._given_back.add(int.from_bytes(key, "big"))
            gone = _DELETED + self._counter.to_bytes(8, "big")
            self._draft.put_value(table, key, gone if value is None else value)

    def _take_late(self) -> None:
        """Take what whole transactions tell that stand behind later ones, as after two pages changed places.

        They are let go where they stand, and told again behind the end.
        """
        for _, place in sorted(self._late):
            frame = self._stream.read(place.segment, place.offset, place.length)
            end = Position(place.segment, place.offset + place.length)
            redo = read_redo(frame, end, str(self._stream.path(place.segment)))
            state = (value for number, key, value in redo.rows if (number, key) == (Table.META, STATE_KEY))
            counter = self._counter_in(next(state, None) or b"")
            for number, key, value in redo.rows:
                self._take_late_row(Table(number), key, value, counter)
        self._draft.flush()
        late = {sequence for sequence, _ in self._late}
        self._gaps = [gap for gap in self._gaps if not late.issuperset(range(gap.first, gap.last + 1))]

    def _take_late_row(self, table: Table, key: bytes, value: bytes | None, counter: int) -> None:
        told = self._draft.get(table, key)
        if table in _CONTENT_TABLES and told is None:
            self._stray.pop(key, None)
        if value is not None:
            self._take_row(table, key, value, told)
            return
        if told is None or told.startswith(_DELETED):
            return
        if _counter_of_row(table, key, decode_record(table, key, told)) <= counter:
            self._draft.changed.add((table, key))
            self._draft.put_value(table, key, _DELETED + counter.to_bytes(8, "big"))

    def _counter_in(self, value: bytes) -> int:
        try:
            state = decode_record(Table.META, STATE_KEY, value)
            return state.counter if isinstance(state, StateRecord) else self._counter
        except Corrupt:
            return self._counter

    def _keep_stray(self, pending: dict[bytes, Place]) -> None:
        for digest, place in pending.items():
            if place.kind in (FrameKind.SKELETON, FrameKind.BLOCK):
                self._stray[digest] = place
        pending.clear()

    def _let_go(self, segment: int, offset: int, length: int, problem: str) -> None:
        digest = stretch_digest(self._stream, segment, offset, length)
        self._stretches.append(Stretch(segment, offset, length, digest))
        self._is_unbroken = False
        self._dropped.append(problem)

    # -- the old tables

    def _take_tables(self) -> None:
        path, checkpoint, problem = self._old
        if checkpoint is not None:
            self._segment = max(self._segment, checkpoint.position.segment)
            self._sequence = max(self._sequence, checkpoint.sequence)
        if problem:
            self._unreadable = problem
            return
        rows = TableRows(path)
        taken = 0
        with self._draft.env.view() as view:
            for table, key, value in rows:
                taken += 1
                self._take_row(table, key, value, view.get(table, key))
        self._draft.flush()
        if taken:
            self._dropped += rows.problems
        else:
            self._unreadable = "; ".join(rows.problems) or "they are empty"

    def _take_row(self, table: Table, key: bytes, value: bytes, told: bytes | None) -> None:
        if value == told:
            return
        try:
            record = decode_record(table, key, value)
        except Corrupt:
            self._damaged[table, key] = value
            return
        if table == Table.META:
            self._take_meta(key, record, told)
        elif self._is_newer(table, key, record, told):
            self._take(table, key, value)
            if table == Table.FOLDER:
                self._keep_uids(key, told, record)
        elif table in _CONTENT_TABLES:
            self._spare[table, key] = value
        elif table == Table.FOLDER and told is not None and not told.startswith(_DELETED):
            self._keep_uids(key, value, decode_record(table, key, told))

    def _take(self, table: Table, key: bytes, value: bytes) -> None:
        self._from_tables.add((table, key))
        self._draft.changed.add((table, key))
        self._draft.put_value(table, key, value)

    def _is_newer(self, table: Table, key: bytes, record: Any, told: bytes | None) -> bool:
        """True when a row of the tables is newer than what the stream tells of its key."""
        if told is None:
            return True
        counter = _counter_of_row(table, key, record)
        if told.startswith(_DELETED):
            return counter > int.from_bytes(told[1:], "big")
        try:
            return counter > _counter_of_row(table, key, decode_record(table, key, told))
        except Corrupt:
            return True

    def _keep_uids(self, key: bytes, other: bytes | None, record: Any) -> None:
        """No UID is given out a second time, whichever of two records of a folder is taken."""
        if other is None or other.startswith(_DELETED):
            return
        found: Any = decode_record(Table.FOLDER, key, other)
        if found.uid_next > record.uid_next:
            self._draft.put(Table.FOLDER, key, record._replace(uid_next=found.uid_next))

    def _take_meta(self, key: bytes, record: Any, told: bytes | None) -> None:
        if key == STATE_KEY:
            known: Any = None if told is None else decode_record(Table.META, key, told)
            self._sequence = max(self._sequence, record.sequence)
            if known is None or record.counter > known.counter:
                self._draft.put(Table.META, key, record)
        elif told is None or (
            key == LEFT_OUT_KEY and len(record.intervals) > len(_left_out(told))  # which only grow
        ):
            self._draft.put(Table.META, key, record)

    def _name_damaged(self) -> None:
        """Rows that are not whole are named, unless the stream has them: under their key, or their value."""
        unknown = {place: value for place, value in self._damaged.items() if self._draft.get(*place) is None}
        for table in {table for table, _ in unknown}:
            values = {value for place, value in unknown.items() if place[0] == table}
            with self._draft.env.view() as view:
                told = {value for _, value in view.scan(table, b"", None) if value in values}
            self._dropped += [
                f"{table.name.lower()}[{key.hex()}] is damaged"
                for (of, key), value in sorted(unknown.items())
                if of == table and value not in told
            ]

    # -- both

    def _name_missing_segments(self) -> None:
        """Name the segments between others that are not there, but for those that compaction gave back.

        A record tells of a segment until then. Where no table tells, it may have been given back, too: what
        told of that may have been given back itself.
        """
        for first, last in runs_of_missing(self._stream.segments(), self._given_back):
            has_record = self._has_segment_record(first, last)
            if not has_record and not self._unreadable:
                continue
            around = (gap for gap in self._gaps if gap.segment_before < first < gap.segment_after)
            lost = next(((gap.first, gap.last) for gap in around), None)
            named = self._dropped if has_record else self._perhaps_missing
            named.append(missing_text(first, last, lost, is_sure=has_record))

    def _has_segment_record(self, first: int, last: int) -> bool:
        with self._draft.env.view() as view:
            rows = view.scan(Table.SEGMENT, segment_key(first), segment_key(last + 1))
            return any(not value.startswith(_DELETED) for _, value in rows)

    def _name_missing(self, sequence_in_stream: int) -> None:
        """Name the transactions of which neither the stream nor a table tells any more."""
        for gap in self._gaps:
            # Those of a whole segment are named with it.
            if gap.segment_after - gap.segment_before <= 1:
                self._dropped.append(
                    f"transactions {gap.first} to {gap.last} are missing in the stream: "
                    "what they deleted or moved may be there still"
                )
        if sequence_in_stream < self._sequence:
            checkpoint = self._old.checkpoint
            at = checkpoint.position.segment if checkpoint is not None else 0
            is_missing = at > max(self._stream.segments(), default=0)
            where = f" in segment {at}, which is missing" if is_missing else ""
            self._dropped.append(
                f"the stream ends with transaction {sequence_in_stream}, "
                f"the checkpoint names {self._sequence}{where}"
            )

    def _drop_unreadable(self) -> None:
        """Take out what stands for a deletion, and rows that are whole and say what no record says."""
        for table in PRIMARY:
            with self._draft.env.view() as view:
                for key, value in view.scan(table, b"", None):
                    if value.startswith(_DELETED):
                        self._draft.put_value(table, key, None)
                        continue
                    try:
                        decode_record(table, key, value)
                    except Corrupt as error:
                        self._dropped.append(str(error))
                        self._draft.put(table, key, None)
            self._draft.flush()


def _counter_of_row(table: Table, key: bytes, record: Any) -> int:
    """The counter of the last change that a record tells of; 0 where it tells of none."""
    if isinstance(record, ItemRecord):
        return counter_of(record.modseq)
    if isinstance(record, FolderRecord):
        return max(counter_of(record.highest_cn), counter_of(record.change_cn))
    if isinstance(record, MailboxRecord):
        return counter_of(record.change_cn)
    return counter_of(split_pair_key(key)[1]) if table == Table.TOMBSTONE else 0


def _left_out(value: bytes) -> tuple[Any, ...]:
    record = decode_record(Table.META, LEFT_OUT_KEY, value)
    return record.intervals if isinstance(record, LeftOutRecord) else ()


class _Settling:
    """Takes rows out that are out of date, where rows of different moments have come together.

    `deleted` counts the messages that a deletion has taken out, by the digest of their content.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.deleted: Counter[bytes] = Counter()

    def run(self) -> None:
        self._drop_second_places()
        self._drop_deleted()

    def _drop_second_places(self) -> None:
        """A message that was moved is where it came last."""
        places: dict[int, tuple[int, int, bytes]] = {}
        with self._draft.reading() as reader:
            for key, item in reader.records(Table.ITEM, b"", None):
                place = (item.arrived_cn, item.modseq, key)
                last = places.setdefault(item.message_id, place)
                if place > last:
                    places[item.message_id] = place
                if place != last:
                    self._draft.put(Table.ITEM, min(place, last)[2], None)

    def _drop_deleted(self) -> None:
        """A tombstone says that an object is gone, unless the object has changed since."""
        gone: dict[ObjectKind, dict[int, int]] = {kind: {} for kind in ObjectKind}
        with self._draft.reading() as reader:
            for key, tombstone in reader.records(Table.TOMBSTONE, b"", None):
                if not tombstone.moved_to and not is_silent(tombstone):
                    gone[ObjectKind(tombstone.kind)][tombstone.object_id] = split_pair_key(key)[1]
            folders = set(gone[ObjectKind.FOLDER_GONE])
            for key, box in reader.records(Table.MAILBOX, b"", None):
                if box.root_id in gone[ObjectKind.MAILBOX_GONE]:
                    self._draft.put(Table.MAILBOX, key, None)
            for key, record in reader.records(Table.FOLDER, b"", None):
                if record.change_cn > gone[ObjectKind.FOLDER_GONE].get(record.folder_id, 0):
                    folders.discard(record.folder_id)  # it came back
                if record.hidden == Hidden.REMOVED:
                    folders.discard(record.folder_id)  # its messages are removed, and told of, as ever
                elif record.folder_id in folders or record.folder_id in gone[ObjectKind.MAILBOX_GONE]:
                    self._draft.put(Table.FOLDER, key, None)
            for key, item in reader.records(Table.ITEM, b"", None):
                since = gone[ObjectKind.MESSAGE_GONE].get(item.message_id, 0)
                if item.folder_id in folders or since > item.modseq:
                    self.deleted[item.digest] += 1
                    self._draft.put(Table.ITEM, key, None)
