"""Keys sort as what they stand for, and every index row follows from its record alone."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk.records import CHECKSUM_BYTES, open_record, pack, seal, seal_record, unseal
from pillarbox.store.disk.tables import (
    DATABASE_SCOPE,
    DERIVED,
    HIERARCHY_SCOPE,
    IDENTITY_KEY,
    META_TYPES,
    NAMES,
    PRIMARY,
    RECORD_TYPES,
    STATE_KEY,
    FolderRecord,
    Hidden,
    IdentityRecord,
    ItemRecord,
    ItemRole,
    MailboxRecord,
    ObjectKind,
    Record,
    StateRecord,
    Table,
    TombstoneRecord,
    changed_rows,
    decode_record,
    derived_entries,
    encode_record,
    feed_entry,
    id_key,
    item_key,
    kept_folder,
    number_of,
    pair_key,
    record_type,
    segment_key,
    split_feed_value,
    split_item_key,
    split_pair_key,
    triple_key,
    view_key,
    view_sorts,
)
from pillarbox.store.errors import Corrupt, UnsupportedVersion
from pillarbox.store.names import name_key

LMDB_KEY_BYTES_MAX = 511

steady = settings(deadline=None, max_examples=60)
ids = st.integers(0, (1 << 64) - 1)
uids = st.integers(0, (1 << 32) - 1)
times = st.integers(-(1 << 63), (1 << 63) - 1)
unversioned: dict[str, Any] = {
    "versions": st.just(()),
    "changed": st.just(()),
    "actor": st.just(""),
}
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
items = st.builds(
    ItemRecord,
    folder_id=ids.filter(bool),
    uid=uids,
    message_id=ids,
    digest=st.binary(min_size=24, max_size=24),
    size=ids,
    received_ms=times,
    flags=st.just(0),
    keywords=st.just(()),
    categories=st.just(()),
    arrived_cn=ids,
    change_cn=ids,
    read_cn=ids,
    subject=names,
    sender=names,
    to=names,
    cc=names,
    date_ms=st.none() | times,
    internet_message_id=names,
    in_reply_to=names,
    importance=st.just(1),
    has_attachment=st.booleans(),
    conversation=st.binary(max_size=12),
    properties=st.just({}),
    size_crlf=st.none() | ids,
    conflict_of=st.just(0),
    stamps=st.just(()),
    role=st.just(0),
    **unversioned,
)
folders = st.builds(
    FolderRecord,
    folder_id=ids.filter(bool),
    mailbox=st.just(b"") | st.binary(min_size=16, max_size=16),
    parent_id=ids,
    name=names,
    kind=st.integers(0, 255),
    uid_validity=uids,
    uid_next=uids,
    messages_count=uids,
    unread_count=uids,
    size=ids,
    highest_cn=ids,
    change_cn=ids,
    created_ms=times,
    properties=st.just({}),
    hidden=st.just(0),
    arrived_cn=ids,
    written=st.just(()),
    conflict_of=st.just(0),
    stamps=st.just(()),
    replicas=st.just(()),
    rights=st.just(()),
    cleared=st.none() | st.binary(max_size=9),
    **unversioned,
)
mailboxes = st.builds(
    MailboxRecord,
    guid=st.binary(min_size=16, max_size=16),
    name=names.filter(bool),
    user=st.binary(max_size=16),
    state=uids,
    disconnected_ms=times,
    root_id=ids,
    roles=st.just({}),
    size=ids,
    messages_count=uids,
    change_cn=ids,
    properties=st.just({}),
    moved_from=st.binary(max_size=16),
    moved_root_id=ids,
    moved_counter=ids,
    arrived_cn=ids,
)
tombstones = st.builds(
    TombstoneRecord,
    kind=st.sampled_from([ObjectKind.MESSAGE_GONE, ObjectKind.FOLDER_GONE, ObjectKind.MAILBOX_GONE]),
    object_id=ids,
    uid=uids,
    deleted_ms=times,
    moved_to=st.just(0) | ids,
    arrived_cn=st.just(0) | ids,
    folder=st.just(()),
    went_to=st.binary(max_size=16),
    **unversioned,
)


def item(**fields: Any) -> ItemRecord:
    texts = dict.fromkeys(("subject", "sender", "to", "cc", "internet_message_id", "in_reply_to"), "")
    rest = dict.fromkeys(("flags", "arrived_cn", "change_cn", "read_cn", "importance"), 0)
    known = {
        "folder_id": 5,
        "uid": 1,
        "message_id": 9,
        "digest": bytes(24),
        "size": 0,
        "received_ms": 0,
        "keywords": (),
        "categories": (),
        "date_ms": None,
        "has_attachment": False,
        "conversation": b"",
        "properties": {},
    }
    return ItemRecord(**{**texts, **rest, **known, **fields})


# -- tables


def test_every_table_is_primary_or_derived_and_has_a_name_and_records_of_its_own() -> None:
    assert {*PRIMARY, *DERIVED} == set(Table) and not DERIVED & {*PRIMARY}
    assert len({*NAMES.values()}) == len(Table)
    assert {*RECORD_TYPES, Table.META} == {*PRIMARY}


def test_meta_holds_one_kind_of_record_a_key() -> None:
    assert record_type(Table.META, IDENTITY_KEY) is IdentityRecord
    assert record_type(Table.META, STATE_KEY) is StateRecord


GOOD: dict[str, Any] = {
    "int": 7,
    "int | None": 8,
    "bool": True,
    "bytes": b"bytes",
    "bytes | None": b"set",
    "str": "text",
}


def good_value(annotation: Any) -> Any:
    """What a field of that type may hold."""
    text = getattr(annotation, "__forward_arg__", "")
    return GOOD.get(text, {} if text.startswith("dict") else ())


@pytest.mark.parametrize("table", [table for table in PRIMARY if table != Table.META])
def test_a_record_is_decoded_from_its_stored_value(table: Table) -> None:
    kind = RECORD_TYPES[table]
    record = kind._make(good_value(kind.__annotations__[name]) for name in kind._fields)
    assert decode_record(table, b"key", encode_record(table, b"key", record)) == record
    required = len(kind._fields) - len(kind._field_defaults)
    for fields in (record[: required - 1], ()):
        with pytest.raises(Corrupt, match="fields") as raised:
            decode_record(table, b"key", seal_record(table, b"key", fields))
        assert raised.value.table == table.name.lower()


def test_a_record_of_a_later_version_is_not_guessed_at() -> None:
    with pytest.raises(UnsupportedVersion):
        decode_record(Table.SEGMENT, b"key", seal(Table.SEGMENT, b"key", b"\2" + pack((1, 2))))


class WithThreeMore(NamedTuple):
    """A record type that has gained fields."""

    references: int
    colour: str = "red"
    weight: int | None = None
    corners: tuple[int, ...] = ()


@pytest.fixture
def more_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORD_TYPES, Table.BLOCK, WithThreeMore)  # type: ignore[arg-type]


@pytest.mark.usefixtures("more_fields")
@pytest.mark.parametrize(
    ("record", "stored"),
    [
        (WithThreeMore(1), (1,)),
        (WithThreeMore(1, "blue"), (1, "blue")),
        (WithThreeMore(1, weight=5), (1, "red", 5)),
        (WithThreeMore(1, "blue", None, (3,)), (1, "blue", None, (3,))),
    ],
)
def test_defaults_at_a_records_end_are_not_written_and_are_read_again(
    record: Any, stored: tuple[Any, ...]
) -> None:
    value = encode_record(Table.BLOCK, b"key", record)
    assert open_record(Table.BLOCK, b"key", value, "block") == stored
    assert decode_record(Table.BLOCK, b"key", value) == record


@pytest.mark.usefixtures("more_fields")
def test_a_record_of_before_its_type_had_gained_a_field_has_the_default() -> None:
    value = seal_record(Table.BLOCK, b"key", (1, "blue"))
    assert decode_record(Table.BLOCK, b"key", value) == WithThreeMore(1, "blue", None, ())


@pytest.mark.parametrize("table", [table for table in PRIMARY if table != Table.META])
def test_a_record_with_a_field_more_is_of_a_newer_program_and_not_damaged(table: Table) -> None:
    fields = (*range(len(RECORD_TYPES[table]._fields)), "new")
    with pytest.raises(UnsupportedVersion, match=f"{len(fields)} fields") as raised:
        decode_record(table, b"key", seal_record(table, b"key", fields))
    assert "newer" in raised.value.hint


def test_a_record_of_meta_that_is_not_known_is_of_a_newer_program() -> None:
    with pytest.raises(UnsupportedVersion, match="meta"):
        decode_record(Table.META, b"key", seal_record(Table.META, b"key", (1,)))


def test_defaults_are_never_changed_in_place() -> None:
    for kind in (*RECORD_TYPES.values(), *META_TYPES.values()):
        for default in kind._field_defaults.values():
            hash(default)


# -- keys


def in_order(keys: list[bytes]) -> bool:
    return all(before < after for before, after in pairwise(keys))


@given(values=st.sets(ids, min_size=2))
@steady
def test_ids_sort_as_keys(values: set[int]) -> None:
    assert in_order([id_key(value) for value in sorted(values)])
    assert [number_of(id_key(value)) for value in values] == [(value,) for value in values]


@given(values=st.sets(st.tuples(ids, uids), min_size=2))
@steady
def test_items_sort_by_folder_and_uid(values: set[tuple[int, int]]) -> None:
    assert in_order([item_key(*value) for value in sorted(values)])
    assert all(split_item_key(item_key(*value)) == value for value in values)
    assert all(item_key(*value).startswith(id_key(value[0])) for value in values)


@given(values=st.sets(st.tuples(ids, ids), min_size=2))
@steady
def test_the_feed_sorts_by_scope_and_change_number(values: set[tuple[int, int]]) -> None:
    assert in_order([pair_key(*value) for value in sorted(values)])
    assert all(split_pair_key(pair_key(*value)) == value for value in values)


@given(values=st.sets(uids, min_size=2))
@steady
def test_segments_sort_by_number(values: set[int]) -> None:
    assert in_order([segment_key(value) for value in sorted(values)])


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_number_that_no_key_can_hold_is_refused(value: int) -> None:
    with pytest.raises(struct.error):
        id_key(value)


# -- views


def sort_of(record: ItemRecord, kind: bytes) -> bytes:
    return dict(view_sorts(record))[kind]


def row(record: ItemRecord, kind: bytes) -> bytes:
    return view_key(record.folder_id, kind, sort_of(record, kind), record.uid)


@given(dates=st.sets(times, min_size=2), uid=uids)
@steady
def test_a_view_by_date_is_in_the_order_of_dates_before_1970_too(dates: set[int], uid: int) -> None:
    assert in_order([row(item(uid=uid, date_ms=date), b"d") for date in sorted(dates)])


def test_a_message_without_a_date_stands_where_it_was_received() -> None:
    assert row(item(received_ms=77), b"d") == row(item(date_ms=77), b"d")


@given(sizes=st.sets(ids, min_size=2), uid=uids)
@steady
def test_a_view_by_size_is_in_the_order_of_sizes(sizes: set[int], uid: int) -> None:
    assert in_order([row(item(uid=uid, size=size), b"s") for size in sorted(sizes)])


texts_with_nul = st.text(st.sampled_from("\0ab\x01éß "), max_size=30)


@given(one=texts_with_nul, other=texts_with_nul, uid=uids, other_uid=uids)
@steady
def test_a_view_by_text_is_in_the_order_of_texts_then_of_uids(
    one: str, other: str, uid: int, other_uid: int
) -> None:
    for kind, first, second in (
        (b"j", item(uid=uid, subject=one), item(uid=other_uid, subject=other)),
        (b"f", item(uid=uid, sender=one), item(uid=other_uid, sender=other)),
    ):
        in_words = (sort_of(first, kind), uid) < (sort_of(second, kind), other_uid)
        assert (row(first, kind) < row(second, kind)) == in_words


# -- index rows


def test_modseq_is_the_number_of_the_last_change_of_any_kind() -> None:
    assert item(arrived_cn=3, change_cn=2, read_cn=1).modseq == 3
    assert item(arrived_cn=1, change_cn=5, read_cn=4).modseq == 5
    assert item(arrived_cn=1, change_cn=5, read_cn=9).modseq == 9


@given(record=items)
@steady
def test_a_message_is_found_by_id_in_four_views_and_in_two_feeds(record: ItemRecord) -> None:
    rows = derived_entries(Table.ITEM, b"", record)
    found = [table for table, _ in rows]
    assert sorted(found) == [Table.LOCATION, *[Table.VIEW] * 4, *[Table.FEED] * 2]
    location = rows[Table.LOCATION, id_key(record.message_id)]
    body = unseal(Table.LOCATION, id_key(record.message_id), location, "location")
    assert split_item_key(body) == (record.folder_id, record.uid)
    for scope in (DATABASE_SCOPE, record.folder_id):
        key = pair_key(scope, record.modseq)
        entry = split_feed_value(unseal(Table.FEED, key, rows[Table.FEED, key], "feed"))
        assert entry == (ObjectKind.MESSAGE, record.message_id, record.folder_id, record.uid)


@given(record=folders)
@steady
def test_a_folder_is_found_by_name_under_its_parent_and_in_the_databases_feed(record: FolderRecord) -> None:
    rows = derived_entries(Table.FOLDER, b"", record)
    key = id_key(record.parent_id) + name_key(record.name)
    body = unseal(Table.FOLDER_NAME, key, rows.pop((Table.FOLDER_NAME, key)), "folder_name")
    assert number_of(body) == (record.folder_id,)
    ((table, key),) = rows
    assert (table, split_pair_key(key)) == (Table.FEED, (DATABASE_SCOPE, record.change_cn))


@given(record=mailboxes)
@steady
def test_a_mailbox_is_found_by_name_and_in_the_databases_feed(record: MailboxRecord) -> None:
    rows = derived_entries(Table.MAILBOX, b"", record)
    key = name_key(record.name)
    value = rows.pop((Table.MAILBOX_NAME, key))
    assert unseal(Table.MAILBOX_NAME, key, value, "mailbox_name") == record.guid
    ((table, key),) = rows
    assert (table, split_pair_key(key)) == (Table.FEED, (DATABASE_SCOPE, record.change_cn))


@given(record=tombstones, folder_id=ids.filter(bool), cn=ids)
@steady
def test_a_deletion_is_in_both_feeds_and_a_move_only_in_that_of_the_folder_it_left(
    record: TombstoneRecord, folder_id: int, cn: int
) -> None:
    rows = derived_entries(Table.TOMBSTONE, pair_key(folder_id, cn), record)
    scopes = [split_pair_key(key)[0] for _, key in rows]
    assert scopes == ([folder_id] if record.moved_to else [DATABASE_SCOPE, folder_id])
    for (table, key), value in rows.items():
        found = split_feed_value(unseal(table, key, value, "feed"))
        assert found == (record.kind, record.object_id, folder_id, record.uid)


numbers = st.lists(ids.filter(bool), min_size=1, max_size=4, unique=True).map(tuple)


@given(record=items | folders, versions=numbers, conflict_of=st.just(0) | ids)
@steady
def test_a_message_or_folder_of_an_organisation_is_found_by_each_number_of_its_context(
    record: ItemRecord | FolderRecord, versions: tuple[int, ...], conflict_of: int
) -> None:
    table, key = key_of(record)
    plain = derived_entries(table, key, record)
    rows = derived_entries(table, key, record._replace(versions=versions, conflict_of=conflict_of))
    row_id = record.message_id if isinstance(record, ItemRecord) else record.folder_id
    scope = record.folder_id if isinstance(record, ItemRecord) else HIERARCHY_SCOPE
    keys = {triple_key(scope, number, row_id) for number in versions}
    assert {place for place in rows if place not in plain} == {(Table.VERSION, key) for key in keys}
    for key in keys:
        body = unseal(Table.VERSION, key, rows[Table.VERSION, key], "version")
        assert split_feed_value(body)[1:3] == (conflict_of or row_id, record.folder_id)


@given(record=tombstones, versions=numbers, folder_id=ids.filter(bool), cn=ids)
@steady
def test_a_tombstone_of_an_organisation_is_found_by_its_object_and_without_a_uid_tells_no_reader(
    record: TombstoneRecord, versions: tuple[int, ...], folder_id: int, cn: int
) -> None:
    key = pair_key(folder_id, cn)
    plain = derived_entries(Table.TOMBSTONE, key, record)
    rows = derived_entries(Table.TOMBSTONE, key, record._replace(versions=(0, *versions)))
    assert (Table.GONE, triple_key(record.object_id, folder_id, cn)) in rows
    scope = folder_id if record.kind == ObjectKind.MESSAGE_GONE else HIERARCHY_SCOPE
    found = [triple_key(scope, number, cn) for number in versions]
    assert [each for table, each in rows if table == Table.VERSION] == found
    is_told = record.uid or record.kind != ObjectKind.MESSAGE_GONE
    assert {place for place in rows if place[0] == Table.FEED} == ({*plain} if is_told else set())


@given(record=folders, versions=numbers)
@steady
def test_another_version_of_a_folder_has_no_name_and_is_not_in_the_feed(
    record: FolderRecord, versions: tuple[int, ...]
) -> None:
    sibling = record._replace(hidden=int(Hidden.SIBLING), versions=versions)
    assert {table for table, _ in derived_entries(Table.FOLDER, b"", sibling)} == {Table.VERSION}


@given(record=items, versions=numbers)
@steady
def test_a_version_of_a_message_is_found_by_its_id_and_is_in_no_listing_and_not_in_the_feed(
    record: ItemRecord, versions: tuple[int, ...]
) -> None:
    version = record._replace(role=int(ItemRole.VERSION), versions=versions)
    rows = derived_entries(Table.ITEM, b"", version)
    assert {table for table, _ in rows} == {Table.LOCATION, Table.VERSION}
    for old, new in ((record, version), (version, record)):
        left, came = changed_rows(Table.ITEM, b"", old, new)
        assert set(left) == {*derived_entries(Table.ITEM, b"", old)}
        assert {(row[0], row[1]): row[2] for row in came} == derived_entries(Table.ITEM, b"", new)


def key_of(record: Record) -> tuple[Table, bytes]:
    if isinstance(record, ItemRecord):
        return Table.ITEM, item_key(record.folder_id, record.uid)
    if isinstance(record, FolderRecord):
        return Table.FOLDER, id_key(record.folder_id)
    if isinstance(record, MailboxRecord):
        return Table.MAILBOX, record.guid
    return Table.TOMBSTONE, pair_key(7, 8)


@given(record=items | folders | mailboxes | tombstones)
@steady
def test_index_rows_follow_from_the_stored_record_and_fit_in_lmdb(record: Record) -> None:
    table, key = key_of(record)
    rows = derived_entries(table, key, record)
    stored = decode_record(table, key, encode_record(table, key, record))
    assert rows == derived_entries(table, key, stored) and rows
    for (derived, derived_key), value in rows.items():
        assert derived in DERIVED
        assert 0 < len(derived_key) <= LMDB_KEY_BYTES_MAX
        assert len(value) >= CHECKSUM_BYTES
        unseal(derived, derived_key, value, "the row")


def test_no_record_and_records_without_an_index_have_no_rows() -> None:
    assert derived_entries(Table.ITEM, item_key(1, 2), None) == {}
    assert derived_entries(Table.SEGMENT, segment_key(1), RECORD_TYPES[Table.SEGMENT]._make((1, 2))) == {}


def test_the_folder_in_a_tombstone_is_read_as_a_record_of_its_layout() -> None:
    made = [7, b"", 5, "name", 0, 1, 1, 0, 0, 0, 9, 9, 0, {}]
    fields = {"kind": 5, "object_id": 7, "uid": 0, "deleted_ms": 0, "moved_to": 0}
    whole = TombstoneRecord(**fields, folder=tuple(made))  # type: ignore[arg-type]
    assert kept_folder(whole) == FolderRecord(*made)  # type: ignore[arg-type]
    value = encode_record(Table.TOMBSTONE, b"key", whole)
    assert decode_record(Table.TOMBSTONE, b"key", value) == whole
    newer = (*FolderRecord(*made), "new")  # type: ignore[arg-type]
    for folder, error in ((newer, UnsupportedVersion), (made[:5], Corrupt), ([b"", *made[1:]], Corrupt)):
        with pytest.raises(error):
            kept_folder(whole._replace(folder=tuple(folder)))


def test_a_stamp_in_a_record_is_a_time_and_a_counter() -> None:
    for changed in ((), (1, 2)):
        record = item(changed=changed)
        assert decode_record(Table.ITEM, b"key", encode_record(Table.ITEM, b"key", record)) == record
    for changed in ((1,), (1, 2, 3), (1, -1), (1, True)):
        with pytest.raises(Corrupt, match="field changed"):
            decode_record(Table.ITEM, b"key", encode_record(Table.ITEM, b"key", item(changed=changed)))


def test_a_feed_row_says_what_changed() -> None:
    table, key, value = feed_entry(5, 6, ObjectKind.FOLDER, 7, 8, 9)
    assert (table, split_pair_key(key)) == (Table.FEED, (5, 6))
    assert split_feed_value(unseal(table, key, value, "feed")) == (ObjectKind.FOLDER, 7, 8, 9)


@pytest.mark.parametrize(
    ("fields", "tables"),
    [
        ({"flags": 1, "read_cn": 99}, {Table.FEED}),
        ({"keywords": ("kw",), "change_cn": 99}, {Table.FEED}),
        ({"folder_id": 5, "uid": 7, "arrived_cn": 99}, {Table.LOCATION, Table.VIEW, Table.FEED}),
        ({"subject": "another", "change_cn": 99}, {Table.LOCATION, Table.VIEW, Table.FEED}),
        ({"flags": 1}, set()),
        ({"versions": (7,)}, {Table.VERSION}),
        ({"versions": (7,), "flags": 1, "change_cn": 99}, {Table.FEED, Table.VERSION}),
        ({"versions": (7,), "uid": 7}, {Table.LOCATION, Table.VIEW, Table.FEED, Table.VERSION}),
    ],
)
def test_a_change_of_a_message_touches_the_index_rows_that_change(
    fields: dict[str, object], tables: set[Table]
) -> None:
    old = item()
    new = old._replace(**fields)  # type: ignore[arg-type]
    gone, come = changed_rows(Table.ITEM, b"", old, new)
    assert {row[0] for row in (*gone, *come)} == tables
    rows = dict(derived_entries(Table.ITEM, b"", old))
    for place in gone:
        del rows[place]
    rows.update({(table, key): value for table, key, value in come})
    assert rows == derived_entries(Table.ITEM, b"", new), "the rows are not those of the new record"
    gone, come = changed_rows(Table.ITEM, b"", old, None)
    assert (sorted(gone), come) == (sorted(derived_entries(Table.ITEM, b"", old)), ())
