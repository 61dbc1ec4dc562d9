"""The daily check of database sizes, and a look at them at each mount (DOMAIN.md "Limits").

A database keeps when it was first reported above its limit, so that whichever process comes next knows it.
The first daily check after that dismounts the database; a look at mount reports and nothing else. Falling
below the limit ends the grace, and a mount by command or call starts it anew.

Nothing here sleeps: a check says when the next one is due, and whoever embeds the store calls again then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import tzinfo
from typing import Any

from pillarbox.store.clock import Clock
from pillarbox.store.engine import disk_floor
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import Assessment, DatabaseLimits, DiskState, assess, assess_disk
from pillarbox.store.events import EventId
from pillarbox.store.upkeep import sizes
from pillarbox.store.upkeep.daily_run import run_each
from pillarbox.store.upkeep.time_of_day import is_due, next_time_of_day_ms

DismountAboveLimit = Callable[[Database], None]
"""Dismounts a database for all processes, until it is mounted by command or call."""


class DailySizeCheck:
    """Checks the sizes of mounted databases every day, and looks at them at each mount.

    `databases` gives those mounted now, without those of the recovery storage group, which are not checked.
    Not for several threads at once.
    """

    def __init__(
        self,
        databases: Callable[[], Iterable[Database]],
        dismount: DismountAboveLimit,
        *,
        clock: Clock,
        zone: tzinfo,
    ) -> None:
        """The checks are at local time in `zone`."""
        self._databases = databases
        self._dismount = dismount
        self._clock = clock
        self._zone = zone

    def run_due(self) -> int:
        """Carry out the daily checks that are due, and return when to call next, ms UTC.

        A database that can't be checked gets event 1025 and another try after `RETRY_MS`; it does
        not keep the others from theirs. Only what the reporter of events raises comes through.
        """
        return self._run(self._databases(), self._check_if_due)

    def run_now(self) -> int:
        """Carry out the daily checks of all databases, due or not. Returns and raises as `run_due`."""
        return self._run(self._databases(), self._check_now)

    def look(self, databases: Iterable[Database]) -> None:
        """Look at the sizes of databases that were mounted just now, and report; none is dismounted.

        The grace begins with what is reported here. A look makes up for a daily check that was missed, but
        for one that would dismount the database. Raises as `run_due`.
        """
        self._run(databases, self._look)

    def _run(self, databases: Iterable[Database], run_one: Callable[[Database, int], None]) -> int:
        now_ms = self._clock.now_ms()

        def run(database: Database) -> int:
            run_one(database, now_ms)
            return next_time_of_day_ms(database.limits.check_time, now_ms, self._zone)

        return run_each(list(databases), "size check", run, self._clock)

    def _check_if_due(self, database: Database, now_ms: int) -> None:
        if self._is_due(database, sizes.last_size_check_ms(database), now_ms):
            above_ms = _above_ms(database, now_ms)
            self._check(
                database,
                now_ms,
                is_grace_over=above_ms is not None and self._is_due(database, above_ms, now_ms),
            )

    def _check_now(self, database: Database, now_ms: int) -> None:
        self._check(database, now_ms, is_grace_over=_above_ms(database, now_ms) is not None)

    def _check(self, database: Database, now_ms: int, *, is_grace_over: bool) -> None:
        found = _assess(database, is_grace_over=is_grace_over)
        if found.above and is_grace_over:
            self._dismount(database)
            return
        _report_low_disk(database)
        above_ms = _above_ms(database, now_ms)
        sizes.record_size_check(database, now_ms, (above_ms or now_ms) if found.above else None)

    def _look(self, database: Database, now_ms: int) -> None:
        found = _assess(database, is_grace_over=False)
        _report_low_disk(database)
        last_ms, before_ms = sizes.last_size_check_ms(database), sizes.above_limit_ms(database)
        above_ms = (_above_ms(database, now_ms) or now_ms) if found.above else None
        is_missed = self._is_due(database, last_ms, now_ms)
        if is_missed and not (above_ms is not None and self._is_due(database, above_ms, now_ms)):
            sizes.record_size_check(database, now_ms, above_ms)
        elif above_ms != before_ms:
            sizes.record_size_check(database, last_ms or now_ms, above_ms)

    def _is_due(self, database: Database, last_ms: int | None, now_ms: int) -> bool:
        return last_ms is None or is_due(database.limits.check_time, last_ms, now_ms, self._zone)


def _above_ms(database: Database, now_ms: int) -> int | None:
    """Since when a database is known to be above its limit; a time to come is of a clock that was wrong."""
    above_ms = sizes.above_limit_ms(database)
    return None if above_ms is None else min(above_ms, now_ms)


def _assess(database: Database, *, is_grace_over: bool) -> Assessment:
    """Assess a database's size, and report the events that follow."""
    limits = database.limits
    found = assess(
        limits,
        sizes.physical_size_bytes(database),
        lambda: sizes.logical_size_bytes(database),
        is_grace_over=is_grace_over,
    )
    for event_id in found.events:
        database.report(event_id, **_size_details(limits, found))
    return found


def _report_low_disk(database: Database) -> None:
    free_bytes = disk_floor.free_disk_bytes(database.path)
    state = assess_disk(database.limits, free_bytes)
    if state is not DiskState.AMPLE:
        database.report(EventId.DISK_SPACE_LOW, free_bytes=free_bytes, state=state.value)


def _size_details(limits: DatabaseLimits, found: Assessment) -> dict[str, Any]:
    return {
        "logical_size_bytes": found.logical_size_bytes,
        "physical_size_bytes": found.physical_size_bytes,
        "limit_bytes": limits.limit_bytes,
        "threshold_bytes": limits.threshold_bytes,
        "relation": "above" if found.above else "close to",
    }
