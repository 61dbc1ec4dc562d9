"""Replay yields every acknowledged transaction, drops what a crash tore, and refuses what is damage."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk.records import pack
from pillarbox.store.disk.redo import ROW_BYTES_MAX, Redo, Row, build_redo, read_redo, read_rows, replay
from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Codec,
    Frame,
    FrameKind,
    Position,
    Stream,
    build_frame,
    parse_frame,
)
from pillarbox.store.disk.tables import DERIVED, PRIMARY, Table
from pillarbox.store.errors import Corrupt, OverLimit, UnsupportedVersion

DATABASE = bytes(range(16))
START = Position(1, SEGMENT_HEADER_BYTES)

rows_strategy = st.lists(
    st.tuples(
        st.sampled_from([int(table) for table in PRIMARY]),
        st.binary(min_size=1, max_size=40),
        st.none() | st.binary(max_size=400),
    ),
    max_size=12,
)
steady = settings(deadline=None, max_examples=40)


def frame_of(built: bytes) -> Frame:
    return parse_frame(built, 0, "here")


def content(payload: bytes = b"mail", kind: int = FrameKind.BLOCK) -> bytes:
    return build_frame(kind, Codec.PLAIN, 0, len(payload), bytes(24), payload)


def row_of(sequence: int) -> Row:
    return int(Table.ITEM), sequence.to_bytes(8, "big"), b"value" * 3


class Log:
    """A stream written flush by flush, as a database writes it; remembers where each transaction lies."""

    def __init__(self, directory: Path) -> None:
        self.stream = Stream(directory, DATABASE)
        self.end = START
        self.sequence = 0
        self.begins: dict[int, Position] = {}
        self.ends: dict[int, Position] = {}

    def flush(self, transactions: int = 1, contents: Iterable[bytes] = (b"mail",)) -> None:
        first = self.sequence + 1
        chunks: list[bytes] = []
        start = self.end
        for _ in range(transactions):
            self.sequence += 1
            frames = [content(payload) for payload in contents]
            redo = build_redo([row_of(self.sequence)], self.sequence, first, len(frames))
            self.begins[self.sequence] = self.end
            chunks += [*frames, redo]
            length = sum(map(len, frames)) + len(redo)
            self.end = self.ends[self.sequence] = Position(self.end.segment, self.end.offset + length)
        self.stream.append(start, chunks)
        self.stream.flush()

    def next_segment(self) -> None:
        self.end = Position(self.end.segment + 1, SEGMENT_HEADER_BYTES)

    def replayed(self, start: Position = START, after: int = 0) -> list[int]:
        self.stream.close()
        return [redo.sequence for redo in replay(self.stream, start, after)]

    def write_at(self, position: Position, data: bytes) -> None:
        with self.stream.path(position.segment).open("r+b") as file:
            file.seek(position.offset)
            file.write(data)

    def flip(self, position: Position) -> None:
        data = self.stream.path(position.segment).read_bytes()
        self.write_at(position, bytes([data[position.offset] ^ 0x40]))

    def zero(self, begin: Position, end: Position) -> None:
        self.write_at(begin, bytes(end.offset - begin.offset))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


# -- redo records


@given(
    rows=rows_strategy,
    sequence=st.integers(1, (1 << 64) - 1),
    first=st.integers(1, (1 << 64) - 1),
    contents=st.integers(0, (1 << 32) - 1),
)
@steady
def test_a_redo_record_is_read_as_it_was_built(
    rows: list[Row], sequence: int, first: int, contents: int
) -> None:
    frame = frame_of(build_redo(rows, sequence, first, contents))
    assert frame.kind == FrameKind.REDO
    assert read_redo(frame, Position(3, 99), "here") == Redo(sequence, first, tuple(rows), Position(3, 99))


def test_a_redo_record_is_packed_only_where_that_pays() -> None:
    same: list[Row] = [(1, b"key", bytes(5000))]
    short: list[Row] = [(1, b"key", bytes(3000))]
    noise: list[Row] = [(1, b"key", random.Random(1).randbytes(5000))]
    assert frame_of(build_redo(same, 1, 1, 0)).codec == Codec.ZSTD
    assert frame_of(build_redo(short, 1, 1, 0)).codec == Codec.PLAIN
    assert frame_of(build_redo(noise, 1, 1, 0)).codec == Codec.PLAIN


def test_a_value_of_any_size_that_is_written_is_read_again() -> None:
    large: list[Row] = [(int(Table.SEEN), b"key", bytes(17 << 20))]
    assert list(read_rows(frame_of(build_redo(large, 1, 1, 0)), "here")) == large


@pytest.mark.parametrize(
    "payload",
    [
        pack(1),
        pack("text"),
        pack((1, 2)),
        pack(((1, b"key"),)),
        pack(((1, "key", b"value"),)),
        pack(((1, b"key", "value"),)),
        pack((("1", b"key", b"value"),)),
        *(pack(((int(table), b"key", b"value"),)) for table in sorted(DERIVED)),
        b"",
        b"\x91",
        b"\x81\x80\x01",
        pack(()) + b"more",
    ],
)
def test_rows_that_no_transaction_writes_are_damage(payload: bytes) -> None:
    with pytest.raises(Corrupt) as raised:
        read_rows(Frame(FrameKind.REDO, Codec.PLAIN, 0, len(payload), bytes(24), payload), "here")
    assert raised.value.file == "here"


def test_a_row_of_a_table_that_is_not_known_is_of_a_newer_program() -> None:
    payload = pack(((int(Table.ITEM), b"key", b"value"), (99, b"key", b"value")))
    with pytest.raises(UnsupportedVersion, match="table 99"):
        read_rows(Frame(FrameKind.REDO, Codec.PLAIN, 0, len(payload), bytes(24), payload), "here")


@pytest.mark.parametrize("stated", [0, 100, 64 << 20])
def test_a_redo_record_that_inflates_beyond_its_length_costs_no_memory(stated: int) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            read_rows(Frame(FrameKind.REDO, Codec.ZSTD, 0, stated, bytes(24), bomb), "here")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "repeated", "count"),
    [
        (b"\xdd", b"\0", 1 << 27),
        (b"\x91\x93\x03\xc4\x01k\xdd", b"\0", 1 << 27),
        (b"\x91\x93\x03\xc4\x01k\xc6", b"\0", 1 << 27),
        (b"\xdd", b"\x93\x03\xc4\x01k\xc0", 1 << 20),
    ],
    ids=["a long list", "a long list in a row", "a long value", "many short rows"],
)
def test_a_redo_record_that_inflates_to_what_it_states_is_gone_through_in_little_memory(
    head: bytes, repeated: bytes, count: int
) -> None:
    raw = head + count.to_bytes(4, "big") + repeated * count
    bomb = zstandard.ZstdCompressor(level=1).compress(raw)
    frame = Frame(FrameKind.REDO, Codec.ZSTD, 0, len(raw), bytes(24), bomb)
    is_of_rows = raw.endswith(b"\xc0")
    tracemalloc.start()
    try:
        if is_of_rows:
            assert len(read_rows(frame, "here")) == 1 << 20
        else:
            with pytest.raises(Corrupt):
                read_rows(frame, "here")
        assert tracemalloc.get_traced_memory()[1] < 2 * ROW_BYTES_MAX + (1 << 20)
    finally:
        tracemalloc.stop()


def test_a_record_that_no_reader_would_take_is_not_written() -> None:
    with pytest.raises(OverLimit):
        build_redo([(int(Table.ITEM), b"key", bytes(ROW_BYTES_MAX + 1))], 1, 1, 0)


def test_a_larger_record_that_an_earlier_version_has_written_is_read() -> None:
    value = random.Random(1).randbytes(1 << 20) * 65
    raw = pack([(int(Table.ITEM), b"key", value)])
    packed = zstandard.ZstdCompressor(level=1).compress(raw)
    for codec, payload in ((Codec.PLAIN, raw), (Codec.ZSTD, packed)):
        frame = Frame(FrameKind.REDO, codec, 0, len(raw), bytes(24), payload)
        ((table, key, found),) = read_rows(frame, "here")
        assert (table, key) == (Table.ITEM, b"key") and found == value


def test_bytes_that_are_not_zstd_are_damage() -> None:
    with pytest.raises(Corrupt):
        read_rows(Frame(FrameKind.REDO, Codec.ZSTD, 0, 10, bytes(24), b"no zstd frame"), "here")


# -- replay of a whole stream


@given(
    shape=st.lists(st.tuples(st.integers(1, 3), st.lists(st.binary(max_size=30), max_size=3), st.booleans())),
    data=st.data(),
)
@steady
def test_every_transaction_is_replayed_from_wherever_one_ended(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[tuple[int, list[bytes], bool]],
    data: st.DataObject,
) -> None:
    log = Log(tmp_path_factory.mktemp("stream"))
    for transactions, contents, new_segment in shape:
        if new_segment and log.sequence and log.end.offset > SEGMENT_HEADER_BYTES:
            log.next_segment()
        log.flush(transactions, contents)
    after = data.draw(st.integers(0, log.sequence))
    start = log.ends.get(after, START)
    found = list(replay(log.stream, start, after))
    log.stream.close()
    assert [redo.sequence for redo in found] == list(range(after + 1, log.sequence + 1))
    assert [redo.rows for redo in found] == [(row_of(redo.sequence),) for redo in found]
    assert [redo.end for redo in found] == [log.ends[redo.sequence] for redo in found]


def test_an_empty_stream_has_nothing_to_replay(log: Log) -> None:
    assert log.replayed() == []


def test_a_stream_that_ends_before_the_checkpoint_is_damage(log: Log) -> None:
    log.flush()
    log.stream.close()
    with pytest.raises(Corrupt, match="ends before the checkpoint"):
        log.replayed(Position(1, log.end.offset + (2 << 20)), 1)
    with pytest.raises(Corrupt, match="ends before the checkpoint"):
        log.replayed(Position(2, 500), 1)


# -- the last flush, torn


@pytest.mark.parametrize("transactions", [1, 3])
def test_a_last_flush_cut_anywhere_gives_its_whole_first_transactions(
    tmp_path: Path, transactions: int
) -> None:
    log = Log(tmp_path)
    log.flush()
    log.flush(transactions)
    log.stream.close()
    whole = log.stream.path(1).read_bytes()[: log.end.offset]
    for size in range(log.ends[1].offset, len(whole)):
        kept = [sequence for sequence, end in log.ends.items() if end.offset <= size]
        for tail in (b"",) if size % 5 else (b"", bytes(300)):
            log.stream.path(1).write_bytes(whole[:size] + tail)
            assert log.replayed() == kept, size


@given(lost=st.sets(st.integers(0, 20)), first=st.integers(0, 63))
@settings(deadline=None, max_examples=40)
def test_a_last_flush_of_which_any_sectors_are_lost_gives_its_whole_first_transactions(
    tmp_path_factory: pytest.TempPathFactory, lost: set[int], first: int
) -> None:
    log = Log(tmp_path_factory.mktemp("stream"))
    log.flush()
    log.flush(4)
    sectors = [log.ends[1].offset + first + 64 * at for at in lost]
    gone = {at for begin in sectors for at in range(begin, min(begin + 64, log.end.offset))}
    data = log.stream.path(1).read_bytes()
    for at in gone:
        log.write_at(Position(1, at), b"\0")
    changed = {at for at in gone if data[at]}
    whole = 1
    while whole < 5 and not changed & set(range(log.begins[whole + 1].offset, log.ends[whole + 1].offset)):
        whole += 1
    assert log.replayed() == list(range(1, whole + 1))


@pytest.mark.parametrize("left", [b"", bytes(10), bytes(40), bytes(4096)])
def test_a_segment_that_a_crash_left_without_its_header_holds_nothing(log: Log, left: bytes) -> None:
    log.flush()
    log.stream.path(2).write_bytes(left)
    assert log.replayed() == [1]


# -- damage


@given(at=st.integers(0), transactions=st.integers(1, 3), new_segment=st.booleans())
@steady
def test_damage_with_a_later_flush_behind_it_is_never_taken_for_a_crash(
    tmp_path_factory: pytest.TempPathFactory, at: int, transactions: int, new_segment: bool
) -> None:
    log = Log(tmp_path_factory.mktemp("stream"))
    log.flush()
    log.flush(transactions)
    begin, end = log.ends[1], log.end
    if new_segment:
        log.next_segment()
    log.flush()
    log.flip(Position(1, begin.offset + at % (end.offset - begin.offset)))
    with pytest.raises(Corrupt) as raised:
        log.replayed()
    assert raised.value.file == str(log.stream.path(1))
    assert begin.offset <= raised.value.offset < end.offset
    assert f" at {raised.value.offset}" in str(raised.value)


@pytest.mark.parametrize("new_segment", [False, True])
def test_zeros_where_a_flush_was_are_damage_when_a_later_one_is_there(log: Log, new_segment: bool) -> None:
    log.flush()
    log.flush(2)
    begin, end = log.ends[1], log.end
    if new_segment:
        log.next_segment()
    log.flush()
    log.zero(begin, end)
    with pytest.raises(Corrupt, match="acknowledged later"):
        log.replayed()


def test_a_missing_segment_is_damage_when_a_later_one_is_there(log: Log) -> None:
    log.flush()
    log.next_segment()
    log.flush()
    log.next_segment()
    log.flush()
    log.stream.path(2).unlink()
    with pytest.raises(Corrupt, match="acknowledged later"):
        log.replayed()


@pytest.mark.parametrize("at", range(SEGMENT_HEADER_BYTES))
@pytest.mark.parametrize("segment", [1, 2])
def test_a_damaged_header_of_a_segment_that_holds_transactions_is_damage(
    log: Log, segment: int, at: int
) -> None:
    log.flush()
    log.next_segment()
    log.flush()
    log.flip(Position(segment, at))
    with pytest.raises((Corrupt, UnsupportedVersion)) as raised:
        log.replayed()
    assert str(log.stream.path(segment)) in str(raised.value)


def test_a_damaged_header_is_found_when_replay_starts_behind_it(log: Log) -> None:
    log.flush()
    log.flip(Position(1, 20))
    with pytest.raises(Corrupt):
        log.replayed(log.end, 1)


def test_a_transaction_that_is_whole_but_unreadable_is_damage_even_at_the_end(log: Log) -> None:
    log.flush()
    header = b"".join(number.to_bytes(8, "little") for number in (2, 2, 0))
    log.stream.append(log.end, [build_frame(FrameKind.REDO, Codec.PLAIN, 0, 1, header, b"\xc1")])
    with pytest.raises(Corrupt, match="redo record"):
        log.replayed()


def test_a_torn_flush_with_a_transaction_planted_in_mail_is_still_a_crash(log: Log) -> None:
    """Whoever sends mail must not decide whether a database mounts after a crash."""
    log.flush()
    planted = build_redo([row_of(900)], 900, 900, 0)
    log.flush(1, [b"before", planted, b"x" + planted + b"y"])
    redo_begin = log.end.offset - FRAME_HEADER_BYTES
    log.zero(Position(1, redo_begin), log.end)
    assert log.replayed() == [1]


def test_a_transaction_planted_in_a_damaged_block_is_not_looked_at_when_a_whole_frame_follows(
    log: Log,
) -> None:
    log.flush()
    planted = build_redo([row_of(900)], 900, 900, 0)
    log.flush(1, [b"damaged" + planted, b"whole"])
    log.flip(Position(1, log.ends[1].offset + FRAME_HEADER_BYTES))
    assert log.replayed() == [1]


def test_a_damaged_length_does_not_hide_the_flushes_behind_it(log: Log) -> None:
    for _ in range(5):
        log.flush()
    length_at = Position(1, log.ends[1].offset + 8)
    for length in (0, 1, 47, 48, 500, 1 << 19, 1 << 29, (1 << 32) - 1):
        log.write_at(length_at, length.to_bytes(4, "little"))
        with pytest.raises(Corrupt, match="acknowledged later"):
            log.replayed()


def test_frames_of_an_earlier_life_behind_the_end_are_no_damage(log: Log) -> None:
    """What a cut off flush left in the middle of the file is older than what replay expects next."""
    log.flush()
    log.flush()
    log.stream.close()
    leftover = log.stream.path(1).read_bytes()[log.begins[1].offset : log.ends[1].offset]
    log.write_at(Position(1, log.end.offset + 64), leftover)
    assert log.replayed() == [1, 2]


def test_content_frames_that_a_transaction_counts_must_be_there(log: Log) -> None:
    log.flush()
    missing = build_redo([row_of(2)], 2, 2, 1)
    later = build_redo([row_of(3)], 3, 3, 0)
    log.stream.append(log.end, [missing, later])
    with pytest.raises(Corrupt, match="content is missing"):
        log.replayed()
