"""The stream: append-only segment files of checksummed frames; content blocks and redo records in one.

The only module that writes segments. A frame is a 48-byte header and its payload (docs/format.md,
"Stream"). A segment is preallocated in steps while it is written, so that a flush need not also write the
file's new length, cut to its true length when sealed, and never written again after that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from pillarbox.store.errors import (
    Corrupt,
    DiskFull,
    NoPermission,
    OverLimit,
    PillarboxError,
    UnsupportedVersion,
)

SEGMENT_MAGIC: Final = b"PBSTREAM"
SEGMENT_VERSION: Final = 1
SEGMENT_BYTES_DEFAULT: Final = 64 << 20
PREALLOCATE_BYTES: Final = 1 << 20
_KEPT_FOR_DELETES_BYTES: Final = 512 << 10
_ZERO_AHEAD_BYTES: Final = 256 << 10
_SMALL_APPEND_BYTES: Final = 64 << 10
_JOINED_BYTES_MAX: Final = 256 << 10
PAYLOAD_BYTES_MAX: Final = 1 << 30
_FILES_OPEN_MAX: Final = 64
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)

# magic, version, segment number, database GUID, checksum of these
_SEGMENT_HEADER = struct.Struct("<8sHxxI16sQ")
# magic, kind, codec, dictionary, stored bytes, raw bytes, digest or redo header, checksum
_FRAME_HEADER = struct.Struct("<2sBBIII24sQ")
FRAME_MAGIC: Final = b"\xf1B"
SEGMENT_HEADER_BYTES: Final = _SEGMENT_HEADER.size
FRAME_HEADER_BYTES: Final = _FRAME_HEADER.size
assert SEGMENT_HEADER_BYTES == 40 and FRAME_HEADER_BYTES == 48
_CHECKED: Final = FRAME_HEADER_BYTES - 8
_FRAME_BYTES_MAX: Final = FRAME_HEADER_BYTES + PAYLOAD_BYTES_MAX
_OFFSET_MAX: Final = (1 << 63) - 1  # the system's


class FrameKind(IntEnum):
    """The kind of a frame's payload."""

    SKELETON = 1
    BLOCK = 2
    REDO = 3
    DICTIONARY = 4


class Codec(IntEnum):
    """The way in which a payload is stored."""

    PLAIN = 0
    ZSTD = 1


class Position(NamedTuple):
    """A place in the stream: segment number from 1, byte offset in it."""

    segment: int
    offset: int


class Frame(NamedTuple):
    """One frame as read: its header's fields and its stored payload."""

    kind: int
    codec: int
    dictionary: int
    raw_bytes: int
    digest: bytes
    payload: bytes

    @property
    def length(self) -> int:
        """Bytes it takes in the segment."""
        return FRAME_HEADER_BYTES + len(self.payload)


def build_frame(
    kind: int, codec: int, dictionary: int, raw_bytes: int, digest: bytes, payload: bytes
) -> bytes:
    """The bytes of a frame. `digest` is 24 bytes: the raw content's digest, or a redo header.

    Raises OverLimit on more than can be read back.
    """
    if max(len(payload), raw_bytes) > PAYLOAD_BYTES_MAX:
        raise OverLimit(
            f"{max(len(payload), raw_bytes)} bytes at once; {PAYLOAD_BYTES_MAX} can be stored",
            hint="store it in smaller pieces",
        )
    head = _FRAME_HEADER.pack(FRAME_MAGIC, kind, codec, dictionary, len(payload), raw_bytes, digest, 0)[
        :_CHECKED
    ]
    return b"".join(
        (head, xxh3_64_intdigest(payload, xxh3_64_intdigest(head)).to_bytes(8, "little"), payload)
    )


def parse_frame(data: bytes | memoryview, at: int, where: str, begin: int = 0) -> Frame:
    """The frame at `at` of `data`, which stands in the file `where` from its byte `begin` on.

    Raises Corrupt when it is damaged, cut short or none; never takes more memory than `data` has.
    """
    try:
        return _parse_frame(data, at)
    except ValueError as error:
        offset = begin + at
        raise Corrupt(f"{where} at {offset}: {error}", file=where, offset=offset) from error


def _parse_frame(data: bytes | memoryview, at: int) -> Frame:
    if at + FRAME_HEADER_BYTES > len(data):
        raise ValueError("no frame is there: the file ends")
    magic, kind, codec, dictionary, stored, raw, digest, checksum = _FRAME_HEADER.unpack_from(data, at)
    if magic != FRAME_MAGIC:
        raise ValueError("no frame is there")
    start = at + FRAME_HEADER_BYTES
    if start + stored > len(data):
        raise ValueError("the frame is cut short")
    payload = bytes(data[start : start + stored])
    head = bytes(data[at : at + _CHECKED])
    if xxh3_64_intdigest(payload, xxh3_64_intdigest(head)) != checksum:
        raise ValueError("the checksum of the frame does not hold")
    return Frame(kind, codec, dictionary, raw, digest, payload)


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:08d}.stm"


