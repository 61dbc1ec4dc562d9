"""Rows that are whole and hold what no transaction writes: every ordinary read uses them or says Corrupt."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.content.blocks import Dictionaries, digest_of
from pillarbox.store.disk.records import CHECKSUM_BYTES, seal, seal_record
from pillarbox.store.disk.stream import Codec, FrameKind, build_frame, parse_frame
from pillarbox.store.disk.tables import (
    DERIVED,
    DatabaseKind,
    Table,
    decode_record,
    encode_record,
    id_key,
)
from pillarbox.store.engine import change_feed
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.mail import folders, mailboxes, messages, public_folders, views

ACTOR = Actor.user("anna")
MANY = 500
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.sampled_from([0, 1, 2, 255, 256, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    | st.floats()
    | st.binary(max_size=30)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def made(path: Path, kind: DatabaseKind) -> Database:
    database = Database(path, b"x" * 16, "Mail", kind, rng=random.Random(1))
    database.create()
    database.mount()
    return database


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A mailbox with a row in every table of a mailbox store."""
    database = made(tmp_path_factory.mktemp("mail") / "db", DatabaseKind.MAILBOX_STORE)
    with database.transaction(ACTOR) as txn:
        box = mailboxes.create(txn, "anna")
        under = folders.create(txn, folders.create(txn, box.root_id, "Lists").folder_id, "Deep")
        items = []
        for number in range(6):
            raw = b"From: a@b\r\nSubject: %d\r\n\r\n" % number + random.Random(number).randbytes(900 * number)
            items += messages.deliver(txn, [box.guid], messages.prepare(database.files, raw))
        messages.set_flags(txn, items[0].message_id, add=["\\Seen", "word"])
        messages.move(txn, items[1].message_id, under.folder_id)
        messages.delete(txn, items[2].message_id)
    yield database
    database.dismount()


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A public folder with messages, some of which are read."""
    database = made(tmp_path_factory.mktemp("public") / "db", DatabaseKind.PUBLIC_FOLDER_STORE)
    with database.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        news = public_folders.create(txn, "News").folder_id
        for number in range(4):
            prepared = messages.prepare(database.files, b"Subject: %d\r\n\r\nbody" % number)
            messages.append(txn, news, prepared)
        public_folders.mark_read(txn, news, 2, 3)
    yield database
    database.dismount()


def every_read(read: Reader) -> Iterator[Callable[[], object]]:
    """Every ordinary read, each to be called by itself; what is asked for is what listings gave."""
    yield lambda: [mailboxes.root(read, box) for box in mailboxes.all_of(read)]
    yield lambda: mailboxes.find(read, "anna")
    for folder_id in [int.from_bytes(key, "big") for key, _ in read.view.scan(Table.FOLDER, b"", None)]:
        yield from reads_of_folder(read, folder_id)
    for message_id in [int.from_bytes(key, "big") for key, _ in read.view.scan(Table.LOCATION, b"", None)]:
        yield lambda message_id=message_id: reads_of_message(read, message_id)  # type: ignore[misc]
    yield lambda: list(islice(change_feed.changes(read, CNSet()), MANY))
    yield lambda: change_feed.changes(read, CNSet()).cost()
    yield lambda: change_feed.changes(read, CNSet()).page(2)
    yield lambda: list(islice(public_folders.walk(read), MANY))
    yield lambda: public_folders.find(read, "News")
    yield lambda: list(islice(folders.all_of(read), MANY))


def reads_of_folder(read: Reader, folder_id: int) -> Iterator[Callable[[], object]]:
    yield lambda: folders.get(read, folder_id)
    yield lambda: folders.path_of(read, folder_id)
    yield lambda: list(islice(folders.children(read, folder_id), MANY))
    yield lambda: list(islice(folders.walk(read, folder_id), MANY))
    yield lambda: folders.by_path(read, folder_id, "Lists/Deep")
    yield lambda: [read_item(read, item) for item in islice(folders.messages(read, folder_id), MANY)]
    for sort in views.Sort:
        for descending in (False, True):
            yield lambda s=sort, d=descending: views.page(  # type: ignore[misc]
                read, folder_id, sort=s, limit=3, descending=d
            )
    yield lambda: list(views.search(read, folder_id, views.Query(text="1", since_ms=0, flags=("word",))))
    yield lambda: list(islice(change_feed.changes(read, CNSet(), folder_id), MANY))
    yield lambda: list(islice(change_feed.vanished(read, folder_id, 1), MANY))
    yield lambda: 2 in public_folders.read_uids(read, folder_id)
    yield lambda: list(islice(public_folders.unread(read, folder_id), MANY))


def reads_of_message(read: Reader, message_id: int) -> None:
    read_item(read, messages.get(read, message_id))


def read_item(read: Reader, item: Any) -> None:
    messages.flag_names(item)
    messages.has_flag(item, "word")
    for sort in views.Sort:
        views.position(item, sort)
    for ask in (messages.content, messages.header, messages.size_crlf, public_folders.is_read):
        with suppress(PillarboxError):
            ask(read, item)


def hostile_value(table: Table, key: bytes, value: bytes, data: st.DataObject) -> bytes:
    """The stored value with something else in it, under a checksum that holds."""
    if table in DERIVED:
        body = value[:-CHECKSUM_BYTES]
        other = st.binary(min_size=len(body), max_size=len(body)) | st.binary(max_size=30)
        return seal(table, key, data.draw(other))
    fields = list(decode_record(table, key, value))
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(VALUES)
    return seal_record(table, key, tuple(fields))


def read_everything_with(database: Database, table: Table, key: bytes, value: bytes) -> None:
    """Every ordinary read of a database with one row exchanged."""
    env = database.files.env
    with env.view() as view:
        before = view.get(table, key)
    env.apply({table: {key: value}})
    try:
        with database.read(ACTOR) as read:
            for ask in every_read(read):
                with suppress(PillarboxError):
                    ask()
    finally:
        env.apply({table: {key: before}})


@pytest.mark.parametrize("kind", ["mail", "public"])
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_every_ordinary_read_of_a_hostile_row_is_usable_or_says_so(
    kind: str, data: st.DataObject, mail: Database, public: Database
) -> None:
    database = mail if kind == "mail" else public
    with database.read(ACTOR) as read:
        rows = [(t, k, v) for t in Table for k, v in read.view.scan(t, b"", None)]
    table = data.draw(st.sampled_from(sorted({table for table, _, _ in rows})))
    _, key, value = data.draw(st.sampled_from([row for row in rows if row[0] == table]))
    read_everything_with(database, table, key, hostile_value(table, key, value, data))


def test_folders_that_lie_in_a_circle_are_damage(mail: Database) -> None:
    with mail.read(ACTOR) as read:
        box = mailboxes.find(read, "anna")
        lists = folders.by_path(read, box.root_id, "Lists")
        deep = folders.by_path(read, box.root_id, "Lists/Deep")
        below = read.view.scan(Table.FOLDER_NAME, id_key(deep.parent_id), id_key(deep.parent_id + 1))
        ((key, value),) = list(below)
    mail.files.env.apply({Table.FOLDER_NAME: {key: seal(Table.FOLDER_NAME, key, id_key(lists.folder_id))}})
    try:
        with mail.read(ACTOR) as read, pytest.raises(Corrupt, match="below itself"):
            list(islice(folders.walk(read, box.root_id), MANY))
    finally:
        mail.files.env.apply({Table.FOLDER_NAME: {key: value}})


# -- content


def with_content(mail: Database, **fields: Any) -> tuple[bytes, bytes]:
    """Exchange fields of a message's content record that has parts; its key, and its value before."""
    with mail.read(ACTOR) as read:
        key, record = next(row for row in read.records(Table.CONTENT, b"", None) if row[1].parts)
        value = read.view.get(Table.CONTENT, key)
    assert value is not None
    changed = encode_record(Table.CONTENT, key, record._replace(**fields))
    mail.files.env.apply({Table.CONTENT: {key: changed}})
    return key, value


