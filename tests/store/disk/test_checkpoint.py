"""A checkpoint is read as it was written, replaced whole, and refused when any byte of it is wrong."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from pillarbox.store.disk import checkpoint as checkpoint_module
from pillarbox.store.disk.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    boot_identity,
    read_checkpoint,
    refuse_newer_program,
    write_atomically,
    write_checkpoint,
)
from pillarbox.store.disk.records import pack
from pillarbox.store.disk.stream import Position
from pillarbox.store.disk.tables import LAYOUT_VERSION, LAYOUT_VERSION_MIN
from pillarbox.store.errors import Corrupt, DiskFull, PillarboxError, UnsupportedVersion

ONE = Checkpoint(bytes(range(16)), False, bytes(16), 7, Position(3, 4096), bytes(range(256)) * 32)
TWO = ONE._replace(clean=True, sequence=8, position=Position(4, 40))

checkpoints = st.builds(
    Checkpoint,
    st.binary(min_size=16, max_size=16),
    st.booleans(),
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 64) - 1),
    st.builds(Position, st.integers(1, (1 << 32) - 1), st.integers(0, 1 << 40)),
    st.binary(max_size=100),
    st.binary(max_size=100),
)
steady = settings(deadline=None, max_examples=40)


def sealed(body: bytes, version: int) -> bytes:
    return struct.pack("<8sHxxI16s", b"PBCHECKP", version, len(body), xxh3_128_digest(body)) + body


@given(checkpoint=checkpoints)
@steady
def test_a_checkpoint_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> None:
    directory = tmp_path_factory.mktemp("database")
    write_checkpoint(directory, checkpoint)
    found = read_checkpoint(directory)
    assert found == checkpoint
    assert isinstance(found.position, Position)
    assert {path.name for path in directory.iterdir()} == {CHECKPOINT_FILE, f"{CHECKPOINT_FILE}.new"}


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, ONE)
    write_checkpoint(tmp_path, TWO)
    assert read_checkpoint(tmp_path) == TWO


def test_the_leftover_of_a_crash_is_written_over(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, ONE)
    (tmp_path / "checkpoint.new").write_bytes(b"torn" * 10_000)
    assert read_checkpoint(tmp_path) == ONE
    write_checkpoint(tmp_path, TWO)
    assert read_checkpoint(tmp_path) == TWO


# -- damage


def test_no_byte_of_a_checkpoint_changes_unseen(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, ONE._replace(meta_pages=b"pages" * 50))
    path = tmp_path / CHECKPOINT_FILE
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises((Corrupt, UnsupportedVersion)) as raised:
            read_checkpoint(tmp_path)
        assert str(path) in str(raised.value), at


def test_a_checkpoint_cut_anywhere_or_with_bytes_behind_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE
    write_checkpoint(tmp_path, ONE)
    whole = path.read_bytes()
    sizes = [*range(80), *range(80, len(whole), 997), len(whole) - 1]
    for changed in [*(whole[:size] for size in sizes), whole + b"\0", whole * 2]:
        path.write_bytes(changed)
        with pytest.raises(Corrupt) as raised:
            read_checkpoint(tmp_path)
        assert raised.value.file == str(path)


def test_a_missing_checkpoint_is_damage_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="missing") as raised:
        read_checkpoint(tmp_path)
    assert raised.value.file == str(tmp_path / CHECKPOINT_FILE)


@pytest.mark.parametrize("version", [0, 5, 65535])
def test_another_version_is_refused_and_not_guessed_at(tmp_path: Path, version: int) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(sealed(pack("what the future brings"), version))
    with pytest.raises(UnsupportedVersion, match=f"format {version}"):
        read_checkpoint(tmp_path)


FIELDS = (bytes(16), False, bytes(16), 7, (1, 40), bytes(8192))


VERSIONS = {1: (), 2: (LAYOUT_VERSION,), 3: (b"sums", LAYOUT_VERSION), 4: (b"sums", LAYOUT_VERSION)}
"""What the body of a checkpoint has behind `FIELDS`, by its version."""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_every_version_is_read(tmp_path: Path, version: int) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(sealed(pack((*FIELDS, *VERSIONS[version])), version))
    assert read_checkpoint(tmp_path) == (*FIELDS, b"sums" if version == 4 else b"")


@pytest.mark.parametrize("more", [(), (b"sums",)], ids=["version 2", "version 3"])
@pytest.mark.parametrize("layout", [LAYOUT_VERSION_MIN - 1, LAYOUT_VERSION + 1, 1 << 40])
def test_a_layout_that_is_not_known_is_refused_by_number(
    tmp_path: Path, layout: int, more: tuple[bytes, ...]
) -> None:
    body = pack((*FIELDS, *more, layout))
    (tmp_path / CHECKPOINT_FILE).write_bytes(sealed(body, 2 + len(more)))
    with pytest.raises(UnsupportedVersion, match=f"layout {layout}"):
        read_checkpoint(tmp_path)
    with pytest.raises(UnsupportedVersion, match=f"layout {layout}"):
        refuse_newer_program(tmp_path)


def test_damage_does_not_look_like_a_newer_program(tmp_path: Path) -> None:
    refuse_newer_program(tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"damage")
    refuse_newer_program(tmp_path)


def with_field(n: int, value: Any) -> tuple[Any, ...]:
    return (*FIELDS[:n], value, *FIELDS[n + 1 :])


@pytest.mark.parametrize(
    "fields",
    [
        None,
        7,
        "text",
        (),
        FIELDS[:-1],
        (*FIELDS, 1),
        with_field(0, "a name"),
        with_field(1, 1),
        with_field(2, None),
        with_field(3, "seven"),
        with_field(3, -1),
        with_field(4, 40),
        with_field(4, (1,)),
        with_field(4, (1, 40, 2)),
        with_field(4, ("one", 40)),
        with_field(4, (0, 40)),
        with_field(4, (1, -1)),
        with_field(5, None),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_body_that_no_checkpoint_has_is_damage(tmp_path: Path, fields: Any, version: int) -> None:
    body = (*fields, *VERSIONS[version]) if isinstance(fields, tuple) else fields
    (tmp_path / CHECKPOINT_FILE).write_bytes(sealed(pack(body), version))
    with pytest.raises(Corrupt):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_the_disk_does_not_give_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    write_checkpoint(tmp_path, ONE)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(PillarboxError, match="checkpoint"):
        read_checkpoint(tmp_path)


# -- a disk that fails


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", [1, 2])
def test_a_failed_flush_leaves_a_whole_checkpoint_the_old_one_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, code: int
) -> None:
    write_checkpoint(tmp_path, ONE)
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFull if code == errno.ENOSPC else PillarboxError):
            write_checkpoint(tmp_path, TWO)
    assert read_checkpoint(tmp_path) == (ONE if call == 1 else TWO)


def test_a_file_is_flushed_before_it_is_renamed_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_replace(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name} to {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_atomically(tmp_path / "small", b"data")
    assert done == ["flush small.new", "rename small.new to small", f"flush {tmp_path.name}"]
    assert (tmp_path / "small").read_bytes() == b"data"


# -- the start of the machine


def test_the_boot_is_the_same_until_the_machine_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "boot_id"
    monkeypatch.setattr(checkpoint_module, "_BOOT_ID", told)
    told.write_text("3b52c5a4-6a1e-4f0c-9a80-0d2c1e0f7a11\n")
    first = boot_identity()
    assert first == bytes.fromhex("3b52c5a46a1e4f0c9a800d2c1e0f7a11") == boot_identity()
    told.write_text("3b52c5a4-6a1e-4f0c-9a80-0d2c1e0f7a12\n")
    assert boot_identity() != first


@pytest.mark.parametrize("told", [None, "", "no identity", "\0"])
def test_a_system_that_does_not_tell_its_boot_is_taken_for_a_new_one_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    path = tmp_path / "boot_id"
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(checkpoint_module, "_BOOT_ID", path)
    first, second = boot_identity(), boot_identity()
    assert len(first) == len(second) == 16
    assert first != second


def test_the_next_checkpoint_is_written_into_room_that_it_has(tmp_path: Path) -> None:
    first = Checkpoint(bytes(16), False, bytes(16), 7, Position(1, 40), bytes(8192))
    write_checkpoint(tmp_path, first)
    new = tmp_path / f"{CHECKPOINT_FILE}.new"
    taken = new.stat()
    assert taken.st_blocks * 512 >= 8192
    write_checkpoint(tmp_path, first._replace(sequence=8))
    assert (tmp_path / CHECKPOINT_FILE).stat().st_ino == taken.st_ino
    assert read_checkpoint(tmp_path).sequence == 8
