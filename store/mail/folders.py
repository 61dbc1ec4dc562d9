"""Folders of mailboxes and of the public folder tree: create, find, walk, rename, move, copy, delete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pillarbox.store.arguments import check_id, check_kind, check_several
from pillarbox.store.disk.tables import (
    UID_END,
    FolderRecord,
    Hidden,
    ItemRecord,
    ItemRole,
    MailboxRecord,
    ObjectKind,
    Table,
    id_key,
    is_hidden,
    is_id,
    item_key,
    number_of,
)
from pillarbox.store.engine.change_feed import bury, bury_folder
from pillarbox.store.engine.transaction import Reader, WriteTransaction, as_stored
from pillarbox.store.errors import AlreadyExists, Corrupt, NotEmpty, NotFound, Refused
from pillarbox.store.events import EventId
from pillarbox.store.ids import counter_of, guid_text, id_text
from pillarbox.store.mail import replicas, shown_folders, versions
from pillarbox.store.mail.counters import Counts, counts_of_folder, with_counts, with_counts_of_folder
from pillarbox.store.mail.rights import Right, check_reader, require, require_change
from pillarbox.store.names import check_name, name_key

GENERIC: Final = 0
DEPTH_MAX: Final = shown_folders.DEPTH_MAX
_UID_MAX: Final = (1 << 32) - 1
_HIDDEN_HINTS: Final = {
    Hidden.REMOVED: "it was deleted",
    Hidden.ARRIVING: "its mailbox is being moved here: find the mailbox by its name",
    Hidden.COPYING: "it is being copied here: it shows once the copy is complete",
    Hidden.SIBLING: "it is a version of a folder that was changed in two places at once",
}


def with_property(properties: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Properties with one of them set, to a copy as it is read again, or removed by None.

    Raises InvalidSetting for what cannot be stored.
    """
    check_kind(key, "key", str, "the name of a property")
    kept = {name: held for name, held in properties.items() if name != key}
    return kept if value is None else kept | {key: as_stored(value)}


# -- finding


def get(reader: Reader, folder_id: int) -> FolderRecord:
    """The folder of that id. Raises NotFound, also for a hidden one."""
    check_reader(reader)
    check_id(folder_id, "folder_id")
    record = get_or_hidden(reader, folder_id)
    if is_hidden(record):
        raise NotFound(f"there is no folder {id_text(folder_id)}", hint=_HIDDEN_HINTS[Hidden(record.hidden)])
    return record


def get_or_hidden(reader: Reader, folder_id: int) -> FolderRecord:
    """The folder of that id, hidden or not, for the task that it is hidden by. Raises NotFound."""
    record: FolderRecord | None = None
    if is_id(folder_id):
        record = reader.record(Table.FOLDER, id_key(folder_id))
    if record is None:
        raise NotFound(f"there is no folder {id_text(folder_id)}")
    return record


def all_of(reader: Reader) -> Iterator[FolderRecord]:
    """Every folder of the database, by id."""
    return (found for _, found in reader.records(Table.FOLDER, b"", None) if not is_hidden(found))


def is_there(reader: Reader, folder_id: int) -> bool:
    """True when there is a folder of that id, and not hidden."""
    try:
        get(reader, folder_id)
    except NotFound:
        return False
    return True


def find(reader: Reader, parent_id: int, name: str) -> FolderRecord | None:
    """The folder of that name, in any case, directly in another.

    None when the name is free or the parent does not exist.
    """
    check_id(parent_id, "parent_id")
    if not is_there(reader, parent_id):
        return None
    found = reader.index(Table.FOLDER_NAME, id_key(parent_id) + name_key(name))
    return None if found is None else get(reader, number_of(found)[0])


def children(reader: Reader, folder_id: int) -> Iterator[FolderRecord]:
    """The folders directly in another, by name; none in a folder that does not exist."""
    require(reader, Right.FOLDER_VISIBLE, folder_id)
    check_id(folder_id, "folder_id")
    return _children(reader, folder_id)


