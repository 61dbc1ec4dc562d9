"""Expiry by age is local: what this store lets go is not deleted anywhere else."""

from __future__ import annotations

from typing import Any

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import CNSet


def expire(replica: Replica, folder: ObjectId, before_ms: int) -> int:
    """Let all messages go that were changed before `before_ms` and that another replica holds; how many.

    Numbers that went with the folder stay known as deleted, though a message that the deletion had not seen
    has them in its context.
    """
    expired_count, read = 0, replica.folder(folder)
    cleared = read.cleared if read else NOTHING
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        if versions and is_old(versions, before_ms) and may_expire(replica, folder, versions):
            state, numbers = replica.state(folder), versions.entries()
            state.knowledge.expire(CNSet.of(numbers) - cleared)
            state.expired_objects[object_id] = state.expired_objects.get(object_id, frozenset()) | numbers
            replica.objects.remove(folder, object_id)
            replica.fired["expire"] += 1
            expired_count += 1
    return expired_count


def is_old(versions: Versions[Any], before_ms: int) -> bool:
    """True when all live versions of a message were changed before that time."""
    live = versions.live()
    return bool(live) and all(version.changed.time_ms < before_ms for version in live)


def may_expire(replica: Replica, folder: ObjectId, versions: Versions[Any]) -> bool:
    """True when another replica (if any) holds the versions, and no number below the context is missing."""
    state = replica.state(folder)
    numbers = CNSet.of(versions.siblings)
    is_elsewhere = not state.rows or any(row.known.covers(numbers) for row in state.rows.values())
    return is_elsewhere and not versions.holes(state.knowledge.had)
