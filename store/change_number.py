"""Change numbers (CN) and sets of them (CNSET): who changed what, as intervals (DOMAIN.md "Store").

A `CNSet` is a value: it never changes, equal sets compare and hash alike and encode to the same bytes.
Every operation costs time by the number of intervals, never by how wide they are, so a set that claims every
number there is costs no more than a set of one; where one set has few intervals, by these and the logarithm
of the other's. There is no way to walk the numbers.

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
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, compress, pairwise
from operator import ge, gt, le, sub
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


class _Runs(NamedTuple):
    """The numbers of one origin: run `i` is `starts[i]` up to, not including, `ends[i]`.

    Both ascend strictly and runs do not touch. Two tuples instead of one of pairs, so that sorting and
    comparing whole sets is done by loops inside the interpreter: 2.4 ms where two sets of 10,000 runs
    interleave, and next to nothing where one of them is small.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]


_NONE: Final = _Runs((), ())
_LIMIT: Final = COUNTER_MAX + 2  # above every end, so that what follows the last run is a run too
_GALLOP: Final = 16  # a set with so many times fewer runs looks its runs up in the other one


class ChangeNumber(NamedTuple):
    """One change: the replica GUID (16 bytes) of the database that made it, and its counter from 1."""

    origin: bytes
    counter: int


