"""The databases of a server that a restore in place goes over, why, and what of them would go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from pillarbox.backup.find_snapshot import FoundDatabases
from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.restore import RestorableDatabase, refuse_another_guid
from pillarbox.backup.snapshot import snapshot_databases
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import Table, id_key
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import AccessDenied, PillarboxError, Refused, Retryable, UnsupportedVersion
from pillarbox.store.ids import COUNTER_BITS, LOCAL_BASE, LOCAL_REPLICA
from pillarbox.store.server import Server
from pillarbox.store.upkeep.last_check import last_check


class Newer(NamedTuple):
    """The changes in a database that came after a snapshot of it."""

    messages_count: int
    mailboxes_count: int


class PlannedRestore(NamedTuple):
    """A restore of one database in place; `newer` is None when the database cannot be read."""

    snapshot: Snapshot
    database: RestorableDatabase
    target: Database
    reason: str
    newer: Newer | None


def plan_restore(
    server: Server, found: Sequence[FoundDatabases], *, named: bool, all_: bool = False
) -> list[PlannedRestore]:
    """Plan a restore over databases of a server: of all that was found when they were `named`, or with `all_`
    when the server has them; else those that are damaged or missing, as the mount or the last check says.

    Raises Refused when that is none, listing what could be named; Conflict when a named one is none of the
    server's.
    """
    targets = {database.guid: database for database in server.databases()}
    planned = []
    for snapshot, databases in found:
        for database in databases:
            target = targets.get(database.guid)
            if target is None:
                if named:
                    raise refuse_another_guid(database)
                continue
            reason = "it was named" if named else damage_of(server, target)
            if reason or all_:
                newer = count_newer(target, snapshot)
                planned.append(PlannedRestore(snapshot, database, target, reason or "all are meant", newer))
    if not planned:
        names = [each.name for _, databases in found for each in databases if each.guid in targets]
        raise Refused(
            "no database is damaged or missing, as the mounts and the last checks say, and none was named",
            hint=f"name what is to be restored with --database, or say --all: {', '.join(sorted(names))}",
        )
    return planned


def damage_of(server: Server, database: Database) -> str:
    """Why a database is to be restored, as its mount or its last check says; "" when both say nothing."""
    failure = server.not_mounted.get(database.label)
    if failure is not None and not isinstance(failure, (Retryable, AccessDenied, UnsupportedVersion)):
        return f"it cannot be mounted: {failure}"
    last = last_check(database)
    return f"its last check found {last.damaged_count} damaged places" if last and last.damaged_count else ""


def count_newer(database: Database, snapshot: Snapshot) -> Newer | None:
    """The changes in a database after a snapshot; None when it cannot be read or the snapshot does not say.

    Ids and change numbers come from one counter, and a snapshot says how far that was.
    """
    states = [
        entry.get("state") for entry, _ in snapshot_databases(snapshot) if entry["guid"] == database.guid
    ]
    counter = _counter_of(states[0]) if states else None
    if counter is None:
        return None
    was_dismounted = database.state is MountState.DISMOUNTED
    try:
        database.mount(read_only=True)
        return _count_above(database, LOCAL_BASE | counter)
    except PillarboxError:
        return None
    finally:
        if was_dismounted:
            with suppress(PillarboxError):
                database.dismount("it was only looked at")


def _counter_of(state: Any) -> int | None:
    return state[0] if isinstance(state, list) and state and isinstance(state[0], int) else None


def _count_above(database: Database, last: int) -> Newer:
    with database.read(Actor.task("restore")) as read:
        end = id_key((LOCAL_REPLICA + 1) << COUNTER_BITS)
        messages_count = sum(1 for _ in read.indexes(Table.LOCATION, id_key(last + 1), end))
        # The id of a message of another store tells nothing; it came here as a change of this database.
        foreign = (place for _, place in read.indexes(Table.LOCATION, end, None))
        messages_count += sum(read.record(Table.ITEM, place).arrived_cn > last for place in foreign)
        boxes = [record for _, record in read.records(Table.MAILBOX, b"", None)]
        return Newer(messages_count, sum(box.root_id > last for box in boxes))
