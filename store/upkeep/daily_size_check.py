"""The daily check of database sizes: at each mount and then every day (DOMAIN.md "Limits").

Nothing here sleeps: a check says when the next one is due, and whoever embeds the store calls again then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import tzinfo
from typing import Any

from pillarbox.store.clock import Clock
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import (
    GB,
    Assessment,
    DatabaseLimits,
    DiskState,
    assess,
    assess_disk,
)
from pillarbox.store.events import EventId
from pillarbox.store.upkeep.daily_run import run_each
from pillarbox.store.upkeep.time_of_day import is_due, next_time_of_day_ms


class DailySizeCheck:
    """Checks the sizes of mounted databases, each at its mount and then every day.

    `databases` gives those mounted now, without those of the recovery storage group, which are not checked.
    Not for several threads at once.
    """

    def __init__(self, databases: Callable[[], Iterable[Database]], *, clock: Clock, zone: tzinfo) -> None:
        """The checks are at local time in `zone`."""
        self._databases = databases
        self._clock = clock
        self._zone = zone

    def run_due(self) -> int:
        """Carry out the checks that are due, and return when to call next, ms UTC; call also after a mount.

        A database that can't be checked gets event 1025 and another try after `RETRY_MS`; it does
        not keep the others from theirs. Only what the reporter of events raises comes through.
        """
        now_ms = self._clock.now_ms()
        listed = list(self._databases())
        return run_each(listed, "size check", lambda each: self._run_one(each, now_ms), self._clock)

    def _run_one(self, database: Database, now_ms: int) -> int:
        """Check one database if it is due; when its next check is due, ms UTC."""
        limits = database.limits
        last_ms = database.last_size_check_ms if database.checks_since_mount else None
        if last_ms is None or is_due(limits.check_time, last_ms, now_ms, self._zone):
            self._check(database, limits, now_ms)
            last_ms = now_ms
        return next_time_of_day_ms(limits.check_time, max(now_ms, last_ms), self._zone)

    def _check(self, database: Database, limits: DatabaseLimits, now_ms: int) -> None:
        found = assess(
            limits, database.checks_since_mount, database.physical_size_bytes(), database.logical_size_bytes
        )
        for event_id in found.events:
            database.report(event_id, **_size_details(limits, found))
        if found.dismount:
            # Not recorded: a record can fail, on a full disk, and the next mount begins with a check anyway.
            database.dismount(f"its size is above its limit of {limits.limit_bytes / GB:,.2f} GB")
            return
        free_bytes = database.free_disk_bytes()
        disk = assess_disk(limits, free_bytes)
        if disk is not DiskState.AMPLE:
            database.report(EventId.DISK_SPACE_LOW, free_bytes=free_bytes, state=disk.value)
        database.record_size_check(now_ms)


def _size_details(limits: DatabaseLimits, found: Assessment) -> dict[str, Any]:
    return {
        "logical_size_bytes": found.logical_size_bytes,
        "physical_size_bytes": found.physical_size_bytes,
        "limit_bytes": limits.limit_bytes,
        "threshold_bytes": limits.threshold_bytes,
    }
