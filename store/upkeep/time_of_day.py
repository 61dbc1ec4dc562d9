"""Work that is done each day at a time of day: when it comes next, and whether it is due.

Nothing here sleeps: a run says when the next one is due, and whoever embeds the store calls again then.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

DAY_MS: Final = 86_400_000
RETRY_MS: Final = 300_000  # daily work that failed, on a damaged or full disk, is tried again after this

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


def next_time_of_day_ms(at: time, after_ms: int, zone: tzinfo) -> int:
    """When it is next `at` local time, after `after_ms`, ms UTC.

    Once a local day: for a time that a change of the clocks skips it is the first instant after the gap, for
    one that comes twice the first time.
    """
    day = (_EPOCH + after_ms * _MS).astimezone(zone).date()
    while (instant_ms := _time_of_day_ms(at, day, zone)) <= after_ms:
        day += timedelta(days=1)
    return instant_ms


def _time_of_day_ms(at: time, day: date, zone: tzinfo) -> int:
    wall = datetime.combine(day, at, tzinfo=zone)
    instant = wall.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != wall.replace(tzinfo=None):
        # PEP 495: in a gap, fold 1 reads the wall time by the offset after it, so before the change.
        instant = _change_of_offset(wall.replace(fold=1).astimezone(UTC), instant, zone)
    return (instant - _EPOCH) // _MS


def _change_of_offset(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first second in `before` < t <= `after` (both UTC) with the offset that `zone` has at `after`."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, (after - before) // timedelta(seconds=1)
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)


def is_due(at: time, last_ms: int, now_ms: int, zone: tzinfo) -> bool:
    """True when it was `at` local time since `last_ms`; one run makes up for any number of missed ones.

    A last run more than a day in the future was made by a clock that was wrong, and counts as none.
    """
    return last_ms > now_ms + DAY_MS or next_time_of_day_ms(at, last_ms, zone) <= now_ms
