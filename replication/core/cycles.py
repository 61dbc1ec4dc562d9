"""Broadcasts by schedule: a folder's changes wait for its next window or cycle."""

from __future__ import annotations

from pillarbox.replication.core import folder_settings
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.schedules import ALWAYS


def next_ms(replica: Replica, folder: ObjectId, due_ms: int, last_ms: int) -> int:
    """The first time from `due_ms` on at which the folder's schedule lets changes go; `last_ms` is that of
    the last broadcast.

    Schedules are by the wall clock, waiting is not; a clock that is put right is seen at the next look.
    """
    schedule = folder_settings.schedule_of(replica, folder)
    if schedule == ALWAYS or due_ms >= NEVER_MS:
        return due_ms
    ahead_ms = replica.wall_ms - replica.now_ms
    # A wait that is over does not open a window that has closed meanwhile.
    cycle_ms = schedule.next_cycle_ms(max(due_ms, replica.now_ms) + ahead_ms, last_ms + ahead_ms)
    return NEVER_MS if cycle_ms is None else cycle_ms - ahead_ms