def segment_header(number: int, database: bytes) -> bytes:
    """The first bytes of a segment file."""
    head = _SEGMENT_HEADER.pack(SEGMENT_MAGIC, SEGMENT_VERSION, number, database, 0)[:-8]
    return head + xxh3_64_intdigest(head).to_bytes(8, "little")


def check_segment_header(data: bytes, number: int, database: bytes, where: str) -> None:
    """Refuse a file that is not segment `number` of this database."""
    if len(data) < SEGMENT_HEADER_BYTES or data[:8] != SEGMENT_MAGIC:
        raise Corrupt(f"{where}: not a stream segment", file=where, offset=0)
    _, version, found_number, found_database, checksum = _SEGMENT_HEADER.unpack_from(data)
    # First: a version that is damaged is no other format.
    if checksum != xxh3_64_intdigest(data[: SEGMENT_HEADER_BYTES - 8]):
        raise Corrupt(f"{where}: checksum of the segment header does not hold", file=where, offset=0)
    if version != SEGMENT_VERSION:
        raise UnsupportedVersion(f"{where}: segment format {version}; this program knows {SEGMENT_VERSION}")
    if found_number != number or found_database != database:
        raise Corrupt(f"{where}: belongs to another place (segment {found_number})", file=where, offset=0)


def _is_damaged_header(data: bytes) -> bool:
    if len(data) < SEGMENT_HEADER_BYTES:
        return False  # nothing stands behind it
    checksum = _SEGMENT_HEADER.unpack(data)[-1]
    return bool(checksum != xxh3_64_intdigest(data[: SEGMENT_HEADER_BYTES - 8]))


def disk_error(error: OSError, what: str) -> PillarboxError:
    """The error of the project for one of the disk's."""
    if error.errno in _DISK_FULL:
        return DiskFull(f"{what}: no space left on the disk", hint="free some disk space and try again")
    if error.errno in _DENIED:
        return NoPermission(
            f"{what}: {error.strerror}", hint="look at the owner and mode of the file and of its directory"
        )
    return PillarboxError(f"{what}: {error.strerror}", hint="look at the disk: the system reported an error")


class _OpenFile:
    """A descriptor that is closed when the last who reads through it lets go, evicted or not."""

    __slots__ = ("descriptor", "name")

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _pread(file: _OpenFile, offset: int, length: int) -> bytes:
    try:
        return os.pread(file.descriptor, length, offset)
    except OSError as error:
        raise disk_error(error, f"{file.name} at {offset}") from error


