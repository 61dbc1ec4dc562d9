"""Redo records: what one transaction changed, as a frame of the stream, and how the stream is replayed.

Only rows of primary tables are logged; the index rows that belong to them are derived again on replay.
A frame's 24-byte digest field holds the redo header: the transaction's sequence number, the number of the
first transaction of the same flush, and how many content frames go with it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import zstandard

from pillarbox.store.errors import Corrupt
from pillarbox.store.records import pack, unpack
from pillarbox.store.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Codec,
    Frame,
    FrameKind,
    Position,
    Stream,
    build_frame,
    parse_frame,
)
from pillarbox.store.tables import PRIMARY, Table

_HEADER: Final = struct.Struct("<QQII")
assert _HEADER.size == 24
_REDO_BYTES_MAX: Final = 1 << 30
_COMPRESS_FROM_BYTES: Final = 256

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
    """The rows of a redo frame, bounded and of known shape. Raises Corrupt."""
    try:
        packed = frame.payload
        if frame.codec == Codec.ZSTD:
            if frame.raw_bytes > _REDO_BYTES_MAX:
                raise ValueError("longer than a redo record may be")
            packed = zstandard.ZstdDecompressor().decompress(packed, max_output_size=frame.raw_bytes)
        rows: Any = unpack(packed)
        for table, key, value in rows:
            if (
                Table(table) not in PRIMARY
                or not isinstance(key, bytes)
                or not isinstance(value, (bytes, type(None)))
            ):
                raise ValueError("a row that no transaction writes")
    except (ValueError, TypeError, zstandard.ZstdError) as error:
        raise Corrupt(f"{where}: redo record: {error}", file=where) from error
    return tuple(rows)


def read_redo(frame: Frame, end: Position, where: str) -> Redo:
    """A redo frame taken apart. Raises Corrupt."""
    sequence, flush_first, _, _ = _HEADER.unpack(frame.digest)
    return Redo(sequence, flush_first, read_rows(frame, where), end)


def replay(stream: Stream, start: Position, after_sequence: int) -> Iterator[Redo]:
    """Every whole transaction from `start` on, in order.

    The stream may end in what a crash left of the last flush: that is not yielded, and whoever replays cuts
    it off. A gap with transactions of a later flush behind it is no crash but damage: raises Corrupt.
    """
    sequence = after_sequence
    position = start
    if start.offset > SEGMENT_HEADER_BYTES and stream.size(start.segment) < start.offset:
        path = str(stream.path(start.segment))
        raise Corrupt(f"{path}: ends before the checkpoint at {start.offset}", file=path, offset=start.offset)
    numbers = [number for number in stream.segments() if number >= start.segment]
    for number in numbers:
        if number != position.segment:
            position = Position(number, SEGMENT_HEADER_BYTES)
        try:
            for redo in _replay_segment(stream, position):
                if redo.sequence != sequence + 1:
                    raise Corrupt(
                        f"{stream.path(number)}: transaction {redo.sequence} follows {sequence}",
                        file=str(stream.path(number)),
                        offset=redo.end.offset,
                    )
                sequence = redo.sequence
                position = redo.end
                yield redo
        except Corrupt as damage:
            _refuse_unless_torn(stream, position, sequence, damage)
            return
    if numbers:
        path = str(stream.path(position.segment))
        nothing = Corrupt(
            f"{path}: nothing is written at {position.offset}", file=path, offset=position.offset
        )
        _refuse_unless_torn(stream, position, sequence, nothing)


def _replay_segment(stream: Stream, position: Position) -> Iterator[Redo]:
    content_frames = 0
    for offset, frame in stream.frames(position.segment, position.offset):
        if frame.kind != FrameKind.REDO:
            content_frames += 1
            continue
        if _HEADER.unpack(frame.digest)[2] != content_frames:
            raise Corrupt(
                f"{stream.path(position.segment)}: content is missing before {offset}", offset=offset
            )
        content_frames = 0
        yield read_redo(
            frame, Position(position.segment, offset + frame.length), str(stream.path(position.segment))
        )


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
    """(first of its flush, sequence number) of every whole redo frame behind `position`, by its magic."""
    for number in stream.segments():
        if number < position.segment:
            continue
        path = stream.path(number)
        data = path.read_bytes()
        offset = position.offset if number == position.segment else SEGMENT_HEADER_BYTES
        while (offset := data.find(FRAME_MAGIC, offset)) >= 0:
            if data[offset + 2 : offset + 3] == bytes(
                [FrameKind.REDO]
            ) and offset + FRAME_HEADER_BYTES <= len(data):
                try:
                    frame = parse_frame(data, offset, str(path))
                except Corrupt:
                    offset += 1  # not a frame, or damaged too: what matters is whether any later one is whole
                    continue
                found, flush_first, _, _ = _HEADER.unpack(frame.digest)
                yield flush_first, found
            offset += 1
