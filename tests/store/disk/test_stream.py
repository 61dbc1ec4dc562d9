"""Segments give back what was appended, name what is damaged, and leave nothing wrong behind a fault."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk import stream as stream_module
from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    PREALLOCATE_BYTES,
    SEGMENT_HEADER_BYTES,
    Codec,
    Frame,
    FrameKind,
    Position,
    Stream,
    build_frame,
    check_segment_header,
    disk_error,
    parse_frame,
    segment_header,
    segment_name,
)
from pillarbox.store.errors import (
    Corrupt,
    DiskFull,
    NoPermission,
    OverLimit,
    PillarboxError,
    UnsupportedVersion,
)

DATABASE = bytes(range(16))
DIGEST = bytes(range(24))
START = Position(1, SEGMENT_HEADER_BYTES)

payloads = st.binary(max_size=200)
steady = settings(deadline=None, max_examples=40)


def frame_of(payload: bytes, kind: int = FrameKind.BLOCK) -> bytes:
    return build_frame(kind, Codec.PLAIN, 0, len(payload), DIGEST, payload)


def append(stream: Stream, position: Position, *chunks: bytes) -> Position:
    stream.append(position, list(chunks))
    stream.flush()
    return Position(position.segment, position.offset + sum(map(len, chunks)))


def payloads_in(stream: Stream, segment: int) -> list[bytes]:
    return [frame.payload for _, frame in stream.frames(segment)]


def files_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(tmp_path, DATABASE)


# -- frames


@given(
    kind=st.sampled_from(FrameKind),
    codec=st.sampled_from(Codec),
    dictionary=st.integers(0, (1 << 32) - 1),
    raw_bytes=st.integers(0, 1 << 30),
    digest=st.binary(min_size=24, max_size=24),
    payload=payloads,
    before=st.binary(max_size=5),
    behind=st.binary(max_size=5),
)
@steady
def test_a_frame_is_read_as_it_was_built_wherever_it_lies(
    kind: int,
    codec: int,
    dictionary: int,
    raw_bytes: int,
    digest: bytes,
    payload: bytes,
    before: bytes,
    behind: bytes,
) -> None:
    built = build_frame(kind, codec, dictionary, raw_bytes, digest, payload)
    frame = parse_frame(before + built + behind, len(before), "here")
    assert frame == Frame(kind, codec, dictionary, raw_bytes, digest, payload)
    assert frame.length == len(built) == FRAME_HEADER_BYTES + len(payload)


@given(payload=payloads, at=st.integers(0), change=st.integers(1, 255))
@steady
def test_no_byte_of_a_frame_changes_unseen(payload: bytes, at: int, change: int) -> None:
    built = bytearray(frame_of(payload))
    built[at % len(built)] ^= change
    with pytest.raises(Corrupt) as raised:
        parse_frame(bytes(built), 0, "here")
    assert (raised.value.file, raised.value.offset) == ("here", 0)


@given(payload=payloads, kept=st.integers(0))
@steady
def test_a_frame_cut_short_is_none(payload: bytes, kept: int) -> None:
    built = frame_of(payload)
    with pytest.raises(Corrupt):
        parse_frame(built[: kept % len(built)], 0, "here")


def test_a_frame_longer_than_can_be_read_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "PAYLOAD_BYTES_MAX", 100)
    assert frame_of(bytes(100))
    with pytest.raises(OverLimit):
        frame_of(bytes(101))
    with pytest.raises(OverLimit):
        build_frame(FrameKind.REDO, Codec.ZSTD, 0, 101, DIGEST, b"packed")


# -- segment headers


def test_a_segment_header_has_the_documented_bytes() -> None:
    header = segment_header(7, DATABASE)
    assert len(header) == 40
    assert header[:8] == b"PBSTREAM"
    assert header[8:16] == bytes([1, 0, 0, 0, 7, 0, 0, 0])
    assert header[16:32] == DATABASE


@pytest.mark.parametrize("at", range(SEGMENT_HEADER_BYTES))
def test_no_byte_of_a_segment_header_changes_unseen(at: int) -> None:
    header = bytearray(segment_header(7, DATABASE))
    header[at] ^= 1
    with pytest.raises(Corrupt):
        check_segment_header(bytes(header), 7, DATABASE, "here")


def test_a_whole_header_of_another_version_is_refused_as_such_and_stays(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(stream, START, frame_of(b"payload"))
    stream.close()
    with monkeypatch.context() as patch:
        patch.setattr("pillarbox.store.disk.stream.SEGMENT_VERSION", 2)
        newer = segment_header(1, DATABASE)
    stream.path(1).write_bytes(newer + stream.path(1).read_bytes()[SEGMENT_HEADER_BYTES:])
    with pytest.raises(UnsupportedVersion, match="segment format 2"):
        stream.read_bytes(1, SEGMENT_HEADER_BYTES, 10)
    assert not stream.restore_header(1)


@pytest.mark.parametrize("at", [8, 9])
def test_a_version_that_is_damaged_is_mended_as_the_rest_of_a_header(stream: Stream, at: int) -> None:
    append(stream, START, frame_of(b"payload"))
    stream.close()
    whole = stream.path(1).read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 16
    stream.path(1).write_bytes(damaged)
    assert stream.restore_header(1)
    assert stream.path(1).read_bytes() == whole


@pytest.mark.parametrize("bytes_kept", [0, 8, 39])
def test_a_segment_header_cut_short_is_refused(bytes_kept: int) -> None:
    with pytest.raises(Corrupt):
        check_segment_header(segment_header(7, DATABASE)[:bytes_kept], 7, DATABASE, "here")


def test_a_segment_under_another_number_or_of_another_database_is_refused(
    stream: Stream, tmp_path: Path
) -> None:
    append(stream, START, frame_of(b"payload"))
    stream.close()
    with pytest.raises(Corrupt, match="another place"):
        Stream(tmp_path, bytes(16)).read_bytes(1, 0, 1)
    stream.path(1).rename(stream.path(2))
    with pytest.raises(Corrupt, match="another place"):
        stream.read_bytes(2, 0, 1)


# -- appending and reading


@given(batches=st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), max_size=6), data=st.data())
@steady
def test_what_is_appended_is_read_again_by_place_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("stream")
    stream = Stream(directory, DATABASE)
    position, written = START, []
    for batch in batches:
        if position.offset > SEGMENT_HEADER_BYTES and data.draw(st.booleans()):
            position = Position(position.segment + 1, SEGMENT_HEADER_BYTES)
        frames = [frame_of(payload) for payload in batch]
        offset = position.offset
        for frame, payload in zip(frames, batch, strict=True):
            written.append((position.segment, offset, len(frame), payload))
            offset += len(frame)
        position = append(stream, position, *frames)
    stream.close()

    again = Stream(directory, DATABASE)
    assert [again.read(*place).payload for *place, _ in written] == [payload for *_, payload in written]
    assert [
        (segment, offset, frame.length, frame.payload)
        for segment in again.segments()
        for offset, frame in again.frames(segment)
    ] == written
    again.close()


def test_the_tail_is_preallocated_and_cut_off_when_the_next_segment_begins(stream: Stream) -> None:
    end = append(stream, START, frame_of(b"one"))
    assert stream.size(1) >= end.offset + PREALLOCATE_BYTES
    assert payloads_in(stream, 1) == [b"one"]
    append(stream, Position(2, SEGMENT_HEADER_BYTES), frame_of(b"two"))
    assert stream.size(1) == end.offset


def test_sizes_are_those_of_the_files_whatever_happened_to_them(stream: Stream) -> None:
    def files_bytes() -> int:
        return sum(path.stat().st_size for path in stream.directory.iterdir())

    assert stream.total_bytes() == 0
    position = START
    for segment in (1, 2, 3):
        position = append(stream, Position(segment, SEGMENT_HEADER_BYTES), frame_of(bytes(segment * 10)))
        assert stream.total_bytes() == files_bytes()
    stream.truncate(position)
    assert stream.total_bytes() == files_bytes()
    append(stream, Position(4, SEGMENT_HEADER_BYTES), frame_of(b"four"))
    assert stream.total_bytes() == files_bytes()
    stream.delete(2)
    assert stream.total_bytes() == files_bytes()
    stream.truncate(Position(1, SEGMENT_HEADER_BYTES + 10))
    append(stream, Position(2, SEGMENT_HEADER_BYTES), frame_of(b"two"))
    append(stream, Position(3, SEGMENT_HEADER_BYTES), frame_of(b"three"))
    assert stream.total_bytes() == files_bytes()


def test_files_that_are_not_named_as_segments_are_none(stream: Stream) -> None:
    append(stream, START, frame_of(b"one"))
    for name in ("1.stm", "copy.stm", "000000001.stm", "²0000001.stm", "00000002.stm.bak", "00000003"):
        (stream.directory / name).write_bytes(b"")
    assert stream.segments() == [1]


def test_a_segment_that_was_removed_is_missing(stream: Stream) -> None:
    end = append(stream, START, frame_of(b"one"), frame_of(b"two"))
    append(stream, Position(2, SEGMENT_HEADER_BYTES), frame_of(b"three"))
    stream.delete(1)
    assert stream.segments() == [2]
    with pytest.raises(Corrupt, match="missing"):
        stream.read(1, SEGMENT_HEADER_BYTES, end.offset)
    with pytest.raises(Corrupt, match="missing"):
        list(stream.frames(1))


def test_more_segments_than_descriptors_are_read_in_any_order(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_FILES_OPEN_MAX", 2)
    for segment in range(1, 7):
        append(stream, Position(segment, SEGMENT_HEADER_BYTES), frame_of(b"%d" % segment))
    stream.close()
    open_before = files_open()
    for segment in (1, 6, 2, 5, 3, 4, 1, 2):
        assert payloads_in(stream, segment) == [b"%d" % segment]
    assert files_open() <= open_before + 2
    stream.close()
    assert files_open() == open_before


def test_places_that_no_file_can_have_are_damage(stream: Stream) -> None:
    append(stream, START, frame_of(b"one"))
    for offset, length in ((1 << 63, 48), (-1, 48), (40, 1 << 50), (40, -1), (1 << 40, 48), (40, 47)):
        with pytest.raises(Corrupt) as raised:
            stream.read(1, offset, length)
        assert (raised.value.file, raised.value.offset) == (str(stream.path(1)), offset)


# -- damage and torn ends


def test_frames_end_at_zeros_and_at_the_end_of_the_file(stream: Stream) -> None:
    end = append(stream, START, frame_of(b"one"))
    for tail in (b"", bytes(10), bytes(FRAME_HEADER_BYTES), bytes(5000)):
        stream.truncate(end)
        with stream.path(1).open("ab") as file:
            file.write(tail)
        assert payloads_in(stream, 1) == [b"one"]


@given(kept=st.integers(1), zeros=st.sampled_from([0, 1, 100]))
@settings(deadline=None, max_examples=40)
def test_a_torn_last_frame_is_damage_behind_the_whole_ones(
    tmp_path_factory: pytest.TempPathFactory, kept: int, zeros: int
) -> None:
    directory = tmp_path_factory.mktemp("stream")
    last = frame_of(b"x" * 100)
    whole = segment_header(1, DATABASE) + frame_of(b"one")
    (directory / segment_name(1)).write_bytes(whole + last[: 1 + kept % (len(last) - 1)] + bytes(zeros))
    found = []
    with pytest.raises(Corrupt) as raised:
        for _, frame in Stream(directory, DATABASE).frames(1):
            found.append(frame.payload)
    assert found == [b"one"]
    assert (raised.value.file, raised.value.offset) == (str(directory / segment_name(1)), len(whole))


def test_a_length_beyond_the_file_is_damage_and_asks_for_no_memory(stream: Stream) -> None:
    append(stream, START, frame_of(b"one"))
    with stream.path(1).open("r+b") as file:
        file.seek(SEGMENT_HEADER_BYTES + 8)
        file.write(b"\xff\xff\xff\x3f")
    with pytest.raises(Corrupt, match="longer than the file"):
        list(stream.frames(1))


# -- cutting off


def test_truncate_cuts_this_segment_and_removes_later_ones(stream: Stream) -> None:
    middle = append(stream, START, frame_of(b"one"))
    append(stream, middle, frame_of(b"two"))
    append(stream, Position(2, SEGMENT_HEADER_BYTES), frame_of(b"three"))
    stream.truncate(middle)
    assert stream.segments() == [1]
    assert stream.size(1) == middle.offset
    append(stream, middle, frame_of(b"instead"))
    assert payloads_in(stream, 1) == [b"one", b"instead"]


def test_truncate_never_makes_a_segment_longer(stream: Stream) -> None:
    end = append(stream, START, frame_of(b"one"))
    stream.truncate(end)
    stream.truncate(Position(1, end.offset + 1000))
    assert stream.size(1) == end.offset


@pytest.mark.parametrize("left", [b"", bytes(10), bytes(40), bytes(4096), segment_header(1, DATABASE)[:39]])
def test_a_segment_whose_beginning_a_crash_interrupted_is_begun_anew(stream: Stream, left: bytes) -> None:
    stream.path(1).write_bytes(left)
    stream.truncate(START)
    append(stream, START, frame_of(b"one"))
    stream.close()
    assert payloads_in(stream, 1) == [b"one"]


def test_a_header_that_the_full_disk_did_not_take_is_written_with_the_next_try(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            stream.append(START, [frame_of(b"one")])
        stream.truncate(START)
    append(stream, START, frame_of(b"one"))
    assert payloads_in(stream, 1) == [b"one"]


def test_rewrite_leaves_every_byte_as_it_was(stream: Stream) -> None:
    middle = append(stream, START, frame_of(b"one"))
    append(stream, middle, frame_of(bytes(range(256)) * 8000))
    append(stream, Position(2, SEGMENT_HEADER_BYTES), frame_of(b"three"))
    before = [stream.path(number).read_bytes() for number in (1, 2)]
    stream.rewrite(middle)
    assert [stream.path(number).read_bytes() for number in (1, 2)] == before


# -- a disk that fails


def failing(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_failed_flush_is_never_taken_for_a_full_disk(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.append(START, [frame_of(b"one")])
    monkeypatch.setattr(os, "fdatasync", failing(errno.ENOSPC))
    with pytest.raises(PillarboxError) as raised:
        stream.flush()
    assert not isinstance(raised.value, DiskFull)


@pytest.mark.parametrize(
    ("broken", "call"),
    [
        ("pread", lambda stream: stream.read(1, 40, 60)),
        ("open", lambda stream: stream.read(1, 40, 60)),
        ("pwrite", lambda stream: stream.append(Position(1, 100), [b"x"])),
        ("open", lambda stream: stream.append(Position(2, 40), [b"x"])),
        ("ftruncate", lambda stream: stream.append(Position(2, 40), [b"x"])),
        ("fsync", lambda stream: stream.truncate(Position(1, 50))),
        ("fsync", lambda stream: stream.truncate(START)),
        ("fsync", lambda stream: stream.delete(1)),
        ("unlink", lambda stream: stream.delete(1)),
        ("pread", lambda stream: stream.rewrite(START)),
        ("fsync", lambda stream: stream.rewrite(START)),
    ],
)
def test_every_error_of_the_disk_is_told_as_one_of_ours(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, broken: str, call: Any
) -> None:
    append(stream, START, frame_of(b"one"))
    monkeypatch.setattr(os, broken, failing(errno.EIO))
    with pytest.raises(PillarboxError):
        call(stream)


def test_disk_errors_tell_a_full_disk_from_others() -> None:
    assert isinstance(disk_error(OSError(errno.ENOSPC, "full"), "x"), DiskFull)
    assert isinstance(disk_error(OSError(errno.EDQUOT, "quota"), "x"), DiskFull)
    other = disk_error(OSError(errno.EIO, "broken"), "the file")
    assert not isinstance(other, DiskFull)
    assert "the file: broken" in str(other)
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):
        denied = disk_error(OSError(number, "not allowed"), "the file")
        assert isinstance(denied, NoPermission) and denied.hint


def test_a_disk_without_room_ahead_is_full_before_it_is(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(DiskFull):
        stream.append(START, [frame_of(b"one")])
    assert stream.size(1) == SEGMENT_HEADER_BYTES


def test_what_brings_space_back_is_written_to_the_last_byte(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    stream.append(START, [frame_of(b"one")], to_the_last=True)
    assert payloads_in(stream, 1) == [b"one"]
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EIO))
    with pytest.raises(PillarboxError, match="Input/output"):
        stream.append(Position(2, SEGMENT_HEADER_BYTES), [frame_of(b"two")], to_the_last=True)


def test_a_file_system_that_cannot_preallocate_is_written_without(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))
    end = append(stream, START, frame_of(b"one"))
    append(stream, end, frame_of(b"two"))
    assert payloads_in(stream, 1) == [b"one", b"two"]


def test_a_frame_begins_with_its_magic() -> None:
    assert frame_of(b"one").startswith(FRAME_MAGIC)


def test_large_chunks_are_written_without_being_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    pwrite = os.pwrite

    def seen(file: int, data: memoryview, offset: int) -> int:
        written.append(data.obj)
        return pwrite(file, data[:100_000], offset)  # a part of it, as the system may

    monkeypatch.setattr(os, "pwrite", seen)
    chunks = [b"a" * 10, b"b" * 10, b"c" * 900_000, b"d" * 10]
    stream = Stream(tmp_path, DATABASE)
    stream.append(Position(1, SEGMENT_HEADER_BYTES), chunks)
    stream.close()
    assert (tmp_path / "00000001.stm").read_bytes()[SEGMENT_HEADER_BYTES:].startswith(b"".join(chunks))
    assert any(data is chunks[2] for data in written)
    assert any(data == chunks[0] + chunks[1] for data in written)