class Stream:
    """The segments of one database. One thread at a time appends; any number read."""

    def __init__(self, directory: Path, database: bytes) -> None:
        self.directory = directory
        self._database = database
        self._files: dict[int, _OpenFile] = {}
        self._lock = threading.Lock()
        self._append_file: int | None = None
        self._append_segment = 0
        self._append_end = 0
        self._allocated = 0
        self._zeroed = 0
        self._sealed_bytes: dict[int, int] = {}

    def path(self, segment: int) -> Path:
        """Where a segment's file is."""
        return self.directory / segment_name(segment)

    def segments(self) -> list[int]:
        """Numbers of the segments there are, in order. Files of other names are none of the stream's."""
        names = [path.name for path in self.directory.glob("*.stm")]
        digits = [(name, name[:-4]) for name in names if name.isascii() and name[:-4].isdigit()]
        return sorted(int(number) for name, number in digits if name == segment_name(int(number)))

    def size(self, segment: int) -> int:
        """Bytes of a segment's file, 0 when there is none."""
        try:
            return self.path(segment).stat().st_size
        except FileNotFoundError:
            return 0

    def total_bytes(self) -> int:
        """Bytes of all segments' files, without looking at sealed ones that were counted before."""
        numbers = self.segments()
        for number in numbers[:-1]:
            if number not in self._sealed_bytes:
                self._sealed_bytes[number] = self.size(number)
        last = self.size(numbers[-1]) if numbers else 0
        return sum(self._sealed_bytes.get(number, 0) for number in numbers[:-1]) + last

    # -- reading

    def _file(self, segment: int) -> _OpenFile:
        return self._files.get(segment) or self._opened(segment)

    def _opened(self, segment: int) -> _OpenFile:
        with self._lock:
            found = self._files.get(segment)
            if found is not None:
                return found
            path = self.path(segment)
            try:
                file = _OpenFile(path)
            except FileNotFoundError as error:
                raise Corrupt(f"{path}: the segment is missing", file=str(path)) from error
            except OSError as error:
                raise disk_error(error, str(path)) from error
            head = _pread(file, 0, SEGMENT_HEADER_BYTES)
            check_segment_header(head, segment, self._database, str(path))
            if len(self._files) >= _FILES_OPEN_MAX:
                del self._files[next(iter(self._files))]
            self._files[segment] = file
            return file

    def read(self, segment: int, offset: int, length: int) -> Frame:
        """The frame of `length` bytes at a place. Raises Corrupt with file and offset when it is damaged."""
        file = self._file(segment)
        if not (0 <= offset <= _OFFSET_MAX and 0 <= length <= _FRAME_BYTES_MAX):
            where = file.name
            raise Corrupt(f"{where} at {offset}: no frame of {length} bytes", file=where, offset=offset)
        return parse_frame(_pread(file, offset, length), 0, file.name, offset)

    def read_bytes(self, segment: int, offset: int, length: int) -> bytes:
        """`length` bytes as they are stored; fewer at the end of the file."""
        return _pread(self._file(segment), offset, length)

    def frames(self, segment: int, start: int = SEGMENT_HEADER_BYTES) -> Iterator[tuple[int, Frame]]:
        """(offset, frame) from `start` on. Ends where zeros begin, or with the file.

        Zeros are the preallocated tail, as a rule; what is behind them is not looked at. Raises Corrupt at
        the first place that is neither a frame nor zeros, and when the segment is missing.
        """
        where = self._file(segment).name
        size = self.size(segment)
        offset = start
        while offset < size:
            head = self.read_bytes(segment, offset, FRAME_HEADER_BYTES)
            if not any(head):
                return
            stored = _FRAME_HEADER.unpack(head)[4] if len(head) == FRAME_HEADER_BYTES else 0
            if stored > min(PAYLOAD_BYTES_MAX, size - offset):
                problem = "the frame is longer than the file"
                raise Corrupt(f"{where} at {offset}: {problem}", file=where, offset=offset)
            data = self.read_bytes(segment, offset, FRAME_HEADER_BYTES + stored)
            frame = parse_frame(data, 0, where, offset)
            yield offset, frame
            offset += frame.length

    # -- writing

    def append(self, position: Position, chunks: list[bytes], *, to_the_last: bool = False) -> None:
        """Write `chunks` one after the other at `position`, the end of the stream; not flushed.

        The system begins to bring them to the disk, so that a flush that comes a little later waits less.
        A disk counts as full when it has no room ahead, since LMDB and checkpoints need some;
        `to_the_last` is for what brings space back. Raises DiskFull or PillarboxError; what was written is
        then cut off by `truncate`.
        """
        try:
            if position.segment != self._append_segment:
                self._open_for_append(position.segment)
            assert self._append_file is not None
            length = sum(map(len, chunks))
            self._preallocate(position.offset + length, to_the_last)
            _write_all(self._append_file, self._with_zeros(chunks, position.offset, length), position.offset)
            _begin_writing(self._append_file, position.offset, length)
            self._append_end = position.offset + length
        except OSError as error:
            raise disk_error(error, str(self.path(position.segment))) from error

    def flush(self) -> None:
        """Make what was appended durable. When this raises PillarboxError, believe nothing of it."""
        assert self._append_file is not None
        try:
            os.fdatasync(self._append_file)
        except OSError as error:
            # Never DiskFull, whatever the system calls it: after a failed flush nothing may be tried again.
            raise PillarboxError(
                f"{self.path(self._append_segment)}: flush failed: {error.strerror}",
                hint="look at the disk: the system could not write what it had taken",
            ) from error

    def truncate(self, position: Position) -> None:
        """Cut the stream off at `position`: later segments go, the rest of this one too.

        A segment of which only the header would stay goes as well: a crash may have left no whole header.
        """
        self.close_append()
        first = position.segment + (position.offset > SEGMENT_HEADER_BYTES)
        for number in self.segments():
            if number >= first:
                self.delete(number)
        path = self.path(position.segment)
        self._sealed_bytes.pop(position.segment, None)
        try:
            if self.size(position.segment) > position.offset:
                with path.open("r+b") as file:
                    file.truncate(position.offset)
                    os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, str(path)) from error

    def rewrite(self, position: Position) -> None:
        """Write again, and flush, what stands from `position` to the end. Raises PillarboxError."""
        for number in self.segments():
            if number >= position.segment:
                start = position.offset if number == position.segment else 0
                self._rewrite_segment(number, start)

    def restore_header(self, segment: int) -> bool:
        """Write the header of a segment again, durably, when it is damaged; whether it was.

        Its file's name and the database's GUID say all that it did. One that is whole, but of another place
        or of a format not known here, stays. Raises PillarboxError.
        """
        path = self.path(segment)
        try:
            with path.open("r+b") as file:
                if not _is_damaged_header(file.read(SEGMENT_HEADER_BYTES)):
                    return False
                file.seek(0)
                file.write(segment_header(segment, self._database))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, str(path)) from error
        return True

    def _rewrite_segment(self, segment: int, start: int) -> None:
        path = self.path(segment)
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                while data := os.pread(file, PREALLOCATE_BYTES, start):
                    _write_all(file, [data], start)
                    start += len(data)
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise disk_error(error, str(path)) from error

    def delete(self, segment: int) -> None:
        """Remove a segment that nothing refers to any more. Raises PillarboxError."""
        path = self.path(segment)
        try:
            path.unlink(missing_ok=True)
            with self._lock:
                self._files.pop(segment, None)  # not before: a read might open it once more
            self._sealed_bytes.pop(segment, None)
            flush_directory(self.directory)
        except OSError as error:
            raise disk_error(error, str(path)) from error

    def close_append(self) -> None:
        """Let go of the file that is appended to."""
        if self._append_file is not None:
            os.close(self._append_file)
        self._append_file, self._append_segment = None, 0

    def close(self) -> None:
        """Close every file."""
        self.close_append()
        with self._lock:
            self._files.clear()

    def _open_for_append(self, segment: int) -> None:
        path = self.path(segment)
        if self._append_file is not None:
            # The segment before is sealed: it loses its preallocated tail, and is never written again.
            os.ftruncate(self._append_file, self._append_end)
            self.flush()
            self.close_append()
        new = self.size(segment) < SEGMENT_HEADER_BYTES
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._append_file, self._append_segment = file, segment
        if new:
            _write_all(file, [segment_header(segment, self._database)], 0)
            os.fsync(file)
            flush_directory(self.directory)
        self._allocated = self._append_end = os.fstat(file).st_size
        self._zeroed = 0

    def _preallocate(self, end: int, to_the_last: bool) -> None:
        if end + (0 if to_the_last else _KEPT_FOR_DELETES_BYTES) <= self._allocated:
            return
        assert self._append_file is not None
        target = end + PREALLOCATE_BYTES
        try:
            preallocate(self._append_file, self._allocated, target - self._allocated)
        except OSError as error:
            if not to_the_last or error.errno not in _DISK_FULL:
                raise
            target = end  # what is written there says whether it fits
        self._allocated = target

    def _with_zeros(self, chunks: list[bytes], offset: int, length: int) -> list[bytes]:
        """The appended bytes, and zeros behind them when appends are small and come to where none are yet.

        The system keeps preallocated blocks apart from written ones, and flushes a journal beside the data
        when one becomes the other: with zeros written ahead it does so once for many small appends.
        """
        end = offset + length
        if length > _SMALL_APPEND_BYTES or end <= self._zeroed:
            return chunks
        self._zeroed = min(end + _ZERO_AHEAD_BYTES, self._allocated)
        return [*chunks, bytes(self._zeroed - end)]


