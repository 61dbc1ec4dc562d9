"""The public folder tree of a public folder store, and what each user has read in it (DOMAIN.md "Store").

The tree has two roots: the IPM subtree, which users see, and the non-IPM subtree of system folders. A message
there is read by one user and not by another, so read state is kept apart: for each folder and user, the UIDs
that were read, as intervals.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from blake3 import blake3

from pillarbox.store.arguments import check_id, check_kind
from pillarbox.store.disk.tables import (
    DIGEST_BYTES,
    IDENTITY_KEY,
    UID_END,
    DatabaseKind,
    FolderRecord,
    IdentityRecord,
    ItemRecord,
    ItemRole,
    SeenRecord,
    Table,
    id_key,
    is_id,
    item_key,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, InvalidName, Refused
from pillarbox.store.mail import folders, shown_folders
from pillarbox.store.mail.rights import STORE, Right, require, require_change
from pillarbox.store.names import name_key

IPM_SUBTREE: Final = "IPM_SUBTREE"
NON_IPM_SUBTREE: Final = "NON_IPM_SUBTREE"
LOST_AND_FOUND: Final = shown_folders.LOST_AND_FOUND
"""The subtree of folders that have no other place, in a store that has joined an organisation."""
Intervals = tuple[tuple[int, int], ...]


# -- the tree


def create_tree(txn: WriteTransaction) -> dict[str, int]:
    """Make the two roots of the tree in a new public folder store; their ids. A tree that is there stays.

    Raises Refused in a mailbox store.
    """
    require_change(txn, Right.MANAGE_STORE, STORE)
    identity = _identity(txn)
    if identity.roots:
        return identity.roots
    roots = {name: folders.insert(txn, b"", 0, name).folder_id for name in (IPM_SUBTREE, NON_IPM_SUBTREE)}
    txn.put(Table.META, IDENTITY_KEY, identity._replace(roots=roots))
    return roots


def create_lost_and_found(txn: WriteTransaction) -> int:
    """Make the root of the folders that have no other place, in a tree; its id. One that is there stays.

    Raises Refused in a mailbox store.
    """
    require_change(txn, Right.MANAGE_STORE, STORE)
    identity = _identity(txn)
    if LOST_AND_FOUND in identity.roots:
        return identity.roots[LOST_AND_FOUND]
    folder_id = folders.insert(txn, b"", 0, LOST_AND_FOUND).folder_id
    txn.put(Table.META, IDENTITY_KEY, identity._replace(roots={**identity.roots, LOST_AND_FOUND: folder_id}))
    return folder_id


def root_id(reader: Reader, subtree: str = IPM_SUBTREE) -> int:
    """The id of the root of a subtree. Raises Refused in a mailbox store, InvalidName for no subtree."""
    roots = _identity(reader).roots
    if subtree not in roots:
        raise InvalidName(f"{subtree!r} is no subtree", hint=f"one of {IPM_SUBTREE}, {NON_IPM_SUBTREE}")
    return roots[subtree]


def _identity(reader: Reader) -> IdentityRecord:
    identity: IdentityRecord | None = reader.record(Table.META, IDENTITY_KEY)
    if identity is None or identity.kind != DatabaseKind.PUBLIC_FOLDER_STORE:
        raise Refused("a mailbox store holds no public folders", hint="name a public folder store")
    return identity


def create(txn: WriteTransaction, path: str, *, subtree: str = IPM_SUBTREE) -> FolderRecord:
    """Make the folder `A/B/C`, in a folder `A/B` that is there.

    Raises NotFound, InvalidName, AlreadyExists; Refused when nested too deep or in a mailbox store.
    """
    check_kind(path, "path", str, "the names of the folders, with `/` between them")
    parent_path, _, name = path.rpartition("/")
    parent = folders.by_path(txn, root_id(txn, subtree), parent_path)
    return folders.create(txn, parent.folder_id, name)


def find(reader: Reader, path: str, *, subtree: str = IPM_SUBTREE) -> FolderRecord:
    """The folder at `A/B/C`; the root of the subtree at "". Raises NotFound, Refused in a mailbox store."""
    return folders.by_path(reader, root_id(reader, subtree), path)


def walk(
    reader: Reader, path: str = "", *, subtree: str = IPM_SUBTREE
) -> Iterator[tuple[tuple[str, ...], FolderRecord]]:
    """(path below it, folder) of each folder below one, each before those in it. Raises as `find`."""
    return folders.walk(reader, find(reader, path, subtree=subtree).folder_id)


# -- replica list and permissions of a folder, in a store that has joined an organisation


def set_replica(txn: WriteTransaction, folder_id: int, database: bytes, state: int) -> FolderRecord:
    """Set the state of a database (GUID) in a folder's replica list: 0 removed, 1 delete pending, 2 active.

    Raises NotFound; Refused in a database that has joined no organisation.
    """
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = folders.get(txn, folder_id)
    entries = {row[0]: row for row in record.replicas}
    entries[database] = (database, state, *_entry_stamp(txn, record))
    return folders.change(txn, record, replicas=tuple(sorted(entries.values())))


def set_rights(txn: WriteTransaction, folder_id: int, subject: str, rights: int) -> FolderRecord:
    """Set the rights of a subject on a folder, as bits. Raises as `set_replica`."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = folders.get(txn, folder_id)
    entries = {row[0]: row for row in record.rights}
    entries[subject] = (subject, rights, *_entry_stamp(txn, record))
    return folders.change(txn, record, rights=tuple(sorted(entries.values())))


