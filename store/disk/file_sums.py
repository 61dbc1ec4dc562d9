"""Sums of a file that nobody changes: they find any damage of it, and tell where.

LMDB has no checksums of its pages, and a page of an older time is sound in itself. So a clean dismount sums
up the property file as it is left, and the next mount finds it as it was (docs/format.md, "Checkpoint").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

STRETCH_BYTES: Final = 1 << 16
SUM_BYTES: Final = 8


class Difference(NamedTuple):
    """Where a file is not as its sums say: the offset of the first stretch of 64 KiB, and their number."""

    offset: int
    stretches: int


def sums_of(path: Path) -> bytes:
    """XXH3-64 of each 64 KiB of a file, the last of which may be shorter. Raises OSError."""
    return b"".join(_sums(path))


def _sums(path: Path) -> Iterator[bytes]:
    stretch = memoryview(bytearray(STRETCH_BYTES))
    with path.open("rb") as file:  # buffered: it reads on where the system gives less than was asked for
        while length := file.readinto(stretch):
            yield xxh3_64_digest(stretch[:length])


def difference(path: Path, sums: bytes) -> Difference | None:
    """Where a file is not what it was when `sums` were taken; None when it is. Raises OSError."""
    found = sums_of(path)
    if found == sums:
        return None
    different = [
        at
        for at in range(0, max(len(found), len(sums)), SUM_BYTES)
        if found[at : at + SUM_BYTES] != sums[at : at + SUM_BYTES]
    ]
    return Difference(different[0] // SUM_BYTES * STRETCH_BYTES, len(different))
