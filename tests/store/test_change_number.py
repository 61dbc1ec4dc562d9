"""Change number sets behave as sets of numbers, encode canonically and refuse what they did not write."""

from __future__ import annotations

import base64
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from pillarbox.store.change_number import CNSET_MAGIC, INTERVALS_MAX, ChangeNumber, CNSet
from pillarbox.store.errors import InvalidContent, UnsupportedVersion
from pillarbox.store.ids import COUNTER_MAX

A = bytes(range(16))
B = bytes(range(16, 32))
C = b"\xff" * 16

steady = settings(deadline=None)

# Small counters so that intervals touch and overlap; large ones so that the ends of the space are met.
counters = st.one_of(st.integers(1, 30), st.integers(COUNTER_MAX - 3, COUNTER_MAX))
numbers = st.builds(ChangeNumber, st.sampled_from([A, B, C]), counters)
number_sets = st.frozensets(numbers, max_size=40)


def sealed(body: bytes) -> bytes:
    """`body` with a checksum that holds: what an enemy who knows the format would send."""
    return body + xxh3_64_digest(body)


def framed(*parts: bytes | int) -> bytes:
    """A version 1 encoding made by hand: small varints as numbers."""
    return sealed(CNSET_MAGIC + b"\x01" + b"".join(bytes([p]) if isinstance(p, int) else p for p in parts))


def numbers_in(cnset: CNSet) -> set[ChangeNumber]:
    return {
        ChangeNumber(origin, counter)
        for origin in cnset.origins()
        for first, last in cnset.ranges(origin)
        for counter in range(first, last + 1)
    }


@steady
@given(number_sets, number_sets)
def test_algebra_is_that_of_sets(some: frozenset[ChangeNumber], others: frozenset[ChangeNumber]) -> None:
    left, right = CNSet.of(some), CNSet.of(others)
    assert numbers_in(left | right) == some | others
    assert numbers_in(left - right) == some - others
    assert numbers_in(left & right) == some & others
    assert left.covers(right) == (some >= others)
    assert (left == right) == (some == others)
    assert bool(left) == bool(some)
    assert left.count() == len(some)


@steady
@given(number_sets, number_sets)
def test_however_a_set_came_about_it_is_the_same_value(
    some: frozenset[ChangeNumber], others: frozenset[ChangeNumber]
) -> None:
    left, right = CNSet.of(some), CNSet.of(others)
    for made, wanted in (
        (left | right, some | others),
        (left - right, some - others),
        (left & right, some & others),
    ):
        straight = CNSet.of(wanted)
        assert made == straight
        assert hash(made) == hash(straight)
        assert made.encode() == straight.encode()


@steady
@given(number_sets, numbers)
def test_contains_and_with_number(some: frozenset[ChangeNumber], number: ChangeNumber) -> None:
    cnset = CNSet.of(some)
    assert (number in cnset) == (number in some)
    grown = cnset.with_number(number)
    assert grown == CNSet.of(some | {number})
    assert grown.encode() == CNSet.of(some | {number}).encode()
    assert cnset == CNSet.of(some), "the set it was made from has not changed"


@steady
@given(st.lists(number_sets, max_size=5))
def test_sets_are_united_at_once_unless_two_have_a_number_in_common(
    parts: list[frozenset[ChangeNumber]],
) -> None:
    everything = frozenset().union(*parts)
    union = CNSet.disjoint_union([CNSet.of(part) for part in parts])
    is_disjoint = sum(map(len, parts)) == len(everything)
    assert union == (CNSet.of(everything) if is_disjoint else None)
    apart = [part.difference(*parts[:place]) for place, part in enumerate(parts)]
    assert CNSet.disjoint_union([CNSet.of(part) for part in apart]) == CNSet.of(everything)


