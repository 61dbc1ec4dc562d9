"""The size of each database is checked at its mount and then once a day, and what is too large dismounted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.database_limits import DatabaseLimits
from pillarbox.store.errors import Corrupt, Dismounted
from pillarbox.store.events import Event, EventId
from pillarbox.store.upkeep.daily_size_check import DailySizeCheck
from pillarbox.store.upkeep.time_of_day import RETRY_MS

ACTOR = Actor.task("test")
BERLIN = ZoneInfo("Europe/Berlin")
TINY = DatabaseLimits(limit_bytes=1000, disk_warning_bytes=200, disk_floor_bytes=100)


def local_ms(*wall: int) -> int:
    """The ms UTC of a local time in Berlin: year, month, day, hour, minute."""
    year, month, day, hour, minute = wall
    return int(datetime(year, month, day, hour, minute, tzinfo=BERLIN).timestamp()) * 1000


def local(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(BERLIN)


def at(hour: int, minute: int = 0) -> DatabaseLimits:
    return TINY._replace(check_hour=hour, check_minute=minute)


class SizedDatabase(Database):
    """A database whose sizes are what the test says."""

    size_bytes = 10
    free_bytes = 10**9
    fail: Callable[[], None] = staticmethod(lambda: None)

    def physical_size_bytes(self) -> int:
        self.fail()
        return self.size_bytes + 50

    def logical_size_bytes(self) -> int:
        return self.size_bytes

    def free_disk_bytes(self) -> int:
        return self.free_bytes


class Watch:
    """A `DailySizeCheck` over databases in Berlin, from noon on 1 June 2026, and its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.databases: list[SizedDatabase] = []
        self.clock = VirtualClock(local_ms(2026, 6, 1, 12, 0))
        self.events: list[tuple[int, str]] = []
        self.details: list[dict[str, Any]] = []
        self.check = DailySizeCheck(self.mounted, clock=self.clock, zone=BERLIN)

    def add(self, name: str, size_bytes: int, limits: DatabaseLimits = TINY) -> SizedDatabase:
        """A new database, mounted."""
        database = SizedDatabase(
            self.path / name,
            name.encode().ljust(16),
            name,
            DatabaseKind.MAILBOX_STORE,
            clock=self.clock,
            rng=random.Random(1),
            limits=limits,
            reporter=self,
        )
        database.size_bytes = size_bytes
        database.create()
        database.mount()
        self.databases.append(database)
        return database

    def mounted(self) -> list[Database]:
        return [database for database in self.databases if is_mounted(database)]

    def report(self, event: Event) -> None:
        if event.event_id not in (EventId.DATABASE_MOUNTED, EventId.DATABASE_DISMOUNTED):
            self.events.append((event.event_id, event.database))
            self.details.append(event.details)

    def run(self, *wall: int) -> list[tuple[int, str]]:
        """Set the clock to a local time, run what is due and give the events of that run."""
        self.clock.set_ms(local_ms(*wall))
        self.events.clear()
        self.check.run_due()
        return list(self.events)


def is_mounted(database: Database) -> bool:
    return database.state is MountState.MOUNTED


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    for database in made.databases:
        database.dismount()


def test_the_first_check_after_a_mount_reports_and_the_next_daily_one_dismounts(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    assert watch.run(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.details[0] == {
        "logical_size_bytes": 1001,
        "physical_size_bytes": 1051,
        "limit_bytes": 1000,
        "threshold_bytes": 900,
    }
    assert is_mounted(database)
    assert watch.run(2026, 6, 1, 23, 59) == watch.run(2026, 6, 2, 4, 59) == []
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9690, "sales")]
    assert not is_mounted(database)
    with pytest.raises(Dismounted, match="above its limit"):
        database.read(ACTOR)
    assert watch.run(2026, 6, 3, 5, 0) == []