def preallocate(file: int, offset: int, length: int) -> None:
    """Take room on the disk for a range of an open file, where the file system can. Raises OSError."""
    try:
        os.posix_fallocate(file, offset, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _write_all(file: int, chunks: list[bytes], offset: int) -> None:
    """Write chunks one after the other at `offset`. Raises OSError."""
    for data in _writes(chunks):
        view = memoryview(data)
        while view:
            written = os.pwrite(file, view, offset)
            if written == 0:
                raise OSError(errno.ENOSPC, "nothing more could be written")
            view = view[written:]
            offset += written


def _writes(chunks: list[bytes]) -> Iterator[bytes]:
    """The chunks as what is written by one call each: small ones joined, large ones without a copy."""
    small: list[bytes] = []
    length = 0
    for chunk in chunks:
        if length and length + len(chunk) > _JOINED_BYTES_MAX:
            yield b"".join(small)
            small, length = [], 0
        small.append(chunk)
        length += len(chunk)
    yield b"".join(small)


# Python has no name for it. Nothing depends on it: where it is missing the flush does all the work, and
# an error of the disk is told by the flush in any case.
_sync_file_range: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE: Final = 2


def _begin_writing(file: int, offset: int, length: int) -> None:
    if _sync_file_range is not None:
        _sync_file_range(file, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, durably. Raises OSError."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        flush_directory(made.parent)


def flush_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_file(path: Path) -> None:
    """Make the bytes of a file durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
