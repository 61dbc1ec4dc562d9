"""Every LMDB table: number, name, key layout and value record (docs/format.md, "Tables").

Primary tables hold what is known; derived tables are indexes over them, computed by the functions below and
by nothing else, so that replay and repair rebuild exactly what a transaction wrote. Integers in keys are
big-endian: byte order is number order. Keys stay far below LMDB's 511 bytes; long text is hashed or cut.

A record type may gain fields, at its end and with a default each, and the database may gain tables
(docs/format.md, "How the format evolves").
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from pillarbox.store.disk.record_shapes import shape_of
from pillarbox.store.disk.records import open_record, seal, seal_record, unseal
from pillarbox.store.errors import Corrupt, UnsupportedVersion
from pillarbox.store.ids import GUID_BYTES
from pillarbox.store.names import name_key, sender_sort_key, subject_sort_key

KEY_BYTES_MAX: Final = 511  # LMDB's
LAYOUT_VERSION: Final = 3
LAYOUT_VERSION_MIN: Final = 1


def refuse_unknown_layout(layout: int, database: str) -> None:
    """Raise UnsupportedVersion for tables of a layout that this program cannot read, by its number."""
    if not LAYOUT_VERSION_MIN <= layout <= LAYOUT_VERSION:
        raise UnsupportedVersion(
            f"database {database} has table layout {layout}",
            hint=f"this program knows {LAYOUT_VERSION_MIN} to {LAYOUT_VERSION}; use "
            + ("a newer one" if layout > LAYOUT_VERSION else "an older one to upgrade it"),
        )


class Table(IntEnum):
    """Numbers are stored in redo records and checksums: never reuse one."""

    META = 0
    MAILBOX = 1
    FOLDER = 2
    ITEM = 3
    TOMBSTONE = 4
    CONTENT = 5
    BLOCK = 6
    SEGMENT = 7
    SEEN = 8
    DICTIONARY = 9
    REPLICA = 10
    REPLICATION = 11
    FOLDER_NAME = 16
    MAILBOX_NAME = 17
    LOCATION = 18
    VIEW = 19
    FEED = 20
    REMOVAL = 21
    VERSION = 22
    GONE = 23


NAMES: Final = {table: table.name.lower().encode() for table in Table}
_TEXT_NAMES: Final = {table: table.name.lower() for table in Table}
DERIVED: Final = frozenset(
    {
        Table.FOLDER_NAME,
        Table.MAILBOX_NAME,
        Table.LOCATION,
        Table.VIEW,
        Table.FEED,
        Table.REMOVAL,
        Table.VERSION,
        Table.GONE,
    }
)
PRIMARY: Final = tuple(table for table in Table if table not in DERIVED)
INDEXED: Final = frozenset({Table.MAILBOX, Table.FOLDER, Table.ITEM, Table.TOMBSTONE})  # have index rows
SOURCES: Final = {
    Table.FOLDER_NAME: (Table.FOLDER,),
    Table.MAILBOX_NAME: (Table.MAILBOX,),
    Table.LOCATION: (Table.ITEM,),
    Table.VIEW: (Table.ITEM,),
    Table.FEED: tuple(INDEXED),
    Table.REMOVAL: (Table.FOLDER,),
    Table.VERSION: (Table.FOLDER, Table.ITEM, Table.TOMBSTONE),
    Table.GONE: (Table.TOMBSTONE,),
}
"""The primary tables that the rows of each derived table come from."""

DIGEST_BYTES: Final = 24
# What ids and UIDs are below: no key holds more, and a range of keys ends with the id behind one.
ID_END: Final = (1 << 64) - 1
UID_END: Final = 1 << 32
DATABASE_SCOPE: Final = 0  # the feed of the whole database; a folder's feed has the folder's id as scope
HIERARCHY_SCOPE: Final = 0  # versions of folders; those of messages have the folder's id as scope

IS_COPY: Final = b"\3"
"""The body of a row of REMOVAL for a folder of a copy that may yet be completed."""

_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_ITEM_KEY = struct.Struct(">QI")
_FEED_VALUE = struct.Struct(">BQQI")
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
_TRIPLE = struct.Struct(">QQQ")
_STATE_KEY = struct.Struct(">BQ16s")
assert _ITEM_KEY.size == 12 and _FEED_VALUE.size == 21

id_key = _U64.pack
item_key = _ITEM_KEY.pack
split_item_key = _ITEM_KEY.unpack
pair_key = _PAIR.pack
split_pair_key = _PAIR.unpack
number_of = _U64.unpack
segment_key = _U32.pack
replica_key = _U16.pack
split_replica_key = _U16.unpack
triple_key = _TRIPLE.pack
split_triple_key = _TRIPLE.unpack
replication_key = _STATE_KEY.pack
split_replication_key = _STATE_KEY.unpack


def is_id(number: int) -> bool:
    """True when a number can be the id of a folder or message. Nothing is found under one that cannot."""
    return 0 <= number < ID_END


class ObjectKind(IntEnum):
    """The kind of object that a change feed entry is about."""

    MESSAGE = 1
    FOLDER = 2
    MAILBOX = 3
    MESSAGE_GONE = 4
    FOLDER_GONE = 5
    MAILBOX_GONE = 6


class MailboxRecord(NamedTuple):
    """A mailbox, keyed by its GUID. `size` in bytes and `messages_count` cover every folder of it.

    In state `ARRIVING` it is hidden, as its folders are. `moved_from` is the GUID of the database that it
    comes from, while its move has not ended, `moved_root_id` the id of its root folder there, and
    `moved_counter` a counter that was durable there just before the copy was complete. `arrived_cn` is the
    change number with which the copy was complete.
    """

    guid: bytes
    name: str
    user: bytes
    state: int
    disconnected_ms: int
    root_id: int
    roles: dict[str, int]
    size: int
    messages_count: int
    change_cn: int
    properties: dict[str, Any]
    moved_from: bytes = b""
    moved_root_id: int = 0
    moved_counter: int = 0
    arrived_cn: int = 0

    def __repr__(self) -> str:
        return f"<mailbox {self.name!r}, GUID {self.guid.hex()}, {self.messages_count} messages>"


class Hidden(IntEnum):
    """Why a folder is hidden, with all that is in it. In the mailbox only an arriving one counts."""

    NO = 0
    REMOVED = 1  # its rows are removed in batches (`removal`)
    ARRIVING = 2  # a mailbox that a move has not completed
    COPYING = 3  # a copy that is not complete; the next mount removes it
    SIBLING = 4  # a version of a folder that was changed in two places at once


ARRIVING: Final = 2  # `state` of a mailbox that a move has not completed


class FolderRecord(NamedTuple):
    """A folder, keyed by its id. `mailbox` is empty for public folders. `size` in bytes, of its messages.

    `hidden` is not 0 where nobody but its own task meets it: see `Hidden`. `arrived_cn` is when a folder of
    another store came here. `written` are the (name, parent id) that all stores of the tree have, where they
    differ from those that are shown here. For `versions` to `stamps` see `ItemRecord`. `replicas` has a row
    (GUID, state, ms, counter, replica number) for each database of the replica list, `rights` a row (subject,
    rights, ms, counter, replica number). `cleared` is an encoded CNSET of content that was deleted.
    """

    folder_id: int
    mailbox: bytes
    parent_id: int
    name: str
    kind: int
    uid_validity: int
    uid_next: int
    messages_count: int
    unread_count: int
    size: int
    highest_cn: int
    change_cn: int
    created_ms: int
    properties: dict[str, Any]
    hidden: int = 0
    arrived_cn: int = 0
    written: tuple[Any, ...] = ()
    versions: tuple[int, ...] = ()
    conflict_of: int = 0
    changed: tuple[int, ...] = ()
    actor: str = ""
    stamps: tuple[tuple[str, int, int, int], ...] = ()
    replicas: tuple[tuple[bytes, int, int, int, int], ...] = ()
    rights: tuple[tuple[str, int, int, int, int], ...] = ()
    cleared: bytes | None = None

    def __repr__(self) -> str:
        return f"<folder {self.name!r}, folder_id {self.folder_id}, {self.messages_count} messages>"


class ItemRole(IntEnum):
    """The parts that records of one message play, which are several after concurrent changes."""

    MESSAGE = 0
    VERSION = 1  # one of several; nobody meets it but by its id
    CONFLICT = 2  # the conflict message, which holds versions of different content


class ItemRecord(NamedTuple):
    """A message in a folder, keyed by (folder id, UID). `size` in bytes, times in ms UTC.

    `versions` to `stamps` are filled in where the database has joined an organisation: the number of this
    version and the rest of the message's context, as replica number and counter like ids; the message of
    which this is another version; when it was changed, as (ms, counter) of the hybrid clock, and by whom; and
    a row (property, ms, counter, replica number) for each property that was not set by this very change.
    `role` is an `ItemRole`. The record that shows several versions as one is no version itself, and has 0 for
    its number.
    """

    folder_id: int
    uid: int
    message_id: int
    digest: bytes
    size: int
    received_ms: int
    flags: int
    keywords: tuple[str, ...]
    categories: tuple[str, ...]
    arrived_cn: int
    change_cn: int
    read_cn: int
    subject: str
    sender: str
    to: str
    cc: str
    date_ms: int | None
    internet_message_id: str
    in_reply_to: str
    importance: int
    has_attachment: bool
    conversation: bytes
    properties: dict[str, Any]
    size_crlf: int | None = None  # with CRLF line ends; unknown in records of layout 1
    versions: tuple[int, ...] = ()
    conflict_of: int = 0
    changed: tuple[int, ...] = ()
    actor: str = ""
    stamps: tuple[tuple[str, int, int, int], ...] = ()
    role: int = 0

    def __repr__(self) -> str:
        # Not its subject: errors and logs show this, and a subject is somebody's mail.
        return f"<message_id {self.message_id}, UID {self.uid} in folder_id {self.folder_id}>"

    @property
    def is_conflict(self) -> bool:
        """True for a conflict message, which holds the versions of a message."""
        return self.role == ItemRole.CONFLICT

    @property
    def modseq(self) -> int:
        """The change number of its last change of any kind: IMAP's MODSEQ (RFC 7162)."""
        return max(self.arrived_cn, self.change_cn, self.read_cn)