def test_a_remounted_database_serves_until_the_next_daily_check(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    watch.run(2026, 6, 1, 12, 0)
    watch.run(2026, 6, 2, 5, 0)
    database.mount()
    assert watch.run(2026, 6, 2, 5, 1) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 3, 4, 59) == []
    assert is_mounted(database)
    database.size_bytes = 1000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales")], "room was made in time"
    assert is_mounted(database)


def test_a_database_that_grew_above_its_limit_since_is_dismounted_without_another_report(
    watch: Watch,
) -> None:
    database = watch.add("sales", 10)
    assert watch.run(2026, 6, 1, 12, 0) == watch.run(2026, 6, 2, 5, 0) == []
    database.size_bytes = 2000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_long_sleep_is_made_up_for_by_one_check(watch: Watch) -> None:
    database = watch.add("sales", 950)
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 20, 15, 0) == [(9688, "sales")]
    assert watch.run(2026, 6, 20, 15, 1) == []
    assert database.checks_since_mount == 2
    assert database.last_size_check_ms == local_ms(2026, 6, 20, 15, 0)


def test_after_downtime_the_check_at_mount_makes_up_for_the_missed_ones(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    database.record_size_check(local_ms(2026, 5, 1, 5, 0))
    database.dismount()
    database.mount()
    assert watch.run(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 1, 12, 1) == []
    assert is_mounted(database)


def test_driven_by_its_wake_ups_it_checks_at_five_every_day(watch: Watch) -> None:
    database = watch.add("sales", 10)
    checked = []
    for _ in range(300):
        wake_ms = watch.check.run_due()
        assert wake_ms > watch.clock.now_ms()
        checked.append(local(database.last_size_check_ms or 0))
        watch.clock.set_ms(wake_ms)
    assert database.checks_since_mount == 300
    assert {(when.hour, when.minute) for when in checked[1:]} == {(5, 0)}
    assert len({when.date() for when in checked}) == 300


def test_the_wake_up_is_the_earliest_of_all_databases(watch: Watch) -> None:
    assert watch.check.run_due() == local_ms(2026, 6, 2, 12, 0), "looks again within a day"
    watch.add("five", 10)
    watch.add("two", 10, at(2, 30))
    watch.add("noon", 10, at(12))
    assert watch.check.run_due() == local_ms(2026, 6, 2, 2, 30)


def test_each_database_has_its_own_limits_and_mount(watch: Watch) -> None:
    small = watch.add("small", 1001)
    large = watch.add("large", 1001, TINY._replace(limit_bytes=9000))
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "small"), (9690, "small")]
    assert not is_mounted(small) and is_mounted(large)


def test_a_clock_set_back_neither_checks_twice_nor_stops_the_checks(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 1, 11, 59) == []
    assert is_mounted(database)
    database.record_size_check(local_ms(2099, 1, 1, 0, 0))
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_database_that_cannot_be_checked_keeps_none_of_the_others_from_it(watch: Watch) -> None:
    damaged, whole = watch.add("damaged", 10), watch.add("whole", 950)

    def fail() -> None:
        raise Corrupt("page 7 is damaged")

    damaged.fail = fail
    wake_ms = watch.check.run_due()
    assert watch.events == [(EventId.REQUEST_FAILED, "damaged"), (9688, "whole")]
    assert watch.details[0] == {"request": "size check", "error": "page 7 is damaged"}
    assert wake_ms == watch.clock.now_ms() + RETRY_MS
    assert (damaged.checks_since_mount, whole.checks_since_mount) == (0, 1)


def test_a_database_dismounted_meanwhile_is_passed_over(watch: Watch) -> None:
    database = watch.add("sales", 950)

    def fail() -> None:
        raise Dismounted("sales is not mounted")

    database.fail = fail
    assert watch.run(2026, 6, 1, 12, 0) == []


def test_little_free_disk_is_an_event_of_the_same_check(watch: Watch) -> None:
    database = watch.add("sales", 10)
    database.free_bytes = 150
    assert watch.run(2026, 6, 1, 12, 0) == [(EventId.DISK_SPACE_LOW, "sales")]
    assert watch.details == [{"free_bytes": 150, "state": "low"}]
    assert is_mounted(database)
