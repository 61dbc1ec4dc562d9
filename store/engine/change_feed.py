"""The change feed: what is new, changed, moved, deleted or read since a CNSET; each once, its cost known.

Every change takes a change number and each object stands in the feed under its last one, so the answer comes
from the index alone (DOMAIN.md "Store", incremental change synchronisation). IMAP's MODSEQ and VANISHED,
JMAP's states, backup and replication all read this feed; there is no second one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from pillarbox.store.arguments import check_id, check_kind
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.tables import (
    DATABASE_SCOPE,
    LEFT_OUT_KEY,
    FolderRecord,
    ItemRecord,
    LeftOutRecord,
    ObjectKind,
    Record,
    Table,
    TombstoneRecord,
    id_key,
    is_id,
    item_key,
    number_of,
    pair_key,
    split_feed_value,
    split_pair_key,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.engine.withheld import withheld
from pillarbox.store.errors import Corrupt, InvalidSetting, Refused
from pillarbox.store.ids import LOCAL_BASE, counter_of, local_counter

_BEGIN_ANEW: Final = "start again from an empty state"


class ChangeKind(StrEnum):
    """The kind of change of an object."""

    NEW = "new"
    CHANGED = "changed"
    MOVED = "moved"
    DELETED = "deleted"
    READ = "read"


class Change(NamedTuple):
    """One object's change. `item` is the message's record, None for other objects and what is gone."""

    kind: ChangeKind
    object_kind: ObjectKind
    object_id: int
    folder_id: int
    uid: int
    cn: int
    item: ItemRecord | None


class Cost(NamedTuple):
    """The size of what is to come: the number of changes of each kind, and the bytes of the new messages.

    Content never changes, so of all other changes there is nothing to fetch.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    read: int = 0
    content_bytes: int = 0

    @property
    def changes(self) -> int:
        """The number of changes."""
        return self.new + self.changed + self.moved + self.deleted + self.read


class ChangesPage(NamedTuple):
    """Some changes, and where the next page begins: None at the end."""

    changes: list[Change]
    next: bytes | None


_Row = tuple[int, int, int, int, int]


class _Place(NamedTuple):
    """The last CN told on a page, and the database's counter when the first page and this one were made."""

    told: int
    begun: int
    made: int


_START: Final = _Place(0, 0, 0)
_PLACE: Final = struct.Struct(">QQQ")