class TombstoneRecord(NamedTuple):
    """Something that left a scope, keyed by (folder id, CN): deleted, or moved to another folder.

    A message's tombstone without a UID is of one that was never shown here: the feed tells nothing of it.
    `versions`, `changed` and `actor` are as in `ItemRecord`; one that is no version itself, and only keeps
    the context, has 0 for its number. `folder` are the fields of a folder's record as it was. `went_to` is
    the GUID of the database that a mailbox was moved to, empty when it was deleted.
    """

    kind: int
    object_id: int
    uid: int
    deleted_ms: int
    moved_to: int  # folder id, 0 when deleted
    arrived_cn: int = 0  # when it had come to the folder; 0 where only its id tells, as in layout 1
    versions: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    actor: str = ""
    folder: tuple[Any, ...] = ()
    went_to: bytes = b""


class ContentRecord(NamedTuple):
    """A message's bytes, keyed by their digest: where its skeleton lies and which blocks are set into it."""

    references: int
    size: int
    segment: int
    offset: int
    length: int
    # each (position in the skeleton, encoding, line width, line end, block digests)
    parts: tuple[tuple[int, int, int, bytes, tuple[bytes, ...]], ...]


class BlockRecord(NamedTuple):
    """A content block shared by messages, keyed by the digest of its raw bytes."""

    references: int
    size: int
    segment: int
    offset: int
    length: int