def _children(reader: Reader, folder_id: int) -> Iterator[FolderRecord]:
    if is_there(reader, folder_id):
        yield from _children_or_hidden(reader, folder_id)


def _children_or_hidden(reader: Reader, folder_id: int) -> Iterator[FolderRecord]:
    yield from _named(reader, id_key(folder_id), id_key(folder_id + 1))


def _named(reader: Reader, start: bytes, stop: bytes) -> Iterator[FolderRecord]:
    """The folders in a range of the index of names."""
    for _, found in reader.indexes(Table.FOLDER_NAME, start, stop):
        yield get_or_hidden(reader, number_of(found)[0])


def _below(reader: Reader, record: FolderRecord, met: tuple[int, ...] = ()) -> Iterator[FolderRecord]:
    """A folder, hidden or not, and all below it. `met` are those above it. Raises Corrupt."""
    _refuse_circle(record, met)
    yield record
    for child in _children_or_hidden(reader, record.folder_id):
        yield from _below(reader, child, (*met, record.folder_id))


def _refuse_circle(record: FolderRecord, above: tuple[int, ...]) -> None:
    """Raise Corrupt for a folder that lies below itself, or deeper than any transaction puts one."""
    if record.folder_id in above or len(above) > DEPTH_MAX + 1:
        raise Corrupt(
            f"folder {id_text(record.folder_id)} lies below itself, or deeper than a folder can",
            table="folder",
            key=id_key(record.folder_id),
        )


def walk(
    reader: Reader, folder_id: int, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FolderRecord]]:
    """(path, folder) of each folder below another, each before those in it, by name; as `children`."""
    require(reader, Right.FOLDER_VISIBLE, folder_id)
    check_id(folder_id, "folder_id")
    return _walk(reader, folder_id, path, ())


def _walk(
    reader: Reader, folder_id: int, path: tuple[str, ...], above: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], FolderRecord]]:
    above = (*above, folder_id)
    for child in _children(reader, folder_id):
        _refuse_circle(child, above)
        inner = (*path, child.name)
        yield inner, child
        yield from _walk(reader, child.folder_id, inner, above)


def by_path(reader: Reader, root_id: int, path: str) -> FolderRecord:
    """The folder at `A/B/C` below a root. Raises NotFound."""
    check_kind(path, "path", str, "the names of the folders, with `/` between them")
    at = get(reader, root_id)
    for name in filter(None, path.split("/")):
        found = find(reader, at.folder_id, name)
        if found is None:
            raise NotFound(f"there is no folder {path!r}", hint="list the folders to see their names")
        at = found
    return at


def path_of(reader: Reader, folder_id: int) -> tuple[str, ...]:
    """The names from below the root down to a folder; () of a root. Raises NotFound."""
    names: list[str] = []
    at = get(reader, folder_id)
    while at.parent_id and len(names) <= DEPTH_MAX:
        names.append(at.name)
        at = get(reader, at.parent_id)
    return tuple(reversed(names))


def messages(reader: Reader, folder_id: int, after_uid: int = 0) -> Iterator[ItemRecord]:
    """The messages of a folder by UID, those above `after_uid`; none of a folder that does not exist."""
    require(reader, Right.READ_ITEMS, folder_id)
    check_id(folder_id, "folder_id")
    check_kind(after_uid, "after_uid", int, "a UID")
    first_uid = max(after_uid + 1, 0)
    if not is_there(reader, folder_id) or first_uid >= UID_END:
        return iter(())
    start, stop = item_key(folder_id, first_uid), id_key(folder_id + 1)
    found = reader.records(Table.ITEM, start, stop)
    return (item for _, item in found if item.role != ItemRole.VERSION)


# -- changing


