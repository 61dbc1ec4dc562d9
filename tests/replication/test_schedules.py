"""Schedules: windows of the week in a time zone, and what a change of the clocks does to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.organisation.schedules import (
    ALWAYS,
    CELL_MS,
    MINUTE_MS,
    NEVER,
    WEEK_CELLS,
    Interval,
    Weekly,
    parse_schedule,
)
from pillarbox.store.errors import InvalidSetting

# Clocks that change by an hour in either hemisphere, by half an hour, at midnight, never; a day that was left
# out.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
)
HOUR_MS = 60 * MINUTE_MS
WEEK_MS = 7 * 24 * HOUR_MS


def at(text: str) -> int:
    """The instant of a time in UTC, ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def times_of(schedule: Weekly, start: str, hours: int) -> list[str]:
    """The times UTC at which a schedule opens and closes in so many hours from `start`."""
    now_ms, end_ms, found = at(start), at(start) + hours * HOUR_MS, []
    while (changes_ms := schedule.next_change_ms(now_ms)) is not None and changes_ms <= end_ms:
        found.append(datetime.fromtimestamp(changes_ms / 1000, UTC).strftime("%d %H:%M"))
        now_ms = changes_ms
    return found


def weekly(text: str) -> Weekly:
    schedule = parse_schedule(text)
    assert isinstance(schedule, Weekly)
    return schedule


def test_always_never_and_an_interval() -> None:
    now_ms = at("2026-03-02 10:00")
    assert ALWAYS.is_open(now_ms) and ALWAYS.next_cycle_ms(now_ms, now_ms) == now_ms
    assert not NEVER.is_open(now_ms) and NEVER.next_open_ms(now_ms) is None
    assert NEVER.next_cycle_ms(now_ms, 0) is None
    half_hours = parse_schedule("every 30 min")
    assert half_hours == Interval(30)
    assert half_hours.next_cycle_ms(now_ms, now_ms - 10 * MINUTE_MS) == now_ms + 20 * MINUTE_MS
    assert half_hours.next_cycle_ms(now_ms, now_ms - HOUR_MS) == now_ms


def test_a_last_cycle_of_a_clock_that_was_wrong_holds_nothing_up() -> None:
    now_ms = at("2026-03-02 10:00")
    assert Interval(30).next_cycle_ms(now_ms, at("2099-01-01 00:00")) == now_ms


def test_windows_of_a_week() -> None:
    nights = weekly("weekly Europe/Berlin mon-fri 20:00-06:00, sun 12:00-12:15")
    assert times_of(nights, "2026-06-05 12:00", 80) == [  # a Friday; Berlin is two hours ahead
        *("05 18:00", "06 04:00"),
        *("07 10:00", "07 10:15"),
        "08 18:00",
    ]
    assert nights.next_open_ms(at("2026-06-06 00:00")) == at("2026-06-06 00:00")
    assert nights.next_open_ms(at("2026-06-06 04:00")) == at("2026-06-07 10:00")


def test_a_window_that_ends_with_an_hour_that_comes_twice_ends_once() -> None:
    schedule = Weekly("America/New_York", frozenset({6 * 96 + 7}))  # Sunday, 01:45 to 02:00
    opens_ms = schedule.next_open_ms(at("2026-11-01 00:00"))
    assert opens_ms == at("2026-11-01 05:45")
    assert schedule.next_change_ms(opens_ms) == at("2026-11-01 06:00")


def test_a_window_in_the_gap_of_a_clock_change_opens_at_its_end() -> None:
    at_night = weekly("weekly Europe/Berlin sun 02:15-02:45")
    assert times_of(at_night, "2026-03-28 12:00", 24) == ["29 01:00", "29 01:15"]  # 03:00 local time
    assert times_of(at_night, "2026-04-04 12:00", 24) == ["05 00:15", "05 00:45"]
    begins_in_it = weekly("weekly Europe/Berlin sun 02:30-05:00")
    assert times_of(begins_in_it, "2026-03-28 12:00", 24) == ["29 01:00", "29 03:00"]
    left_out = weekly("weekly Pacific/Apia fri 10:00-11:00")  # Samoa had no 30 December 2011, a Friday
    assert times_of(left_out, "2011-12-29 12:00", 48) == ["30 10:00", "30 10:15"]


def test_a_window_that_comes_twice_counts_once() -> None:
    at_night = weekly("weekly Europe/Berlin sun 02:15-02:45")
    assert times_of(at_night, "2026-10-24 12:00", 24) == ["25 00:15", "25 00:45"]
    at_midnight = weekly("weekly America/Sao_Paulo sat 23:00-23:30")  # 17 February 2018, at midnight
    assert times_of(at_midnight, "2018-02-17 12:00", 36) == ["18 01:00", "18 01:30"]


