"""Redo records: what one transaction changed, as a frame of the stream, and how the stream is replayed.

Only rows of primary tables are logged; the index rows that belong to them are derived again on replay.
A frame's 24-byte digest field holds the redo header: the transaction's sequence number, a number up to which
all transactions before were flushed before this one was written, and how many content frames go with it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import zstandard

from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.records import pack, unpack
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
from pillarbox.store.disk.tables import DERIVED, LAYOUT_VERSION, NAMES
from pillarbox.store.errors import Corrupt, UnsupportedVersion

_HEADER: Final = struct.Struct("<QQII")
assert _HEADER.size == 24
# Of one message there are 800, of which compression saves a quarter and takes a twentieth of the delivery.
_COMPRESS_FROM_BYTES: Final = 4096

Row = tuple[int, bytes, bytes | None]


class Redo(NamedTuple):
    """One transaction as found in the stream."""

    sequence: int
    flush_first: int
    rows: tuple[Row, ...]
    end: Position


_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's compressor: making one costs more than a small record's compression."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def build_redo(rows: Sequence[Row], sequence: int, flush_first: int, content_frames: int) -> bytes:
    """The frame that ends a transaction in the stream."""
    packed_rows = pack(rows)
    header = _HEADER.pack(sequence, flush_first, content_frames, 0)
    codec, payload = Codec.PLAIN, packed_rows
    if len(packed_rows) >= _COMPRESS_FROM_BYTES:
        compressed = _compressor().compress(packed_rows)
        if len(compressed) < len(packed_rows):
            codec, payload = Codec.ZSTD, compressed
    return build_frame(FrameKind.REDO, codec, 0, len(packed_rows), header, payload)


def read_rows(frame: Frame, where: str) -> tuple[Row, ...]:
    """The rows of a redo frame, bounded and of known shape. Raises Corrupt, UnsupportedVersion."""
    try:
        rows: Any = unpack(_packed_rows(frame))
        for table, key, value in rows:
            if (
                not isinstance(table, int)
                or table in DERIVED
                or not isinstance(key, bytes)
                or not isinstance(value, (bytes, type(None)))
            ):
                raise ValueError("a row that no transaction writes")
            if table not in NAMES:
                raise UnsupportedVersion(
                    f"{where}: a redo record names table {table}",
                    hint=f"table layout {LAYOUT_VERSION} has none of that number; use a newer program",
                )
    except (ValueError, TypeError, zstandard.ZstdError) as error:
        raise Corrupt(f"{where}: redo record: {error}", file=where) from error
    return tuple(rows)


def _packed_rows(frame: Frame) -> bytes:
    if frame.codec != Codec.ZSTD:
        return frame.payload
    # The length in zstd's own header is the one that is allocated: a lie there must not ask for gigabytes.
    if frame.raw_bytes > PAYLOAD_BYTES_MAX or zstandard.frame_content_size(frame.payload) != frame.raw_bytes:
        raise ValueError("its length is not the one stated")
    return zstandard.ZstdDecompressor().decompress(frame.payload)


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
    """Whether the segment has its header. Raises Corrupt when that is damaged.

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