def _entry_stamp(txn: WriteTransaction, record: FolderRecord) -> tuple[int, int, int]:
    if not (txn.numbering and record.versions):
        raise Refused(
            f"folder {record.name!r} is in no organisation",
            hint="join the store to one first: `joining.join`",
        )
    return (*numbering.next_stamp(txn), txn.numbering)


# -- read state of one user, the one who asks: no change of a message, so the feed tells nothing of it


def mark_read(txn: WriteTransaction, folder_id: int, first_uid: int = 1, last_uid: int | None = None) -> None:
    """Make messages of these UIDs read for the account that asks; all there are when none are named.

    Messages that come later are unread whatever `last_uid` is. Raises NotFound, Refused outside the tree.
    """
    require_change(txn, Right.READ_ITEMS, folder_id)
    _refuse_no_uids(first_uid, 1 if last_uid is None else last_uid)
    newest_uid = _public(txn, folder_id).uid_next - 1
    last_uid = newest_uid if last_uid is None else min(last_uid, newest_uid)
    before = read_uids(txn, folder_id).intervals
    _keep(txn, folder_id, txn.actor.account, before, with_interval(before, max(first_uid, 1), last_uid))


def mark_unread(txn: WriteTransaction, folder_id: int, first_uid: int, last_uid: int) -> None:
    """Make messages of these UIDs unread for the account that asks. Raises NotFound, Refused."""
    require_change(txn, Right.READ_ITEMS, folder_id)
    _refuse_no_uids(first_uid, last_uid)
    _public(txn, folder_id)
    before = read_uids(txn, folder_id).intervals
    _keep(txn, folder_id, txn.actor.account, before, without_interval(before, first_uid, last_uid))


def _refuse_no_uids(first_uid: int, last_uid: int) -> None:
    check_kind(first_uid, "first_uid", int, "a UID: `uid` of a message's record")
    check_kind(last_uid, "last_uid", int, "a UID: `uid` of a message's record")


class ReadUids:
    """The UIDs of one folder that one account has read; `uid in read` costs O(log n).

    `intervals` have both ends included, are in order and never touch each other.
    """

    def __init__(self, intervals: Intervals = ()) -> None:
        self.intervals = intervals

    def __contains__(self, uid: int) -> bool:
        at = bisect_right(self.intervals, uid, key=_first)
        return at > 0 and uid <= self.intervals[at - 1][1]


def read_uids(reader: Reader, folder_id: int) -> ReadUids:
    """The UIDs that the account that asks has read; ask once for a whole listing.

    None of a folder that does not exist.
    """
    require(reader, Right.READ_ITEMS, folder_id)
    check_id(folder_id, "folder_id")
    return ReadUids(_seen(reader, folder_id, reader.actor.account) if is_id(folder_id) else ())


def is_read(reader: Reader, item: ItemRecord) -> bool:
    """True when the account that asks has read a message; of many in one folder ask `read_uids`."""
    check_kind(item, "item", ItemRecord, "the record of a message: `messages.get(reader, message_id)`")
    require(reader, Right.READ_ITEMS, item.folder_id)
    return item.uid in read_uids(reader, item.folder_id)


def unread(reader: Reader, folder_id: int) -> Iterator[ItemRecord]:
    """The messages of a folder that the account that asks has not read, by UID; read ones cost nothing.

    Raises NotFound, Refused outside the tree.
    """
    require(reader, Right.READ_ITEMS, folder_id)
    return _unread(reader, folder_id, _public(reader, folder_id).uid_next)