def new_record(folder_id: int, cn: int, now_ms: int) -> FolderRecord:
    """The record of an empty folder that comes by the change `cn`, before it has a name and a place."""
    return FolderRecord(
        folder_id=folder_id,
        mailbox=b"",
        parent_id=0,
        name="",
        kind=GENERIC,
        # A later folder of the same name has another one (RFC 9051, section 2.3.1.1).
        uid_validity=uid_validity_of(cn),
        uid_next=1,
        messages_count=0,
        unread_count=0,
        size=0,
        highest_cn=cn,
        change_cn=cn,
        created_ms=now_ms,
        properties={},
    )


def insert(
    txn: WriteTransaction,
    mailbox: bytes,
    parent_id: int,
    name: str,
    hidden: Hidden = Hidden.NO,
    *,
    folder_id: int = 0,
) -> FolderRecord:
    """Insert a folder, whose name was checked and is free. `folder_id` is a new change number, or 0."""
    folder_id = folder_id or txn.next_cn()
    record = new_record(folder_id, folder_id, txn.now_ms)
    record = record._replace(mailbox=mailbox, parent_id=parent_id, name=name, hidden=int(hidden))
    if txn.numbering and parent_id:  # the roots are the tree's own
        record = versions.as_new_folder(txn, record, txn.record(Table.FOLDER, id_key(parent_id)))
    txn.insert(Table.FOLDER, id_key(record.folder_id), record)
    if txn.numbering and parent_id and not record.hidden:
        shown_folders.show_made(txn, record.folder_id)
        return get(txn, record.folder_id)
    return record


def create(txn: WriteTransaction, parent_id: int, name: str) -> FolderRecord:
    """Make a folder in another. Raises NotFound, InvalidName, AlreadyExists; Refused when nested too deep."""
    require_change(txn, Right.CREATE_SUBFOLDERS, parent_id)
    return insert(txn, place_for(txn, parent_id, name).mailbox, parent_id, name)


def place_for(txn: WriteTransaction, parent_id: int, name: str, levels: int = 1) -> FolderRecord:
    """The folder of that id, which can take one of that name and so many levels. Raises as `create`."""
    parent = get(txn, parent_id)
    check_name(name)
    _refuse_taken_name(txn, parent_id, name)
    _refuse_too_deep(txn, parent_id, levels)
    return parent


def create_as_new(txn: WriteTransaction, parent_id: int, name: str, described: FolderRecord) -> FolderRecord:
    """`create` a folder with the properties and the time of creation of another, of any database."""
    made = create(txn, parent_id, name)
    return change(txn, made, properties=dict(described.properties), created_ms=described.created_ms)


def ensure(txn: WriteTransaction, root_id: int, path: tuple[str, ...]) -> FolderRecord:
    """The folder at a path below a root; what is missing of it is made. Raises as `create`."""
    require_change(txn, Right.CREATE_SUBFOLDERS, root_id)
    check_several(path, "path", "the names of the folders: a tuple of str")
    at = get(txn, root_id)
    for name in path:
        at = find(txn, at.folder_id, name) or create(txn, at.folder_id, name)
    return at


