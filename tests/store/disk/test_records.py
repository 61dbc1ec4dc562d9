"""Records come back as they were stored, and nothing else is ever taken for one."""

from __future__ import annotations

import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk.records import (
    CHECKSUM_BYTES,
    RECORD_VERSION,
    open_record,
    pack,
    seal,
    seal_record,
    unpack,
    unseal,
)
from pillarbox.store.errors import Corrupt, UnsupportedVersion

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=12,
)
fields_of_any_kind = st.lists(values, max_size=6).map(tuple)
keys = st.binary(max_size=40)
tables = st.integers(0, 255)
steady = settings(deadline=None, max_examples=80)


# -- msgpack


@given(value=values)
@steady
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert unpack(pack(value)) == value
    assert unpack(memoryview(pack(value))) == value


@given(data=st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_bytes_of_any_kind_are_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = unpack(data)
    except ValueError:
        return
    assert unpack(pack(value)) == value or value != value  # NaN is not equal to itself


@given(value=values, tail=st.binary(min_size=1, max_size=3), kept=st.integers(0))
@steady
def test_one_value_is_read_whole_and_nothing_beside_it(value: Any, tail: bytes, kept: int) -> None:
    packed = pack(value)
    with pytest.raises(ValueError):
        unpack(packed + tail)
    with pytest.raises(ValueError):
        unpack(packed[: kept % len(packed)])


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1 elements
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\x00\xff\xff\xff" + b"\xdd\x00\xff\xff\xff" * 200,
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
    ],
    ids=["array", "map", "bytes", "text", "extension", "arrays", "deep arrays", "deep maps"],
)
def test_a_length_that_lies_is_refused_and_costs_little(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\xd4\x05x", b"\x92\x01\xd4\x05x"])
def test_an_extension_type_is_no_value(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)


def test_threads_that_pack_at_once_do_not_mix_their_bytes() -> None:
    start = threading.Barrier(8)

    def pack_many(seed: int) -> bool:
        rng = random.Random(seed)
        start.wait()
        return all(unpack(pack(value)) == value for value in (rng.randbytes(500) for _ in range(300)))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(pack_many, range(8)))


# -- sealed values


@given(table=tables, key=keys, body=st.binary(max_size=60))
@steady
def test_a_sealed_value_is_opened_under_its_own_table_and_key(table: int, key: bytes, body: bytes) -> None:
    value = seal(table, key, body)
    assert len(value) == len(body) + CHECKSUM_BYTES
    assert unseal(table, key, value, "item") == body


@given(table=tables, key=keys, body=st.binary(max_size=60), at=st.integers(0), change=st.integers(1, 255))
@steady
def test_no_byte_of_a_sealed_value_changes_unseen(
    table: int, key: bytes, body: bytes, at: int, change: int
) -> None:
    value = bytearray(seal(table, key, body))
    value[at % len(value)] ^= change
    with pytest.raises(Corrupt) as raised:
        unseal(table, key, bytes(value), "item")
    assert (raised.value.table, raised.value.key) == ("item", key)


@given(table=tables, key=keys, body=st.binary(max_size=60), other=st.tuples(tables, keys))
@steady
def test_a_value_is_refused_under_another_key_or_in_another_table(
    table: int, key: bytes, body: bytes, other: tuple[int, bytes]
) -> None:
    value = seal(table, key, body)
    if other[0] != table:
        with pytest.raises(Corrupt):
            unseal(other[0], key, value, "item")
    if other[1] != key:
        with pytest.raises(Corrupt):
            unseal(table, other[1], value, "item")


@pytest.mark.parametrize("length", range(CHECKSUM_BYTES + 3))
def test_a_value_cut_short_is_refused(length: int) -> None:
    with pytest.raises(Corrupt):
        unseal(3, b"key", seal(3, b"key", b"body")[:length], "item")


# -- records


@given(table=tables, key=keys, fields=fields_of_any_kind)
@steady
def test_a_record_has_the_fields_it_was_sealed_with(table: int, key: bytes, fields: tuple[Any, ...]) -> None:
    value = seal_record(table, key, fields)
    assert value[0] == RECORD_VERSION
    assert open_record(table, key, value, "item") == fields


def test_a_record_of_another_version_is_refused_and_not_guessed_at() -> None:
    value = seal(3, b"key", bytes([RECORD_VERSION + 1]) + pack((1, 2)))
    with pytest.raises(UnsupportedVersion, match="version 2"):
        open_record(3, b"key", value, "item")
    with pytest.raises(UnsupportedVersion, match="version none"):
        open_record(3, b"key", seal(3, b"key", b""), "item")


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        pack(7),
        pack("text"),
        pack({"a": 1}),
        pack(None),
        pack((1, 2))[:-1],
        pack((1,)) + b"\0",
        b"\xd4\x05x",
    ],
)
def test_what_holds_but_is_no_list_of_fields_is_damage(packed: bytes) -> None:
    with pytest.raises(Corrupt) as raised:
        open_record(3, b"key", seal(3, b"key", bytes([RECORD_VERSION]) + packed), "item")
    assert (raised.value.table, raised.value.key) == ("item", b"key")
    assert "item[6b6579]" in str(raised.value)
