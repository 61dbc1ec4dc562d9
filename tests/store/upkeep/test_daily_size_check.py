"""The size of a database is looked at when it is mounted, and checked daily; one too large is dismounted."""

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
from pillarbox.store.engine import disk_floor
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.database_limits import DatabaseLimits
from pillarbox.store.errors import Corrupt, Dismounted
from pillarbox.store.events import Event, EventId
from pillarbox.store.upkeep import sizes
from pillarbox.store.upkeep.daily_size_check import DailySizeCheck
from pillarbox.store.upkeep.sizes import above_limit_ms, last_size_check_ms, record_size_check
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
    fail: Callable[[], None] = staticmethod(lambda: None)


@pytest.fixture(autouse=True)
def _sizes_as_the_test_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def physical(database: SizedDatabase) -> int:
        database.fail()
        return database.size_bytes + 50

    monkeypatch.setattr(sizes, "physical_size_bytes", physical)
    monkeypatch.setattr(sizes, "logical_size_bytes", lambda database: database.size_bytes)
    monkeypatch.setattr(disk_floor, "free_disk_bytes", lambda _: 10**9)


class Watch:
    """A `DailySizeCheck` over databases in Berlin, from noon on 1 June 2026, and its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.databases: list[SizedDatabase] = []
        self.clock = VirtualClock(local_ms(2026, 6, 1, 12, 0))
        self.events: list[tuple[int, str]] = []
        self.details: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.dismounted: list[str] = []
        self.check = DailySizeCheck(self.mounted, self.dismount, clock=self.clock, zone=BERLIN)

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

    def dismount(self, database: Database) -> None:
        self.dismounted.append(database.name)
        database.dismount("it is above its limit")

    def report(self, event: Event) -> None:
        self.texts.append(event.text)
        if event.event_id not in (EventId.DATABASE_MOUNTED, EventId.DATABASE_DISMOUNTED):
            self.events.append((event.event_id, event.database))
            self.details.append(event.details)

    def run(self, *wall: int) -> list[tuple[int, str]]:
        """Set the clock to a local time, run what is due and give the events of that run."""
        self.clock.set_ms(local_ms(*wall))
        self.events.clear()
        self.check.run_due()
        return list(self.events)

    def look(self, *wall: int) -> list[tuple[int, str]]:
        """Set the clock to a local time, look as after a mount and give the events of that look."""
        self.clock.set_ms(local_ms(*wall))
        self.events.clear()
        self.check.look(self.mounted())
        return list(self.events)


def is_mounted(database: Database) -> bool:
    return database.state is MountState.MOUNTED


def test_9688_says_whether_the_limit_is_near_or_exceeded(watch: Watch) -> None:
    watch.add("near", 950)
    watch.add("above", 1001)
    watch.look(2026, 6, 1, 12, 0)
    near, above, _ = watch.texts[-3:]
    assert "close to its limit" in near and "above its limit" in above


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    for database in made.databases:
        database.dismount()


def test_what_a_look_reports_the_next_daily_check_dismounts(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    assert watch.look(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.details[0] == {
        "logical_size_bytes": 1001,
        "physical_size_bytes": 1051,
        "limit_bytes": 1000,
        "threshold_bytes": 900,
        "relation": "above",
    }
    assert is_mounted(database)
    assert watch.run(2026, 6, 1, 12, 0) == watch.run(2026, 6, 2, 4, 59) == []
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9690, "sales")]
    assert watch.dismounted == ["sales"]
    with pytest.raises(Dismounted, match="above its limit"):
        database.read(ACTOR)
    assert watch.run(2026, 6, 3, 5, 0) == []


def test_a_look_never_dismounts_however_long_ago_the_database_was_reported(watch: Watch) -> None:
    watch.add("sales", 1001)
    for day in (1, 2, 3):
        assert watch.look(2026, 6, day, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.dismounted == []
    assert watch.run(2026, 6, 3, 12, 0) == [(9688, "sales"), (9690, "sales")], "the check that was due"


def test_the_grace_is_the_same_for_every_process(watch: Watch, tmp_path: Path) -> None:
    first = watch.add("sales", 1001)
    watch.look(2026, 6, 1, 12, 0)
    first.dismount()
    other = Watch(tmp_path)
    second = SizedDatabase(
        first.path, first.guid, "sales", first.kind, clock=other.clock, limits=TINY, reporter=other
    )
    second.size_bytes = 1001
    other.databases.append(second)
    second.mount()
    assert other.run(2026, 6, 1, 23, 0) == []
    assert other.look(2026, 6, 2, 6, 0) == [(9688, "sales"), (9689, "sales")]
    assert other.run(2026, 6, 2, 6, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_new_grace_lasts_until_the_next_daily_check(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    watch.look(2026, 6, 1, 12, 0)
    watch.run(2026, 6, 2, 5, 0)
    database.mount()
    record_size_check(database, last_size_check_ms(database) or 0)
    assert watch.look(2026, 6, 2, 5, 1) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 3, 4, 59) == []
    assert is_mounted(database)
    database.size_bytes = 1000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales")], "room was made in time"
    assert is_mounted(database) and above_limit_ms(database) is None


@pytest.mark.parametrize("by_look", [False, True], ids=["daily check", "look"])
def test_falling_below_the_limit_ends_the_grace(watch: Watch, by_look: bool) -> None:
    database = watch.add("sales", 1001)
    watch.look(2026, 6, 1, 12, 0)
    database.size_bytes = 10
    assert (watch.look(2026, 6, 1, 13, 0) if by_look else watch.run(2026, 6, 2, 5, 0)) == []
    database.size_bytes = 1001
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 4, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_database_that_grew_above_its_limit_is_reported_first_and_dismounted_a_day_later(
    watch: Watch,
) -> None:
    database = watch.add("sales", 10)
    assert watch.look(2026, 6, 1, 12, 0) == watch.run(2026, 6, 2, 5, 0) == []
    database.size_bytes = 2000
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 4, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_daily_check_on_demand_is_one_whatever_the_time(watch: Watch) -> None:
    watch.add("sales", 1001)
    watch.check.run_now()
    watch.check.run_now()
    assert watch.events == [(9688, "sales"), (9689, "sales"), (9688, "sales"), (9690, "sales")]
    assert watch.dismounted == ["sales"]


def test_a_size_near_its_limit_is_said_to_be_close_to_it(watch: Watch) -> None:
    watch.add("sales", 950)
    assert watch.look(2026, 6, 1, 12, 0) == [(9688, "sales")]
    assert watch.details[0]["relation"] == "close to"


def test_a_long_sleep_is_made_up_for_by_one_check(watch: Watch) -> None:
    database = watch.add("sales", 950)
    watch.look(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 20, 15, 0) == [(9688, "sales")]
    assert watch.run(2026, 6, 20, 15, 1) == []
    assert last_size_check_ms(database) == local_ms(2026, 6, 20, 15, 0)


def test_after_downtime_the_look_at_mount_makes_up_for_the_missed_checks(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    record_size_check(database, local_ms(2026, 5, 1, 5, 0))
    database.dismount()
    database.mount()
    assert watch.look(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.run(2026, 6, 1, 12, 1) == []
    assert is_mounted(database)


def test_driven_by_its_wake_ups_it_checks_at_five_every_day(watch: Watch) -> None:
    database = watch.add("sales", 10)
    checked = []
    for _ in range(300):
        wake_ms = watch.check.run_due()
        assert wake_ms > watch.clock.now_ms()
        checked.append(local(last_size_check_ms(database) or 0))
        watch.clock.set_ms(wake_ms)
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
    watch.look(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "small"), (9690, "small")]
    assert not is_mounted(small) and is_mounted(large)


def test_a_clock_set_back_neither_checks_twice_nor_stops_the_checks(watch: Watch) -> None:
    database = watch.add("sales", 1001)
    watch.look(2026, 6, 1, 12, 0)
    assert watch.run(2026, 6, 1, 11, 59) == []
    assert is_mounted(database)
    record_size_check(database, local_ms(2099, 1, 1, 0, 0), local_ms(2099, 1, 1, 0, 0))
    assert watch.run(2026, 6, 2, 5, 0) == [(9688, "sales"), (9689, "sales")], "the grace began then"
    record_size_check(database, local_ms(2099, 1, 1, 0, 0), local_ms(2026, 6, 2, 5, 0))
    assert watch.run(2026, 6, 3, 5, 0) == [(9688, "sales"), (9690, "sales")]


def test_a_database_that_cannot_be_checked_keeps_none_of_the_others_from_it(watch: Watch) -> None:
    damaged, whole = watch.add("damaged", 10), watch.add("whole", 950)

    def fail() -> None:
        raise Corrupt("page 7 is damaged")

    damaged.fail = fail
    wake_ms = watch.check.run_due()
    assert watch.events == [(EventId.REQUEST_FAILED, "damaged"), (9688, "whole")]
    assert watch.details[0] == {"request": "size check", "error": "page 7 is damaged"}
    assert wake_ms == watch.clock.now_ms() + RETRY_MS
    assert (last_size_check_ms(damaged), last_size_check_ms(whole)) == (None, watch.clock.now_ms())


def test_a_database_dismounted_meanwhile_is_passed_over(watch: Watch) -> None:
    database = watch.add("sales", 950)

    def fail() -> None:
        raise Dismounted("sales is not mounted")

    database.fail = fail
    assert watch.run(2026, 6, 1, 12, 0) == []


def test_little_free_disk_is_an_event_of_the_same_check(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = watch.add("sales", 10)
    monkeypatch.setattr(disk_floor, "free_disk_bytes", lambda _: 150)
    assert watch.run(2026, 6, 1, 12, 0) == [(EventId.DISK_SPACE_LOW, "sales")]
    assert watch.details == [{"free_bytes": 150, "state": "low"}]
    assert is_mounted(database)
