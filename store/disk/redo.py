"""Redo records: what one transaction changed, as a frame of the stream, and how the stream is replayed.

Only rows of primary tables are logged; the index rows that belong to them are derived again on replay.
A frame's 24-byte digest field holds the redo header: the transaction's sequence number, a number up to which
all transactions before were flushed before this one was written, and how many content frames go with it.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack
import zstandard

from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.records import pack
from pillarbox.store.disk.stream import (
    PAYLOAD_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    Codec,
    Frame,
    FrameKind,
    Position,
    Stream,
    build_frame,
)
from pillarbox.store.disk.tables import DERIVED, KEY_BYTES_MAX, LAYOUT_VERSION, NAMES
from pillarbox.store.errors import Corrupt, OverLimit, UnsupportedVersion

_HEADER: Final = struct.Struct("<QQII")
assert _HEADER.size == 24
# Of one message there are 800, of which compression saves a quarter and takes a twentieth of the delivery.
_COMPRESS_FROM_BYTES: Final = 4096
# Bounds of what a frame may ask for, whoever made it. Compressed at level 1 no frame has a window of more.
ROW_BYTES_MAX: Final = 64 << 20
# Earlier versions stored larger rows: one is read from a frame that has a part of so many of its bytes.
_RATIO_MAX: Final = 100
_WINDOW_BYTES_MAX: Final = 8 << 20
_READ_BYTES: Final = 64 << 10
_UNPACKED_BYTES_MAX: Final = 1 << 20

Row = tuple[int, bytes, bytes | None]


class Redo(NamedTuple):
    """One transaction as found in the stream."""

    sequence: int
    flush_first: int
    rows: Collection[Row]
    end: Position


_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """The compressor of the calling thread: making one costs more than a small record's compression."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def build_redo(rows: Sequence[Row], sequence: int, flush_first: int, content_frames: int) -> bytes:
    """The frame that ends a transaction in the stream. Raises OverLimit for what no reader would take."""
    packed_rows = pack(rows)
    if len(packed_rows) > ROW_BYTES_MAX and any(value and len(value) > ROW_BYTES_MAX for _, _, value in rows):
        raise OverLimit(
            f"a record of more than {ROW_BYTES_MAX} bytes cannot be stored",
            hint="keep what is large in messages, not in properties",
        )
    header = _HEADER.pack(sequence, flush_first, content_frames, 0)
    codec, payload = Codec.PLAIN, packed_rows
    if len(packed_rows) >= _COMPRESS_FROM_BYTES:
        compressed = _compressor().compress(packed_rows)
        if len(compressed) < len(packed_rows):
            codec, payload = Codec.ZSTD, compressed
    return build_frame(FrameKind.REDO, codec, 0, len(packed_rows), header, payload)


class LargeRows(Collection[Row]):
    """The rows of a large redo frame, unpacked anew each time they are gone through, one at a time."""

    def __init__(self, frame: Frame, where: str) -> None:
        """Goes through the rows once. Raises Corrupt, UnsupportedVersion."""
        self._frame = frame
        self._where = where
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        return _unpacked_rows(self._frame, self._where)

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


def read_rows(frame: Frame, where: str) -> Collection[Row]:
    """The rows of a redo frame, of known shape, in memory that what it claims does not decide.

    Raises Corrupt, UnsupportedVersion.
    """
    if frame.raw_bytes <= _UNPACKED_BYTES_MAX:
        return tuple(_unpacked_rows(frame, where))
    return LargeRows(frame, where)


def _unpacked_rows(frame: Frame, where: str) -> Iterator[Row]:
    try:
        with _packed_rows(frame) as packed:
            row_bytes_max = max(ROW_BYTES_MAX, min(_RATIO_MAX * len(frame.payload), PAYLOAD_BYTES_MAX))
            unpacker = msgpack.Unpacker(
                packed,
                read_size=_READ_BYTES,
                max_buffer_size=row_bytes_max + 2 * _READ_BYTES,
                max_bin_len=row_bytes_max,
                max_str_len=0,
                max_array_len=0,
                max_map_len=0,
                max_ext_len=0,
            )
            for _ in range(unpacker.read_array_header()):
                if unpacker.read_array_header() != 3:
                    raise ValueError("a row that no transaction writes")
                yield _known_row(unpacker.unpack(), unpacker.unpack(), unpacker.unpack(), where)
            if unpacker.tell() != frame.raw_bytes:
                raise ValueError("its length is not the one stated")
    except (ValueError, TypeError, msgpack.UnpackException, zstandard.ZstdError) as error:
        raise Corrupt(f"{where}: redo record: {error}", file=where) from error


def _known_row(table: Any, key: Any, value: Any, where: str) -> Row:
    if (
        type(table) is not int
        or table in DERIVED
        or not isinstance(key, bytes)
        or not 0 < len(key) <= KEY_BYTES_MAX
        or not isinstance(value, (bytes, type(None)))
    ):
        raise ValueError("a row that no transaction writes")
    if table not in NAMES:
        raise UnsupportedVersion(
            f"{where}: a redo record names table {table}",
            hint=f"table layout {LAYOUT_VERSION} has none of that number; use a newer program",
        )
    return table, key, value