class SegmentRecord(NamedTuple):
    """Bytes of frames in one segment of the stream: all of its content frames, and those still referenced."""

    content_bytes: int
    live_bytes: int


class SeenRecord(NamedTuple):
    """The UID intervals that a user has read of a public folder, keyed by (folder id, digest of the user)."""

    user: str
    intervals: tuple[tuple[int, int], ...]


class DictionaryRecord(NamedTuple):
    """A trained zstd dictionary, keyed by its number from 1: where its frame lies."""

    segment: int
    offset: int
    length: int


class ReplicaRecord(NamedTuple):
    """The giver of numbers under a replica number, its key: the database, and which of its numberings.

    `origin` is the replica GUID of the numbering, `incarnation` counts the numberings of the database.
    """

    origin: bytes
    database: bytes
    incarnation: int
    first_seen_ms: int


class ReplicationRecord(NamedTuple):
    """A row of the replication state table, keyed by (kind, folder id, GUID)."""

    value: bytes


class IdentityRecord(NamedTuple):
    """The identity of a database, under the key `IDENTITY_KEY` of META. `kind` is a `DatabaseKind`."""

    layout_version: int
    guid: bytes
    kind: int
    created_ms: int
    roots: dict[str, int]


class StateRecord(NamedTuple):
    """The numbers that every transaction moves on, under the key `STATE_KEY` of META.

    `counter` is the last change number given out; `content_bytes` and `live_bytes` are the sums of those of
    all segments. `checked_ms` is the last daily check of the size, or the first look at it. `restored` says
    that the database has gone back in time, and that nobody who numbers its changes for others has seen it
    yet. `above_limit_ms` is when it was first reported above its limit, 0 while it is not. `numbering` is the
    replica number under which changes are numbered for other stores, 0 in a database that has not joined an
    organisation; `clock_ms` and `clock_counter` are the latest stamp of the hybrid clock.
    """

    sequence: int
    counter: int
    content_bytes: int
    live_bytes: int
    checked_ms: int
    restored: bool = False
    above_limit_ms: int = 0
    numbering: int = 0
    clock_ms: int = 0
    clock_counter: int = 0


