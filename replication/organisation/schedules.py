"""Schedules: when changes of a folder are broadcast, and when a connector carries mail.

A schedule is written as text, the same in the organisation file, in folders and on screens:

    always                                              as soon as the preset's delays allow
    never                                               no broadcast; requests and answers go all the same
    every 30 min                                        a cycle each half hour
    weekly Europe/Berlin mon-fri 20:00-06:00, sat 00:00-24:00      windows of quarters of an hour

A window that ends no later than it begins ends on the next day. Where the clocks change, a window that lies
in the gap opens at the end of the gap for a quarter of an hour, and of two times that the clock shows twice
the first counts: such a window opens once.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Final, TypeAlias

from pillarbox.store.errors import InvalidSetting
from pillarbox.store.local_time import instant_ms, wall_time

MINUTE_MS: Final = 60_000
CELL_MINUTES: Final = 15
CELL_MS: Final = CELL_MINUTES * MINUTE_MS
DAY_CELLS: Final = 24 * 60 // CELL_MINUTES
WEEK_CELLS: Final = 7 * DAY_CELLS
INTERVAL_MINUTES_MAX: Final = 7 * 24 * 60
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_HINT: Final = (
    "say always, never, every 30 min, or weekly Europe/Berlin mon-fri 20:00-06:00, sat 00:00-24:00 "
    "(by quarters of an hour)"
)
_CELL: Final = timedelta(minutes=CELL_MINUTES)
_WEEK: Final = timedelta(weeks=1)
_WINDOW: Final = re.compile(r"([a-z]{3})(?:-([a-z]{3}))? (\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True)
class Always:
    """Open at all times; the delays of the preset alone decide."""

    def is_open(self, now_ms: int) -> bool:
        """True: a change may go now."""
        return True

    def next_open_ms(self, now_ms: int) -> int | None:
        """The first time from `now_ms` on at which the schedule is open (ms UTC), None when there is none."""
        return now_ms

    def next_change_ms(self, now_ms: int) -> int | None:
        """The first time after `now_ms` at which the schedule opens or closes, None when it never does."""
        return None

    def next_cycle_ms(self, now_ms: int, last_ms: int) -> int | None:
        """The time of the next cycle, not before `now_ms`, where the last one was at `last_ms`; None for
        none."""
        return now_ms

    def __str__(self) -> str:
        return "always"


@dataclass(frozen=True)
class Never:
    """Open at no time."""

    def is_open(self, now_ms: int) -> bool:
        """False: nothing goes by itself."""
        return False

    def next_open_ms(self, now_ms: int) -> int | None:
        """None: it never opens."""
        return None

    def next_change_ms(self, now_ms: int) -> int | None:
        """None: it never opens."""
        return None

    def next_cycle_ms(self, now_ms: int, last_ms: int) -> int | None:
        """None: there is no cycle."""
        return None

    def __str__(self) -> str:
        return "never"


@dataclass(frozen=True)
class Interval:
    """Open at all times, with a cycle every so many minutes."""

    minutes: int

    def is_open(self, now_ms: int) -> bool:
        """True: only the time of the last cycle decides."""
        return True

    def next_open_ms(self, now_ms: int) -> int | None:
        """The time `now_ms`: the schedule is open."""
        return now_ms

    def next_change_ms(self, now_ms: int) -> int | None:
        """None: it never closes."""
        return None

    def next_cycle_ms(self, now_ms: int, last_ms: int) -> int | None:
        """The interval after the last cycle; one that lies in the future was timed by a wrong clock, and
        counts as none."""
        return now_ms if last_ms > now_ms else max(now_ms, last_ms + self.minutes * MINUTE_MS)

    def __str__(self) -> str:
        return f"every {self.minutes} min"


@dataclass(frozen=True)
class Weekly:
    """Open in some quarters of an hour of the week in a time zone.

    `cells` count from Monday, 00:00: 0 to 671, at least one.
    """

    zone: str
    cells: frozenset[int]

    def is_open(self, now_ms: int) -> bool:
        """True when `now_ms` lies in a window."""
        return any(opens_ms <= now_ms < closes_ms for opens_ms, closes_ms in self._windows(now_ms))

    def next_open_ms(self, now_ms: int) -> int | None:
        """The time `now_ms` when it lies in a window, else the beginning of the next window."""
        windows = self._windows(now_ms)
        return max(now_ms, next(opens_ms for opens_ms, closes_ms in windows if closes_ms > now_ms))

    def next_change_ms(self, now_ms: int) -> int | None:
        """The beginning or end of a window that comes next, None where all of the week is open."""
        if len(self.cells) == WEEK_CELLS:
            return None
        return next(time_ms for window in self._windows(now_ms) for time_ms in window if time_ms > now_ms)

    def next_cycle_ms(self, now_ms: int, last_ms: int) -> int | None:
        """The next time at which it is open: within a window the preset's delays decide."""
        return self.next_open_ms(now_ms)

    def _windows(self, now_ms: int) -> tuple[tuple[int, int], ...]:
        """All windows of last week to the week after the next, (opens, closes), ascending and apart."""
        day = wall_time(now_ms, _zone(self.zone)).date()
        return _windows_about(self, (day - timedelta(days=day.weekday())).toordinal())

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The windows as (first cell, number of cells); one may go on into the next week."""
        starts = [cell for cell in sorted(self.cells) if (cell - 1) % WEEK_CELLS not in self.cells]
        if not starts:
            return ((0, WEEK_CELLS),)
        return tuple((start, self._length(start)) for start in starts)

    def _length(self, start: int) -> int:
        length = 1
        while (start + length) % WEEK_CELLS in self.cells:
            length += 1
        return length

    def __str__(self) -> str:
        return f"weekly {self.zone} {', '.join(_window_texts(self.runs))}"


Schedule: TypeAlias = Always | Never | Interval | Weekly

ALWAYS: Final = Always()
NEVER: Final = Never()


def parse_schedule(text: str) -> Schedule:
    """The schedule that a text says. Raises InvalidSetting."""
    words = " ".join(text.split())
    if words == "always":
        return ALWAYS
    if words == "never":
        return NEVER
    if found := re.fullmatch(r"every (\d{1,5}) min", words):
        minutes = int(found[1])
        if not 1 <= minutes <= INTERVAL_MINUTES_MAX:
            raise InvalidSetting(
                f"an interval of {minutes} min is none", hint=f"say 1 to {INTERVAL_MINUTES_MAX} min"
            )
        return Interval(minutes)
    if found := re.fullmatch(r"weekly (\S+) (.+)", words):
        _zone(found[1])
        cells = {cell for window in found[2].split(",") for cell in _cells_of(window.strip())}
        return Weekly(found[1], frozenset(cells))
    raise InvalidSetting(f"{text!r} is no schedule", hint=_HINT)


@lru_cache(maxsize=64)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidSetting(
            f"{name!r} is no time zone that this machine knows",
            hint="say one of the IANA time zones, such as Europe/Berlin or UTC",
        ) from error


def _cells_of(window: str) -> Iterator[int]:
    """The cells of a window such as `mon-fri 20:00-06:00`."""
    found = _WINDOW.fullmatch(window)
    days = _days_of(found[1], found[2]) if found else []
    if not found or not days:
        raise InvalidSetting(f"{window!r} is no window of a schedule", hint=_HINT)
    begin, end = _cell_of(window, found[3], found[4]), _cell_of(window, found[5], found[6])
    if begin == DAY_CELLS:
        raise InvalidSetting(f"{window!r} begins at 24:00", hint="say 00:00 of the next day")
    length = end - begin if end > begin else end + DAY_CELLS - begin
    for day in days:
        for cell in range(length):
            yield (day * DAY_CELLS + begin + cell) % WEEK_CELLS


def _days_of(first: str, last: str | None) -> list[int]:
    """The numbers of the days from one to the other, over the end of the week too; none for other words."""
    if first not in DAYS or (last or first) not in DAYS:
        return []
    begin = DAYS.index(first)
    count = (DAYS.index(last or first) - begin) % 7 + 1
    return [(begin + day) % 7 for day in range(count)]


def _cell_of(window: str, hour: str, minute: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if int(minute) > 59 or minutes > 24 * 60 or minutes % CELL_MINUTES:
        raise InvalidSetting(
            f"{hour}:{minute} in {window!r} is no quarter of an hour", hint="say 00:00 to 24:00"
        )
    return minutes // CELL_MINUTES


def _window_texts(runs: tuple[tuple[int, int], ...]) -> list[str]:
    """Windows as `parse_schedule` reads them; those that are alike on days in a row together."""
    days: dict[str, list[int]] = {}
    for start, length in runs:
        while length > 0:
            day, begin = divmod(start % WEEK_CELLS, DAY_CELLS)
            # A run of more than a day is written day by day, each to its midnight.
            part = length if length <= DAY_CELLS and begin else min(length, DAY_CELLS - begin)
            end = begin + part
            end_text = _time_text(end if end <= DAY_CELLS else end - DAY_CELLS)
            days.setdefault(f"{_time_text(begin)}-{end_text}", []).append(day)
            start, length = start + part, length - part
    return [f"{span} {window}" for window, on in days.items() for span in _spans(sorted(on))]


def _time_text(cell: int) -> str:
    hour, minute = divmod(cell * CELL_MINUTES, 60)
    return f"{hour:02}:{minute:02}"


def _spans(days: list[int]) -> list[str]:
    spans: list[list[int]] = []
    for day in days:
        if spans and spans[-1][-1] == day - 1:
            spans[-1].append(day)
        else:
            spans.append([day])
    return [DAYS[span[0]] if len(span) == 1 else f"{DAYS[span[0]]}-{DAYS[span[-1]]}" for span in spans]


@lru_cache(maxsize=1024)
def _windows_about(schedule: Weekly, monday: int) -> tuple[tuple[int, int], ...]:
    zone, midnight = _zone(schedule.zone), datetime.fromordinal(monday)
    found: list[tuple[int, int]] = []
    for week in (-1, 0, 1, 2):
        for start, length in schedule.runs:
            begins = midnight + week * _WEEK + start * _CELL
            opens_ms = instant_ms(begins, zone)
            # A window that ends with an hour which comes twice ends when it has come once.
            last_ms = instant_ms(begins + (length - 1) * _CELL, zone)
            closes_ms = min(instant_ms(begins + length * _CELL, zone), last_ms + CELL_MS)
            if closes_ms == opens_ms:  # all of it lies in a gap
                closes_ms = opens_ms + CELL_MS
            if found and opens_ms <= found[-1][1]:
                found[-1] = (found[-1][0], max(closes_ms, found[-1][1]))
            else:
                found.append((opens_ms, closes_ms))
    return tuple(found)
