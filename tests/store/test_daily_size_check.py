"""The size check comes at each mount and every day at its time, and does what DOMAIN.md "Limits" says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from pillarbox.store.clock import VirtualClock
from pillarbox.store.daily_size_check import DailySizeCheck
from pillarbox.store.database_limits import DatabaseLimits
from pillarbox.store.errors import Corrupt, Dismounted
from pillarbox.store.time_of_day import RETRY_MS

BERLIN = ZoneInfo("Europe/Berlin")
TINY = DatabaseLimits(limit_bytes=1000, disk_warning_bytes=200, disk_floor_bytes=100)


def local_ms(zone: ZoneInfo, *wall: int) -> int:
    """The ms UTC of a local time: year, month, day, hour, minute."""
    year, month, day, hour, minute = wall
    return int(datetime(year, month, day, hour, minute, tzinfo=zone).timestamp()) * 1000


def local(ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone)


class FakeDatabase:
    """What the check asks of a database, as a few numbers and events; mounting it anew is `mount`."""

    def __init__(self, name: str, size_bytes: int, limits: DatabaseLimits = TINY) -> None:
        self.label = name
        self.size_bytes = size_bytes
        self.free_bytes = 10**9
        self.limits = limits
        self.checks_since_mount = 0
        self.last_size_check_ms: int | None = None
        self.mounted = True
        self.reasons: list[str] = []
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.fail: Callable[[], None] = lambda: None

    def mount(self) -> None:
        self.mounted, self.checks_since_mount = True, 0

    def physical_size_bytes(self) -> int:
        self.fail()
        return self.size_bytes + 50

    def logical_size_bytes(self) -> int:
        return self.size_bytes

    def free_disk_bytes(self) -> int:
        return self.free_bytes

    def record_size_check(self, checked_ms: int) -> None:
        self.last_size_check_ms = checked_ms
        self.checks_since_mount += 1

    def dismount(self, reason: str) -> None:
        self.mounted = False
        self.reasons.append(reason)

    def report(self, event_id: int, **details: Any) -> None:
        self.events.append((event_id, details))


class Watch:
    """A `DailySizeCheck` over fake databases in Berlin, from noon on 1 June 2026."""

    def __init__(self, *databases: FakeDatabase) -> None:
        self.databases = databases
        self.clock = VirtualClock(local_ms(BERLIN, 2026, 6, 1, 12, 0))
        self.check = DailySizeCheck(self.mounted, clock=self.clock, zone=BERLIN)

    def mounted(self) -> list[Any]:
        return [database for database in self.databases if database.mounted]

    def run(self, *wall: int) -> list[tuple[int, str]]:
        """Set the clock to a local time, run what is due and give the events of that run."""
        self.clock.set_ms(local_ms(BERLIN, *wall))
        for database in self.databases:
            database.events.clear()
        self.check.run_due()
        return self.events()

    def events(self) -> list[tuple[int, str]]:
        return [(event_id, each.label) for each in self.databases for event_id, _ in each.events]


def test_the_first_check_after_a_mount_reports_and_the_next_daily_one_dismounts() -> None:
    database = FakeDatabase("sales", 1001)
    watch = Watch(database)
    assert watch.run(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert database.events[0][1] == {
        "logical_size_bytes": 1001,
        "physical_size_bytes": 1051,
        "limit_bytes": 1000,
        "threshold_bytes": 900,
    }
    assert database.mounted
    assert watch.run(2026, 6, 1, 23, 59) == watch.run(2026, 6, 2, 4, 59) == []
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9690, "sales")]
    assert not database.mounted
    assert len(database.reasons) == 1 and "above its limit" in database.reasons[0]
    assert watch.run(2026, 6, 3, 5, 0) == []


def test_a_remounted_database_serves_until_the_next_daily_check() -> None:
    database = FakeDatabase("sales", 1001)
    watch = Watch(database)
    watch.run(2026, 6, 1, 12, 0)
    watch.run(2026, 6, 2, 5, 0)
    database.mount()
    assert watch.run(2026, 6, 2, 5, 1) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 3, 4, 59) == []
    assert database.mounted
    database.size_bytes = 1000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales")], "room was made in time"
    assert database.mounted


def test_a_database_that_grew_above_its_limit_since_is_dismounted_without_another_report() -> None:
    database = FakeDatabase("sales", 10)
    watch = Watch(database)
    assert watch.run(2026, 6, 1, 12, 0) == watch.run(2026, 6, 2, 5, 0) == []
    database.size_bytes = 2000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_long_sleep_is_made_up_for_by_one_check() -> None:
    database = FakeDatabase("sales", 950)
    watch = Watch(database)
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 20, 15, 0) == [(9688, "sales")]
    assert watch.run(2026, 6, 20, 15, 1) == []
    assert database.checks_since_mount == 2
    assert database.last_size_check_ms == local_ms(BERLIN, 2026, 6, 20, 15, 0)


def test_after_downtime_the_check_at_mount_makes_up_for_the_missed_ones() -> None:
    database = FakeDatabase("sales", 1001)
    database.last_size_check_ms = local_ms(BERLIN, 2026, 5, 1, 5, 0)
    watch = Watch(database)
    assert watch.run(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 1, 12, 1) == []
    assert database.mounted


def test_driven_by_its_wake_ups_it_checks_at_five_every_day() -> None:
    database = FakeDatabase("sales", 10)
    watch = Watch(database)
    checked = []
    for _ in range(300):
        wake_ms = watch.check.run_due()
        assert wake_ms > watch.clock.now_ms()
        checked.append(local(database.last_size_check_ms or 0, BERLIN))
        watch.clock.set_ms(wake_ms)
    assert database.checks_since_mount == 300
    assert {(when.hour, when.minute) for when in checked[1:]} == {(5, 0)}
    assert len({when.date() for when in checked}) == 300


def test_the_wake_up_is_the_earliest_of_all_databases() -> None:
    watch = Watch(
        FakeDatabase("five", 10),
        FakeDatabase("two", 10, TINY._replace(check_hour=2, check_minute=30)),
        FakeDatabase("noon", 10, TINY._replace(check_hour=12)),
    )
    assert watch.check.run_due() == local_ms(BERLIN, 2026, 6, 2, 2, 30)
    assert Watch().check.run_due() == local_ms(BERLIN, 2026, 6, 2, 12, 0), "looks again within a day"


def test_each_database_has_its_own_limits_and_mount() -> None:
    small, large = FakeDatabase("small", 1001), FakeDatabase("large", 1001, TINY._replace(limit_bytes=9000))
    watch = Watch(small, large)
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "small"), (9690, "small")]
    assert large.mounted


def test_a_clock_set_back_neither_checks_twice_nor_stops_the_checks() -> None:
    database = FakeDatabase("sales", 1001)
    watch = Watch(database)
    watch.run(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 1, 11, 59) == []
    assert database.mounted
    database.last_size_check_ms = local_ms(BERLIN, 2099, 1, 1, 0, 0)
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_database_that_cannot_be_checked_keeps_none_of_the_others_from_it() -> None:
    damaged, whole = FakeDatabase("damaged", 10), FakeDatabase("whole", 950)

    def fail() -> None:
        raise Corrupt("page 7 is damaged")

    damaged.fail = fail
    watch = Watch(damaged, whole)
    wake_ms = watch.check.run_due()
    assert watch.events() == [(1025, "damaged"), (9688, "whole")]
    assert damaged.events[0][1] == {"request": "size check", "error": "page 7 is damaged"}
    assert wake_ms == watch.clock.now_ms() + RETRY_MS
    assert (damaged.checks_since_mount, whole.checks_since_mount) == (0, 1)


def test_a_database_dismounted_meanwhile_is_passed_over() -> None:
    database = FakeDatabase("sales", 950)

    def fail() -> None:
        raise Dismounted("sales is not mounted")

    database.fail = fail
    assert Watch(database).run(2026, 6, 1, 12, 0) == []


def test_little_free_disk_is_an_event_of_the_same_check() -> None:
    database = FakeDatabase("sales", 10)
    database.free_bytes = 150
    assert Watch(database).run(2026, 6, 1, 12, 0) == [(20010, "sales")]
    assert database.events[0][1] == {"free_bytes": 150, "state": "low"}
    assert database.mounted