class LeftOutRecord(NamedTuple):
    """Counters that were never given out, under the key `LEFT_OUT_KEY` of META: [first, last], ascending.

    After a restore they are those that the replaced database may have given out since the backup.
    """

    intervals: tuple[tuple[int, int], ...]


class WithheldRecord(NamedTuple):
    """Counters of what is copied in many transactions, under the key `WITHHELD_KEY` of META.

    Each interval is (first, last, told): `told` is the counter of the transaction that showed the copy, 0
    until then, `NEVER_TOLD` when it was given up. `forgotten` is the highest `told` of those that were
    dropped.
    """

    intervals: tuple[tuple[int, int, int], ...]
    forgotten: int


class SizingRecord(NamedTuple):
    """The place up to which daily maintenance has filled in `size_crlf`, under the key `SIZING_KEY` of META.

    `after` is the key of the last item that it has looked at in this pass, `filled` how many it lacked.
    """

    after: bytes
    filled: int


class LetGoRecord(NamedTuple):
    """The stretches of the stream that a repair has let go, under the key `LET_GO_KEY` of META.

    Each stretch is (segment, offset, length, digest of its bytes).
    """

    stretches: tuple[tuple[int, int, int, bytes], ...]


class MembershipRecord(NamedTuple):
    """The tree of public folders that a database has joined, under the key `MEMBERSHIP_KEY` of META.

    `nonce` is given anew by each mount that compares it with what the node keeps outside the database; behind
    it stands the one that was kept there until then.
    `stamped` is how far objects of before the joining have their versions: (table number, key), empty when
    all have.
    """

    tree: bytes
    nonce: bytes
    stamped: tuple[Any, ...]


class DatabaseKind(IntEnum):
    """The two kinds of databases (DOMAIN.md "Store")."""

    MAILBOX_STORE = 1
    PUBLIC_FOLDER_STORE = 2


IDENTITY_KEY: Final = b"identity"
STATE_KEY: Final = b"state"
LEFT_OUT_KEY: Final = b"left out"
SIZING_KEY: Final = b"sizing"
WITHHELD_KEY: Final = b"withheld"
NEVER_TOLD: Final = (1 << 63) - 1
LET_GO_KEY: Final = b"let go"
MEMBERSHIP_KEY: Final = b"membership"

Record = (
    MailboxRecord
    | FolderRecord
    | ItemRecord
    | TombstoneRecord
    | ContentRecord
    | BlockRecord
    | SegmentRecord
    | SeenRecord
    | DictionaryRecord
    | IdentityRecord
    | StateRecord
    | LeftOutRecord
    | WithheldRecord
    | SizingRecord
    | LetGoRecord
    | ReplicaRecord
    | ReplicationRecord
    | MembershipRecord
)
RECORD_TYPES: Final[dict[Table, type[Record]]] = {
    Table.MAILBOX: MailboxRecord,
    Table.FOLDER: FolderRecord,
    Table.ITEM: ItemRecord,
    Table.TOMBSTONE: TombstoneRecord,
    Table.CONTENT: ContentRecord,
    Table.BLOCK: BlockRecord,
    Table.SEGMENT: SegmentRecord,
    Table.SEEN: SeenRecord,
    Table.DICTIONARY: DictionaryRecord,
    Table.REPLICA: ReplicaRecord,
    Table.REPLICATION: ReplicationRecord,
}


