"""Whatever a whole record holds, reading it gives a record that the engine can use, or says Corrupt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk.records import seal_record
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    LEFT_OUT_KEY,
    LET_GO_KEY,
    MEMBERSHIP_KEY,
    PRIMARY,
    STATE_KEY,
    Table,
    decode_record,
    derived_entries,
    record_type,
)
from pillarbox.store.errors import Corrupt, UnsupportedVersion

PLACES = [(table, b"k" * 16) for table in PRIMARY if table != Table.META]
PLACES += [(Table.META, key) for key in (IDENTITY_KEY, STATE_KEY, LEFT_OUT_KEY, LET_GO_KEY, MEMBERSHIP_KEY)]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=30)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "int": 7,
    "int | None": None,
    "bool": True,
    "bytes": b"bytes",
    "bytes | None": None,
    "str": "text",
}


def good_value(annotation: Any) -> Any:
    text = getattr(annotation, "__forward_arg__", "")
    return GOOD.get(text, {} if text.startswith("dict") else ())


OUTSIDE: dict[str, list[Any]] = {
    "int": [True, False, None, 7.0, "7", b"7", (7,), {}],
    "int | None": [True, False, 7.0, "7", b"7", (), {}],
    "bool": [0, 1, None, "True", b""],
    "bytes": ["bytes", None, 7, ()],
    "bytes | None": ["bytes", False, 7, ()],
    "str": [b"text", None, 7, ()],
}
"""What a field of an annotation never holds, although Python takes some of it for the same."""


@pytest.mark.parametrize(("table", "key"), PLACES)
def test_a_field_holds_its_very_type_and_is_named_when_it_does_not(table: Table, key: bytes) -> None:
    kind = record_type(table, key)
    annotations = [kind.__annotations__[name] for name in kind._fields]
    good = tuple(good_value(annotation) for annotation in annotations)
    assert decode_record(table, key, seal_record(table, key, good)) == good
    for at, (name, annotation) in enumerate(zip(kind._fields, annotations, strict=True)):
        text = getattr(annotation, "__forward_arg__", "")
        container = () if text.startswith("dict") else {}
        for wrong in OUTSIDE.get(text, [None, 7, "text", container]):
            value = seal_record(table, key, (*good[:at], wrong, *good[at + 1 :]))
            with pytest.raises(Corrupt, match=f"field {name} "):
                decode_record(table, key, value)


@pytest.mark.parametrize(
    ("table", "name", "number"),
    [
        (Table.ITEM, "uid", 1 << 32),
        (Table.ITEM, "size", -1),
        (Table.ITEM, "received_ms", 1 << 63),
        (Table.ITEM, "date_ms", 1 << 63),
        (Table.FOLDER, "uid_next", (1 << 32) + 1),
        (Table.TOMBSTONE, "kind", 256),
    ],
)
def test_a_number_that_no_key_or_index_row_can_hold_is_corrupt(table: Table, name: str, number: int) -> None:
    kind = record_type(table, b"key")
    fields = [good_value(kind.__annotations__[each]) for each in kind._fields]
    at = kind._fields.index(name)
    for each, is_good in ((number, False), (number - 1, number > 0), (0, True)):
        fields[at] = each
        value = seal_record(table, b"key", tuple(fields))
        if is_good:
            assert decode_record(table, b"key", value)[at] == each
        else:
            with pytest.raises(Corrupt, match=f"field {name} "):
                decode_record(table, b"key", value)


@pytest.mark.parametrize(("table", "key"), PLACES)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_record_with_any_field_of_an_enemy_is_usable_or_corrupt(
    table: Table, key: bytes, data: st.DataObject
) -> None:
    kind = record_type(table, key)
    fields = [good_value(kind.__annotations__[name]) for name in kind._fields]
    good = decode_record(table, key, seal_record(table, key, tuple(fields)))
    derived_entries(table, key, good)
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(VALUES)
    try:
        record = decode_record(table, key, seal_record(table, key, tuple(fields)))
    except (Corrupt, UnsupportedVersion):
        return
    derived_entries(table, key, record)
    hash(getattr(record, "keywords", ()))