def some_blocks(mail: Database) -> tuple[bytes, ...]:
    """The digests of the blocks of one part."""
    with mail.read(ACTOR) as read:
        records = (record for _, record in read.records(Table.CONTENT, b"", None))
        blocks: tuple[bytes, ...] = next(record.parts[0][4] for record in records if record.parts)
    return blocks


@pytest.mark.parametrize(
    "part",
    [
        (0, 7, 0, b""),
        (1 << 40, 0, 0, b""),
        (0, 1, 0, b"\n"),
        (0, 1, 1 << 40, b"\n"),
        (0, 1, 76, b"line ends that no message has"),
        (0, 1, 76, b""),
    ],
)
def test_a_part_that_no_message_has_is_damage(mail: Database, part: tuple[Any, ...]) -> None:
    with mail.read(ACTOR) as read:
        blocks = next(record.parts for _, record in read.records(Table.CONTENT, b"", None) if record.parts)[
            0
        ][4]
    key, value = with_content(mail, parts=((*part, blocks),))
    try:
        with mail.read(ACTOR) as read:
            item = next(i for _, i in read.records(Table.ITEM, b"", None) if i.digest == key)
            with pytest.raises(Corrupt, match="that no message has"):
                messages.content(read, item)
    finally:
        mail.files.env.apply({Table.CONTENT: {key: value}})


def test_a_record_that_names_one_block_over_and_over_costs_no_memory(mail: Database) -> None:
    with mail.read(ACTOR) as read:
        blocks = next(record.parts for _, record in read.records(Table.CONTENT, b"", None) if record.parts)[
            0
        ][4]
    key, value = with_content(mail, parts=((0, 0, 0, b"", blocks * 20_000),))
    tracemalloc.start()
    try:
        with mail.read(ACTOR) as read:
            item = next(i for _, i in read.records(Table.ITEM, b"", None) if i.digest == key)
            with pytest.raises(Corrupt, match="more than the"):
                messages.content(read, item)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        mail.files.env.apply({Table.CONTENT: {key: value}})


@pytest.mark.parametrize("kind", [FrameKind.BLOCK, FrameKind.SKELETON])
def test_a_frame_that_unpacks_to_more_than_any_version_stores_costs_no_memory(kind: FrameKind) -> None:
    raw_bytes = 64 << 20
    payload = zstandard.ZstdCompressor(level=1).compress(bytes(raw_bytes))
    frame = parse_frame(build_frame(kind, Codec.ZSTD, 0, raw_bytes, digest_of(b""), payload), 0, "here")
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="none is of more than"):
            Dictionaries().decompress(frame, "here")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