META_TYPES: Final[dict[bytes, type[Record]]] = {
    IDENTITY_KEY: IdentityRecord,
    STATE_KEY: StateRecord,
    LEFT_OUT_KEY: LeftOutRecord,
    WITHHELD_KEY: WithheldRecord,
    SIZING_KEY: SizingRecord,
    LET_GO_KEY: LetGoRecord,
    MEMBERSHIP_KEY: MembershipRecord,
}


def is_in_tree(folder: FolderRecord) -> bool:
    """True when a folder has its name and place, and counts in its mailbox: not removed, nor copied yet."""
    return folder.hidden in (Hidden.NO, Hidden.ARRIVING)


def is_hidden(record: Record) -> bool:
    """True when nobody meets a record but the task that has hidden it: a folder or mailbox on its way."""
    if isinstance(record, FolderRecord):
        return record.hidden != Hidden.NO
    return isinstance(record, MailboxRecord) and record.state == ARRIVING


def record_type(table: Table, key: bytes) -> type[Record]:
    """The type of the record under a key of a primary table. META holds one record a key.

    Raises UnsupportedVersion for a key of META that a later layout has.
    """
    if table != Table.META:
        return RECORD_TYPES[table]
    if key not in META_TYPES:
        raise UnsupportedVersion(
            f"meta[{key.hex()}] is no record of table layouts up to {LAYOUT_VERSION}",
            hint="use a newer program",
        )
    return META_TYPES[key]


def encode_record(table: Table, key: bytes, record: Record) -> bytes:
    """The stored value of a record. Defaults at its end are left out, as in layouts without these fields."""
    kind: Any = type(record)  # a type is hashable, which mypy does not know
    for count, defaults in _ends_of_defaults(kind):
        if record[count:] == defaults:
            return seal_record(table, key, record[:count])
    return seal_record(table, key, record)


@cache
def _ends_of_defaults(kind: Any) -> tuple[tuple[int, tuple[Any, ...]], ...]:
    """Each (place, defaults from there on) of a type of record, the most first; places count from the end."""
    defaults = tuple(kind._field_defaults.values())
    return tuple((at - len(defaults), defaults[at:]) for at in range(len(defaults)))


def decode_record(table: Table, key: bytes, value: bytes) -> Record:
    """The record in a stored value; fields at its end that an earlier layout lacks have their defaults.

    Each field is of its type and within its range, whoever has made the value. Raises Corrupt;
    UnsupportedVersion for a record with more fields than this program knows.
    """
    name = _TEXT_NAMES[table]
    fields = open_record(table, key, value, name)
    kind: Any = RECORD_TYPES.get(table) or record_type(table, key)
    made: Record = tuple.__new__(kind, _whole(kind, fields, name, key))  # `_make` takes three times as long
    return made


def _whole(kind: Any, fields: tuple[Any, ...], name: str, key: bytes) -> tuple[Any, ...]:
    """All fields of a record of which the first ones were stored, once these are proved.

    Raises as `decode_record`.
    """
    shape = shape_of(kind, len(fields))
    if shape is None:
        raise _wrong_count(kind, len(fields), name, key)
    if not shape.holds(*fields):
        raise Corrupt(f"{name}[{key.hex()}]: {shape.problem_of(fields)}", table=name, key=key)
    return fields + shape.defaults


def _wrong_count(kind: Any, count: int, name: str, key: bytes) -> Corrupt | UnsupportedVersion:
    if count > len(kind._fields):
        return UnsupportedVersion(
            f"{name}[{key.hex()}] has {count} fields",
            hint=f"this program knows {len(kind._fields)} of table layout {LAYOUT_VERSION}; use a newer one",
        )
    return Corrupt(f"{name}[{key.hex()}] has {count} fields", table=name, key=key)


