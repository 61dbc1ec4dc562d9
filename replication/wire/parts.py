"""Frames that are larger than some transports take, in parts of at most 900 KB.

A part names its frame by a checksum of it, so that the parts of one that is sent again after a cut are those
of before, and only what is missing is new. Parts may come doubled and in any order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.errors import InvalidContent, OverLimit, UnsupportedVersion

MAGIC: Final = b"PBRP"
VERSION: Final = 1
PART_BYTES_MAX: Final = 900_000
_PART: Final = struct.Struct("<4sB3xQII")
PART_HEADER_BYTES: Final = _PART.size
assert PART_HEADER_BYTES == 24
_SLICE_BYTES: Final = PART_BYTES_MAX - PART_HEADER_BYTES
_UNFINISHED_MAX: Final = 16


def split(frame: bytes) -> list[bytes]:
    """A frame as what is sent: itself, or its parts."""
    if len(frame) <= PART_BYTES_MAX:
        return [frame]
    return list(_parts(frame, xxh3_64_intdigest(frame)))


def _parts(frame: bytes, checksum: int) -> Iterator[bytes]:
    for offset in range(0, len(frame), _SLICE_BYTES):
        header = _PART.pack(MAGIC, VERSION, checksum, len(frame), offset)
        yield header + frame[offset : offset + _SLICE_BYTES]


def is_part(data: bytes) -> bool:
    """True for what begins as a part of a frame."""
    return data[:4] == MAGIC


def _nothing() -> None:
    pass


class _Unfinished(NamedTuple):
    """The parts of a frame by their place, and the calls for when they are settled."""

    slices: dict[int, bytes]
    settled: list[Callable[[], None]]


class Assembly:
    """The parts that one neighbour sent, until they are frames again.

    Unfinished frames take no more memory than one of the largest: the oldest are forgotten first.
    """

    def __init__(self) -> None:
        self._unfinished: dict[tuple[int, int], _Unfinished] = {}
        self._settled: list[Callable[[], None]] = []
        self.held_bytes = 0

    def take(self, part: bytes, settled: Callable[[], None] = _nothing) -> bytes | None:
        """The frame that is whole with this part, or None. Raises InvalidContent, OverLimit,
        UnsupportedVersion.
        """
        try:
            checksum, frame_bytes, offset = _read(part)
        except BaseException:
            self._settled.append(settled)
            raise
        slices, of_parts = self._unfinished.setdefault((checksum, frame_bytes), _Unfinished({}, []))
        of_parts.append(settled)
        if offset not in slices:
            slices[offset] = part[PART_HEADER_BYTES:]
            self.held_bytes += len(part) - PART_HEADER_BYTES
        if sum(map(len, slices.values())) == frame_bytes:
            self._forget((checksum, frame_bytes))
            frame = b"".join(slices[each] for each in sorted(slices))
            if xxh3_64_intdigest(frame) != checksum:
                raise InvalidContent("the parts of a frame are not those that it was split into")
            return frame
        while self.held_bytes > FRAME_BYTES_MAX or len(self._unfinished) > _UNFINISHED_MAX:
            self._forget(next(iter(self._unfinished)))
        return None

    def forget(self) -> list[Callable[[], None]]:
        """Let all parts go: nobody will send the rest. The calls that were given with them."""
        for key in list(self._unfinished):
            self._forget(key)
        return self.settled()

    def settled(self) -> list[Callable[[], None]]:
        """The calls that were given with parts whose frames are not unfinished any more; each once."""
        settled, self._settled = self._settled, []
        return settled

    def _forget(self, key: tuple[int, int]) -> None:
        slices, settled = self._unfinished.pop(key)
        self.held_bytes -= sum(map(len, slices.values()))
        self._settled += settled


def _read(part: bytes) -> tuple[int, int, int]:
    """The checksum and length of the frame, and the place of a part in it."""
    if len(part) <= PART_HEADER_BYTES or part[:4] != MAGIC:
        raise _invalid("it does not begin as one")
    if part[4] != VERSION:
        raise UnsupportedVersion(
            f"a part of a frame is of version {part[4]}", hint=f"this program reads version {VERSION}"
        )
    _, _, checksum, frame_bytes, offset = _PART.unpack(part[:PART_HEADER_BYTES])
    if frame_bytes > FRAME_BYTES_MAX or len(part) > PART_BYTES_MAX:
        raise OverLimit(
            f"a part claims a frame of {frame_bytes} bytes", hint=f"at most {FRAME_BYTES_MAX} are taken"
        )
    slice_bytes = min(_SLICE_BYTES, frame_bytes - offset)
    if offset % _SLICE_BYTES or len(part) - PART_HEADER_BYTES != slice_bytes or part[5:8] != bytes(3):
        raise _invalid("its place is none")
    return checksum, frame_bytes, offset


def _invalid(reason: str) -> InvalidContent:
    return InvalidContent(f"not a part of a frame: {reason}", hint="it is refused")