def rename(txn: WriteTransaction, folder_id: int, name: str) -> FolderRecord:
    """Give a folder another name. Raises NotFound, InvalidName, AlreadyExists, Refused for standard ones."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = get(txn, folder_id)
    _refuse_standard(txn, record)
    check_name(name)
    if name_key(name) != name_key(record.name):
        _refuse_taken_name(txn, record.parent_id, name)
    return _change_place(txn, record, name=name)


def move(txn: WriteTransaction, folder_id: int, parent_id: int) -> FolderRecord:
    """Put a folder, with all in it, into another. Its id and those of its messages stay.

    Raises NotFound, AlreadyExists, and Refused for standard folders, into itself, or when nested too deep.
    """
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    require_change(txn, Right.CREATE_SUBFOLDERS, parent_id)
    record = get(txn, folder_id)
    _refuse_standard(txn, record)
    parent = get(txn, parent_id)
    if record.parent_id == parent_id:
        return record
    _refuse_inside(txn, folder_id, parent)
    name = shown_folders.own_name(record)
    _refuse_taken_name(txn, parent_id, name)
    _refuse_too_deep(txn, parent_id, 1 + max((len(path) for path, _ in walk(txn, folder_id)), default=0))
    if (record.mailbox == b"") != (parent.mailbox == b""):
        raise Refused("folders do not move between mailboxes and the public folder tree")
    if parent.mailbox != record.mailbox:
        for inner in [found for _, found in walk(txn, folder_id)]:
            _change_mailbox(txn, inner, parent.mailbox)
        record = _change_mailbox(txn, record, parent.mailbox)
    return _change_place(txn, record, name=name, parent_id=parent_id)


def _change_place(txn: WriteTransaction, record: FolderRecord, **fields: Any) -> FolderRecord:
    """`change` a folder's name or place; a public folder that waited for the one before is shown there."""
    changed = change(txn, record, **fields)
    if not txn.numbering:
        return changed
    shown_folders.show_made(txn, record.folder_id)
    shown_folders.leave(txn, record)
    return get(txn, record.folder_id)


def _change_mailbox(txn: WriteTransaction, record: FolderRecord, mailbox: bytes) -> FolderRecord:
    count_in_mailbox(txn, record.mailbox, -counts_of_folder(record))
    count_in_mailbox(txn, mailbox, counts_of_folder(record))
    for item in list(messages(txn, record.folder_id)):
        # Who follows a mailbox has seen none of them there.
        arrived = item._replace(arrived_cn=txn.next_cn())
        txn.put(Table.ITEM, item_key(record.folder_id, item.uid), arrived)
        record = record._replace(highest_cn=arrived.arrived_cn)
    return change(txn, record, mailbox=mailbox)


def set_property(txn: WriteTransaction, folder_id: int, key: str, value: Any) -> FolderRecord:
    """Set one of a folder's properties, or remove it with None. Raises NotFound."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = get(txn, folder_id)
    return change(txn, record, properties=with_property(record.properties, key, value))


def renew_uid_validity(txn: WriteTransaction, folder_id: int) -> FolderRecord:
    """Let the UIDs that clients know of a folder mean nothing now (RFC 9051, 2.3.1.1). Raises NotFound."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = get(txn, folder_id)
    return change(txn, record, uid_validity=uid_validity_of(txn.next_cn()))


def uid_validity_of(cn: int) -> int:
    """The UIDVALIDITY that a change of this database gives a folder."""
    return counter_of(cn) & _UID_MAX or 1


def delete(txn: WriteTransaction, folder_id: int, *, with_contents: bool = False) -> None:
    """Delete a folder. Raises NotFound; NotEmpty unless `with_contents`; Refused for standard folders;
    NoReplica for public folders of which this store does not hold all.

    It is gone with all below it once this is durable. Its messages take their space until they are removed,
    which happens by itself (`Database.finish_removals` waits for it); the feed tells of each then.
    """
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    record = get(txn, folder_id)
    _refuse_standard(txn, record)
    if not with_contents and (record.messages_count or any(True for _ in children(txn, folder_id))):
        raise NotEmpty(
            f"folder {record.name!r} is not empty", hint="delete what is in it first, or ask for all of it"
        )
    if txn.numbering:
        for found in _below(txn, record):
            replicas.refuse_deletion(txn, found)
    hide(txn, record)


def show(txn: WriteTransaction, folder_id: int, mailbox: bytes) -> None:
    """Show a folder of a copy that is complete, in the mailbox of its parent, which counts it from now on."""
    record = get_or_hidden(txn, folder_id)
    txn.put(Table.FOLDER, id_key(folder_id), record._replace(hidden=int(Hidden.NO), mailbox=mailbox))
    count_in_mailbox(txn, mailbox, counts_of_folder(record))
    if txn.numbering and not mailbox:
        shown_folders.show_made(txn, folder_id)