def kept_folder(tombstone: TombstoneRecord) -> FolderRecord:
    """The record of a folder as its tombstone keeps it; fields that are newer have their defaults.

    Raises Corrupt, UnsupportedVersion, as `decode_record`.
    """
    key = _U64.pack(tombstone.object_id)
    return FolderRecord._make(_whole(FolderRecord, tombstone.folder, "tombstone", key))


Entry = tuple[Table, bytes, bytes]
Place = tuple[Table, bytes]
Sorts = tuple[tuple[bytes, bytes], ...]

# Python 3.11 takes four times as long to look up a member of an Enum.
_LOCATION: Final = Table.LOCATION
_VIEW: Final = Table.VIEW
_FEED: Final = Table.FEED
_VERSION: Final = Table.VERSION
_ONE_VERSION: Final = int(ItemRole.VERSION)


def view_key(folder_id: int, kind: bytes, sort: bytes, uid: int) -> bytes:
    """Key of one row of a view: folder, kind of order, sort key, UID."""
    return _U64.pack(folder_id) + kind + sort + _U32.pack(uid)


_SHOWN: Final = attrgetter("size", "received_ms", "date_ms", "subject", "sender")
_STANDS: Final = attrgetter("folder_id", "uid", "message_id")


def view_sorts(item: ItemRecord) -> Sorts:
    """The rows an item has in the views of its folder: (kind, sort key). They follow from `_SHOWN` alone."""
    date_ms = item.received_ms if item.date_ms is None else item.date_ms
    return (
        (b"d", _U64.pack(date_ms + (1 << 63))),
        (b"s", _U64.pack(item.size)),
        (b"j", subject_sort_key(item.subject) + b"\0"),
        (b"f", sender_sort_key(item.sender) + b"\0"),
    )


def feed_entry(scope: int, cn: int, kind: int, object_id: int, folder_id: int, uid: int) -> Entry:
    """One row of the change feed."""
    key = _PAIR.pack(scope, cn)
    return Table.FEED, key, seal(Table.FEED, key, _FEED_VALUE.pack(kind, object_id, folder_id, uid))


class _IndexShape(NamedTuple):
    """The lengths of the keys and bodies of the rows of a derived table, in bytes."""

    key_min: int
    key_max: int
    body_bytes: frozenset[int]


_OBJECT_KINDS: Final = frozenset(ObjectKind)
_INDEX_SHAPES: Final = {
    Table.FOLDER_NAME: _IndexShape(9, KEY_BYTES_MAX, frozenset({8})),
    Table.MAILBOX_NAME: _IndexShape(1, KEY_BYTES_MAX, frozenset({GUID_BYTES})),
    Table.LOCATION: _IndexShape(8, 8, frozenset({_ITEM_KEY.size})),
    Table.VIEW: _IndexShape(13, KEY_BYTES_MAX, frozenset({0})),
    Table.FEED: _IndexShape(16, 16, frozenset({_FEED_VALUE.size})),
    Table.REMOVAL: _IndexShape(8, 8, frozenset({0, len(IS_COPY)})),
    Table.VERSION: _IndexShape(24, 24, frozenset({_FEED_VALUE.size})),
    Table.GONE: _IndexShape(24, 24, frozenset({0})),
}


def decode_index(table: Table, key: bytes, value: bytes) -> bytes:
    """The body of a derived table's stored value, of the shape that its rows have. Raises Corrupt."""
    name = _TEXT_NAMES[table]
    body = unseal(table, key, value, name)
    shape = _INDEX_SHAPES[table]
    if len(body) not in shape.body_bytes or not shape.key_min <= len(key) <= shape.key_max:
        raise Corrupt(f"{name}[{key.hex()}]: no row of that table is so long", table=name, key=key)
    if table in (Table.FEED, Table.VERSION) and body[0] not in _OBJECT_KINDS:
        raise Corrupt(f"{name}[{key.hex()}]: kind {body[0]} is none", table=name, key=key)
    return body


def split_feed_value(body: bytes) -> tuple[int, int, int, int]:
    """(kind, object id, folder id, UID) of a feed row's body."""
    return _FEED_VALUE.unpack(body)


