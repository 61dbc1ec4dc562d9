"""Folders that other stores changed, put into the public folder tree as a replicator has merged them.

The whole state of a folder is put at once, as that of a message is (`apply_messages`). A folder of which
there are several versions has a hidden record for each, and its own shows them read as one: so all stores
show the same, and who changes it changes what all versions say. Where it is shown, and by what name, is told
by `shown_folders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pillarbox.store.arguments import check_id
from pillarbox.store.disk.tables import (
    HIERARCHY_SCOPE,
    FolderRecord,
    Hidden,
    ObjectKind,
    Table,
    TombstoneRecord,
    id_key,
    item_key,
    kept_folder,
    pair_key,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.change_feed import bury
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import InvalidArgument
from pillarbox.store.events import EventId
from pillarbox.store.ids import id_text
from pillarbox.store.mail import folders, shown_folders, versions
from pillarbox.store.mail.apply_messages import refuse_unjoined
from pillarbox.store.mail.counters import FolderSums
from pillarbox.store.mail.rights import Right, require, require_change

Entries = tuple[tuple[Any, int, int, int, int], ...]
"""(database GUID or subject, state or rights, ms, counter, replica number), ascending."""


class FolderVersion(NamedTuple):
    """A version of a folder under its number; a tombstone (`gone`) has all that the folder had.

    `changed` is its stamp, (ms, counter). `stamps` has a row (property, ms, counter, replica number) for each
    property with a stamp of its own, ascending. `cleared` is an encoded CNSET of content that was deleted.
    """

    number: int
    changed: tuple[int, int]
    actor: str
    gone: bool
    name: str
    parent_id: int
    properties: Mapping[str, Any]
    stamps: versions.Stamps
    replicas: Entries
    rights: Entries
    cleared: bytes | None


class FolderState(NamedTuple):
    """A folder as it is in this database: its context, and its versions by ascending number.

    `shown` is how several versions are read as one, while any of them lives; its own number is 0.
    """

    context: Mapping[int, int]
    versions: tuple[FolderVersion, ...]
    shown: FolderVersion | None = None


# -- reading


def state_of(reader: Reader, folder_id: int) -> FolderState | None:
    """The state of a folder that has numbers, a deleted one too; None when nothing is known of it."""
    require(reader, Right.FOLDER_VISIBLE, folder_id)
    held = _held(reader, folder_id)
    records: list[FolderRecord | TombstoneRecord] = [*held.live, *held.gone.values()]
    if not records:
        return None
    found = [_version_of(record) for record in records if record.versions[0]]
    shown = next((_version_of(record) for record in held.live if not record.versions[0]), None)
    return FolderState(numbering.context_of(records[0].versions), tuple(sorted(found)), shown)


def _version_of(record: FolderRecord | TombstoneRecord) -> FolderVersion:
    kept = kept_folder(record) if isinstance(record, TombstoneRecord) else record
    name, parent_id = kept.written or (kept.name, kept.parent_id)
    time_ms, counter = record.changed or (0, 0)
    return FolderVersion(
        number=record.versions[0],
        changed=(time_ms, counter),
        actor=record.actor,
        gone=isinstance(record, TombstoneRecord),
        name=name,
        parent_id=parent_id,
        properties=kept.properties,
        stamps=kept.stamps,
        replicas=kept.replicas,
        rights=kept.rights,
        cleared=kept.cleared,
    )


class _Held(NamedTuple):
    """The records of one folder: those of live versions, its own first, and tombstones by key."""

    live: list[FolderRecord]
    gone: dict[bytes, TombstoneRecord]


def _held(reader: Reader, folder_id: int) -> _Held:
    found = _context_of(reader, folder_id)
    places = versions.records_of(reader, HIERARCHY_SCOPE, found)
    live = [cast(FolderRecord, reader.record(table, key)) for table, key in places if table == Table.FOLDER]
    gone = {key: reader.record(table, key) for table, key in places if table == Table.TOMBSTONE}
    return _Held(sorted(live, key=lambda record: bool(record.conflict_of)), gone)


def _context_of(reader: Reader, folder_id: int) -> numbering.Versions:
    record: FolderRecord | None = reader.record(Table.FOLDER, id_key(folder_id))
    if record is not None and record.hidden == Hidden.NO:
        return record.versions
    for key, _ in reader.indexes(
        Table.GONE, triple_key(folder_id, folder_id, 0), triple_key(folder_id, folder_id + 1, 0)
    ):
        tombstone: TombstoneRecord = reader.record(
            Table.TOMBSTONE, pair_key(folder_id, split_triple_key(key)[2])
        )
        return tombstone.versions
    return ()


def ids(reader: Reader) -> set[int]:
    """The ids of all folders that have numbers, deleted ones too."""
    require(reader, Right.FOLDER_VISIBLE, HIERARCHY_SCOPE)
    return versions.object_ids(reader, HIERARCHY_SCOPE)


# -- applying


def apply(txn: WriteTransaction, folder_id: int, state: FolderState) -> bool:
    """Put a folder into this state, whatever it is in; False when it is in it already.

    A folder that is deleted is hidden, and its content removed later (`folders.delete`); until then it may
    come back with all of it. A state without versions keeps the context alone. Raises Refused in a database
    that has joined no organisation, InvalidArgument for several versions that nobody has read as one.
    """
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    refuse_unjoined(txn)
    check_id(folder_id, "folder_id")
    wanted = FolderState(dict(state.context), tuple(sorted(state.versions)), state.shown)
    _refuse_unread(wanted)
    if state_of(txn, folder_id) == wanted:
        return False
    for version in wanted.versions:
        numbering.witness(txn, version.changed)
    _Applying(txn, folder_id, wanted).run()
    return True


def _refuse_unread(state: FolderState) -> None:
    is_several = len(state.versions) > 1 and not all(version.gone for version in state.versions)
    if is_several != (state.shown is not None):
        raise InvalidArgument(
            "several versions of a folder are shown as one, and one as it is",
            argument="state",
            hint="give in `shown` how they are read as one, if any of several lives",
        )


class _Applying:
    """One folder on its way into a state."""

    def __init__(self, txn: WriteTransaction, folder_id: int, state: FolderState) -> None:
        self._txn = txn
        self._folder_id = folder_id
        self._context = dict(state.context)
        self._live = [version for version in state.versions if not version.gone]
        self._shown = state.shown or next(iter(self._live), None)
        self._siblings = {version.number: version for version in self._live if version is not self._shown}
        self._gone = {version.number: version for version in state.versions if version.gone}
        self._held = _held(txn, folder_id)
        self._record: FolderRecord | None = txn.record(Table.FOLDER, id_key(folder_id))

    def run(self) -> None:
        was_live = self._record is not None and self._record.hidden == Hidden.NO
        self._put_siblings()
        self._put_tombstones(must_tell=was_live and not self._live)
        if self._shown is not None:
            self._put(self._shown)
        elif was_live and self._record is not None:
            _hide(self._txn, self._record)
            self._report_deleted(self._record)

    def _report_deleted(self, record: FolderRecord) -> None:
        actors = [version.actor for version in self._gone.values()]
        self._txn.report(
            EventId.FOLDER_DELETED_ELSEWHERE,
            folder=record.name,
            folder_id=id_text(record.folder_id),
            account=", ".join(actors) or self._txn.actor.account,
        )

    def _versions(self, number: int) -> numbering.Versions:
        return numbering.with_context(number, self._context)

    def _put_siblings(self) -> None:
        wanted = dict(self._siblings)
        for record in self._held.live:
            if record.conflict_of and record.versions[0] not in wanted:
                self._txn.delete(Table.FOLDER, id_key(record.folder_id))
            elif record.conflict_of:
                changed = record._replace(versions=self._versions(record.versions[0]))
                self._txn.put(Table.FOLDER, id_key(record.folder_id), changed)
                del wanted[record.versions[0]]
        for version in wanted.values():
            cn = self._txn.next_cn()
            made = self._with_version(_new_record(self._txn, cn, cn), version)._replace(
                hidden=int(Hidden.SIBLING), conflict_of=self._folder_id
            )
            self._txn.insert(Table.FOLDER, id_key(cn), made)

    def _with_version(self, record: FolderRecord, version: FolderVersion) -> FolderRecord:
        """A record with all that a version says, as it is written; `shown_folders` shows it."""
        return record._replace(
            name=version.name,
            parent_id=version.parent_id,
            written=(),
            properties=dict(version.properties),
            versions=self._versions(version.number),
            changed=version.changed,
            actor=version.actor,
            stamps=version.stamps,
            replicas=version.replicas,
            rights=version.rights,
            cleared=version.cleared,
        )

    def _put_tombstones(self, *, must_tell: bool) -> None:
        """Put the versions that are tombstones; without any version, one that keeps the context."""
        wanted = dict(self._gone)
        if not wanted and not self._live:
            wanted[0] = FolderVersion(0, (0, 0), "", True, "", 0, {}, (), (), (), None)
        for key, tombstone in self._held.gone.items():
            number = tombstone.versions[0]
            if number not in wanted or must_tell:  # a folder that goes now is told of with a change of now
                self._txn.delete(Table.TOMBSTONE, key)
            else:
                changed = tombstone._replace(versions=self._versions(number))
                self._txn.put(Table.TOMBSTONE, key, changed)
                del wanted[number]
        for version in wanted.values():
            self._put_tombstone(version)

    def _put_tombstone(self, version: FolderVersion) -> None:
        cn = self._txn.next_cn()
        kept = self._with_version(self._record or _new_record(self._txn, self._folder_id, cn), version)
        tombstone = TombstoneRecord(
            kind=ObjectKind.FOLDER_GONE,
            object_id=self._folder_id,
            uid=0,
            deleted_ms=self._txn.now_ms,
            moved_to=0,
            arrived_cn=kept.arrived_cn,
            versions=kept.versions,
            changed=version.changed,
            actor=version.actor,
            folder=tuple(kept),
        )
        self._txn.insert(Table.TOMBSTONE, pair_key(self._folder_id, cn), tombstone)

    def _put(self, version: FolderVersion) -> None:
        cn = self._txn.next_cn()
        before = self._record
        record = before if before is not None else _new_record(self._txn, self._folder_id, cn)
        if record.hidden:
            record = _recounted(self._txn, record._replace(hidden=int(Hidden.NO)))
        # Above the tombstones of its own versions, which stand among those of its messages.
        changed = self._with_version(record, version)._replace(change_cn=cn, highest_cn=cn)
        if before is None or before.hidden:
            shown_folders.show_new(self._txn, changed)
        else:
            written = version.name, version.parent_id
            changed = changed._replace(name=before.name, parent_id=before.parent_id, written=written)
            self._txn.put(Table.FOLDER, id_key(self._folder_id), changed)
            shown_folders.show_changed(self._txn, before)


def _new_record(txn: WriteTransaction, folder_id: int, cn: int) -> FolderRecord:
    """A folder that comes here by the change `cn`, before it has a name and a place."""
    return folders.new_record(folder_id, cn, txn.now_ms)._replace(arrived_cn=cn)


def _recounted(txn: WriteTransaction, record: FolderRecord) -> FolderRecord:
    """A folder that comes back, with what is left in it: while it was removed it counted nothing."""
    sums = FolderSums()
    start, stop = item_key(record.folder_id, 0), item_key(record.folder_id + 1, 0)
    for _, item in txn.records(Table.ITEM, start, stop):
        sums.add(item)
    return sums.corrected(record)


def _hide(txn: WriteTransaction, record: FolderRecord) -> None:
    """Hide a folder that is deleted; those in it that are not stand in Lost and Found."""
    txn.put(Table.FOLDER, id_key(record.folder_id), record._replace(hidden=int(Hidden.REMOVED)))
    txn.leaves_rows = True
    shown_folders.leave(txn, record)


def make_room(txn: WriteTransaction, folder_id: int) -> None:
    """Have a hidden folder for content of one that is not here any more; one that is there stays."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    if txn.record(Table.FOLDER, id_key(folder_id)) is None:
        made = _new_record(txn, folder_id, txn.next_cn())._replace(hidden=int(Hidden.REMOVED))
        txn.put(Table.FOLDER, id_key(folder_id), made)
        txn.leaves_rows = True


def forget(txn: WriteTransaction, folder_id: int) -> None:
    """Let a folder and its tombstones go here alone: purged, or gone by reconciling. Idempotent."""
    require_change(txn, Right.FOLDER_OWNER, folder_id)
    held = _held(txn, folder_id)
    for record in held.live:
        if record.conflict_of:
            txn.delete(Table.FOLDER, id_key(record.folder_id))
        else:
            bury(txn, ObjectKind.FOLDER_GONE, record.folder_id)
            _hide(txn, record._replace(versions=()))
    for key, tombstone in held.gone.items():
        txn.put(Table.TOMBSTONE, key, tombstone._replace(versions=(), changed=(), actor="", folder=()))
