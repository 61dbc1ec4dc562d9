"""Change numbers (CN) and sets of them (CNSET): who changed what, as intervals (DOMAIN.md "Store").

A `CNSet` is a value: it never changes, equal sets compare and hash alike and encode to the same bytes.
Every operation costs time in proportion to the number of intervals, never to how wide they are, so a set
that claims every number there is costs no more than a set of one. There is no way to walk the numbers.

Encoding, version 1 (docs/format.md, "Change number sets"); a varint is unsigned LEB128:

    4 bytes "PBCN" · 1 byte version · varint number of origins
    for each origin, in ascending order of bytes:
        16 bytes GUID · varint number of intervals, at least 1
        for each interval: varint gap · varint length less 1
    8 bytes XXH3-64 of all that stands before, big-endian

The gap counts the numbers left out since the interval before (for the first one, since 1), less the one
that must be missing between two intervals. So an encoding can't hold intervals that are unordered, doubled
or touch.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from pillarbox.store.errors import InvalidContent, UnsupportedVersion
from pillarbox.store.ids import COUNTER_MAX, guid_text

CNSET_MAGIC: Final = b"PBCN"
CNSET_VERSION: Final = 1
ORIGIN_BYTES: Final = 16
INTERVALS_MAX: Final = 1 << 20  # of a set that is decoded: they take 2 MB of bytes and some 150 MB of memory

_CHECKSUM_BYTES: Final = 8
_HEAD_BYTES: Final = len(CNSET_MAGIC) + 1
_VARINT_BYTES_MAX: Final = 7  # 49 bits: a 48-bit counter always fits
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_MAX: Final = 8

_Interval = tuple[int, int]
_Intervals = tuple[_Interval, ...]


class ChangeNumber(NamedTuple):
    """One change: the replica GUID (16 bytes) of the database that made it, and its counter from 1."""

    origin: bytes
    counter: int


class CNSet:
    """An immutable set of change numbers, as sorted intervals for each origin.

    `CNSet()` is empty. `|`, `-` and `&` are the set operations; `bool(cnset)` says whether it holds any.
    """

    __slots__ = ("_intervals",)

    _intervals: dict[bytes, _Intervals]

    def __init__(self) -> None:
        self._intervals = {}

    @classmethod
    def of_range(cls, origin: bytes, first: int, last: int) -> CNSet:
        """The numbers `first` to `last`, both included; empty when `last` is `first` - 1.

        Raises ValueError when `origin` is no GUID or the numbers are outside 1..2**48-1 or reversed.
        """
        _check_origin(origin)
        if first < 1 or last > COUNTER_MAX or last < first - 1:
            raise ValueError(f"{first}..{last} is no range of change numbers")
        return _made({origin: ((first, last),)} if first <= last else {})

    @classmethod
    def full(cls, origin: bytes, highest: int) -> CNSet:
        """Every number `origin` gave out up to `highest`; empty for 0. Raises ValueError as `of_range`."""
        return cls.of_range(origin, 1, highest)

    @classmethod
    def of(cls, numbers: Iterable[ChangeNumber]) -> CNSet:
        """The set of these numbers, in any order, doubles allowed. Raises ValueError as `of_range`."""
        singles: dict[bytes, list[_Interval]] = {}
        for number in numbers:
            _check_number(number)
            singles.setdefault(number.origin, []).append((number.counter, number.counter))
        return _made({origin: _joined(sorted(intervals)) for origin, intervals in singles.items()})

    def with_number(self, number: ChangeNumber) -> CNSet:
        """This set and one number more; cheap when it is the highest of its origin, as new changes are.

        Raises ValueError when it is no change number.
        """
        _check_number(number)
        held = self._intervals.get(number.origin, ())
        if number in self:
            return self
        if held and number.counter == held[-1][1] + 1:
            grown = (*held[:-1], (held[-1][0], number.counter))
        elif not held or number.counter > held[-1][1]:
            grown = (*held, (number.counter, number.counter))
        else:
            grown = _joined(sorted((*held, (number.counter, number.counter))))
        return _made({**self._intervals, number.origin: grown})

    def __or__(self, other: CNSet) -> CNSet:
        union = dict(self._intervals)
        for origin, intervals in other._intervals.items():
            held = union.get(origin)
            # Sorting two sorted runs put together only merges them.
            union[origin] = _joined(sorted(held + intervals)) if held else intervals
        return _made(union)

    def __sub__(self, other: CNSet) -> CNSet:
        return _made(
            {
                origin: _without(intervals, other._intervals.get(origin, ()))
                for origin, intervals in self._intervals.items()
            }
        )

    def __and__(self, other: CNSet) -> CNSet:
        return _made(
            {
                origin: _common(intervals, other._intervals.get(origin, ()))
                for origin, intervals in self._intervals.items()
            }
        )

    def __contains__(self, number: ChangeNumber) -> bool:
        held = self._intervals.get(number.origin, ())
        position = bisect_right(held, (number.counter, COUNTER_MAX))
        return position > 0 and held[position - 1][1] >= number.counter

    def covers(self, other: CNSet) -> bool:
        """Whether every number of `other` is in this set."""
        return all(
            not _without(intervals, self._intervals.get(origin, ()))
            for origin, intervals in other._intervals.items()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CNSet) and self._intervals == other._intervals

    def __hash__(self) -> int:
        return hash(frozenset(self._intervals.items()))

    def __bool__(self) -> bool:
        return bool(self._intervals)

    def __repr__(self) -> str:
        return f"CNSet({'; '.join(self._shown(origin) for origin in self.origins()[:_SHOWN_MAX])})"

    def _shown(self, origin: bytes) -> str:
        held = self._intervals[origin]
        texts = [str(first) if first == last else f"{first}-{last}" for first, last in held[:_SHOWN_MAX]]
        more = f" and {len(held) - _SHOWN_MAX} more intervals" if len(held) > _SHOWN_MAX else ""
        return f"{guid_text(origin)}: {' '.join(texts)}{more}"

    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(last - first + 1 for intervals in self._intervals.values() for first, last in intervals)

    def origins(self) -> tuple[bytes, ...]:
        """The GUIDs of which numbers are in the set, ascending."""
        return tuple(sorted(self._intervals))

    def ranges(self, origin: bytes) -> tuple[tuple[int, int], ...]:
        """The intervals of `origin`, ascending, both ends included; none touches the next."""
        return self._intervals.get(origin, ())

    def highest(self, origin: bytes) -> int:
        """The highest number of `origin` in the set, 0 when there is none."""
        held = self._intervals.get(origin)
        return held[-1][1] if held else 0

    def encode(self) -> bytes:
        """The set as bytes, the same for equal sets, for `decode`."""
        data = bytearray(CNSET_MAGIC)
        data.append(CNSET_VERSION)
        _put_varint(data, len(self._intervals))
        for origin in self.origins():
            data += origin
            _put_varint(data, len(self._intervals[origin]))
            lowest = 1
            for first, last in self._intervals[origin]:
                _put_varint(data, first - lowest)
                _put_varint(data, last - first)
                lowest = last + 2
        return bytes(data) + xxh3_64_digest(data)

    @classmethod
    def decode(cls, data: bytes, *, intervals_max: int = INTERVALS_MAX) -> CNSet:
        """The set that `encode` wrote. `data` may come from anyone; memory and time are linear in its length.

        Raises UnsupportedVersion for a version unknown here, and InvalidContent for anything that `encode`
        does not write, or for more than `intervals_max` intervals.
        """
        if data[: len(CNSET_MAGIC)] != CNSET_MAGIC:
            raise _invalid("it does not begin as one")
        if data[len(CNSET_MAGIC) : _HEAD_BYTES] not in (b"", bytes([CNSET_VERSION])):
            raise UnsupportedVersion(
                f"a change number set is of version {data[len(CNSET_MAGIC)]}",
                hint=f"this program reads version {CNSET_VERSION}; use a newer one",
            )
        body = data[:-_CHECKSUM_BYTES]
        if len(body) <= _HEAD_BYTES or xxh3_64_digest(body) != data[-_CHECKSUM_BYTES:]:
            raise _invalid("it is cut short or changed: its checksum does not hold")
        return _made(_Reader(body, _HEAD_BYTES, intervals_max).origins())

    def to_text(self) -> str:
        """The set as text that fits a URL: unpadded base64url (RFC 4648, section 5) of `encode`."""
        return base64.urlsafe_b64encode(self.encode()).rstrip(b"=").decode("ascii")

    @classmethod
    def from_text(cls, text: str, *, intervals_max: int = INTERVALS_MAX) -> CNSet:
        """The set that `to_text` wrote. Raises as `decode`, also for text that `to_text` does not write."""
        if not _TEXT.fullmatch(text):
            raise _invalid("its text is not unpadded URL-safe base64")
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error as error:
            raise _invalid(f"its text is not base64: {error}") from error
        cnset = cls.decode(data, intervals_max=intervals_max)
        if cnset.to_text() != text:
            raise _invalid("its text has bits to spare that are not 0")
        return cnset


class _Reader:
    """Reads the body of an encoded set, trusting nothing of it but its checksum."""

    def __init__(self, body: bytes, position: int, intervals_max: int) -> None:
        self._body = body
        self._position = position
        self._intervals_left = intervals_max

    def origins(self) -> dict[bytes, _Intervals]:
        """All intervals by origin; the body must end with them."""
        read: dict[bytes, _Intervals] = {}
        before = b""
        for _ in range(self._count(ORIGIN_BYTES + 3)):
            origin = self._body[self._position : self._position + ORIGIN_BYTES]
            self._position += ORIGIN_BYTES
            if origin <= before or len(origin) < ORIGIN_BYTES:
                raise _invalid("its origins are out of order")
            read[origin] = self._intervals()
            before = origin
        if self._position != len(self._body):
            raise _invalid("it goes on after its end")
        return read

    def _intervals(self) -> _Intervals:
        count = self._count(2)
        self._intervals_left -= count
        if self._intervals_left < 0:
            raise _invalid("it has more intervals than are accepted")
        if not count:
            raise _invalid("an origin has no intervals")
        read: list[_Interval] = []
        lowest = 1
        for _ in range(count):
            first = lowest + self._varint()
            last = first + self._varint()
            read.append((first, last))
            lowest = last + 2
        if read[-1][1] > COUNTER_MAX:
            raise _invalid("a change number is above 48 bits")
        return tuple(read)

    def _count(self, bytes_each: int) -> int:
        count = self._varint()
        if count * bytes_each > len(self._body) - self._position:
            raise _invalid("it announces more than it holds")
        return count

    def _varint(self) -> int:
        value = shift = 0
        for byte in self._body[self._position : self._position + _VARINT_BYTES_MAX]:
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift:
                    raise _invalid("a number is written longer than it need be")
                return value
            shift += 7
        raise _invalid("a number has no end")


def _made(intervals: dict[bytes, _Intervals]) -> CNSet:
    """A set of these sorted, disjoint intervals that do not touch; origins without any are left out."""
    cnset = CNSet()
    cnset._intervals = {origin: held for origin, held in intervals.items() if held}
    return cnset


def _joined(intervals: Iterable[_Interval]) -> _Intervals:
    """Sorted intervals, with those that overlap or touch made one."""
    joined: list[_Interval] = []
    for first, last in intervals:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _without(intervals: _Intervals, removed: _Intervals) -> _Intervals:
    if not removed:
        return intervals
    left: list[_Interval] = []
    position = 0
    for first, last in intervals:
        while position < len(removed) and removed[position][0] <= last:
            removed_first, removed_last = removed[position]
            if removed_first > first:
                left.append((first, removed_first - 1))
            first = max(first, removed_last + 1)
            if removed_last > last:
                break  # it may reach into the next interval too
            position += 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def _common(some: _Intervals, others: _Intervals) -> _Intervals:
    common: list[_Interval] = []
    position = 0
    for first, last in some:
        while position < len(others) and others[position][0] <= last:
            other_first, other_last = others[position]
            if other_last >= first:
                common.append((max(first, other_first), min(last, other_last)))
            if other_last > last:
                break
            position += 1
    return tuple(common)


def _check_origin(origin: bytes) -> None:
    if len(origin) != ORIGIN_BYTES:
        raise ValueError(f"an origin is a GUID of {ORIGIN_BYTES} bytes, not {len(origin)}")


def _check_number(number: ChangeNumber) -> None:
    _check_origin(number.origin)
    if not 1 <= number.counter <= COUNTER_MAX:
        raise ValueError(f"{number.counter} is no change number")


def _put_varint(data: bytearray, value: int) -> None:
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


def _invalid(reason: str) -> InvalidContent:
    return InvalidContent(
        f"not a change number set: {reason}",
        hint="start from an empty set: everything is then given once more",
    )
