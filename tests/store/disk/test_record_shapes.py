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
