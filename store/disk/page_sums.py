"""Sums of the pages of a property file that a state of it uses: they find any damage of it, and tell where.

LMDB has no checksums of its pages, and a page of an older time is sound in itself. So a checkpoint has the
sums of all pages of its state, and the next mount finds them as they were (docs/format.md, "Checkpoint").

LMDB never writes to a page of a state that somebody reads, and the state of the last checkpoint is read until
the next one is made. So from one checkpoint to the next only pages that were free are summed up. What a free
page holds means nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from pillarbox.store.disk.env import META_BYTES, PAGE_BYTES
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import Corrupt

SUM_BYTES: Final = 8
_FREE: Final = bytes(SUM_BYTES)
_META_PAGES: Final = META_BYTES // PAGE_BYTES
_READ_PAGES: Final = 256

# In a meta page: the root of the tree of free pages; the last page, LMDB's number of the transaction.
_ROOT_AT: Final = 80
_END_AT: Final = 136
_NUMBER: Final = struct.Struct("<Q")
_END: Final = struct.Struct("<2Q")
_NO_PAGE: Final = (1 << 64) - 1
# In the header of a page: its flags, and where the offsets of its rows end. The head of a row: the length of
# its value or, in a branch, a page, in three parts with the flags; the length of its key.
_PAGE: Final = struct.Struct("<10xHH2x")
_ROW: Final = struct.Struct("<4H")
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x01


class PageSums(NamedTuple):
    """XXH3-64 of each page of a state, one after the other; 8 zero bytes for meta pages and free ones."""

    sums: bytes
    free: frozenset[int]

    @classmethod
    def known(cls, sums: bytes) -> PageSums:
        """As they stand in a checkpoint."""
        pages = range(_META_PAGES, len(sums) // SUM_BYTES)
        return cls(sums, frozenset(page for page in pages if _sum_in(sums, page) == _FREE))

    @classmethod
    def of(cls, path: Path, meta_pages: bytes) -> PageSums:
        """The sums of the state of a property file that meta pages lead to, and whose pages nobody writes.

        Raises Corrupt when the list of its free pages cannot be read, or the file is cut short; a disk error.
        """
        return cls(bytes(_META_PAGES * SUM_BYTES), frozenset()).followed(path, meta_pages)

    def followed(self, path: Path, meta_pages: bytes) -> PageSums:
        """The sums of a later state, by these of a state that was read until then. Raises as `of`."""
        try:
            with path.open("rb") as file:
                last, free = _last_and_free(file.fileno(), meta_pages)
                length = (last + 1) * SUM_BYTES
                sums = bytearray(self.sums[:length].ljust(length, b"\0"))
                for page in free - self.free:
                    sums[page * SUM_BYTES : (page + 1) * SUM_BYTES] = _FREE
                used_again = sorted(page for page in self.free - free if page <= last)
                new = (page for page in range(len(self.sums) // SUM_BYTES, last + 1) if page not in free)
                for first, count in _runs(chain(used_again, new)):
                    data = _pages(file.fileno(), first, count)
                    sums[first * SUM_BYTES : (first + count) * SUM_BYTES] = _sums_of(data)
        except _Bent as error:
            raise Corrupt(f"{path}: {error}", file=str(path)) from error
        except OSError as error:
            raise disk_error(error, str(path)) from error
        return PageSums(bytes(sums), free)


class Difference(NamedTuple):
    """Where a file is not as its sums say: the offset of the first page, and their number."""

    offset: int
    pages: int


def difference(path: Path, sums: bytes) -> Difference | None:
    """Where a file is not what it was when `sums` were taken; None when it is. Raises OSError."""
    different: list[int] = []
    with path.open("rb") as file:
        for first in range(0, len(sums) // SUM_BYTES, _READ_PAGES):
            expected = sums[first * SUM_BYTES : (first + _READ_PAGES) * SUM_BYTES]
            pages = range(len(expected) // SUM_BYTES)
            found = _sums_of(file.read(len(pages) * PAGE_BYTES))
            if found != expected:
                different += [
                    first + page
                    for page in pages
                    if _sum_in(expected, page) not in (_FREE, _sum_in(found, page))
                ]
    return Difference(different[0] * PAGE_BYTES, len(different)) if different else None


def _sum_in(sums: bytes, page: int) -> bytes:
    return sums[page * SUM_BYTES : (page + 1) * SUM_BYTES]


def _sums_of(data: bytes) -> bytes:
    view = memoryview(data)
    return b"".join([xxh3_64_digest(view[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)])


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending pages as runs of neighbours: the first of each, and their number."""
    first = count = 0
    for page in pages:
        if count and page == first + count and count < _READ_PAGES:
            count += 1
        else:
            if count:
                yield first, count
            first, count = page, 1
    if count:
        yield first, count


class _Bent(Exception):
    """The list of free pages cannot be read, or the file lacks pages; says where."""


def _pages(file: int, first: int, count: int) -> bytes:
    data = os.pread(file, count * PAGE_BYTES, first * PAGE_BYTES)
    if len(data) < count * PAGE_BYTES:
        raise _Bent(f"the file is cut short at page {first + len(data) // PAGE_BYTES}")
    return data


def _last_and_free(file: int, meta_pages: bytes) -> tuple[int, frozenset[int]]:
    """The last page of the state that meta pages lead to, and the pages that it does not use."""
    ends = [(_END.unpack_from(meta_pages, at + _END_AT), at) for at in range(0, META_BYTES, PAGE_BYTES)]
    (last, _), meta = max(ends, key=lambda end: end[0][1])
    (root,) = _NUMBER.unpack_from(meta_pages, meta + _ROOT_AT)
    free: set[int] = set()
    for pages in _free_lists(file, root, last):
        free.update(pages)
    if free and not (min(free) >= _META_PAGES and max(free) <= last):
        raise _Bent("the list of free pages names pages that are not there")
    return last, frozenset(free)


def _free_lists(file: int, root: int, last: int) -> Iterator[tuple[int, ...]]:
    """The pages of each row of the tree of free pages."""
    waiting = [] if root == _NO_PAGE else [root]
    seen = 0
    while waiting:
        number = waiting.pop()
        seen += 1
        if number > last or seen > last:
            raise _Bent(f"the list of free pages leads to page {number}, or in circles")
        page = _pages(file, number, 1)
        flags, end = _PAGE.unpack_from(page)
        if flags not in (_BRANCH, _LEAF) or end > PAGE_BYTES:
            raise _Bent(f"page {number} is none of the list of free pages")
        for slot in range(_PAGE.size, end, 2):
            row = int.from_bytes(page[slot : slot + 2], "little")
            try:
                low, high, row_flags, key_bytes = _ROW.unpack_from(page, row)
                if flags == _BRANCH:
                    waiting.append(low | high << 16 | row_flags << 32)
                    continue
                value, length = row + _ROW.size + key_bytes, low | high << 16
                if row_flags & _OVERFLOW:
                    (first,) = _NUMBER.unpack_from(page, value)
                    count = (_PAGE.size + length - 1) // PAGE_BYTES + 1
                    if first + count - 1 > last:
                        raise _Bent(f"the list of free pages leads to page {first}")
                    numbers = _pages(file, first, count)[_PAGE.size : _PAGE.size + length]
                else:
                    numbers = page[value : value + length]
                (held,) = _NUMBER.unpack_from(numbers)
                yield struct.unpack_from(f"<{held}Q", numbers, _NUMBER.size)
            except (struct.error, OverflowError) as error:
                raise _Bent(f"page {number} is none of the list of free pages") from error
