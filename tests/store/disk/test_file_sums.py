"""Sums of a file find whatever becomes of it, and tell where."""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

import pytest

from pillarbox.store.disk.file_sums import STRETCH_BYTES, SUM_BYTES, Difference, difference, sums_of

BYTES = random.Random(1).randbytes(3 * STRETCH_BYTES + 700)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(BYTES)
    return made


@pytest.mark.parametrize("length", [0, 1, STRETCH_BYTES, STRETCH_BYTES + 1, len(BYTES)])
def test_a_file_is_as_its_sums_say(path: Path, length: int) -> None:
    path.write_bytes(BYTES[:length])
    sums = sums_of(path)
    assert len(sums) == SUM_BYTES * -(-length // STRETCH_BYTES)
    assert difference(path, sums) is None


def test_a_system_that_gives_less_than_was_asked_for_changes_no_sum(path: Path) -> None:
    reading, writing = os.pipe2(os.O_DIRECT)  # gives each write by itself
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 18)
    for start in range(0, len(BYTES[:100_000]), 3000):
        os.write(writing, BYTES[start : min(start + 3000, 100_000)])
    os.close(writing)
    path.write_bytes(BYTES[:100_000])
    assert sums_of(Path(f"/proc/self/fd/{reading}")) == sums_of(path)
    os.close(reading)


@pytest.mark.parametrize("at", [0, STRETCH_BYTES - 1, STRETCH_BYTES, len(BYTES) - 1])
def test_a_bit_that_changed_is_found_in_its_stretch(path: Path, at: int) -> None:
    sums = sums_of(path)
    path.write_bytes(BYTES[:at] + bytes([BYTES[at] ^ 1]) + BYTES[at + 1 :])
    assert difference(path, sums) == Difference(at // STRETCH_BYTES * STRETCH_BYTES, 1)


def test_stretches_that_changed_places_are_found(path: Path) -> None:
    sums = sums_of(path)
    path.write_bytes(
        BYTES[STRETCH_BYTES : 2 * STRETCH_BYTES] + BYTES[:STRETCH_BYTES] + BYTES[2 * STRETCH_BYTES :]
    )
    assert difference(path, sums) == Difference(0, 2)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (BYTES[:-1], Difference(3 * STRETCH_BYTES, 1)),
        (BYTES[: 3 * STRETCH_BYTES], Difference(3 * STRETCH_BYTES, 1)),
        (BYTES[:STRETCH_BYTES], Difference(STRETCH_BYTES, 3)),
        (b"", Difference(0, 4)),
        (BYTES + b"\0", Difference(3 * STRETCH_BYTES, 1)),
        (BYTES + bytes(STRETCH_BYTES), Difference(3 * STRETCH_BYTES, 2)),
    ],
)
def test_a_file_that_became_shorter_or_longer_is_found(path: Path, changed: bytes, found: Difference) -> None:
    sums = sums_of(path)
    path.write_bytes(changed)
    assert difference(path, sums) == found