class Changes:
    """The changes since a CNSET, as one read transaction sees them; iterate as often as needed.

    A message that was moved may have changed otherwise too: look at all of it.
    """

    def __init__(self, reader: Reader, since: CNSet, folder_id: int) -> None:
        self._reader = reader
        self._since = since
        self._scope = folder_id
        self._origin = reader.files.guid
        self._counter = reader.state().counter
        self._removed = {number_of(key)[0] for key, _ in reader.indexes(Table.REMOVAL, b"", None)}
        self._withhold(withheld(reader))

    def _withhold(self, kept_back: CNSet) -> None:
        everything = CNSet.full(self._origin, self._counter) - kept_back
        self._missing = everything - self._since
        self.cnset = self._since | everything
        """What has been seen once these changes are: give it back next time."""

    def __iter__(self) -> Iterator[Change]:
        """The changes in the order of their last change number. Raises Corrupt."""
        for row in self._rows(_START):
            change = self._change(row, _START)
            if change is not None:
                yield change

    def page(self, limit: int, after: bytes | None = None) -> ChangesPage:
        """The first `limit` changes, or those behind `after`, the `next` of another page since that CNSET.

        This is JMAP's `maxChanges` (RFC 8620 section 5.2): the state in between is the CNSET that was given
        with `next`, after the last page it is `cnset`. What changes again between two pages is told again, as
        new if it was, and what goes then as deleted, whether it had been told or not. Raises InvalidSetting
        for a limit below 1; Refused when the database was restored to before the other page, or more than 64
        large copies were made since the first page; Corrupt.
        """
        check_kind(limit, "limit", int, "the number of changes on a page")
        if limit < 1:
            raise InvalidSetting(f"a page of {limit} changes cannot be", hint="ask for at least 1")
        place = _START if after is None else _unpacked(after)
        _refuse_future(self._reader, place.made)
        if place.begun:
            self._withhold(withheld(self._reader, place.begun))
        found: list[Change] = []
        for row in self._rows(place):
            change = self._change(row, place)
            if change is not None:
                if len(found) == limit:
                    begun = place.begun or self._counter
                    return ChangesPage(found, _PLACE.pack(found[-1].cn, begun, self._counter))
                found.append(change)
        return ChangesPage(found, None)

    def _rows(self, place: _Place) -> Iterator[_Row]:
        """(CN, kind, object id, folder id, UID) of what was not seen nor told, in the order of the CN."""
        if not is_id(self._scope):
            return
        for first, last in self._missing.ranges(self._origin):
            start = pair_key(self._scope, max(LOCAL_BASE | first, place.told + 1))
            stop = pair_key(self._scope, (LOCAL_BASE | last) + 1)
            for key, body in self._reader.indexes(Table.FEED, start, stop):
                yield split_pair_key(key)[1], *split_feed_value(body)

    def cost(self) -> Cost:
        """The cost of what is to come, before any of it is fetched. Raises Corrupt."""
        counts = dict.fromkeys(ChangeKind, 0)
        content_bytes = 0
        for change in self:
            counts[change.kind] += 1
            if change.item is not None and change.kind is ChangeKind.NEW:
                content_bytes += change.item.size
        return Cost(**{kind.value: count for kind, count in counts.items()}, content_bytes=content_bytes)

    def _seen(self, cn: int) -> bool:
        return ChangeNumber(self._origin, counter_of(cn)) in self._since

    def _change(self, row: _Row, place: _Place) -> Change | None:
        cn, number, object_id, folder_id, uid = row
        kind = ObjectKind(number)
        if kind is ObjectKind.MESSAGE and folder_id in self._removed:
            kind = ObjectKind.MESSAGE_GONE  # its own tombstone follows when its rows are removed
        if kind in (ObjectKind.MESSAGE_GONE, ObjectKind.FOLDER_GONE, ObjectKind.MAILBOX_GONE):
            if not self._may_be_known(kind, object_id, folder_id, cn, place):
                return None
            return Change(ChangeKind.DELETED, kind, object_id, folder_id, uid, cn, None)
        if kind is not ObjectKind.MESSAGE:
            is_known = self._has_seen_made(object_id) or self._has_seen_arrive(kind, object_id)
            known = ChangeKind.CHANGED if is_known else ChangeKind.NEW
            return Change(known, kind, object_id, folder_id, uid, cn, None)
        item: ItemRecord | None = self._reader.record(Table.ITEM, item_key(folder_id, uid))
        if item is None:
            key = item_key(folder_id, uid)
            raise Corrupt(f"item[{key.hex()}] is missing, the feed names it", table="item", key=key)
        return Change(self._kind_of(item), kind, object_id, folder_id, uid, cn, item)

    def _kind_of(self, item: ItemRecord) -> ChangeKind:
        if not self._seen(item.arrived_cn):
            moved = self._scope == DATABASE_SCOPE and self._has_seen_made(item.message_id)
            return ChangeKind.MOVED if moved else ChangeKind.NEW
        return ChangeKind.READ if self._seen(item.change_cn) else ChangeKind.CHANGED

    def _has_seen_made(self, object_id: int) -> bool:
        """True when an object is known since it was made here. The id of another database tells no change."""
        return bool(local_counter(object_id)) and self._seen(object_id)

    def _has_seen_arrive(self, kind: ObjectKind, object_id: int) -> bool:
        """True when a folder of another database is known since it came here."""
        if kind is not ObjectKind.FOLDER or local_counter(object_id):
            return False
        record: FolderRecord | None = self._reader.record(Table.FOLDER, id_key(object_id))
        return record is not None and bool(record.arrived_cn) and self._seen(record.arrived_cn)

    def _may_be_known(self, kind: ObjectKind, object_id: int, folder_id: int, cn: int, place: _Place) -> bool:
        """True when an object that is gone came before the state, or an earlier page told of it in time.

        Where nothing tells when it came, it may be known.
        """
        arrived = self._arrival(kind, object_id, folder_id, cn)
        if not arrived or self._seen(arrived):
            return True
        return arrived <= place.told and counter_of(cn) > place.begun

    def _arrival(self, kind: ObjectKind, object_id: int, folder_id: int, cn: int) -> int:
        """When an object that is gone had come to the scope, 0 where nothing tells.

        A message that was deleted may have been known in another folder: to the database it came when it
        was made.
        """
        is_foreign = kind is ObjectKind.FOLDER_GONE and not local_counter(object_id)
        if is_foreign or (kind is ObjectKind.MESSAGE_GONE and self._scope != DATABASE_SCOPE):
            key = pair_key(folder_id, cn)
            tombstone: TombstoneRecord | None = self._reader.record(Table.TOMBSTONE, key)
            if tombstone is None and folder_id in self._removed:
                return 0  # the message is still there, hidden
            if tombstone is None:
                raise Corrupt(
                    f"tombstone[{key.hex()}] is missing, the feed names it", table="tombstone", key=key
                )
            if tombstone.arrived_cn:
                return tombstone.arrived_cn
        return object_id if local_counter(object_id) else 0


def _unpacked(after: bytes) -> _Place:
    check_kind(after, "after", bytes, "`next` of another page")
    if len(after) == _PLACE.size and is_id((place := _Place(*_PLACE.unpack(after))).told):
        return place
    raise InvalidSetting("this is no place in the changes", hint="give `next` of another page")


def is_of_future(reader: Reader, counter: int) -> bool:
    """True for a counter that the database came to after the backup that it was restored from."""
    left_out: LeftOutRecord | None = reader.record(Table.META, LEFT_OUT_KEY)
    intervals = left_out.intervals if left_out is not None else ()
    return counter > reader.state().counter or any(first <= counter <= last for first, last in intervals)


