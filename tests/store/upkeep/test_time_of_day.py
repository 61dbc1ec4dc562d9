"""Daily work comes once a local day, whatever the clocks of its zone do, and what was missed is due once."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.upkeep.time_of_day import DAY_MS, is_due, next_time_of_day_ms

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # changes its clocks by half an hour
ST_JOHNS = ZoneInfo("America/St_Johns")  # until 2011 changed them at 00:01, across midnight
APIA = ZoneInfo("Pacific/Apia")  # left out 30 December 2011
FIVE = time(5)
MINUTE_MS = 60_000


def local_ms(zone: tzinfo, *wall: int, fold: int = 0) -> int:
    """The ms UTC of a local time: year, month, day, hour, minute."""
    year, month, day, hour, minute = wall
    return int(datetime(year, month, day, hour, minute, tzinfo=zone, fold=fold).timestamp()) * 1000


def local(ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone)


@pytest.mark.parametrize(
    "zone", [UTC, BERLIN, NEW_YORK, LORD_HOWE, timezone(timedelta(hours=-3, minutes=-30))]
)
def test_it_is_five_local_time(zone: tzinfo) -> None:
    due_ms = local_ms(zone, 2026, 2, 10, 5, 0)
    assert next_time_of_day_ms(FIVE, due_ms - 1, zone) == due_ms
    assert next_time_of_day_ms(FIVE, due_ms, zone) == due_ms + DAY_MS
    assert next_time_of_day_ms(FIVE, due_ms - DAY_MS, zone) == due_ms


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
def test_a_time_the_clocks_skip_comes_right_after_the_gap(
    zone: ZoneInfo, hour: int, minute: int, day: tuple[int, int, int], first_valid: str
) -> None:
    midnight_ms = local_ms(zone, *day, 0, 0)
    found_ms = next_time_of_day_ms(time(hour, minute), midnight_ms, zone)
    assert local(found_ms, zone).isoformat() == first_valid
    following = local(next_time_of_day_ms(time(hour, minute), found_ms, zone), zone)
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
def test_a_time_that_comes_twice_counts_the_first_time(
    zone: ZoneInfo, hour: int, minute: int, day: tuple[int, int, int]
) -> None:
    first_ms, second_ms = (local_ms(zone, *day, hour, minute, fold=fold) for fold in (0, 1))
    assert first_ms < second_ms
    assert next_time_of_day_ms(time(hour, minute), first_ms - 1, zone) == first_ms
    for after_ms in (first_ms, second_ms - 1, second_ms):
        following = local(next_time_of_day_ms(time(hour, minute), after_ms, zone), zone)
        assert following.date() == date(*day) + timedelta(days=1)
    assert not is_due(time(hour, minute), first_ms, second_ms, zone)


def first_minute_past(zone: tzinfo, hour: int, minute: int, after_ms: int) -> int:
    """The rule by brute force: each day, the first minute at which the time is reached or past."""
    start = local(after_ms, zone).date()
    for days in range(4):
        day = start + timedelta(days=days)
        wall = datetime(day.year, day.month, day.day, hour, minute)
        minute_ms = int((wall - timedelta(hours=15)).replace(tzinfo=UTC).timestamp()) * 1000
        while local(minute_ms, zone).replace(tzinfo=None) < wall:
            minute_ms += MINUTE_MS
        if minute_ms > after_ms:
            return minute_ms
    raise AssertionError("one every day")


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
    assert next_time_of_day_ms(time(hour, minute), after_ms, zone) == first_minute_past(
        zone, hour, minute, after_ms
    )


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize(("hour", "minute"), [(2, 30), (2, 15), (1, 45), (5, 0), (0, 0), (23, 59)])
def test_a_year_has_one_a_day(zone: ZoneInfo, hour: int, minute: int) -> None:
    now_ms = local_ms(zone, 2026, 1, 1, 0, 0) - 1
    days = []
    for _ in range(365):
        now_ms = next_time_of_day_ms(time(hour, minute), now_ms, zone)
        days.append(local(now_ms, zone).date())
    assert days == [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]


def test_a_day_left_out_by_its_zone_does_not_stop_the_days_after() -> None:
    before_ms = local_ms(APIA, 2011, 12, 29, 5, 0)
    found_ms = next_time_of_day_ms(FIVE, before_ms, APIA)
    assert local(found_ms, APIA).isoformat() == "2011-12-31T00:00:00+14:00"
    assert local(next_time_of_day_ms(FIVE, found_ms, APIA), APIA).isoformat() == "2011-12-31T05:00:00+14:00"


def test_missed_runs_are_made_up_for_once() -> None:
    last_ms = local_ms(BERLIN, 2026, 5, 1, 5, 0)
    back_ms = local_ms(BERLIN, 2026, 5, 20, 11, 17)
    assert is_due(FIVE, last_ms, back_ms, BERLIN)
    assert not is_due(FIVE, back_ms, back_ms, BERLIN)
    assert not is_due(FIVE, back_ms, local_ms(BERLIN, 2026, 5, 21, 4, 59), BERLIN)
    assert is_due(FIVE, back_ms, local_ms(BERLIN, 2026, 5, 21, 5, 0), BERLIN)


def test_a_clock_set_back_a_little_gives_no_second_run_and_one_far_ahead_no_standstill() -> None:
    now_ms = local_ms(BERLIN, 2026, 5, 20, 5, 0)
    assert not is_due(FIVE, now_ms, now_ms - 1000, BERLIN)
    assert not is_due(FIVE, now_ms, now_ms - DAY_MS, BERLIN)
    assert is_due(FIVE, now_ms + 30 * DAY_MS, now_ms, BERLIN)
