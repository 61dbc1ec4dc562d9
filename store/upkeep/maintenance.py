"""Online maintenance: purge disconnected mailboxes, train a dictionary, fill in sizes, compact the stream.

Compaction keeps this promise: replaying all segments that are left, from nothing, makes the tables as they
are. So a segment goes only when its content that is in use, its rows that are still current, and its
deletions of what an older segment may bring back have been written again behind the end of the stream.
Segments go in order, the oldest first: what has no older one beside it needs no deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import zstandard

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import Dictionaries, digest_of, skeleton_bytes_max
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import Row, read_rows
from pillarbox.store.disk.stream import Codec, Frame, FrameKind, build_frame
from pillarbox.store.disk.tables import (
    STATE_KEY,
    DictionaryRecord,
    SegmentRecord,
    Table,
    decode_record,
    encode_record,
    segment_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt
from pillarbox.store.events import EventId
from pillarbox.store.mail import mailboxes
from pillarbox.store.upkeep.joining import finish_joining
from pillarbox.store.upkeep.let_go import LetGo
from pillarbox.store.upkeep.sizes import logical_size_bytes, physical_size_bytes
from pillarbox.store.upkeep.sizing import fill_in_sizes
from pillarbox.store.upkeep.verification import problems_in_use, told_without_room

MAILBOX_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
DICTIONARY_BYTES: Final = 112 << 10
SKELETONS_MIN: Final = 500
SKELETONS_MAX: Final = 2000
_HELD_OUT_EVERY: Final = 5
# Dictionaries are kept for ever, so one that is hardly better than the one before is not worth having.
_SAVING_MIN: Final = 0.1
# Written in one transaction: deliveries wait meanwhile.
_BATCH_BYTES: Final = 1 << 20
_BATCH_ROWS: Final = 2000
# Segments given back together: each time costs a checkpoint, and until then the disk holds both copies.
_REMOVE_EVERY: Final = 8
# The segment that is being written is only looked at once it is so large a part of a full one (1 MB).
_SEALED_FROM_PART: Final = 64


class MaintenanceReport(NamedTuple):
    """The outcome of a run: mailboxes purged, the dictionary trained (0 for none), bytes given back to the
    disk by compaction, and bytes that lie free in the database's files at the end.
    """

    purged_mailboxes: int
    dictionary: int
    freed_bytes: int
    free_bytes: int


def run_maintenance(
    database: Database,
    actor: Actor,
    *,
    until_ms: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> MaintenanceReport:
    """All tasks of the daily window, one after the other; event 1221 tells the free space at the end.

    After `until_ms` (ms UTC) no further mailbox or segment is begun, and the next run goes on there, as it
    does after an interruption: the database is whole at any moment. `step` is called before each task and
    segment, and may raise to end the run. One run of a database at a time. Raises
    Corrupt for bent pages, before anything is changed; Dismounted, ReadOnly, DiskFull.
    """
    with told_without_room(database):  # compaction gives the room for the next time
        _refuse_bent_pages(database)
    step()
    purged = purge_disconnected(database, actor, until_ms=until_ms)
    database.finish_removals()
    step()
    number = train_dictionary(database, actor)
    step()
    fill_in_sizes(database, actor, until_ms=until_ms)
    finish_joining(database, actor, until_ms=until_ms)
    freed_bytes = compact(database, actor, until_ms=until_ms, step=step)
    free_bytes = physical_size_bytes(database) - logical_size_bytes(database)
    database.report(EventId.FREE_SPACE_AFTER_MAINTENANCE, free_megabytes=free_bytes >> 20)
    return MaintenanceReport(purged, number, freed_bytes, free_bytes)


def _refuse_bent_pages(database: Database) -> None:
    """Report bent pages, and raise Corrupt: compaction would give back what they do not name."""
    problems = problems_in_use(database)
    for problem in problems:
        database.report(EventId.DAMAGE_FOUND, error=problem)
    if problems:
        file = str(database.path / PROPERTIES / DATA_FILE)
        raise Corrupt(
            f"{file}: {problems[0]}: nothing was maintained",
            file=file,
            hint="dismount the database, then `pillarbox repair`: the tables are made anew from the stream",
        )


# -- disconnected mailboxes


def purge_disconnected(
    database: Database,
    actor: Actor,
    *,
    retention_ms: int = MAILBOX_RETENTION_MS,
    until_ms: int | None = None,
) -> int:
    """Delete for good the mailboxes that have been disconnected for `retention_ms`; how many.

    Raises Dismounted, ReadOnly, DiskFull.
    """
    before_ms = database.clock.now_ms() - retention_ms
    with database.read(actor) as reader:
        due = [
            each.guid
            for each in mailboxes.all_of(reader)
            if _is_past(each.state, each.disconnected_ms, before_ms)
        ]
    purged = items = size = 0
    for guid in due:
        if _is_over(database, until_ms):
            break
        with database.transaction(actor) as txn:
            box = txn.record(Table.MAILBOX, guid)
            if box is not None and _is_past(box.state, box.disconnected_ms, before_ms):
                mailboxes.purge(txn, guid)
                purged, items, size = purged + 1, items + box.messages_count, size + box.size
    if purged:
        database.report(EventId.RETENTION_CLEANUP, items=items, size_bytes=size)
    return purged


def _is_past(state: int, disconnected_ms: int, before_ms: int) -> bool:
    return state == mailboxes.DISCONNECTED and disconnected_ms <= before_ms


def _is_over(database: Database, until_ms: int | None) -> bool:
    return until_ms is not None and database.clock.now_ms() >= until_ms


# -- dictionary


def train_dictionary(database: Database, actor: Actor) -> int:
    """Train a zstd dictionary on the mail that is there and use it from now on; its number, 0 for none.

    None is made of fewer than 500 skeletons, nor unless skeletons that it was not trained on become a tenth
    smaller than now, and all that are there would save twice its own size. What is stored stays as it is.
    Raises Dismounted, ReadOnly, DiskFull.
    """
    with database.read(actor) as reader:
        samples = list(_skeletons(reader))
        count = reader.view.count(Table.CONTENT)
    if len(samples) < SKELETONS_MIN:
        return 0
    data = _train([each for at, each in enumerate(samples) if at % _HELD_OUT_EVERY])
    if not data or not _pays(data, samples[::_HELD_OUT_EVERY], database.files.dictionaries, count):
        return 0
    return _add_dictionary(database, actor, data)


def _pays(data: bytes, held_out: list[bytes], known: Dictionaries, count: int) -> bool:
    before = _packed_bytes(held_out, known)
    saved = before - _packed_bytes(held_out, Dictionaries({1: data}))
    return saved >= _SAVING_MIN * before and saved * count // len(held_out) >= 2 * len(data)


def _add_dictionary(database: Database, actor: Actor, data: bytes) -> int:
    frame = build_frame(FrameKind.DICTIONARY, Codec.PLAIN, 0, len(data), digest_of(data), data)
    with database.transaction(actor) as txn:
        keys = [int.from_bytes(key, "big") for key, _ in txn.records(Table.DICTIONARY, b"", None)]
        number = max(keys, default=0) + 1
        position = txn.append_frame(frame)
        content_store.count_bytes(txn, position.segment, len(frame), len(frame))
        record = DictionaryRecord(segment=position.segment, offset=position.offset, length=len(frame))
        txn.insert(Table.DICTIONARY, segment_key(number), record)
    # Only now may anything be packed with it: what is in the stream must find its dictionary there too.
    database.files.dictionaries.add(number, data)
    return number


def _skeletons(reader: Reader) -> Iterator[bytes]:
    """A fair sample: content lies in the order of its digests, which are as good as random."""
    taken = 0
    for key, record in reader.records(Table.CONTENT, b"", None):
        if taken == SKELETONS_MAX:
            return
        try:
            frame = reader.files.frames.read(record.segment, record.offset, record.length)
            limit_bytes = skeleton_bytes_max(len(record.parts))
            yield reader.files.dictionaries.decompress(frame, f"content[{key.hex()}]", limit_bytes)
            taken += 1
        except Corrupt:
            continue  # the check names it


def _train(samples: list[bytes]) -> bytes:
    try:
        return zstandard.train_dictionary(DICTIONARY_BYTES, [*samples]).as_bytes()
    except zstandard.ZstdError:
        return b""  # too little in them that comes again


def _packed_bytes(samples: list[bytes], dictionaries: Dictionaries) -> int:
    compressor = dictionaries.compressor(dictionaries.current)
    return sum(min(len(each), len(compressor.compress(each))) for each in samples)


# -- compaction


def compact(
    database: Database,
    actor: Actor,
    *,
    live_ratio_max: float = 0.5,
    until_ms: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> int:
    """Give back the space of segments of which at most `live_ratio_max` is still needed; bytes freed.

    The one that is being written is sealed for that, from 1 MB on.

    Negative when what was written again is more than could be given back yet. Work goes on meanwhile. A
    segment that a read still looks at is left for the next run; one that is damaged is left and reported
    (event 20003). `step` is called before each segment, and may raise to end the run. One run of a database
    at a time. Raises Dismounted, ReadOnly, DiskFull.
    """
    run = _Compaction(database, actor, live_ratio_max)
    try:
        for number in run.segments():
            if _is_over(database, until_ms):
                break
            step()
            run.empty(number)
    finally:
        # After DiskFull above all: what was emptied before gives the space to go on with.
        run.remove()
        database.report(EventId.COMPACTION_FINISHED, freed_bytes=max(0, run.freed_bytes))
    return run.freed_bytes


class _Needed(NamedTuple):
    """The part of a frame to be written again: a content frame, or rows of a redo record; some `length`."""

    offset: int
    frame: Frame | None
    rows: tuple[Row, ...]
    length: int


class _Compaction:
    """One run: segments are emptied in order, and removed in order."""

    def __init__(self, database: Database, actor: Actor, live_ratio_max: float) -> None:
        self.freed_bytes = 0
        self._database = database
        self._stream = database.stream
        self._actor = actor
        self._live_ratio_max = live_ratio_max
        self._emptied: list[int] = []
        self._is_oldest = True

    def segments(self) -> Iterator[int]:
        """The segments that are never written again, the one that is written last."""
        with self._database.paused() as flushed:
            written = flushed.position.segment
        yield from [number for number in self._stream.segments() if number < written]
        if self._seal_if_it_pays(written):
            yield written

    def _seal_if_it_pays(self, number: int) -> bool:
        """Begin a new segment when the one that is written, still that `number`, holds little that is needed.

        Otherwise a store that never fills a segment would never give space back.
        """
        with self._database.paused() as flushed:
            segment, stop = flushed.position
        if segment != number or stop < self._database.tuning.segment_bytes // _SEALED_FROM_PART:
            return False
        try:
            if self._needed(number, stop) is None:
                return False
        except Corrupt:  # reported by the database, whose read it ended
            return False
        if self._database.seal_segment() != number:
            return False
        with self._database.transaction(self._actor) as txn:
            content_store.count_bytes(txn, number, 0, 0)  # a row as it is: the next segment is begun with it
        return True

    def empty(self, number: int) -> None:
        """Write again what is needed of a segment, when that is little."""
        try:
            emptied = self._empty(number)
        except Corrupt:  # reported by the database, whose read or transaction it ended
            emptied = False
        if not emptied:
            self._is_oldest = False
            return
        self._emptied.append(number)
        if len(self._emptied) % _REMOVE_EVERY == 0:
            self.remove()

    def _empty(self, number: int) -> bool:
        needed = self._needed(number)
        if needed is None:
            return False
        for batch in _batches(needed):
            with self._database.transaction(self._actor) as txn:
                for each in batch:
                    _write_again(txn, number, each)
            self.freed_bytes -= sum(each.length for each in batch)
        with self._database.transaction(self._actor) as txn:
            record: SegmentRecord | None = txn.record(Table.SEGMENT, segment_key(number))
            if record is not None:
                if record.live_bytes:
                    raise Corrupt(f"segment {number}: a record names a place in it that holds no frame of it")
                txn.delete(Table.SEGMENT, segment_key(number))
                txn.content_bytes -= record.content_bytes
        return True

    def _needed(self, number: int, stop: int | None = None) -> list[_Needed] | None:
        """None when it is too much. Later it can only become less: what is new lies in a newer segment.

        `stop` is where a segment ends that is not sealed.
        """
        limit = self._live_ratio_max * (self._stream.size(number) if stop is None else stop)
        needed: list[_Needed] = []
        with self._database.read(self._actor) as reader:
            record: SegmentRecord | None = reader.record(Table.SEGMENT, segment_key(number))
            if record is not None and record.live_bytes > limit:
                return None
            for each in self._needed_frames(reader, number, stop):
                needed.append(each)
                limit -= each.length
                if limit < 0:
                    return None
        return needed

    def _needed_frames(self, reader: Reader, number: int, stop: int | None) -> Iterator[_Needed]:
        """Raises Corrupt when a frame is damaged: nothing is thrown away unseen, but for what was let go."""
        path = str(self._stream.path(number))
        self._stream.read_bytes(number, 0, 1)
        let_go = LetGo.read(reader)
        for offset, length, frame in scan_frames(self._stream, number, stop=stop):
            if frame is None and let_go.covers(self._stream, number, offset, length):
                continue
            if frame is None:
                raise Corrupt(
                    f"{path}: {length} bytes at {offset} are no whole frame", file=path, offset=offset
                )
            if frame.kind != FrameKind.REDO:
                if _holder(reader, number, offset, frame) is not None:
                    yield _Needed(offset, frame, (), length)
                continue
            if let_go.covers(self._stream, number, offset, length):
                continue
            rows = read_rows(frame, path)
            kept = tuple(row for row in rows if _is_current(reader, row, self._is_oldest))
            if kept:
                yield _Needed(offset, None, kept, length * len(kept) // len(rows))

    def remove(self) -> None:
        """Remove what was emptied, the oldest first, unless a read still looks at an older state.

        A segment has perhaps dropped deletions of rows in an older one that was emptied too, so none goes
        while an older one must stay.
        """
        if not self._emptied:
            return
        with self._database.files.env.view() as view:
            without = view.transaction_id
        self._database.checkpoint()
        oldest = self._database.files.env.oldest_reader()
        if oldest is not None and oldest < without:
            return
        while self._emptied:
            size = self._stream.size(self._emptied[0])
            self._stream.delete(self._emptied[0])
            self.freed_bytes += size
            del self._emptied[0]


def _batches(needed: list[_Needed]) -> Iterator[list[_Needed]]:
    batch: list[_Needed] = []
    size = rows = 0
    for each in needed:
        batch.append(each)
        size, rows = size + each.length, rows + len(each.rows)
        if size >= _BATCH_BYTES or rows >= _BATCH_ROWS:
            yield batch
            batch, size, rows = [], 0, 0
    if batch:
        yield batch


def _holder(reader: Reader, number: int, offset: int, frame: Frame) -> tuple[Table, bytes, Any] | None:
    """The record that says a content frame lies there; None when nothing needs the frame."""
    if frame.kind == FrameKind.DICTIONARY:
        for key, record in reader.records(Table.DICTIONARY, b"", None):
            if (record.segment, record.offset) == (number, offset):
                return Table.DICTIONARY, key, record
        return None
    table = Table.CONTENT if frame.kind == FrameKind.SKELETON else Table.BLOCK
    record = reader.record(table, frame.digest)
    if record is None or (record.segment, record.offset) != (number, offset):
        return None
    return table, frame.digest, record


def _is_current(reader: Reader, row: Row, is_oldest: bool) -> bool:
    """True when a replay without this row would end otherwise."""
    table, key, value = Table(row[0]), row[1], row[2]
    if (table, key) == (Table.META, STATE_KEY):
        return False  # every transaction writes it
    stored = reader.view.get(table, key)
    return stored == value and not (value is None and is_oldest)


def _write_again(txn: WriteTransaction, number: int, needed: _Needed) -> None:
    """Write what is needed at the end of the stream, unless it has ceased to be needed meanwhile."""
    for number_of_table, key, value in needed.rows:
        table = Table(number_of_table)
        record = None if value is None else decode_record(table, key, value)
        current = txn.record(table, key)
        if _sealed(table, key, current) == _sealed(table, key, record):
            txn.put(table, key, current)
    if needed.frame is not None:
        _move_frame(txn, number, needed.offset, needed.frame)


def _sealed(table: Table, key: bytes, record: Any) -> bytes | None:
    return None if record is None else encode_record(table, key, record)


def _move_frame(txn: WriteTransaction, number: int, offset: int, frame: Frame) -> None:
    held = _holder(txn, number, offset, frame)
    if held is None:
        return
    table, key, record = held
    data = build_frame(
        frame.kind, frame.codec, frame.dictionary, frame.raw_bytes, frame.digest, frame.payload
    )
    position = txn.append_frame(data)
    content_store.count_bytes(txn, number, 0, -frame.length)
    content_store.count_bytes(txn, position.segment, len(data), len(data))
    txn.put(table, key, record._replace(segment=position.segment, offset=position.offset))
