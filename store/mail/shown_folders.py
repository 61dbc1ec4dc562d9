"""Where a public folder is shown and by what name, where that is not as all stores have it.

A folder whose parent is deleted or not here yet, or that would lie too deep, and of a circle of moves the
folder with the latest one, stand in Lost and Found. Of two folders of one name in one place the one with the
higher number has its id behind its name; a name with an id is that folder's, whoever else is called so. A
name that has to be cut for the id has a longer one, and a folder that is called as if it had one always has
its own, or two could want each other's name. What all stores have is kept in the record (`written`). It
follows from the folders alone, so that it is alike in all stores, and nothing is numbered for it, else each
store's notice would be news to all others.

Whatever changes a folder's name or place, or takes it away, has to say so here, a change made by a user
(`folders`) as one that comes from another store (`apply_folders`): another folder may have waited for it.
Where none does this costs a look at the names that begin alike. One that comes, with nothing in it yet, is
waited for by those in Lost and Found alone that all stores have in it; for others to have room or to leave a
circle a folder has to leave its place. Lost and Found is read once in a transaction, to know who waits for
whom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    FolderRecord,
    Hidden,
    IdentityRecord,
    Table,
    id_key,
    is_id,
    number_of,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import InvalidName
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.ids import COUNTER_BITS, counter_of
from pillarbox.store.mail import versions
from pillarbox.store.names import (
    NAME_CHARS_MAX,
    NAME_KEY_TEXT_BYTES,
    check_held_name,
    folded_name,
    folder_name,
    name_key,
)

DEPTH_MAX: Final = 64
LOST_AND_FOUND: Final = "Lost and Found"
_SHORT_ID_BYTES: Final = 4
_LONG_ID_BYTES: Final = 8
_WITH_LONG_ID: Final = re.compile(rf".* \([0-9a-f]{{1,12}}-[0-9a-f]{{{2 * _LONG_ID_BYTES}}}\)", re.DOTALL)


def lost_and_found_id(reader: Reader) -> int:
    """The id of Lost and Found. Raises KeyError in a database that has joined no organisation."""
    identity: IdentityRecord = reader.record(Table.META, IDENTITY_KEY)
    return identity.roots[LOST_AND_FOUND]


def own_name(record: FolderRecord) -> str:
    """The name by which a folder is shown where no other has it."""
    name, _ = _written(record)
    try:
        return check_held_name(name)
    except InvalidName:
        return folder_name(name)


def _written(record: FolderRecord) -> tuple[str, int]:
    """The name and parent id that all stores have."""
    name, parent_id = record.written or (record.name, record.parent_id)
    return name, parent_id


# -- changes


def show_changed(txn: WriteTransaction, before: FolderRecord) -> None:
    """Show a folder that was another before where it stands by now; and those that waited for its change."""
    left_count = txn.left_count
    _show(txn, before.folder_id)
    if txn.left_count != left_count or _is_moved(txn, before, _record(txn, before.folder_id)):
        _show_waiting(txn)


def show_new(txn: WriteTransaction, record: FolderRecord) -> None:
    """Show a folder that comes, with nothing in it yet, and those that waited for it."""
    left_count = txn.left_count
    _put_new(txn, record)
    _show(txn, record.folder_id)
    for folder_id in _waiting(txn, (record.folder_id,)):
        _show(txn, folder_id)
    if txn.left_count != left_count:
        _show_waiting(txn)


def _put_new(txn: WriteTransaction, record: FolderRecord) -> None:
    """Put a folder that has no place yet: until it is shown where it belongs it stands in Lost and Found."""
    parent_id = lost_and_found_id(txn)
    name = _with_id(txn, record, own_name(record))
    _take_name(txn, parent_id, name, (record.folder_id,))
    placed = record._replace(name=name, parent_id=parent_id, written=_written(record))
    txn.put(Table.FOLDER, id_key(record.folder_id), placed)
    _await(txn, placed)


def show_made(txn: WriteTransaction, folder_id: int) -> None:
    """Show a folder that a user has made, or has given a name that was free, as all stores show it."""
    if _is_as_with_id(own_name(_record(txn, folder_id))):
        _show(txn, folder_id)


def leave(txn: WriteTransaction, before: FolderRecord) -> None:
    """Show those that waited for the name or place that a folder had before, or that were in it.

    It has another by now, or is hidden.
    """
    now = _found(txn, before.folder_id)
    if now is None:
        for child_id in list(_child_ids(txn, before.folder_id)):
            _show(txn, child_id)
    _show_named(txn, before.parent_id, before.name)
    if now is None or _is_moved(txn, before, now):
        _show_waiting(txn)


def _is_moved(reader: WriteTransaction, before: FolderRecord, now: FolderRecord) -> bool:
    """True when a folder has another place, here or at all stores, or another move brought it there."""
    had, has = (
        (each.parent_id, _written(each)[1], _parent_weight(reader, each, reader.now_ms))
        for each in (before, now)
    )
    return had != has


def _show_waiting(txn: WriteTransaction) -> None:
    """Show those in Lost and Found elsewhere that can be by now; those beside another of their name are shown
    when that leaves it."""
    shown_count = 1
    passes = 0
    while shown_count and passes < DEPTH_MAX:  # one that goes may have kept another waiting
        present = [each for each in _awaited(txn) if _found(txn, each) is not None]
        shown_count = sum(_show(txn, each) for each in _waiting(txn, present))
        passes += 1


def _waiting(txn: WriteTransaction, parent_ids: Iterable[int]) -> list[int]:
    """The folders in Lost and Found that all stores have in some others, by the names they have there."""
    awaited, lost_id = _awaited(txn), lost_and_found_id(txn)
    found = []
    for parent_id in parent_ids:
        for folder_id in list(awaited.get(parent_id, ())):
            record = _found(txn, folder_id)
            if record is None or record.parent_id != lost_id or _written(record)[1] != parent_id:
                awaited[parent_id].discard(folder_id)
            else:
                found.append((name_key(record.name), folder_id))
        if not awaited.get(parent_id, True):
            del awaited[parent_id]
    return [folder_id for _, folder_id in sorted(found)]


def _awaited(txn: WriteTransaction) -> dict[int, set[int]]:
    """The folders in Lost and Found by the parent that all stores have; some may have left it meanwhile."""
    if txn.awaited is None:
        txn.awaited = {}
        for folder_id in _child_ids(txn, lost_and_found_id(txn)):
            _await(txn, _record(txn, folder_id))
    return txn.awaited


def _await(txn: WriteTransaction, record: FolderRecord) -> None:
    """Note the parent for which a folder in Lost and Found waits, if those that wait are known."""
    _, parent_id = _written(record)
    if txn.awaited is not None and parent_id != record.parent_id:
        txn.awaited.setdefault(parent_id, set()).add(record.folder_id)


def _show_named(txn: WriteTransaction, parent_id: int, name: str) -> None:
    """Show those by their own name that had given it up to a folder which has another name or place now.

    Their ids stand behind the name, so that no others beside them are read.
    """
    key = name_key(name)
    start = id_key(parent_id) + key[:NAME_KEY_TEXT_BYTES]
    for folder_id in list(_named_ids(txn, start, start[:-1] + bytes([start[-1] + 1]))):
        record = _record(txn, folder_id)
        if record.written and name_key(own_name(record)) == key:
            _show(txn, folder_id)


def _show(txn: WriteTransaction, folder_id: int) -> bool:
    """Show a folder where it stands by now; False when it was already."""
    record = _found(txn, folder_id)
    return record is not None and _put(txn, folder_id, _place(txn, record))


def _put(txn: WriteTransaction, folder_id: int, parent_id: int) -> bool:
    """Put a folder into a place, by the name that is free there; False when it was there already.

    Those beside it are looked at only where it gives a name up, or a change of all folders of a large place
    would read each of them for each.
    """
    before = _record(txn, folder_id)
    name = _name(txn, before, parent_id)
    written = () if (name, parent_id) == _written(before) else _written(before)
    lost_id = lost_and_found_id(txn)
    placed = before._replace(name=name, parent_id=parent_id, written=written)
    if parent_id == lost_id:
        _await(txn, placed)
    if placed == before:
        return False
    txn.put(Table.FOLDER, id_key(folder_id), placed._replace(change_cn=txn.next_cn()))
    if before.parent_id != parent_id:
        txn.left_count += before.parent_id != lost_id
        _show_too_deep(txn, placed)
    if (before.name, before.parent_id) != (name, parent_id):
        _show_named(txn, before.parent_id, before.name)
    return True


# -- places


def _place(txn: WriteTransaction, record: FolderRecord) -> int:
    """The parent under which a folder is shown."""
    _, parent_id = _written(record)
    lost_id = lost_and_found_id(txn)
    if parent_id == lost_id or _found(txn, parent_id) is None:
        return lost_id
    if ring := _ring(txn, record):
        latest = max(ring, key=lambda each: _parent_weight(txn, each, txn.now_ms))
        if latest.folder_id == record.folder_id:
            return lost_id
        _put(txn, latest.folder_id, lost_id)
    return parent_id if len(_above(txn, parent_id)) <= DEPTH_MAX else lost_id


def _ring(reader: Reader, record: FolderRecord) -> list[FolderRecord]:
    """The circle in which a folder is where all stores have it, of any length; nothing when it is in none."""
    found = {record.folder_id: record}
    at = _found(reader, _written(record)[1])
    while at is not None and at.folder_id not in found:
        found[at.folder_id] = at
        at = _found(reader, _written(at)[1])
    return list(found.values()) if at is not None and at.folder_id == record.folder_id else []


def _above(reader: Reader, folder_id: int) -> list[FolderRecord]:
    """A folder and all above it, as they are shown, up to a root; of more than can be one too many."""
    found: list[FolderRecord] = []
    at = _found(reader, folder_id)
    while at is not None and len(found) <= DEPTH_MAX:
        found.append(at)
        at = _found(reader, at.parent_id) if at.parent_id else None
    return found


def _parent_weight(reader: Reader, record: FolderRecord, now_ms: int) -> tuple[bool, Stamp]:
    """The weight of the last move of a folder, alike in all stores."""
    number = record.versions[0] >> COUNTER_BITS if record.versions else 0
    own = (*record.changed, number) if record.changed else (0, 0, 0)
    moved = next((tuple(row[1:]) for row in record.stamps if row[0] == versions.PARENT), own)
    time_ms, counter, origin = moved
    known = numbering.replica(reader, origin).origin if origin else b""
    return Stamp(time_ms, counter, known).weight(now_ms)


def _show_too_deep(txn: WriteTransaction, record: FolderRecord) -> None:
    """Show those below a folder that came into another place in Lost and Found, where they lie too deep."""
    depth = len(_above(txn, record.folder_id)) - 1
    level = [record.folder_id]
    while level:
        depth += 1
        inner = [child_id for each in level for child_id in _child_ids(txn, each)]
        if depth > DEPTH_MAX:
            for folder_id in inner:
                _show(txn, folder_id)
            return
        level = inner


# -- names


def _name(txn: WriteTransaction, record: FolderRecord, parent_id: int) -> str:
    """The name by which a folder is shown in a place; another that has it gives it up."""
    name = own_name(record)
    if _is_as_with_id(name):
        name = _with_id(txn, record, name)
    else:
        other = _holder(txn, parent_id, name)
        if other is None or other.folder_id == record.folder_id:
            return name
        is_called_so = name_key(own_name(other)) == name_key(name)  # else the name has its id
        if not is_called_so or _age(txn, record) > _age(txn, other):
            name = _with_id(txn, record, name)
    _take_name(txn, parent_id, name, (record.folder_id,))
    return name


def _take_name(txn: WriteTransaction, parent_id: int, name: str, takers: tuple[int, ...]) -> None:
    """Have the folder that is shown by a name in a place give it up, unless it is one of the takers.

    Each gets a longer name than the one it gives up, or one that has been cut, and that nobody has: so this
    ends, and a taker that still has a name is about to get another.
    """
    other = _holder(txn, parent_id, name)
    if other is None or other.folder_id in takers:
        return
    other_name = _with_id(txn, other, own_name(other))
    _take_name(txn, parent_id, other_name, (*takers, other.folder_id))
    renamed = other._replace(name=other_name, written=_written(other), change_cn=txn.next_cn())
    txn.put(Table.FOLDER, id_key(other.folder_id), renamed)


def _age(reader: Reader, record: FolderRecord) -> tuple[int, bytes]:
    """Orders folders alike in all stores, and for ever: by their numbers, which no change moves. The later
    made has the higher counter as a rule; counters of stores that were apart do not compare."""
    number = record.folder_id
    return counter_of(number), numbering.replica(reader, number >> COUNTER_BITS).origin


def _with_id(reader: Reader, record: FolderRecord, name: str) -> str:
    """A name with the id of a folder behind it. It begins as the name does, which `_show_named` looks for."""
    counter, origin = _age(reader, record)
    made = f"{name} ({counter:x}-{origin[:_SHORT_ID_BYTES].hex()})"
    if len(made) <= NAME_CHARS_MAX:
        return made
    suffix = f" ({counter:x}-{origin[:_LONG_ID_BYTES].hex()})"
    room = NAME_CHARS_MAX - len(suffix)
    made = name[:room] + suffix
    if name_key(made).startswith(name_key(name)[:NAME_KEY_TEXT_BYTES]):
        return made
    return folded_name(name)[:room] + suffix  # marks that stand in another order there were cut


def _is_as_with_id(name: str) -> bool:
    """True for a name that could be another one, cut, with an id behind it: no folder is shown by it."""
    return _WITH_LONG_ID.fullmatch(folded_name(name)) is not None


# -- records: `folders`, whose operations tell of what they do here, cannot be asked for them


def _record(reader: Reader, folder_id: int) -> FolderRecord:
    """The record of a folder that the index of names has."""
    record: FolderRecord = reader.record(Table.FOLDER, id_key(folder_id))
    return record


def _found(reader: Reader, folder_id: int) -> FolderRecord | None:
    """The record of a folder, if it is there and not hidden."""
    record: FolderRecord | None = None
    if is_id(folder_id):
        record = reader.record(Table.FOLDER, id_key(folder_id))
    return record if record is not None and record.hidden == Hidden.NO else None


def _holder(reader: Reader, parent_id: int, name: str) -> FolderRecord | None:
    """The folder that is shown by a name in a place."""
    found = reader.index(Table.FOLDER_NAME, id_key(parent_id) + name_key(name))
    return None if found is None else _record(reader, number_of(found)[0])


def _child_ids(reader: Reader, folder_id: int) -> Iterator[int]:
    return _named_ids(reader, id_key(folder_id), id_key(folder_id + 1))


def _named_ids(reader: Reader, start: bytes, stop: bytes) -> Iterator[int]:
    """The ids of the folders in a range of the index of names."""
    return (number_of(found)[0] for _, found in reader.indexes(Table.FOLDER_NAME, start, stop))
