"""Versions of messages and folders that other stores have too: what a change made here puts into a record.

In a database that has joined an organisation each change of a public folder or of a message in one has its
replicated number (`numbering`), its stamp and its actor. Properties are entries with a stamp each, so that
stores which change different properties of one object do not disturb each other (REPLICATION.md, K6). One
that has no stamp of its own was set by the change that the record tells of.

A message that was changed in two places at once has a record for each version; these have ids of their own,
name it (`conflict_of`), and are met by nobody. Its own record shows them: read as one, where their content is
the same; or else as the conflict message. A folder's own record shows all its versions read as one, too. A
change made here is of what is shown, and takes the place of all versions. (Before there was a `role` the
record of a message in conflict was one of its versions, and users met the others beside it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import (
    HIERARCHY_SCOPE,
    FolderRecord,
    ItemRecord,
    ItemRole,
    ObjectKind,
    Table,
    TombstoneRecord,
    id_key,
    is_silent,
    item_key,
    split_feed_value,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import numbering, replication_state
from pillarbox.store.engine.numbering import Versions
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, Refused
from pillarbox.store.ids import COUNTER_BITS, id_text
from pillarbox.store.mail.flags import FLAG_BITS, SEEN
from pillarbox.store.mail.rights import Right, require, require_change

Stamps = tuple[tuple[str, int, int, int], ...]
"""(property, ms, counter, replica number) of each property with a stamp of its own."""

KEYWORD: Final = "keyword "
CATEGORY: Final = "category "
PROPERTY: Final = "property "
NAME: Final = "name"
PARENT: Final = "parent"
DELETE_PENDING: Final = 1
ACTIVE: Final = 2
"""The state of a database in a folder's replica list that holds it, and may be asked for it."""
FORMER_FOLDER: Final = "former_folder"
"""The property of a message that says, in this database alone, from which folder it was moved."""
_FLAGS: Final = {name: bit for name, bit in FLAG_BITS.items() if name != SEEN}  # who read it is no change
UNVERSIONED: Final[Mapping[str, Any]] = {
    "versions": (),
    "conflict_of": 0,
    "changed": (),
    "actor": "",
    "stamps": (),
    "role": 0,
}
"""The fields of a message that no other store has."""


def properties_of(item: ItemRecord) -> dict[str, Any]:
    """The properties of a message that replicate, by name."""
    found: dict[str, Any] = {name: True for name, bit in _FLAGS.items() if item.flags & bit}
    found |= {KEYWORD + word.lower(): word for word in item.keywords}
    found |= {CATEGORY + name: True for name in item.categories}
    return found | {
        PROPERTY + name: value for name, value in item.properties.items() if name != FORMER_FOLDER
    }


def properties_of_folder(record: FolderRecord) -> dict[str, Any]:
    """The properties of a folder that replicate, by name."""
    name, parent_id = record.written or (record.name, record.parent_id)
    found: dict[str, Any] = {NAME: name, PARENT: parent_id}
    return found | {PROPERTY + name: value for name, value in record.properties.items()}


def _stamps_after(
    record: ItemRecord | FolderRecord,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    own: tuple[int, int, int],
) -> Stamps:
    """The stamps of properties after a change with the stamp `own`.

    Those that it leaves as they are keep theirs; those that it sets have its own, without saying so; those
    that it removes say so, since nothing else would tell that an older value is to lose.
    """
    number = record.versions[0] >> COUNTER_BITS
    time_ms, counter = record.changed or (0, 0)
    held = {stamp[0]: stamp for stamp in record.stamps}
    names = sorted(name for name in {*before, *held} if before.get(name) == after.get(name))
    kept = (held.get(name, (name, time_ms, counter, number)) for name in names)
    removed = ((name, *own) for name in before.keys() - after.keys())
    return tuple(sorted((*kept, *removed)))


T = TypeVar("T")
RecordT = TypeVar("RecordT", ItemRecord, FolderRecord)


# -- changes made here


def as_new(txn: WriteTransaction, item: ItemRecord) -> ItemRecord:
    """A message that was made here by the change it arrived with, under the id that this gives it."""
    number = numbering.own_number(txn, item.arrived_cn)
    return item._replace(
        message_id=number,
        versions=(number,),
        conflict_of=0,
        changed=numbering.next_stamp(txn),
        actor=txn.actor.account,
        stamps=(),
    )