def _item_rows(item: ItemRecord, sorts: Sorts) -> list[Entry]:
    # Written out flat: every message that comes in has these seven rows.
    place = _ITEM_KEY.pack(item.folder_id, item.uid)
    folder_key, uid_key = place[:8], place[8:]
    key = _U64.pack(item.message_id)
    rows: list[Entry] = [(_LOCATION, key, seal(_LOCATION, key, place))]
    if item.role == _ONE_VERSION:
        return rows + _item_version_rows(item)
    for kind, sort in sorts:
        key = folder_key + kind + sort + uid_key
        rows.append((_VIEW, key, seal(_VIEW, key, b"")))
    if item.versions:
        rows += _item_version_rows(item)
    return rows + _item_feed_rows(item)


def _item_version_rows(item: ItemRecord) -> list[Entry]:
    object_id = item.conflict_of or item.message_id
    body = _FEED_VALUE.pack(ObjectKind.MESSAGE, object_id, item.folder_id, item.uid)
    return _version_rows(item.folder_id, item.versions, item.message_id, body)


def _version_rows(scope: int, versions: tuple[int, ...], row_id: int, body: bytes) -> list[Entry]:
    """A row for each number by which an object is found; `row_id` tells records of one object apart."""
    keys = [_TRIPLE.pack(scope, entry, row_id) for entry in dict.fromkeys(versions) if entry]
    return [(_VERSION, key, seal(_VERSION, key, body)) for key in keys]


def _item_feed_rows(item: ItemRecord) -> list[Entry]:
    value = _FEED_VALUE.pack(ObjectKind.MESSAGE, item.message_id, item.folder_id, item.uid)
    keys = _item_feed_keys(item)
    return [(_FEED, key, seal(_FEED, key, value)) for key in keys]


def _item_feed_keys(item: ItemRecord) -> tuple[bytes, bytes]:
    modseq = item.modseq
    return _PAIR.pack(DATABASE_SCOPE, modseq), _PAIR.pack(item.folder_id, modseq)


def _item_places(item: ItemRecord, sorts: Sorts) -> list[Place]:
    """Where the rows of `_item_rows` stand."""
    place = _ITEM_KEY.pack(item.folder_id, item.uid)
    if item.role == _ONE_VERSION:
        return [(row[0], row[1]) for row in _item_rows(item, sorts)]
    folder_key, uid_key = place[:8], place[8:]
    database, folder = _item_feed_keys(item)
    places: list[Place] = [
        (_LOCATION, _U64.pack(item.message_id)),
        *[(_VIEW, folder_key + kind + sort + uid_key) for kind, sort in sorts],
        (_FEED, database),
        (_FEED, folder),
    ]
    if item.versions:
        places += [(row[0], row[1]) for row in _item_version_rows(item)]
    return places


def _changed_item_rows(old: ItemRecord, new: ItemRecord) -> tuple[list[Place], list[Entry]]:
    """A change of flags moves a message in the feed only, a move changes its sort keys in no view."""
    if _ONE_VERSION in (old.role, new.role):
        return _item_places(old, view_sorts(old)), _item_rows(new, view_sorts(new))
    shown = _SHOWN(old) == _SHOWN(new)
    if shown and _STANDS(old) == _STANDS(new):
        places: list[Place] = []
        rows: list[Entry] = []
        if old.modseq != new.modseq:
            places, rows = [(_FEED, key) for key in _item_feed_keys(old)], _item_feed_rows(new)
        if old.versions != new.versions or old.conflict_of != new.conflict_of:
            places += [(row[0], row[1]) for row in _item_version_rows(old)]
            rows += _item_version_rows(new)
        return places, rows
    sorts = view_sorts(old)
    return _item_places(old, sorts), _item_rows(new, sorts if shown else view_sorts(new))


def _folder_rows(folder: FolderRecord) -> Iterator[Entry]:
    folder_id = folder.folder_id
    if folder.hidden in (Hidden.REMOVED, Hidden.COPYING):
        key = _U64.pack(folder_id)
        body = IS_COPY if folder.hidden == Hidden.COPYING else b""
        yield Table.REMOVAL, key, seal(Table.REMOVAL, key, body)
        return
    if folder.versions:
        body = _FEED_VALUE.pack(ObjectKind.FOLDER, folder.conflict_of or folder_id, folder_id, 0)
        yield from _version_rows(HIERARCHY_SCOPE, folder.versions, folder_id, body)
    if folder.hidden == Hidden.SIBLING:
        return
    key = _U64.pack(folder.parent_id) + name_key(folder.name)
    yield Table.FOLDER_NAME, key, seal(Table.FOLDER_NAME, key, _U64.pack(folder_id))
    yield feed_entry(DATABASE_SCOPE, folder.change_cn, ObjectKind.FOLDER, folder_id, folder_id, 0)