def _unread(reader: Reader, folder_id: int, uid_next: int) -> Iterator[ItemRecord]:
    for first, last in gaps(1, uid_next - 1, read_uids(reader, folder_id).intervals):
        if not 0 < first <= last < UID_END:
            key = _seen_key(folder_id, reader.actor.account)
            raise Corrupt("the UIDs that were read are none", table="seen", key=key)
        start = item_key(folder_id, first)
        stop = item_key(folder_id, last + 1) if last + 1 < UID_END else id_key(folder_id + 1)
        for _, item in reader.records(Table.ITEM, start, stop):
            if item.role != ItemRole.VERSION:
                yield item


def _public(reader: Reader, folder_id: int) -> FolderRecord:
    record = folders.get(reader, folder_id)
    if record.mailbox:
        raise Refused(
            f"folder {record.name!r} is in a mailbox, where read state is a flag of the message",
            hint="set the flag \\Seen",
        )
    return record


def _seen(reader: Reader, folder_id: int, account: str) -> Intervals:
    seen: SeenRecord | None = reader.record(Table.SEEN, _seen_key(folder_id, account))
    return () if seen is None else seen.intervals


def _keep(
    txn: WriteTransaction, folder_id: int, account: str, before: Intervals, intervals: Intervals
) -> None:
    if intervals != before:
        seen = SeenRecord(user=account, intervals=intervals) if intervals else None
        txn.put(Table.SEEN, _seen_key(folder_id, account), seen)


def _seen_key(folder_id: int, account: str) -> bytes:
    return id_key(folder_id) + blake3(name_key(account)).digest(length=DIGEST_BYTES)


# -- read state of all users, for what puts a folder back


def readers(reader: Reader, folder_id: int) -> Iterator[tuple[str, ReadUids]]:
    """(account, the UIDs that it has read) of each account that has read something of a folder.

    None of a folder that does not exist. Raises Corrupt.
    """
    require(reader, Right.MANAGE_STORE, STORE)
    check_id(folder_id, "folder_id")
    if not is_id(folder_id):
        return iter(())
    found = reader.records(Table.SEEN, id_key(folder_id), id_key(folder_id + 1))
    return ((seen.user, ReadUids(seen.intervals)) for _, seen in found)


def mark_read_for(txn: WriteTransaction, folder_id: int, account: str, uids: Iterable[int]) -> None:
    """Make messages of these UIDs, which are there, read for an account. Raises NotFound, Refused."""
    require_change(txn, Right.MANAGE_STORE, STORE)
    _public(txn, folder_id)
    before = _seen(txn, folder_id, account)
    intervals = before
    for uid in uids:
        intervals = with_interval(intervals, uid, uid)
    _keep(txn, folder_id, account, before, intervals)


# -- intervals, both ends included, in order, never touching each other


def with_interval(intervals: Intervals, first: int, last: int) -> Intervals:
    """`intervals` with first..last added; nothing is added when `last` is below `first`."""
    if last < first:
        return intervals
    begin = bisect_left(intervals, first - 1, key=_last)
    end = bisect_right(intervals, last + 1, key=_first)
    if begin < end:  # those it overlaps or touches become one with it
        first, last = min(first, intervals[begin][0]), max(last, intervals[end - 1][1])
    return (*intervals[:begin], (first, last), *intervals[end:])


def without_interval(intervals: Intervals, first: int, last: int) -> Intervals:
    """`intervals` with first..last taken out; nothing is taken out when `last` is below `first`."""
    if last < first:
        return intervals
    begin = bisect_left(intervals, first, key=_last)
    end = bisect_right(intervals, last, key=_first)
    if begin >= end:
        return intervals
    pieces = ((intervals[begin][0], first - 1), (last + 1, intervals[end - 1][1]))
    left = [(low, high) for low, high in pieces if low <= high]
    return (*intervals[:begin], *left, *intervals[end:])


def gaps(first: int, last: int, intervals: Intervals) -> Iterator[tuple[int, int]]:
    """The numbers of first..last that are in none of `intervals`, as intervals in order."""
    for low, high in intervals:
        if first < low:
            yield first, min(low - 1, last)
        first = max(first, high + 1)
        if first > last:
            return
    if first <= last:
        yield first, last


def _first(interval: tuple[int, int]) -> int:
    return interval[0]


def _last(interval: tuple[int, int]) -> int:
    return interval[1]