@given(number_sets)
def test_intervals_are_sorted_and_do_not_touch(some: frozenset[ChangeNumber]) -> None:
    cnset = CNSet.of(some)
    assert cnset.origins() == tuple(sorted({number.origin for number in some}))
    for origin in (A, B, C):
        ranges = cnset.ranges(origin)
        assert all(first <= last for first, last in ranges)
        assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))
        assert cnset.highest(origin) == max((n.counter for n in some if n.origin == origin), default=0)


@steady
@given(number_sets)
def test_encoding_returns_the_same_set(some: frozenset[ChangeNumber]) -> None:
    cnset = CNSet.of(some)
    assert CNSet.decode(cnset.encode()) == cnset
    assert CNSet.from_text(cnset.to_text()) == cnset


@steady
@given(number_sets, st.data())
def test_changed_or_cut_bytes_are_refused(some: frozenset[ChangeNumber], data: st.DataObject) -> None:
    encoded = CNSet.of(some).encode()
    place = data.draw(st.integers(0, len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), encoded[:place], encoded + encoded[place:]):
        with pytest.raises((InvalidContent, UnsupportedVersion)):
            CNSet.decode(damaged)


@settings(steady, max_examples=300)
@given(st.binary(max_size=60))
def test_whatever_decodes_is_what_encode_writes(tail: bytes) -> None:
    data = framed(tail)
    try:
        cnset = CNSet.decode(data)
    except InvalidContent:
        return
    assert cnset.encode() == data


@steady
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises((InvalidContent, UnsupportedVersion)):
        CNSet.from_text(text)


def test_ranges_and_full_sets() -> None:
    assert CNSet.of_range(A, 3, 5) == CNSet.of(ChangeNumber(A, n) for n in (5, 3, 4, 4))
    assert CNSet.full(A, 4).ranges(A) == ((1, 4),)
    assert CNSet.full(A, 0) == CNSet() == CNSet.of([])
    assert not CNSet.of_range(A, 8, 7), "nothing new since 7 is the empty set, not a mistake"
    assert CNSet.full(A, COUNTER_MAX).count() == COUNTER_MAX
    assert CNSet().highest(A) == 0
    assert CNSet().ranges(A) == ()
    assert CNSet.full(A, 1) != (A, 1)


@pytest.mark.parametrize(
    ("origin", "first", "last"),
    [(A, 0, 3), (A, 5, 3), (A, 1, COUNTER_MAX + 1), (A, -1, -2), (A[:15], 1, 2), (b"", 1, 2)],
)
def test_what_is_no_range_is_refused(origin: bytes, first: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"range|GUID"):
        CNSet.of_range(origin, first, last)


@pytest.mark.parametrize(
    "number", [ChangeNumber(A, 0), ChangeNumber(A, COUNTER_MAX + 1), ChangeNumber(b"x", 1)]
)
def test_what_is_no_change_number_is_refused(number: ChangeNumber) -> None:
    with pytest.raises(ValueError, match=r"change number|GUID"):
        CNSet.of([number])
    with pytest.raises(ValueError, match=r"change number|GUID"):
        CNSet().with_number(number)
    assert number not in CNSet.full(A, COUNTER_MAX)


def test_sets_serve_as_keys() -> None:
    seen = {CNSet.full(A, 9): "one", CNSet(): "none"}
    assert seen[CNSet.full(A, 8).with_number(ChangeNumber(A, 9))] == "one"
    assert seen[CNSet.full(A, 9) - CNSet.full(A, 9)] == "none"


def test_repr_names_the_first_intervals_only() -> None:
    cnset = CNSet.of(ChangeNumber(A, 3 * n + 1) for n in range(1000)) | CNSet.full(A, 2)
    assert repr(cnset) == (
        "CNSet(00010203-0405-0607-0809-0a0b0c0d0e0f: 1-2 4 7 10 13 16 19 22 and 992 more intervals)"
    )
    assert repr(CNSet()) == "CNSet()"