def as_changed(txn: WriteTransaction, before: ItemRecord, after: ItemRecord, cn: int) -> ItemRecord:
    """A message after a change made here; read state alone is no change to other stores.

    Raises Refused for one in conflict: other stores would take the change for its resolution.
    """
    old, new = properties_of(before), properties_of(after)
    if old == new:
        return after
    refuse_conflict(txn, before)
    return _written(txn, before, after, cn, old, new)


def _written(
    txn: WriteTransaction,
    before: RecordT,
    after: RecordT,
    cn: int,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> RecordT:
    """A record after a change under a change number, which saw all versions that were there."""
    numbers = numbering.written(txn, before.versions, cn)
    time_ms, counter = numbering.next_stamp(txn)
    return after._replace(
        versions=numbers,
        stamps=_stamps_after(before, old, new, (time_ms, counter, txn.numbering)),
        changed=(time_ms, counter),
        actor=txn.actor.account,
    )


def as_resolved(txn: WriteTransaction, item: ItemRecord, cn: int) -> ItemRecord:
    """A version of a message that takes the place of all of them."""
    properties = properties_of(item)
    resolved = item._replace(change_cn=cn, conflict_of=0, role=int(ItemRole.MESSAGE))
    return _written(txn, item, resolved, cn, properties, properties)


def as_new_folder(txn: WriteTransaction, record: FolderRecord, parent: FolderRecord) -> FolderRecord:
    """A folder that was made here by its first change, with the active replicas of the one that it is in."""
    number = numbering.own_number(txn, record.change_cn)
    stamp = numbering.next_stamp(txn)
    databases = [row[0] for row in parent.replicas if row[1] == ACTIVE] or [txn.files.guid]
    return record._replace(
        folder_id=number,
        arrived_cn=0 if number == record.change_cn else record.change_cn,
        versions=(number,),
        changed=stamp,
        actor=txn.actor.account,
        replicas=tuple((database, ACTIVE, *stamp, txn.numbering) for database in databases),
    )


def as_changed_folder(txn: WriteTransaction, before: FolderRecord, after: FolderRecord) -> FolderRecord:
    """A folder after a change made here; a name or parent that is set here is what it is elsewhere too."""
    if before.written and (before.name, before.parent_id) != (after.name, after.parent_id):
        name, parent_id = before.written
        if before.name != after.name:
            name = after.name
        if before.parent_id != after.parent_id:
            parent_id = after.parent_id
        written = () if (name, parent_id) == (after.name, after.parent_id) else (name, parent_id)
        after = after._replace(written=written)
    old, new = properties_of_folder(before), properties_of_folder(after)
    if old == new and (before.replicas, before.rights) == (after.replicas, after.rights):
        return after
    return _written(txn, before, after, after.change_cn, old, new)


def replace_siblings(txn: WriteTransaction, record: FolderRecord) -> None:
    """Take away every other version of a folder, which a change made here replaces: it saw them all."""
    require_change(txn, Right.FOLDER_OWNER, record.folder_id)
    own = (Table.FOLDER, record.folder_id.to_bytes(8, "big"))
    for table, key in records_of(txn, HIERARCHY_SCOPE, record.versions):
        if (table, key) != own:
            txn.delete(table, key)


def with_content_cleared(reader: Reader, record: FolderRecord) -> FolderRecord:
    """A folder as its tombstone keeps it: the numbers of its content are among those that are cleared.

    They are those that a replicator said are known here, and those of the messages that are here.
    """
    start, stop = triple_key(record.folder_id, 0, 0), triple_key(record.folder_id + 1, 0, 0)
    entries = {split_triple_key(key)[1] for key, _ in reader.indexes(Table.VERSION, start, stop)}
    cleared = numbering.as_cnset(reader, sorted(entries)) | replication_state.known(reader, record.folder_id)
    if record.cleared is not None:
        cleared |= CNSet.decode(record.cleared)
    return record._replace(cleared=cleared.encode() if cleared else None)


def drop_tombstone(txn: WriteTransaction, key: bytes, tombstone: TombstoneRecord) -> None:
    """Forget the version that a tombstone is; who follows the feed still finds what it tells."""
    silent = is_silent(tombstone)
    txn.put(Table.TOMBSTONE, key, None if silent else tombstone._replace(versions=(), changed=(), actor=""))


# -- records of one object


def records_of(reader: Reader, scope: int, versions: Versions) -> list[tuple[Table, bytes]]:
    """(table, key) of every record of the object that has this context: its versions and tombstones."""
    context = numbering.context_of(versions)
    if not context:
        return []
    origin, counter = min(context.items())
    entry = origin << COUNTER_BITS | counter
    found: list[tuple[Table, bytes]] = []
    for key, body in reader.indexes(
        Table.VERSION, triple_key(scope, entry, 0), triple_key(scope, entry + 1, 0)
    ):
        kind, _, folder_id, uid = split_feed_value(body)
        row_id = split_triple_key(key)[2]
        if kind == ObjectKind.MESSAGE:
            found.append((Table.ITEM, item_key(folder_id, uid)))
        elif kind == ObjectKind.FOLDER:
            found.append((Table.FOLDER, row_id.to_bytes(8, "big")))
        else:
            found.append((Table.TOMBSTONE, folder_id.to_bytes(8, "big") + row_id.to_bytes(8, "big")))
    return found


def object_ids(reader: Reader, scope: int) -> set[int]:
    """The ids of all objects of a scope that have numbers."""
    rows = reader.indexes(Table.VERSION, triple_key(scope, 0, 0), triple_key(scope + 1, 0, 0))
    return {split_feed_value(body)[1] for _, body in rows}


def live_versions(reader: Reader, item: ItemRecord) -> list[ItemRecord]:
    """The live versions of a message in the order in which all stores show them, the oldest first."""
    found = [
        reader.record(table, key)
        for table, key in records_of(reader, item.folder_id, item.versions)
        if table == Table.ITEM
    ]
    numbered = [record for record in found if record.versions[0]]
    return in_shown_order(reader, numbered, lambda record: record.versions[0])


def in_shown_order(reader: Reader, found: Iterable[T], number_of: Callable[[T], int]) -> list[T]:
    """Versions by counter and then by replica GUID, which are the same in all stores."""
    return sorted(found, key=lambda each: numbering.as_change_number(reader, number_of(each))[::-1])


def is_in_conflict(reader: Reader, item: ItemRecord) -> bool:
    """True for a message whose content was changed in two places at once, and for each version of it."""
    if not item.versions or (item.role == ItemRole.MESSAGE and not item.versions[0]):
        return False  # where several have one content, their properties are read as one
    return item.role != ItemRole.MESSAGE or len(live_versions(reader, item)) > 1


class Conflict(NamedTuple):
    """A message that was changed in two places at once: the record that users meet, and its versions."""

    message: ItemRecord
    versions: list[ItemRecord]


def conflicts(reader: Reader, folder_id: int) -> list[Conflict]:
    """The messages of a folder whose content was changed in two places at once.

    The index tells where they are; of other messages no record is read. Raises InvalidArgument when `reader`
    is no transaction.
    """
    require(reader, Right.READ_ITEMS, folder_id)
    uids: dict[int, int] = {}  # of one sibling of each
    rows = reader.indexes(Table.VERSION, triple_key(folder_id, 0, 0), triple_key(folder_id + 1, 0, 0))
    for key, body in rows:
        kind, object_id, _, uid = split_feed_value(body)
        if kind == ObjectKind.MESSAGE and object_id != split_triple_key(key)[2]:
            uids[object_id] = uid
    found: list[Conflict] = []
    for _, uid in sorted(uids.items()):
        sibling: ItemRecord = reader.record(Table.ITEM, item_key(folder_id, uid))
        message = shown_of(reader, sibling)
        if is_in_conflict(reader, message):
            found.append(Conflict(message, live_versions(reader, sibling)))
    return found


def shown_of(reader: Reader, item: ItemRecord) -> ItemRecord:
    """The record that users meet of the message of which `item` is a version."""
    if not item.conflict_of:
        return item
    place = reader.index(Table.LOCATION, id_key(item.conflict_of))
    shown: ItemRecord | None = None if place is None else reader.record(Table.ITEM, place)
    if shown is None:
        key = id_key(item.conflict_of)
        raise Corrupt(f"item of message {id_text(item.conflict_of)} is missing", table="item", key=key)
    return shown


def refuse_conflict(reader: Reader, item: ItemRecord) -> None:
    """Raise Refused for a message in conflict, and for a version of one of several."""
    if item.role == ItemRole.VERSION or is_in_conflict(reader, item):
        raise Refused(
            f"message {id_text(item.conflict_of or item.message_id)} was changed in two places at once",
            hint="keep one of its versions first: `pillarbox replication resolve`, or "
            "`messages.keep_version` in a program",
        )