def _refuse_future(reader: Reader, counter: int) -> None:
    """Raises Refused for a counter of the future."""
    if is_of_future(reader, counter):
        raise Refused(
            "this state is from the future of the database: it was restored from an earlier backup",
            hint=_BEGIN_ANEW,
        )


def changes(reader: Reader, since: CNSet, folder_id: int = DATABASE_SCOPE) -> Changes:
    """The changes since `since` in a folder, or in the whole database; none in a folder that never was.

    Keep a CNSET for each database. Raises Refused when whoever asks must begin anew: `since` is of another
    database, as after the mailbox was moved, or names changes that this one has not made, since it was
    restored in place to before them.
    """
    check_kind(since, "since", CNSet, "the CNSET that was kept, an empty one at first: `CNSet()`")
    check_id(folder_id, "folder_id")
    origin = reader.files.guid
    if since and not since.ranges(origin):
        raise Refused("this state is of another database", hint=_BEGIN_ANEW)
    _refuse_future(reader, since.highest(origin))
    return Changes(reader, since, folder_id)


class Burying(Protocol):
    """Takes tombstones under new change numbers: a transaction, or the rebuilding of tables by a repair."""

    now_ms: int

    def next_cn(self) -> int:
        """A change number that nobody had before."""
        ...

    def insert(self, table: Table, key: bytes, record: Record) -> None:
        """Store a record under a key that was never used."""
        ...


def bury(txn: Burying, kind: ObjectKind, folder_id: int, went_to: bytes = b"") -> None:
    """Leave a tombstone of a folder, or of the mailbox that had it as its root.

    `went_to` is the GUID of the database that the mailbox was moved to.
    """
    tombstone = TombstoneRecord(
        kind=kind, object_id=folder_id, uid=0, deleted_ms=txn.now_ms, moved_to=0, went_to=went_to
    )
    _bury(txn, folder_id, tombstone)


def bury_folder(txn: WriteTransaction, record: FolderRecord) -> None:
    """Leave a tombstone of a folder that other stores have too; it keeps the folder's record."""
    cn = txn.next_cn()
    tombstone = TombstoneRecord(
        kind=ObjectKind.FOLDER_GONE,
        object_id=record.folder_id,
        uid=0,
        deleted_ms=txn.now_ms,
        moved_to=0,
        arrived_cn=record.arrived_cn,
        versions=numbering.written(txn, record.versions, cn),
        changed=numbering.next_stamp(txn),
        actor=txn.actor.account,
        folder=tuple(record),
    )
    txn.insert(Table.TOMBSTONE, pair_key(record.folder_id, cn), tombstone)


def bury_message(txn: Burying, item: ItemRecord, moved_to: int = 0) -> int:
    """Leave a tombstone of a message that leaves its folder; the change number it has.

    `moved_to` is the folder that it goes to, 0 when it is deleted.
    """
    return _bury(txn, item.folder_id, _tombstone_of(txn, item, moved_to))


def bury_version(txn: WriteTransaction, item: ItemRecord, moved_to: int = 0) -> int:
    """`bury_message` of a deletion that other stores make too, where they have the message.

    Not for what is expired here, or goes with its folder.
    """
    if not (txn.numbering and item.versions):
        return bury_message(txn, item, moved_to)
    cn = txn.next_cn()
    tombstone = _tombstone_of(txn, item, moved_to)._replace(
        object_id=item.conflict_of or item.message_id,
        versions=numbering.written(txn, item.versions, cn),
        changed=numbering.next_stamp(txn),
        actor=txn.actor.account,
    )
    txn.insert(Table.TOMBSTONE, pair_key(item.folder_id, cn), tombstone)
    return cn


def _tombstone_of(txn: Burying, item: ItemRecord, moved_to: int) -> TombstoneRecord:
    return TombstoneRecord(
        kind=ObjectKind.MESSAGE_GONE,
        object_id=item.message_id,
        uid=item.uid,
        deleted_ms=txn.now_ms,
        moved_to=moved_to,
        arrived_cn=item.arrived_cn,
    )


def _bury(txn: Burying, folder_id: int, tombstone: TombstoneRecord) -> int:
    cn = txn.next_cn()
    txn.insert(Table.TOMBSTONE, pair_key(folder_id, cn), tombstone)
    return cn


def vanished(reader: Reader, folder_id: int, modseq: int) -> Iterator[int]:
    """The UIDs that left a folder after a MODSEQ of it, deleted or moved away: IMAP's VANISHED (RFC 7162).

    Also of messages that came only after it: a client may know them. Raises Corrupt.
    """
    check_id(folder_id, "folder_id")
    check_kind(modseq, "modseq", int, "a MODSEQ: `modseq` of a message or folder")
    if is_id(folder_id) and is_id(modseq) and folder_id != DATABASE_SCOPE:
        for _, body in reader.indexes(
            Table.FEED, pair_key(folder_id, modseq + 1), pair_key(folder_id + 1, 0)
        ):
            kind, _, _, uid = split_feed_value(body)
            if kind == ObjectKind.MESSAGE_GONE:
                yield uid
