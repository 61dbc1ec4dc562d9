"""Explanations of folders that are not in sync, as data: for commands, the status page and tests."""

from __future__ import annotations

from typing import NamedTuple

from pillarbox.replication.core import backfill, hello, identity, too_large
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState, Row
from pillarbox.replication.core.views import Sync, lacking_count, sync
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation.sources import Reason
from pillarbox.store.change_number import CNSet


class Holder(NamedTuple):
    """Another replica: which missing numbers it is known to have, how many of our items it lacks, and when it
    said so last (ms UTC; 0: nothing yet)."""

    database: bytes
    has: CNSet
    lacks_count: int
    heard_ms: int
    is_silent: bool


class Wanted(NamedTuple):
    """Numbers that are missing, how often they were asked for, and when they are asked for next: None while
    no source can be asked."""

    numbers: CNSet
    tries: int
    due_ms: int | None


class Aside(NamedTuple):
    """An object that cannot be applied here, or is too large to be sent from here: why, since when (ms UTC),
    and how often it was tried again."""

    object_id: ObjectId
    reason: str
    since_ms: int
    tries: int


class Explanation(NamedTuple):
    """All about a folder's state of knowledge at one store.

    `plan` says whom the store would ask now for all that is missing, and why. `waits_for` are the stores
    whose answer to its hello it waits for before it says anything to others, `quarantined` the replica GUIDs
    under which nothing is taken, since two copies of a store numbered changes under them and none was chosen.
    """

    folder: ObjectId
    is_held: bool
    is_in_sync: bool
    missing: CNSet
    holders: tuple[Holder, ...]
    wanted: tuple[Wanted, ...]
    plan: tuple[Reason, ...]
    waits_for: tuple[bytes, ...] = ()
    quarantined: tuple[bytes, ...] = ()
    set_aside: tuple[Aside, ...] = ()


def explain(replica: Replica, folder: ObjectId) -> Explanation:
    """Explain one folder. It changes nothing."""
    state = replica.record.folders.get(folder)
    if state is None or not state.is_held:
        return Explanation(folder, False, False, CNSet(), (), (), ())
    missing = backfill.missing(replica, folder)
    left_out = too_large.among(replica, folder)
    holders = tuple(
        Holder(
            database,
            row.known & missing,
            lacking_count(replica, folder, state.knowledge.known - row.had),
            row.heard_ms,
            database in state.silent,
        )
        for database, row in sorted(state.rows.items())
    )
    return Explanation(
        folder=folder,
        is_held=True,
        is_in_sync=not (missing or state.set_aside or left_out)
        and _are_in_sync(replica, folder, state, holders),
        missing=missing,
        holders=holders,
        wanted=tuple(
            Wanted(entry.missing, entry.tries, None if entry.sleeps else entry.due_ms)
            for entry in state.entries
        ),
        plan=backfill.plan_requests(replica, folder, missing).reasons,
        waits_for=hello.unanswered(replica),
        quarantined=identity.open_quarantines(replica.record),
        set_aside=tuple(
            Aside(object_id, each.reason, each.since_ms, each.tries)
            for object_id, each in sorted(state.set_aside.items())
        )
        + tuple(
            Aside(object_id, each.reason, each.since_ms, tries=0)
            for object_id, each in sorted(left_out.items())
        ),
    )


def _are_in_sync(replica: Replica, folder: ObjectId, state: FolderState, holders: tuple[Holder, ...]) -> bool:
    """True when no replica leaves, and each other one was heard of and holds the same."""
    lacks = {holder.database: holder.lacks_count for holder in holders}

    def is_in_sync(database: bytes, listed: ReplicaState) -> bool:
        row = state.rows.get(database, Row())
        offers_count = (row.known - state.knowledge.had).count()
        return sync(listed, row, lacks.get(database, 0) + offers_count) is Sync.IN_SYNC

    is_leaving = replica.my_state(folder) is ReplicaState.DELETE_PENDING
    return not is_leaving and all(is_in_sync(*peer) for peer in replica.peers(folder).items())
