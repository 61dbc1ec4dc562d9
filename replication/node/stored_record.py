"""The knowledge of a replicator, in the replication state table: kept in the transactions of its objects.

Of a folder its known numbers are a row of their own, which the store reads when the folder is deleted; each
other replica's last statement is one, so that a status which arrives writes little. Pairs that wait for
required numbers, and all that is due, are not kept: a replicator that starts asks and plans anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pillarbox.replication.core.replica import ReplicaRecord
from pillarbox.replication.core.state import FolderState, Leaving, Row, SetAside
from pillarbox.replication.ground.knowledge import NOTHING, Knowledge
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.node.identifiers import Identifiers, KnownIdentifiers
from pillarbox.replication.node.kept_values import packed, unpacked
from pillarbox.replication.wire.messages import Life, Sender
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.engine import replication_state
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.hybrid_clock import HybridClock

_WHAT: Final = "the replication state"


class StoredRecord:
    """The record of a store, kept within its transactions. `load` comes first, and again after a transaction
    that failed: the rows that were kept last are remembered, so that a call encodes those alone that changed.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[bytes, Row]] = {}
        self._once_heard = NOTHING

    def load(self, reader: Reader, ids: KnownIdentifiers) -> ReplicaRecord | None:
        """The record that was kept, None where none was. Raises Corrupt; UnsupportedVersion for a newer
        one."""
        self._rows.clear()
        self._once_heard = NOTHING
        value = replication_state.kept(reader, Kept.STORE)
        if value is None:
            return None
        record = _record_of(unpacked(value, _WHAT))
        if (heard := replication_state.kept(reader, Kept.ONCE_HEARD)) is not None:
            (numbers,) = unpacked(heard, _WHAT)
            record.once_heard = self._once_heard = CNSet.decode(numbers)
        for folder_id, _, fields in replication_state.all_kept(reader, Kept.FOLDER):
            known = replication_state.known(reader, folder_id)
            state = _folder_of(known, unpacked(fields, _WHAT))
            for _, guid, row in replication_state.all_kept(reader, Kept.ROW, folder_id):
                state.rows[guid] = _row_of(unpacked(row, _WHAT))
            self._rows[folder_id] = dict(state.rows)
            record.folders[ids.object_id(folder_id)] = state
        return record

    def save(
        self, txn: WriteTransaction, ids: Identifiers, record: ReplicaRecord, folders: Iterable[ObjectId]
    ) -> None:
        """Keep the record, with the state of those folders that a call touched."""
        replication_state.keep(txn, Kept.STORE, packed(*_store_fields(record)))
        if record.once_heard and record.once_heard is not self._once_heard:
            replication_state.keep(txn, Kept.ONCE_HEARD, packed(record.once_heard.encode()))
            self._once_heard = record.once_heard
        for folder in folders:
            state = record.folders.get(folder)
            if state is not None:
                self._save_folder(txn, ids.id(folder), state)

    def _save_folder(self, txn: WriteTransaction, folder_id: int, state: FolderState) -> None:
        known = state.knowledge.known
        replication_state.keep(txn, Kept.KNOWN, known.encode() if known else None, folder_id)
        replication_state.keep(txn, Kept.FOLDER, packed(*_folder_fields(state)), folder_id)
        is_lacking = state.is_held and bool(state.entries or state.awaited)
        replication_state.keep(txn, Kept.LACKING, b"" if is_lacking else None, folder_id)
        before = self._rows.get(folder_id, {})
        for guid in before.keys() - state.rows.keys():
            replication_state.keep(txn, Kept.ROW, None, folder_id, guid)
        for guid, row in state.rows.items():
            if row is not before.get(guid):
                replication_state.keep(txn, Kept.ROW, packed(*_row_fields(row)), folder_id, guid)
        self._rows[folder_id] = dict(state.rows)


def _record_of(fields: tuple[Any, ...]) -> ReplicaRecord:
    sender, counter, clock, owners, left_out, quarantined, bundles, unsure = fields
    return ReplicaRecord(
        sender=Sender(*sender),
        counter=counter,
        clock=HybridClock(*clock),
        owners={origin: (database, incarnation) for origin, database, incarnation in owners},
        left_out=CNSet.decode(left_out),
        quarantined=frozenset(quarantined),
        bundles=bundles,
        unsure=CNSet.decode(unsure),
    )


def _row_fields(row: Row) -> tuple[Any, ...]:
    return (*row.life, row.known.encode(), row.expired.encode(), row.heard_ms)


def _row_of(fields: tuple[Any, ...]) -> Row:
    incarnation, life, known, expired, heard_ms = fields
    return Row(Life(incarnation, life), CNSet.decode(known), CNSet.decode(expired), heard_ms)


def _store_fields(record: ReplicaRecord) -> tuple[Any, ...]:
    owners = tuple((origin, *owner) for origin, owner in sorted(record.owners.items()))
    return (
        tuple(record.sender),
        record.counter,
        tuple(record.clock),
        owners,
        record.left_out.encode(),
        tuple(sorted(record.quarantined)),
        record.bundles,
        record.unsure.encode(),
    )


def _folder_fields(state: FolderState) -> tuple[Any, ...]:
    leaving = state.leaving
    return (
        state.is_held,
        state.life,
        state.own_last,
        state.broadcast_to,
        state.applied,
        state.knowledge.expired.encode(),
        state.knowledge.purged.encode(),
        (
            leaving.number,
            None if leaving.stated is None else leaving.stated.encode(),
            tuple(
                (guid, held.encode(), expired.encode())
                for guid, (held, expired) in sorted(leaving.acknowledged.items())
            ),
        ),
        tuple(
            (tuple(object_id), tuple(map(tuple, sorted(numbers))))
            for object_id, numbers in sorted(state.expired_objects.items())
        ),
        tuple((site, numbers.encode()) for site, numbers in sorted(state.marks.items())),
        tuple(
            (
                tuple(object_id),
                tuple(map(tuple, sorted(each.numbers))),
                each.reason,
                each.since_ms,
                each.tries,
            )
            for object_id, each in sorted(state.set_aside.items())
        ),
    )


def _folder_of(known: CNSet, fields: tuple[Any, ...]) -> FolderState:
    is_held, life, own_last, broadcast_to, applied, expired, purged, leaving, expired_objects, *rest = fields
    marks, aside = rest
    number, stated, acknowledged = leaving
    return FolderState(
        is_held=is_held,
        life=life,
        knowledge=Knowledge(known, CNSet.decode(expired), CNSet.decode(purged)),
        own_last=own_last,
        broadcast_to=broadcast_to,
        applied=applied,
        leaving=Leaving(
            number,
            None if stated is None else CNSet.decode(stated),
            {guid: (CNSet.decode(held), CNSet.decode(gone)) for guid, held, gone in acknowledged},
        ),
        expired_objects={
            ChangeNumber(*object_id): frozenset(ChangeNumber(*number) for number in numbers)
            for object_id, numbers in expired_objects
        },
        marks={site: CNSet.decode(numbers) for site, numbers in marks},
        set_aside={
            ChangeNumber(*object_id): SetAside(
                frozenset(ChangeNumber(*number) for number in numbers), reason, since_ms, tries, due_ms=0
            )
            for object_id, numbers, reason, since_ms, tries in aside
        },
    )