def hide(txn: WriteTransaction, record: FolderRecord) -> None:
    """Hide a folder and all below it for ever: the first step of every deletion; `removal` takes the others.

    The feed tells of each folder at once.
    """
    for found in list(_below(txn, record)):
        count_in_mailbox(txn, found.mailbox, -counts_of_folder(found))
        txn.put(Table.FOLDER, id_key(found.folder_id), found._replace(hidden=int(Hidden.REMOVED)))
        if txn.numbering and found.versions:
            versions.replace_siblings(txn, found)
            bury_folder(txn, versions.with_content_cleared(txn, found))
        else:
            bury(txn, ObjectKind.FOLDER_GONE, found.folder_id)
        if not found.mailbox:
            _report_deleted(txn, found)
    txn.leaves_rows = True
    if txn.numbering:
        shown_folders.leave(txn, record)


def _report_deleted(txn: WriteTransaction, record: FolderRecord) -> None:
    txn.report(
        EventId.FOLDER_DELETED,
        folder=record.name,
        folder_id=id_text(record.folder_id),
        mailbox=txn.actor.mailbox or txn.actor.account,
        account=txn.actor.account,
    )


# -- counting


def count(
    txn: WriteTransaction, record: FolderRecord, change: Counts, cn: int, uids: int = 0
) -> FolderRecord:
    """Count messages into a folder, but not into its mailbox; see `counters.with_counts`."""
    changed = with_counts(record, change, cn, uids)
    txn.put(Table.FOLDER, id_key(record.folder_id), changed)
    return changed


def count_in_mailbox(txn: WriteTransaction, guid: bytes, change: Counts) -> None:
    """Count messages into a mailbox; public folders, which have none, count nowhere. Raises NotFound."""
    if not guid:
        return
    record: MailboxRecord | None = txn.record(Table.MAILBOX, guid)
    if record is None:
        raise NotFound(f"there is no mailbox {guid_text(guid)}")
    txn.put(Table.MAILBOX, guid, with_counts_of_folder(record, change))


def change(txn: WriteTransaction, record: FolderRecord, **fields: Any) -> FolderRecord:
    """Change fields of a folder's record, as a change of its own; the record as it is then."""
    changed = record._replace(change_cn=txn.next_cn(), **fields)
    if txn.numbering and record.versions:
        changed = versions.as_changed_folder(txn, record, changed)
        if changed.versions != record.versions:
            versions.replace_siblings(txn, record)
    txn.put(Table.FOLDER, id_key(record.folder_id), changed)
    return changed


def _refuse_taken_name(txn: WriteTransaction, parent_id: int, name: str) -> None:
    if find(txn, parent_id, name) is not None:
        raise AlreadyExists(f"there is a folder {name!r} already", hint="choose another name")


def _refuse_too_deep(txn: WriteTransaction, parent_id: int, levels: int) -> None:
    if len(path_of(txn, parent_id)) + levels > DEPTH_MAX:
        raise Refused(f"folders are nested at most {DEPTH_MAX} deep", hint="put it into a folder further up")


def _refuse_standard(txn: WriteTransaction, record: FolderRecord) -> None:
    if not record.parent_id:
        raise Refused("the root of a tree stays as it is")
    if record.mailbox:
        owner: MailboxRecord | None = txn.record(Table.MAILBOX, record.mailbox)
        if owner is not None and record.folder_id in owner.roles.values():
            raise Refused(f"{record.name!r} is a standard folder: it stays as it is")


def _refuse_inside(txn: WriteTransaction, folder_id: int, parent: FolderRecord) -> None:
    at = parent
    while True:
        if at.folder_id == folder_id:
            raise Refused("a folder cannot be put into itself")
        if not at.parent_id:
            return
        at = get(txn, at.parent_id)