# Bytes as version 1 writes them: when one of these fails, the format changed and needs a new version.
GOLDEN = {
    "empty": (CNSet(), "5042434e0100"),
    "dense": (CNSet.full(A, 1_000_000), "5042434e0101" + A.hex() + "0100bf843d"),
    "holes": (
        CNSet.of_range(A, 2, 3) | CNSet.of_range(A, 5, 5) | CNSet.of_range(A, 200, 500),
        "5042434e0101" + A.hex() + "0301010000c101ac02",
    ),
    "ends": (
        CNSet.of_range(C, COUNTER_MAX, COUNTER_MAX) | CNSet.full(A, 1),
        "5042434e0102" + A.hex() + "010000" + C.hex() + "01feffffffffff3f00",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_version_1_keeps_its_bytes(name: str) -> None:
    cnset, body = GOLDEN[name]
    data = bytes.fromhex(body)
    assert cnset.encode() == sealed(data)
    assert CNSet.decode(sealed(data)) == cnset


def test_golden_text() -> None:
    assert CNSet().to_text() == "UEJDTgEACIf9rARziKM"
    assert CNSet.from_text("UEJDTgEACIf9rARziKM") == CNSet()


@pytest.mark.parametrize("version", [0, 2, 255])
def test_unknown_versions_are_refused(version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"version {version}"):
        CNSet.decode(sealed(CNSET_MAGIC + bytes([version]) + b"\x00"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CNSET_MAGIC,
        CNSET_MAGIC + b"\x01",
        sealed(CNSET_MAGIC + b"\x01"),
        sealed(b"ELSE\x01\x00"),
        framed(0, 0),  # goes on after its end
        framed(1, A, 0),  # an origin without intervals
        framed(1, A[:15], 1, 0, 0),  # an origin cut short
        framed(2, B, 1, 0, 0, A, 1, 0, 0),  # origins out of order
        framed(2, A, 1, 0, 0, A, 1, 5, 0),  # an origin twice
        framed(1, A, 1, b"\x80\x00", 0),  # 0 in two bytes
        framed(1, A, 1, b"\x80" * 40),  # a number without end
        framed(1, A, 1, 0),  # cut between gap and length
        framed(1, A, 2, 0, 0),  # announces two intervals, holds one
        framed(1, A, 1, b"\xff\xff\xff\xff\xff\xff\x3f", 0),  # 2**48
        framed(1, A, 1, 0, b"\xff\xff\xff\xff\xff\xff\x7f"),  # 2**49 numbers
        framed(b"\xff\xff\xff\xff\xff\xff\x7f"),  # 2**49 origins
        framed(1, A, b"\xff\xff\xff\xff\xff\xff\x7f", 0, 0),  # 2**49 intervals
    ],
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidContent):
        CNSet.decode(data)


def test_more_intervals_than_accepted_are_refused_before_they_are_read() -> None:
    many = INTERVALS_MAX + 1
    data = framed(1, A, bytes([many & 0x7F | 0x80, many >> 7 & 0x7F | 0x80, many >> 14]), bytes(2 * many))
    tracemalloc.start()
    with pytest.raises(InvalidContent, match="more intervals"):
        CNSet.decode(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * len(data)


def test_the_caller_says_how_many_intervals_it_accepts() -> None:
    cnset = CNSet.of(ChangeNumber(origin, 2 * n + 1) for origin in (A, B) for n in range(5))
    assert CNSet.decode(cnset.encode(), intervals_max=10) == cnset
    with pytest.raises(InvalidContent, match="more intervals"):
        CNSet.decode(cnset.encode(), intervals_max=9)
    with pytest.raises(InvalidContent, match="more intervals"):
        CNSet.from_text(cnset.to_text(), intervals_max=9)


@pytest.mark.parametrize("change", ["{}=", "{}\n", " {}", "{}A", "+{}", "é{}"])
def test_text_that_is_not_as_written_is_refused(change: str) -> None:
    with pytest.raises(InvalidContent):
        CNSet.from_text(change.format(CNSet.full(A, 7).to_text()))


def test_text_with_spare_bits_set_is_refused() -> None:
    text = CNSet().to_text()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    pad = "=" * (-len(text) % 4)
    assert base64.urlsafe_b64decode(other + pad) == base64.urlsafe_b64decode(text + pad)
    with pytest.raises(InvalidContent, match="spare"):
        CNSet.from_text(other)


def test_absurdly_wide_sets_cost_no_more_than_narrow_ones() -> None:
    everything = CNSet.full(A, COUNTER_MAX)
    holes = CNSet.of(ChangeNumber(A, n << 40) for n in range(1, 200))
    left = everything - holes
    assert left.count() == COUNTER_MAX - 199
    assert len(left.ranges(A)) == 200
    assert left | holes == everything
    assert not left & holes
    assert everything.covers(left) and not left.covers(everything)
    assert len(left.encode()) < 4000


@steady
@given(number_sets, number_sets)
def test_what_two_sets_share_is_counted_as_if_built(
    some: frozenset[ChangeNumber], others: frozenset[ChangeNumber]
) -> None:
    left, right = CNSet.of(some), CNSet.of(others)
    assert left.count_common(right) == len(some & others)
    assert left.intervals_count() == sum(len(left.ranges(origin)) for origin in left.origins())
    assert left.of_origin(A) == CNSet.of(number for number in some if number.origin == A)


def test_pieces_of_the_same_intervals_are_counted_and_united_without_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    firsts = range(1, 100_000, 100)
    whole, *pieces = (
        CNSet.of(ChangeNumber(A, first + n) for first in firsts for n in numbers)
        for numbers in (range(40), range(20, 30), range(20), range(30, 40))
    )
    monkeypatch.setattr("pillarbox.store.change_number._edges", None)
    assert [whole.count_common(piece) for piece in pieces] == [10_000, 20_000, 10_000]
    assert [piece.count_common(whole) for piece in pieces] == [10_000, 20_000, 10_000]
    assert CNSet.disjoint_union(pieces) == whole
    assert CNSet.disjoint_union([*pieces, CNSet.of_range(A, 35, 135)]) is None
    assert CNSet.disjoint_union([*pieces, CNSet.of_range(A, 41, 99_900)]) is None


wide_runs = st.lists(st.integers(1, 4000), min_size=2, max_size=8)


@steady
@given(wide_runs, st.integers(0, 2), st.integers(2, 4))
def test_a_few_intervals_against_many_give_what_sets_give(
    bounds: list[int], offset: int, stride: int
) -> None:
    many = frozenset(range(1 + offset, 4001, stride))
    few = frozenset(
        counter
        for first, last in zip(sorted(bounds)[::2], sorted(bounds)[1::2], strict=False)
        for counter in range(first, last + 1)
    )
    left, right = (CNSet.of(ChangeNumber(A, counter) for counter in counters) for counters in (few, many))
    assert {counter for _, counter in numbers_in(left & right)} == few & many
    assert {counter for _, counter in numbers_in(right - left)} == many - few
    assert {counter for _, counter in numbers_in(left - right)} == few - many
    assert {counter for _, counter in numbers_in(left | right)} == few | many
    assert left.count_common(right) == right.count_common(left) == len(few & many)
    assert (left | right).covers(right) and left.covers(right) == (few >= many)


def test_a_few_intervals_are_looked_up_and_the_many_are_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    many = CNSet.of(ChangeNumber(A, 3 * n + 1) for n in range(10_000))
    few = CNSet.of_range(A, 4001, 4100)
    for walk in ("_ends_and_next_starts", "_edges"):
        monkeypatch.setattr(f"pillarbox.store.change_number.{walk}", None)
    assert few.count_common(many) == many.count_common(few) == 33
    assert (few & many).count() == 33
    assert (many - few).count() == 9_967
    assert (many | few).count() == 10_067
    assert many.with_number(ChangeNumber(A, 2)).count() == 10_001