def _packed_rows(frame: Frame) -> BinaryIO:
    if frame.codec != Codec.ZSTD:
        if frame.raw_bytes != len(frame.payload):
            raise ValueError("its length is not the one stated")
        return io.BytesIO(frame.payload)
    if frame.raw_bytes > PAYLOAD_BYTES_MAX or zstandard.frame_content_size(frame.payload) != frame.raw_bytes:
        raise ValueError("its length is not the one stated")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    return decompressor.stream_reader(frame.payload)


def read_redo(frame: Frame, end: Position, where: str) -> Redo:
    """A redo frame taken apart. Raises Corrupt, UnsupportedVersion."""
    sequence, flush_first, _, _ = _HEADER.unpack(frame.digest)
    return Redo(sequence, flush_first, read_rows(frame, where), end)


def replay(stream: Stream, start: Position, after_sequence: int) -> Iterator[Redo]:
    """Every whole transaction from `start` on, in order.

    The stream may end in what a crash left of the last flush: that is not yielded, and whoever replays cuts
    it off. A gap with transactions of a later flush behind it is no crash but damage: raises Corrupt. So is
    a transaction that is whole and cannot be read.
    """
    for frame, end in _redo_frames(stream, start, after_sequence):
        yield read_redo(frame, end, str(stream.path(end.segment)))


def _redo_frames(stream: Stream, start: Position, after_sequence: int) -> Iterator[tuple[Frame, Position]]:
    """Every whole redo frame and where it ends, in order, up to what a crash left."""
    sequence = after_sequence
    position = start
    if start.offset > SEGMENT_HEADER_BYTES and stream.size(start.segment) < start.offset:
        path = str(stream.path(start.segment))
        raise Corrupt(f"{path}: ends before the checkpoint at {start.offset}", file=path, offset=start.offset)
    numbers = [number for number in stream.segments() if number >= start.segment]
    for number in numbers:
        if number != position.segment:
            position = Position(number, SEGMENT_HEADER_BYTES)
        if not _is_begun(stream, position):
            return
        try:
            for frame, end in _frames_of_segment(stream, position):
                found = _HEADER.unpack(frame.digest)[0]
                if found != sequence + 1:
                    path = str(stream.path(number))
                    offset = end.offset - frame.length
                    raise Corrupt(f"{path}: transaction {found} follows {sequence}", file=path, offset=offset)
                sequence, position = found, end
                yield frame, end
        except Corrupt as damage:
            _refuse_unless_torn(stream, position, sequence, damage)
            return
    if numbers:
        path = str(stream.path(position.segment))
        nothing = Corrupt(
            f"{path}: nothing is written at {position.offset}", file=path, offset=position.offset
        )
        _refuse_unless_torn(stream, position, sequence, nothing)


def _is_begun(stream: Stream, position: Position) -> bool:
    """True when the segment has its header. Raises Corrupt when that is damaged.

    A header is flushed before anything is written behind it: with a transaction there it was whole once.
    """
    try:
        stream.read_bytes(position.segment, 0, SEGMENT_HEADER_BYTES)
    except Corrupt as damage:
        if position.offset > SEGMENT_HEADER_BYTES:
            raise
        _refuse_unless_torn(stream, position, -1, damage)
        return False
    return True


def _frames_of_segment(stream: Stream, position: Position) -> Iterator[tuple[Frame, Position]]:
    path = str(stream.path(position.segment))
    content_frames = 0
    for offset, frame in stream.frames(position.segment, position.offset):
        if frame.kind != FrameKind.REDO:
            content_frames += 1
            continue
        if _HEADER.unpack(frame.digest)[2] != content_frames:
            raise Corrupt(f"{path}: content is missing before {offset}", file=path, offset=offset)
        content_frames = 0
        yield frame, Position(position.segment, offset + frame.length)


def _refuse_unless_torn(stream: Stream, position: Position, sequence: int, damage: Corrupt) -> None:
    """A torn last flush has nothing of a later flush behind it, since flushes follow one another."""
    for flush_first, found in _later_transactions(stream, position):
        if flush_first > sequence + 1:
            raise Corrupt(
                f"{damage}; transaction {found} behind it was acknowledged later: damage, not a crash",
                file=damage.file,
                offset=damage.offset,
                hint="run `pillarbox repair`: it keeps all that is whole and names what is lost",
            ) from damage


def _later_transactions(stream: Stream, position: Position) -> Iterator[tuple[int, int]]:
    """(first of its flush, sequence number) of every whole redo frame behind `position`."""
    for number in stream.segments():
        if number < position.segment:
            continue
        start = position.offset if number == position.segment else SEGMENT_HEADER_BYTES
        for _, _, frame in scan_frames(stream, number, start):
            if frame is not None and frame.kind == FrameKind.REDO:
                found, flush_first, _, _ = _HEADER.unpack(frame.digest)
                yield flush_first, found
