"""A replica that is replaced by another: added first, complete before the old one leaves.

The intention is a property of the folder. The new replica alone knows when it holds all, so its store lets
the old one leave, wherever the operator was and whatever restarts meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from pillarbox.replication.core import backfill, writing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import UNHEARD, Row
from pillarbox.replication.ground.records import REMOVED, Folder, ObjectId, ReplicaState
from pillarbox.store.ids import guid_text, parse_guid

ACTOR = "replication"
_REPLACED = "replaced replica "


def entry(server: bytes, by: bytes) -> dict[str, str]:
    """The property that says that a server's replica is replaced by another's."""
    return {_REPLACED + guid_text(server): guid_text(by)}


def replacement_of(read: Folder, server: bytes) -> bytes | None:
    """The server whose replica is to replace that of `server`, None when none is."""
    found = read.properties.get(_REPLACED + guid_text(server))
    return parse_guid(found.value) if found and found.value not in ("", REMOVED) else None


def finish(replica: Replica, folder: ObjectId) -> bool:
    """Let the replicas leave that this store's replaces, if it is complete by now; True when it wrote so."""
    state, me = replica.record.folders.get(folder), replica.me.database
    read = replica.folder(folder) if state and state.is_held else None
    if state is None or read is None or not read.is_live:
        return False
    is_written = False
    for server in _replaced_by(read, me):
        states = replica.replica_states(folder, read)
        if states.get(me) is not ReplicaState.ACTIVE:
            continue
        is_active = states.get(server) is ReplicaState.ACTIVE
        is_heard = state.rows.get(server, Row()).life != UNHEARD
        if is_active and (not is_heard or backfill.missing(replica, folder)):
            continue
        leaving = {server: ReplicaState.DELETE_PENDING} if is_active else None
        done = {_REPLACED + guid_text(server): ""}
        writing.change_folder(replica, folder, ACTOR, replicas=leaving, properties=done)
        replica.fired["replica_replaced"] += is_active
        is_written = True
    return is_written


def _replaced_by(read: Folder, by: bytes) -> Iterator[bytes]:
    for name, found in sorted(read.properties.items()):
        if name.startswith(_REPLACED) and found.value == guid_text(by):
            yield parse_guid(name.removeprefix(_REPLACED))
