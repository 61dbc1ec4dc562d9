"""Size limits do what DOMAIN.md "Limits" says: by edition, by size, by the local clock and by mount."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.clock import VirtualClock
from pillarbox.store.database_limits import (
    BUFFER_KEY,
    CHECK_RETRY_MS,
    DAY_MS,
    DISK_FLOOR_KEY,
    DISK_SPACE_LOW,
    DISK_WARNING_KEY,
    GB,
    HOUR_KEY,
    LIMIT_KEY,
    MB,
    MINUTE_KEY,
    REQUEST_FAILED,
    Assessment,
    DailySizeCheck,
    DatabaseLimits,
    DiskState,
    Edition,
    SizedDatabase,
    assess,
    assess_disk,
    check_is_due,
    limits_from_settings,
    next_check_ms,
    refuse_below_floor,
    settings_of,
)
from pillarbox.store.errors import Corrupt, DiskFull, Dismounted, InvalidSetting

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # changes its clocks by half an hour
ST_JOHNS = ZoneInfo("America/St_Johns")  # until 2011 changed them at 00:01, across midnight
APIA = ZoneInfo("Pacific/Apia")  # left out 30 December 2011
TINY = DatabaseLimits(limit_bytes=1000, disk_warning_bytes=200, disk_floor_bytes=100)
HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def local_ms(zone: tzinfo, *wall: int, fold: int = 0) -> int:
    """The ms UTC of a local time: year, month, day, hour, minute."""
    year, month, day, hour, minute = wall
    return int(datetime(year, month, day, hour, minute, tzinfo=zone, fold=fold).timestamp()) * 1000


def local(ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone)


def at(hour: int, minute: int = 0) -> DatabaseLimits:
    return TINY._replace(check_hour=hour, check_minute=minute)


# Settings


@pytest.mark.parametrize(
    ("edition", "default_gb", "highest_gb"), [(Edition.STANDARD, 18, 75), (Edition.ENTERPRISE, 8000, 8000)]
)
def test_edition_sets_default_and_highest_limit(edition: Edition, default_gb: int, highest_gb: int) -> None:
    found = limits_from_settings({}, edition)
    assert found.rejected == ()
    assert found.limits == DatabaseLimits(default_gb * GB, buffer_percent=10, check_hour=5, check_minute=0)
    assert found.limits.validated(edition) is found.limits
    highest = limits_from_settings({LIMIT_KEY: highest_gb}, edition)
    assert highest.limits.limit_bytes == highest_gb * GB
    assert highest.rejected == ()


@pytest.mark.parametrize("value", [0, -1, 76, "20", 18.0, True, None, float("nan"), [18]])
def test_a_wrong_limit_is_refused_when_set_and_replaced_when_found(value: object) -> None:
    with pytest.raises(InvalidSetting) as refused:
        settings_of(Edition.STANDARD)[LIMIT_KEY].checked(value)
    assert refused.value.hint == f"set {LIMIT_KEY} to a whole number from 1 to 75"

    found = limits_from_settings({LIMIT_KEY: value, BUFFER_KEY: 20}, Edition.STANDARD)
    assert found.limits.limit_bytes == 18 * GB
    assert found.limits.buffer_percent == 20, "the other settings hold"
    (rejected,) = found.rejected
    assert (rejected.key, rejected.default) == (LIMIT_KEY, 18)
    assert rejected.value is value
    assert "1 to 75" in rejected.reason


def test_settings_are_read_in_their_units() -> None:
    configured = {
        LIMIT_KEY: 30,
        BUFFER_KEY: 25,
        HOUR_KEY: 2,
        MINUTE_KEY: 30,
        DISK_WARNING_KEY: 4,
        DISK_FLOOR_KEY: 3,
        "display_name": "First Mailbox Store",
    }
    assert limits_from_settings(configured, Edition.STANDARD) == (
        DatabaseLimits(30 * GB, 25, 2, 30, 4 * MB, 3 * MB),
        (),
    )


def test_a_floor_above_the_warning_is_replaced_with_both_defaults() -> None:
    found = limits_from_settings({DISK_WARNING_KEY: 10, DISK_FLOOR_KEY: 11}, Edition.STANDARD)
    assert {rejected.key for rejected in found.rejected} == {DISK_WARNING_KEY, DISK_FLOOR_KEY}
    assert found.limits == limits_from_settings({}, Edition.STANDARD).limits


@given(
    st.dictionaries(st.sampled_from(list(settings_of(Edition.STANDARD))), st.integers(-5, 9000) | st.text())
)
@settings(deadline=None)
def test_whatever_is_configured_the_limits_used_are_valid(configured: dict[str, Any]) -> None:
    for edition in Edition:
        limits_from_settings(configured, edition).limits.validated(edition)


GOOD = DatabaseLimits(20 * GB)


@pytest.mark.parametrize(
    ("limits", "hint"),
    [
        (GOOD._replace(limit_bytes=GB - 1), LIMIT_KEY),
        (GOOD._replace(limit_bytes=75 * GB + 1), LIMIT_KEY),
        (GOOD._replace(buffer_percent=0), BUFFER_KEY),
        (GOOD._replace(buffer_percent=101), BUFFER_KEY),
        (GOOD._replace(check_hour=24), HOUR_KEY),
        (GOOD._replace(check_minute=60), MINUTE_KEY),
        (GOOD._replace(disk_floor_bytes=GOOD.disk_warning_bytes + 1), DISK_FLOOR_KEY),
        (GOOD._replace(disk_floor_bytes=-1), DISK_FLOOR_KEY),
    ],
)
def test_limits_outside_their_ranges_are_refused_with_what_to_do(limits: DatabaseLimits, hint: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        limits.validated(Edition.STANDARD)
    assert f"set {hint} to" in refused.value.hint


def test_a_limit_that_standard_refuses_enterprise_takes() -> None:
    limits = DatabaseLimits(100 * GB)
    assert limits.validated(Edition.ENTERPRISE) is limits
    with pytest.raises(InvalidSetting, match=r"100\.00 GB is outside what the edition standard allows"):
        limits.validated(Edition.STANDARD)


# The hour of the check


@pytest.mark.parametrize(
    "zone", [UTC, BERLIN, NEW_YORK, LORD_HOWE, timezone(timedelta(hours=-3, minutes=-30))]
)
def test_the_check_is_at_five_local_time(zone: tzinfo) -> None:
    due_ms = local_ms(zone, 2026, 2, 10, 5, 0)
    assert next_check_ms(TINY, due_ms - 1, zone) == due_ms
    assert next_check_ms(TINY, due_ms, zone) == due_ms + DAY_MS
    assert next_check_ms(TINY, due_ms - DAY_MS, zone) == due_ms


@pytest.mark.parametrize(
    ("zone", "hour", "minute", "day", "first_valid"),
    [
        (BERLIN, 2, 30, (2026, 3, 29), "2026-03-29T03:00:00+02:00"),
        (BERLIN, 2, 0, (2026, 3, 29), "2026-03-29T03:00:00+02:00"),
        (BERLIN, 3, 0, (2026, 3, 29), "2026-03-29T03:00:00+02:00"),
        (BERLIN, 1, 59, (2026, 3, 29), "2026-03-29T01:59:00+01:00"),
        (NEW_YORK, 2, 30, (2026, 3, 8), "2026-03-08T03:00:00-04:00"),
        (LORD_HOWE, 2, 15, (2026, 10, 4), "2026-10-04T02:30:00+11:00"),
        (LORD_HOWE, 2, 45, (2026, 10, 4), "2026-10-04T02:45:00+11:00"),
    ],
)
def test_a_time_the_clocks_skip_is_checked_right_after_the_gap(
    zone: ZoneInfo, hour: int, minute: int, day: tuple[int, int, int], first_valid: str
) -> None:
    midnight_ms = local_ms(zone, *day, 0, 0)
    found_ms = next_check_ms(at(hour, minute), midnight_ms, zone)
    assert local(found_ms, zone).isoformat() == first_valid
    following = local(next_check_ms(at(hour, minute), found_ms, zone), zone)
    assert following.date() == date(*day) + timedelta(days=1), "once only"
    assert (following.hour, following.minute) == (hour, minute)


@pytest.mark.parametrize(
    ("zone", "hour", "minute", "day"),
    [
        (BERLIN, 2, 30, (2026, 10, 25)),
        (NEW_YORK, 1, 30, (2026, 11, 1)),
        (LORD_HOWE, 1, 45, (2026, 4, 5)),
        (ST_JOHNS, 0, 0, (2010, 11, 7)),
    ],
)
def test_a_time_that_comes_twice_is_checked_the_first_time(
    zone: ZoneInfo, hour: int, minute: int, day: tuple[int, int, int]
) -> None:
    first_ms, second_ms = (local_ms(zone, *day, hour, minute, fold=fold) for fold in (0, 1))
    assert first_ms < second_ms
    assert next_check_ms(at(hour, minute), first_ms - 1, zone) == first_ms
    for after_ms in (first_ms, second_ms - 1, second_ms):
        following = local(next_check_ms(at(hour, minute), after_ms, zone), zone)
        assert following.date() == date(*day) + timedelta(days=1)
    assert not check_is_due(at(hour, minute), first_ms, second_ms, zone)


def first_minute_past(zone: tzinfo, hour: int, minute: int, after_ms: int) -> int:
    """The rule by brute force: each day, the first minute at which its check time is reached or past."""
    start = local(after_ms, zone).date()
    for days in range(4):
        day = start + timedelta(days=days)
        wall = datetime(day.year, day.month, day.day, hour, minute)
        minute_ms = int((wall - timedelta(hours=15)).replace(tzinfo=UTC).timestamp()) * 1000
        while local(minute_ms, zone).replace(tzinfo=None) < wall:
            minute_ms += MINUTE_MS
        if minute_ms > after_ms:
            return minute_ms
    raise AssertionError("a check every day")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(
        [
            (BERLIN, (2026, 3, 29)),
            (BERLIN, (2026, 10, 25)),
            (NEW_YORK, (2026, 3, 8)),
            (NEW_YORK, (2026, 11, 1)),
            (LORD_HOWE, (2026, 4, 5)),
            (LORD_HOWE, (2026, 10, 4)),
            (ST_JOHNS, (2010, 3, 14)),
            (ST_JOHNS, (2010, 11, 7)),
        ]
    ),
    st.integers(0, 3),
    st.integers(0, 59),
    st.integers(-30 * 60, 30 * 60),
)
def test_round_a_change_of_clocks_it_is_the_first_minute_at_or_past_the_time(
    change: tuple[ZoneInfo, tuple[int, int, int]], hour: int, minute: int, minutes_away: int
) -> None:
    zone, day = change
    after_ms = local_ms(zone, *day, 0, 0) + minutes_away * MINUTE_MS
    assert next_check_ms(at(hour, minute), after_ms, zone) == first_minute_past(zone, hour, minute, after_ms)


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize(("hour", "minute"), [(2, 30), (2, 15), (1, 45), (5, 0), (0, 0), (23, 59)])
def test_a_year_has_one_check_a_day(zone: ZoneInfo, hour: int, minute: int) -> None:
    now_ms = local_ms(zone, 2026, 1, 1, 0, 0) - 1
    days = []
    for _ in range(365):
        now_ms = next_check_ms(at(hour, minute), now_ms, zone)
        days.append(local(now_ms, zone).date())
    assert days == [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]


def test_a_day_left_out_by_its_zone_does_not_stop_the_checks() -> None:
    before_ms = local_ms(APIA, 2011, 12, 29, 5, 0)
    found_ms = next_check_ms(TINY, before_ms, APIA)
    assert local(found_ms, APIA).isoformat() == "2011-12-31T00:00:00+14:00"
    assert local(next_check_ms(TINY, found_ms, APIA), APIA).isoformat() == "2011-12-31T05:00:00+14:00"


def test_missed_checks_are_made_up_for_once() -> None:
    last_ms = local_ms(BERLIN, 2026, 5, 1, 5, 0)
    back_ms = local_ms(BERLIN, 2026, 5, 20, 11, 17)
    assert check_is_due(TINY, last_ms, back_ms, BERLIN)
    assert not check_is_due(TINY, back_ms, back_ms, BERLIN)
    assert not check_is_due(TINY, back_ms, local_ms(BERLIN, 2026, 5, 21, 4, 59), BERLIN)
    assert check_is_due(TINY, back_ms, local_ms(BERLIN, 2026, 5, 21, 5, 0), BERLIN)


def test_a_database_never_checked_is_due() -> None:
    assert check_is_due(TINY, None, 0, UTC)


def test_a_clock_set_back_a_little_gives_no_second_check_and_one_far_ahead_no_standstill() -> None:
    now_ms = local_ms(BERLIN, 2026, 5, 20, 5, 0)
    assert not check_is_due(TINY, now_ms, now_ms - 1000, BERLIN)
    assert not check_is_due(TINY, now_ms, now_ms - DAY_MS, BERLIN)
    assert check_is_due(TINY, now_ms + 30 * DAY_MS, now_ms, BERLIN)


# What a check finds


def not_needed() -> int:
    raise AssertionError("the physical size is enough")


def test_below_the_threshold_the_physical_size_is_enough() -> None:
    assert assess(TINY, 5, 899, not_needed) == Assessment(899, None, (), dismount=False)


@pytest.mark.parametrize(
    ("checks_since_mount", "logical_size_bytes", "events", "dismount"),
    [
        (0, 899, (), False),
        (1, 899, (), False),
        (0, 900, (9688,), False),
        (7, 900, (9688,), False),
        (7, 1000, (9688,), False),
        (0, 1001, (9688, 9689), False),
        (1, 1001, (9688, 9690), True),
        (2, 5000, (9688, 9690), True),
    ],
)
def test_threshold_and_limit(
    checks_since_mount: int, logical_size_bytes: int, events: tuple[int, ...], dismount: bool
) -> None:
    found = assess(TINY, checks_since_mount, 5000, lambda: logical_size_bytes)
    assert found == Assessment(5000, logical_size_bytes, events, dismount)


def test_a_threshold_between_two_bytes_begins_at_the_upper_one() -> None:
    limits = DatabaseLimits(18 * GB)
    assert limits.threshold_bytes == 17_394_617_549  # 18 * 2**30 * 0.9 = ...548.8
    assert DatabaseLimits(100, buffer_percent=100).threshold_bytes == 0


# Free disk


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [(200, DiskState.AMPLE), (199, DiskState.LOW), (100, DiskState.LOW), (99, DiskState.BELOW_FLOOR)],
)
def test_free_disk_is_warned_of_and_then_deliveries_are_refused(free_bytes: int, state: DiskState) -> None:
    assert assess_disk(TINY, free_bytes) is state
    if state is not DiskState.BELOW_FLOOR:
        refuse_below_floor(TINY, free_bytes)
        return
    with pytest.raises(DiskFull, match="below the floor") as refused:
        refuse_below_floor(TINY, free_bytes)
    assert refused.value.retryable
    assert DISK_FLOOR_KEY in refused.value.hint


# The daily check


class FakeDatabase:
    """A database that is a few numbers; mounting it anew is `mount`."""

    def __init__(self, name: str, size_bytes: int, limits: DatabaseLimits = TINY) -> None:
        self.label = name
        self.size_bytes = size_bytes
        self.free_bytes = 10**9
        self.limits = limits
        self.checks_since_mount = 0
        self.last_size_check_ms: int | None = None
        self.mounted = True
        self.reasons: list[str] = []
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


class Watch:
    """A `DailySizeCheck` over fake databases in Berlin, from noon on 1 June 2026, with its events."""

    def __init__(self, *databases: FakeDatabase) -> None:
        self.databases = databases
        self.clock = VirtualClock(local_ms(BERLIN, 2026, 6, 1, 12, 0))
        self.events: list[tuple[int, str]] = []
        self.details: list[dict[str, Any]] = []
        self.check = DailySizeCheck(self.mounted, clock=self.clock, zone=BERLIN, report=self.report)

    def mounted(self) -> list[SizedDatabase]:
        return [database for database in self.databases if database.mounted]

    def report(self, event_id: int, database: str, details: dict[str, Any]) -> None:
        self.events.append((event_id, database))
        self.details.append(details)

    def run(self, *wall: int) -> list[tuple[int, str]]:
        """Set the clock to a local time, run what is due and give the events of that run."""
        self.clock.set_ms(local_ms(BERLIN, *wall))
        self.events.clear()
        self.check.run_due()
        return list(self.events)


def test_the_first_check_after_a_mount_reports_and_the_next_daily_one_dismounts() -> None:
    database = FakeDatabase("sales", 1001)
    watch = Watch(database)
    assert watch.run(2026, 6, 1, 12, 0) == [(9688, "sales"), (9689, "sales")]
    assert watch.details[0] == {
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
        FakeDatabase("five", 10), FakeDatabase("two", 10, at(2, 30)), FakeDatabase("noon", 10, at(12))
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
    assert watch.events == [(REQUEST_FAILED, "damaged"), (9688, "whole")]
    assert watch.details[0] == {"request": "size check", "error": "page 7 is damaged"}
    assert wake_ms == watch.clock.now_ms() + CHECK_RETRY_MS
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
    watch = Watch(database)
    assert watch.run(2026, 6, 1, 12, 0) == [(DISK_SPACE_LOW, "sales")]
    assert watch.details == [{"free_bytes": 150, "state": "low"}]
    assert database.mounted