def _mailbox_rows(mailbox: MailboxRecord) -> Iterator[Entry]:
    if mailbox.state != ARRIVING:
        key = name_key(mailbox.name)
        yield Table.MAILBOX_NAME, key, seal(Table.MAILBOX_NAME, key, mailbox.guid)
    root_id = mailbox.root_id
    yield feed_entry(DATABASE_SCOPE, mailbox.change_cn, ObjectKind.MAILBOX, root_id, root_id, 0)


def is_silent(tombstone: TombstoneRecord) -> bool:
    """True for a tombstone of a message that was never shown here: no reader of the feed is told."""
    return bool(tombstone.versions) and tombstone.kind == ObjectKind.MESSAGE_GONE and not tombstone.uid


def _tombstone_rows(folder_id: int, cn: int, tombstone: TombstoneRecord) -> Iterator[Entry]:
    """The feed rows of a deletion, or of a move away: to the database the object is then merely elsewhere."""
    kind, object_id, uid = tombstone.kind, tombstone.object_id, tombstone.uid
    if tombstone.versions:
        scope = folder_id if kind == ObjectKind.MESSAGE_GONE else HIERARCHY_SCOPE
        body = _FEED_VALUE.pack(kind, object_id, folder_id, uid)
        yield from _version_rows(scope, tombstone.versions, cn, body)
        key = _TRIPLE.pack(object_id, folder_id, cn)
        yield Table.GONE, key, seal(Table.GONE, key, b"")
    if is_silent(tombstone):
        return
    if not tombstone.moved_to:
        yield feed_entry(DATABASE_SCOPE, cn, kind, object_id, folder_id, uid)
    yield feed_entry(folder_id, cn, kind, object_id, folder_id, uid)


def index_rows(table: Table, key: bytes, record: Record | None) -> Iterable[Entry]:
    """The index rows that a primary record brings with it; none for most tables, and for no record."""
    if isinstance(record, ItemRecord):
        return _item_rows(record, view_sorts(record))
    if isinstance(record, FolderRecord):
        return _folder_rows(record)
    if isinstance(record, MailboxRecord):
        return _mailbox_rows(record)
    if isinstance(record, TombstoneRecord):
        folder_id, cn = _PAIR.unpack(key)
        return _tombstone_rows(folder_id, cn, record)
    return ()


def derived_entries(table: Table, key: bytes, record: Record | None) -> dict[tuple[Table, bytes], bytes]:
    """`index_rows`, each by its table and key."""
    return {(row[0], row[1]): row[2] for row in index_rows(table, key, record)}


def changed_rows(
    table: Table, key: bytes, old: Record | None, new: Record | None
) -> tuple[Iterable[Place], Iterable[Entry]]:
    """The index rows that go, and those that come, when a record takes the place of another."""
    if isinstance(old, ItemRecord):
        if isinstance(new, ItemRecord):
            return _changed_item_rows(old, new)
        return _item_places(old, view_sorts(old)), ()
    if _has_same_rows(old, new):
        return (), ()
    return [(row[0], row[1]) for row in index_rows(table, key, old)], index_rows(table, key, new)


def _has_same_rows(old: Record | None, new: Record | None) -> bool:
    """True when a folder or mailbox has the same index rows as before: only its counters moved, as a rule."""
    if isinstance(old, FolderRecord) and isinstance(new, FolderRecord):
        return _FOLDER_ROWS(old) == _FOLDER_ROWS(new)
    if isinstance(old, MailboxRecord) and isinstance(new, MailboxRecord):
        return _MAILBOX_ROWS(old) == _MAILBOX_ROWS(new)
    return False


# The fields that the index rows of a folder and of a mailbox follow from.
_FOLDER_ROWS: Final = attrgetter("change_cn", "parent_id", "name", "hidden", "versions", "conflict_of")
_MAILBOX_ROWS: Final = attrgetter("change_cn", "root_id", "name", "state")