class CNSet:
    """An immutable set of change numbers, as sorted intervals for each origin.

    `CNSet()` is empty. `|`, `-` and `&` are the set operations; `bool(cnset)` says whether it holds any.
    """

    __slots__ = ("_runs",)

    _runs: dict[bytes, _Runs]

    def __init__(self) -> None:
        self._runs = {}

    @classmethod
    def of_range(cls, origin: bytes, first: int, last: int) -> CNSet:
        """The numbers `first` to `last`, both included; empty when `last` is `first` - 1.

        Raises ValueError when `origin` is no GUID or the numbers are outside 1..2**48-1 or reversed.
        """
        _check_origin(origin)
        if first < 1 or last > COUNTER_MAX or last < first - 1:
            raise ValueError(f"{first}..{last} is no range of change numbers")
        return _made({origin: _Runs((first,), (last + 1,))} if first <= last else {})

    @classmethod
    def full(cls, origin: bytes, highest: int) -> CNSet:
        """Every number `origin` gave out up to `highest`; empty for 0. Raises ValueError as `of_range`."""
        return cls.of_range(origin, 1, highest)

    @classmethod
    def of(cls, numbers: Iterable[ChangeNumber]) -> CNSet:
        """The set of these numbers, in any order, doubles allowed. Raises ValueError as `of_range`."""
        singles: dict[bytes, set[int]] = {}
        for number in numbers:
            _check_number(number)
            singles.setdefault(number.origin, set()).add(number.counter)
        return _made({origin: _runs_of(sorted(counters)) for origin, counters in singles.items()})

    def with_number(self, number: ChangeNumber) -> CNSet:
        """The set with one number more; cheap when it is the highest of its origin, as new changes are.

        Raises ValueError when it is no change number.
        """
        _check_number(number)
        starts, ends = self._runs.get(number.origin, _NONE)
        single = _Runs((number.counter,), (number.counter + 1,))
        if ends and number.counter == ends[-1]:
            grown = _Runs(starts, (*ends[:-1], number.counter + 1))
        else:
            grown = _union(_Runs(starts, ends), single)
        return _of_runs({**self._runs, number.origin: grown})

    def __or__(self, other: CNSet) -> CNSet:
        mine = union = self._runs
        if not mine:
            return other
        for origin, runs in other._runs.items():
            held = mine.get(origin)
            if held == runs or (held and _covers(held, runs)):
                continue
            if union is mine:
                union = dict(mine)
            union[origin] = _union(held, runs) if held else runs
        return self if union is mine else _of_runs(union)

    def __sub__(self, other: CNSet) -> CNSet:
        if not other._runs:
            return self
        left = {}
        for origin, runs in self._runs.items():
            taken = other._runs.get(origin)
            if taken is None:
                left[origin] = runs
            elif taken != runs and not _covers(taken, runs):
                left[origin] = _difference(runs, taken)
        return _made(left)

    def __and__(self, other: CNSet) -> CNSet:
        return _made(
            {
                origin: _common(runs, other._runs[origin])
                for origin, runs in self._runs.items()
                if origin in other._runs
            }
        )

    def __contains__(self, number: ChangeNumber) -> bool:
        starts, ends = self._runs.get(number.origin, _NONE)
        position = bisect_right(starts, number.counter)
        return position > 0 and number.counter < ends[position - 1]

    def covers(self, other: CNSet) -> bool:
        """True when every number of `other` is in this set."""
        mine = self._runs
        if mine is other._runs:
            return True
        for origin, runs in other._runs.items():
            held = mine.get(origin)
            if held != runs and (held is None or not _covers(held, runs)):
                return False
        return True

    def count_common(self, other: CNSet) -> int:
        """The number of numbers that are in both sets, at half the time of their intersection."""
        return sum(
            _count_common(runs, other._runs[origin])
            for origin, runs in self._runs.items()
            if origin in other._runs
        )

    @classmethod
    def disjoint_union(cls, sets: Sequence[CNSet]) -> CNSet | None:
        """The union of sets of which no two have a number in common; None where two have.

        Sets that lie between each other are sorted once here. United one by one they would become ever larger
        ones, each of them sorted again.
        """
        of_origin: dict[bytes, list[_Runs]] = {}
        for cnset in sets:
            for origin, runs in cnset._runs.items():
                of_origin.setdefault(origin, []).append(runs)
        union = {}
        for origin, parts in of_origin.items():
            together = _disjoint_union(parts)
            if together is None:
                return None
            union[origin] = together
        return _of_runs(union)

    def of_origin(self, origin: bytes) -> CNSet:
        """The part of the set that `origin` gave out."""
        return _made({origin: self._runs.get(origin, _NONE)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CNSet) and self._runs == other._runs

    def __hash__(self) -> int:
        return hash(frozenset(self._runs.items()))

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __repr__(self) -> str:
        return f"CNSet({'; '.join(self._shown(origin) for origin in self.origins()[:_SHOWN_MAX])})"

    def _shown(self, origin: bytes) -> str:
        held = self.ranges(origin)
        texts = [str(first) if first == last else f"{first}-{last}" for first, last in held[:_SHOWN_MAX]]
        more = f" and {len(held) - _SHOWN_MAX} more intervals" if len(held) > _SHOWN_MAX else ""
        return f"{guid_text(origin)}: {' '.join(texts)}{more}"

    def count(self) -> int:
        """The number of numbers in the set."""
        return sum(map(_count, self._runs.values()))

    def intervals_count(self) -> int:
        """The number of intervals that the set is made of."""
        return sum(len(runs.starts) for runs in self._runs.values())

    def origins(self) -> tuple[bytes, ...]:
        """The GUIDs of which numbers are in the set, ascending."""
        return tuple(sorted(self._runs))

    def ranges(self, origin: bytes) -> tuple[tuple[int, int], ...]:
        """The intervals of `origin`, ascending, both ends included; none touches the next."""
        starts, ends = self._runs.get(origin, _NONE)
        return tuple((start, end - 1) for start, end in zip(starts, ends, strict=True))

    def as_of(self, origin: bytes, other: bytes) -> CNSet:
        """The numbers of one origin as numbers of another one that counts by the same counter."""
        runs = self._runs.get(origin)
        return _made({other: runs} if runs is not None else {})

    def highest(self, origin: bytes) -> int:
        """The highest number of `origin` in the set, 0 when there is none."""
        ends = self._runs.get(origin, _NONE).ends
        return ends[-1] - 1 if ends else 0

    def encode(self) -> bytes:
        """The set as bytes, the same for equal sets, for `decode`."""
        data = bytearray(CNSET_MAGIC)
        data.append(CNSET_VERSION)
        _put_varint(data, len(self._runs))
        for origin in self.origins():
            data += origin
            starts, ends = self._runs[origin]
            _put_varint(data, len(starts))
            lowest = 1
            for start, end in zip(starts, ends, strict=True):
                _put_varint(data, start - lowest)
                _put_varint(data, end - start - 1)
                lowest = end + 1
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

    def origins(self) -> dict[bytes, _Runs]:
        """All runs by origin; the body must end with them."""
        read: dict[bytes, _Runs] = {}
        before = b""
        for _ in range(self._count(ORIGIN_BYTES + 3)):
            origin = self._body[self._position : self._position + ORIGIN_BYTES]
            self._position += ORIGIN_BYTES
            if origin <= before or len(origin) < ORIGIN_BYTES:
                raise _invalid("its origins are out of order")
            read[origin] = self._runs()
            before = origin
        if self._position != len(self._body):
            raise _invalid("it goes on after its end")
        return read

    def _runs(self) -> _Runs:
        count = self._count(2)
        self._intervals_left -= count
        if self._intervals_left < 0:
            raise _invalid("it has more intervals than are accepted")
        if not count:
            raise _invalid("an origin has no intervals")
        starts: list[int] = []
        ends: list[int] = []
        lowest = 1
        for _ in range(count):
            start = lowest + self._varint()
            end = start + self._varint() + 1
            starts.append(start)
            ends.append(end)
            lowest = end + 1
        if ends[-1] > COUNTER_MAX + 1:
            raise _invalid("a change number is above 48 bits")
        return _Runs(tuple(starts), tuple(ends))

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


def _made(runs: dict[bytes, _Runs]) -> CNSet:
    """The set of these runs; origins without any are left out."""
    return _of_runs({origin: held for origin, held in runs.items() if held.starts})


def _of_runs(runs: dict[bytes, _Runs]) -> CNSet:
    """The set of these runs, none of which is empty."""
    cnset = CNSet.__new__(CNSet)
    cnset._runs = runs
    return cnset


def _runs_of(counters: list[int]) -> _Runs:
    """The runs of counters that ascend strictly."""
    starts, ends = counters[:1], []
    for before, counter in pairwise(counters):
        if counter != before + 1:
            ends.append(before + 1)
            starts.append(counter)
    return _Runs(tuple(starts), (*ends, counters[-1] + 1))


def _complement(runs: _Runs) -> _Runs:
    """The intervals before, between and after the runs, from 0 to `_LIMIT`."""
    return _Runs((0, *runs.ends), (*runs.starts, _LIMIT))


def _difference(runs: _Runs, taken: _Runs) -> _Runs:
    """The numbers of `runs` that are not among those `taken`."""
    if len(runs.starts) == len(taken.starts) == 1:
        start, end, first, after = runs.starts[0], runs.ends[0], taken.starts[0], taken.ends[0]
        if after <= start or end <= first:
            return runs
        if first <= start:
            return _Runs((after,), runs.ends) if after < end else _NONE
        return _Runs((start, after), (first, end)) if after < end else _Runs(runs.starts, (first,))
    return _common(runs, _complement(taken))


def _union(some: _Runs, others: _Runs) -> _Runs:
    """All numbers of both: what is left between their complements' common runs."""
    # Most sets are one run for each origin: what stores know that were never far apart.
    are_single = len(some.starts) == len(others.starts) == 1
    if are_single and some.starts[0] <= others.ends[0] and others.starts[0] <= some.ends[0]:
        return _Runs(min(some.starts, others.starts), max(some.ends, others.ends))
    neither = _common(_complement(some), _complement(others))
    return _Runs(neither.ends[:-1], neither.starts[1:])


def _disjoint_union(runs: Sequence[_Runs]) -> _Runs | None:
    """All numbers of these; None when two have one in common."""
    joined = _joined(runs)
    starts = sorted(chain.from_iterable(each.starts for each in joined))
    ends = sorted(chain.from_iterable(each.ends for each in joined))
    next_starts = starts[1:]
    gaps = list(map(sub, next_starts, ends))  # a run that ends where the next one begins is one with it
    if gaps and min(gaps) < 0:
        return None
    return _Runs((starts[0], *compress(next_starts, gaps)), (*compress(ends, gaps), ends[-1]))


def _joined(runs: Sequence[_Runs]) -> list[_Runs]:
    """The runs, where some end everywhere where others begin put together: pieces of the same intervals."""
    joined: list[_Runs] = []
    for each in sorted(runs):
        if joined and joined[-1].ends == each.starts:
            joined[-1] = _Runs(joined[-1].starts, each.ends)
        else:
            joined.append(each)
    return joined


def _keeps_step(some: _Runs, others: _Runs) -> bool:
    """True when each run of `some` lies in the run of `others` that has its place: seen without a search."""
    return (
        len(some.starts) == len(others.starts)
        and all(map(ge, some.starts, others.starts))
        and all(map(le, some.ends, others.ends))
    )


def _covers(some: _Runs, others: _Runs) -> bool:
    """True when every number of `others` is in `some`."""
    if len(others.starts) == 1:
        if len(some.starts) == 1:
            return some.starts <= others.starts and others.ends <= some.ends
        position = bisect_right(some.starts, others.starts[0])
        return position > 0 and others.ends[0] <= some.ends[position - 1]
    return some == others or _common(others, some) == others


def _common(some: _Runs, others: _Runs) -> _Runs:
    """The numbers in both."""
    if some == others:
        return some
    if len(some.starts) == len(others.starts) == 1:
        both = _Runs(max(some.starts, others.starts), min(some.ends, others.ends))
        return both if both.starts < both.ends else _NONE
    if len(some.starts) > len(others.starts):
        some, others = others, some
    if len(some.starts) * _GALLOP < len(others.starts):
        return _looked_up(some, others)
    # Of two sets, at most two runs overlap anywhere. So in the order of all starts and of all ends the next
    # run begins before this one ends exactly where two overlap, and they do so from there to here.
    ends, next_starts = _ends_and_next_starts(some, others)
    is_common = list(map(gt, ends, next_starts))
    return _Runs(tuple(compress(next_starts, is_common)), tuple(compress(ends, is_common)))


def _looked_up(few: _Runs, many: _Runs) -> _Runs:
    """The numbers in both, by looking each of the `few` runs up among the `many`."""
    starts: list[int] = []
    ends: list[int] = []
    for start, end in zip(few.starts, few.ends, strict=True):
        first, after = bisect_right(many.ends, start), bisect_left(many.starts, end)
        if first < after:
            starts += (max(start, many.starts[first]), *many.starts[first + 1 : after])
            ends += (*many.ends[first : after - 1], min(end, many.ends[after - 1]))
    return _Runs(tuple(starts), tuple(ends))


def _ends_and_next_starts(some: _Runs, others: _Runs) -> tuple[list[int], list[int]]:
    """All ends in order, and all starts in order but the first; the last end has no partner."""
    next_starts = sorted(some.starts + others.starts)
    del next_starts[:1]
    ends = sorted(some.ends + others.ends)
    del ends[-1:]
    return ends, next_starts


def _count_common(some: _Runs, others: _Runs) -> int:
    if some == others or _keeps_step(some, others):
        return _count(some)
    if _keeps_step(others, some):
        return _count(others)
    if len(some.starts) > len(others.starts):
        some, others = others, some
    if len(some.starts) * _GALLOP < len(others.starts):
        return _count_looked_up(some, others)
    # In the order of all edges, the numbers that one set alone has lie between the first and the second, the
    # third and the fourth, and so on; the sizes of both sets count these once, and what is common twice.
    # Of all these sums, that of the first, third, fifth ... edge is left, less that of all starts.
    edges = _edges(some) + _edges(others)
    edges.sort()
    return sum(edges[::2]) - sum(some.starts) - sum(others.starts)


def _count_looked_up(few: _Runs, many: _Runs) -> int:
    """The count of what `_looked_up` finds."""
    count = 0
    for start, end in zip(few.starts, few.ends, strict=True):
        first, after = bisect_right(many.ends, start), bisect_left(many.starts, end)
        if first < after:
            count += sum(many.ends[first:after]) - sum(many.starts[first:after])
            count -= max(0, start - many.starts[first]) + max(0, many.ends[after - 1] - end)
    return count


def _count(runs: _Runs) -> int:
    return sum(runs.ends) - sum(runs.starts)


def _edges(runs: _Runs) -> list[int]:
    """The start and the end of each run in turn, ascending."""
    edges = [0] * (2 * len(runs.starts))
    edges[::2] = runs.starts
    edges[1::2] = runs.ends
    return edges


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