def test_a_window_about_a_clock_change_is_as_much_longer_or_shorter() -> None:
    at_night = weekly("weekly Europe/Berlin sat-sun 22:00-06:00")
    assert times_of(at_night, "2026-10-24 12:00", 24) == ["24 20:00", "25 05:00"]
    assert times_of(at_night, "2026-03-28 12:00", 24) == ["28 21:00", "29 04:00"]


grids = st.builds(
    Weekly,
    st.sampled_from(ZONES),
    st.one_of(
        st.frozensets(st.integers(0, WEEK_CELLS - 1), min_size=1, max_size=6),
        st.builds(
            lambda start, length: frozenset((start + k) % WEEK_CELLS for k in range(length)),
            st.integers(0, WEEK_CELLS - 1),
            st.integers(1, WEEK_CELLS),
        ),
    ),
)
instants = st.integers(at("2005-01-01 00:00"), at("2037-01-01 00:00"))


@settings(deadline=None, max_examples=300)
@given(grids)
def test_the_text_of_a_schedule_says_it(schedule: Weekly) -> None:
    assert parse_schedule(str(schedule)) == schedule


@settings(deadline=None, max_examples=200)
@given(grids, instants)
def test_next_open_is_the_first_open_time(schedule: Weekly, now_ms: int) -> None:
    opens_ms = schedule.next_open_ms(now_ms)
    assert opens_ms is not None and now_ms <= opens_ms <= now_ms + WEEK_MS + 24 * HOUR_MS
    assert schedule.is_open(opens_ms)
    assert opens_ms == now_ms or not schedule.is_open(opens_ms - 1)
    between = range(now_ms, opens_ms, 5 * MINUTE_MS)
    assert not any(schedule.is_open(time_ms) for time_ms in between[:500])


@settings(deadline=None, max_examples=200)
@given(grids, instants)
def test_a_schedule_changes_at_its_next_change_and_not_before(schedule: Weekly, now_ms: int) -> None:
    changes_ms = schedule.next_change_ms(now_ms)
    if changes_ms is None:
        assert len(schedule.cells) == WEEK_CELLS and schedule.is_open(now_ms)
        return
    was_open = schedule.is_open(now_ms)
    assert schedule.is_open(changes_ms - 1) == was_open != schedule.is_open(changes_ms)


@settings(deadline=None, max_examples=300)
@given(grids, instants)
def test_away_from_clock_changes_the_cells_of_the_local_week_decide(schedule: Weekly, now_ms: int) -> None:
    zone = ZoneInfo(schedule.zone)
    local = datetime.fromtimestamp(now_ms / 1000, zone)
    about = [(local + timedelta(days=day)).utcoffset() for day in range(-8, 9)]
    cell = (local.weekday() * 24 * 60 + local.hour * 60 + local.minute) // 15
    if len(set(about)) == 1:
        assert schedule.is_open(now_ms) == (cell in schedule.cells)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(ZONES), st.integers(0, WEEK_CELLS - 1), st.integers(2006, 2035))
def test_each_window_opens_once_a_week_all_year(zone: str, cell: int, year: int) -> None:
    schedule, now_ms = Weekly(zone, frozenset({cell})), at(f"{year}-01-01 00:00")
    opened = []
    for _ in range(52):
        opens_ms = schedule.next_open_ms(now_ms)
        assert opens_ms is not None
        opened.append(opens_ms)
        closes_ms = schedule.next_change_ms(opens_ms)
        assert closes_ms == opens_ms + CELL_MS
        now_ms = closes_ms
    apart = {after - before for before, after in pairwise(opened)}
    day_ms = 24 * HOUR_MS  # Samoa left out a day
    assert all(abs(gap - WEEK_MS) <= (day_ms if zone == "Pacific/Apia" else HOUR_MS) for gap in apart)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sometimes", "is no schedule"),
        ("every 0 min", "is none"),
        ("every 99999 min", "is none"),
        ("weekly Berlin mon 10:00-11:00", "is no time zone"),
        ("weekly ../etc/passwd mon 10:00-11:00", "is no time zone"),
        ("weekly UTC 10:00-11:00", "is no window"),
        ("weekly UTC mon-fry 10:00-11:00", "is no window"),
        ("weekly UTC mon 10:10-11:00", "is no quarter"),
        ("weekly UTC mon 24:15-11:00", "is no quarter"),
        ("weekly UTC mon 10:75-11:00", "is no quarter"),
        ("weekly UTC mon 24:00-11:00", "begins at 24:00"),
        ("weekly UTC mon 10:00-11:00,", "is no window"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        parse_schedule(text)
