"""Going through a segment that may be damaged: every whole frame, and every stretch that holds none.

The frame that follows a damaged one is looked for in linear time, whatever a payload holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Codec,
    Frame,
    FrameKind,
    Stream,
    parse_frame,
)
from pillarbox.store.errors import Corrupt

_READ_BYTES: Final = 1 << 20
# Hashing goes at some 10 GB/s: a damaged segment of 64 MB full of planted heads costs a second at most.
_HASHED_PER_BYTE: Final = 32
_HASHED_AT_ONCE: Final = 256 << 20
_KINDS: Final = frozenset(FrameKind)
_CODECS: Final = frozenset(Codec)


class Scanned(NamedTuple):
    """A stretch of a segment: a frame, or bytes that are none (`frame` is None)."""

    offset: int
    length: int
    frame: Frame | None


def scan_frames(
    stream: Stream, segment: int, start: int = SEGMENT_HEADER_BYTES, stop: int | None = None
) -> Iterator[Scanned]:
    """Everything in a segment's file, damaged or not, its header aside. Zeros at the end are left out.

    `stop` is where to end in one that is being written. Raises OSError when the file cannot be read.
    """
    path = stream.path(segment)
    with path.open("rb") as file:
        yield from _Scan(file, path, stop).run(start)


class _Scan:
    """One pass through one file.

    `_hashed_left` bounds the bytes that are hashed in vain: each byte passed over earns some, a head that is
    no frame's costs the length it claims. Without it a payload full of heads that each claim the rest of the
    file would cost the square of its length. A frame that is passed over for want of them is still found by
    the records that name its place.
    """

    def __init__(self, file: BinaryIO, path: Path, stop: int | None) -> None:
        self._file = file
        self._where = str(path)
        self._size = file.seek(0, 2) if stop is None else min(stop, file.seek(0, 2))
        self._hashed_left = _HASHED_AT_ONCE

    def run(self, start: int) -> Iterator[Scanned]:
        offset = start
        while offset < self._size:
            frame = self._frame_at(offset)
            if frame is not None:
                yield Scanned(offset, frame.length, frame)
                offset += frame.length
                continue
            behind = self._next_frame(offset)
            if behind < self._size or not self._is_zero(offset):
                yield Scanned(offset, behind - offset, None)
            offset = behind

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _claimed_length(self, offset: int) -> int:
        """Bytes that the frame at `offset` has by its head; 0 when no frame can be there."""
        head = self._read(offset, FRAME_HEADER_BYTES)
        if len(head) < FRAME_HEADER_BYTES or head[:2] != FRAME_MAGIC:
            return 0
        if head[2] not in _KINDS or head[3] not in _CODECS:
            return 0
        length = FRAME_HEADER_BYTES + int.from_bytes(head[8:12], "little")
        return length if offset + length <= self._size else 0

    def _frame_at(self, offset: int) -> Frame | None:
        length = self._claimed_length(offset)
        if not length:
            return None
        try:
            return parse_frame(self._read(offset, length), 0, self._where)
        except Corrupt:
            return None

    def _next_frame(self, offset: int) -> int:
        """Where the next whole frame behind a damaged one begins, or the end.

        The damaged frame's own length is believed first: its payload is somebody's mail, in which a frame
        could have been planted.
        """
        head = self._read(offset, FRAME_HEADER_BYTES)
        behind = offset + FRAME_HEADER_BYTES + int.from_bytes(head[8:12], "little")
        if head[:2] == FRAME_MAGIC and (behind == self._size or self._frame_at(behind) is not None):
            return behind
        for at in range(offset + 1, self._size, _READ_BYTES):
            found = self._frame_between(at, min(at + _READ_BYTES, self._size))
            if found is not None:
                return found
        return self._size

    def _frame_between(self, start: int, stop: int) -> int | None:
        window = self._read(start, stop - start + len(FRAME_MAGIC) - 1)
        before, at = 0, window.find(FRAME_MAGIC)
        while at >= 0:
            self._earn(at - before)
            if self._is_affordable_frame(start + at):
                return start + at
            before, at = at, window.find(FRAME_MAGIC, at + 1)
        self._earn(stop - start - before)
        return None

    def _earn(self, passed_bytes: int) -> None:
        self._hashed_left = min(_HASHED_AT_ONCE, self._hashed_left + passed_bytes * _HASHED_PER_BYTE)

    def _is_affordable_frame(self, offset: int) -> bool:
        length = self._claimed_length(offset)
        if not length or length > self._hashed_left:
            return False
        self._hashed_left -= length
        return self._frame_at(offset) is not None

    def _is_zero(self, start: int) -> bool:
        return not any(any(self._read(at, _READ_BYTES)) for at in range(start, self._size, _READ_BYTES))
