"""Work that is done each day at a time of day: when it comes next, and whether it is due.

Nothing here sleeps: a run says when the next one is due, and whoever embeds the store calls again then.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta, tzinfo
from typing import Final

from pillarbox.store.local_time import instant_ms, wall_time

DAY_MS: Final = 86_400_000
RETRY_MS: Final = 300_000  # daily work that failed, on a damaged or full disk, is tried again after this


def next_time_of_day_ms(at: time, after_ms: int, zone: tzinfo) -> int:
    """When it is next `at` local time, after `after_ms`, ms UTC.

    Once a local day: for a time that a change of the clocks skips it is the first instant after the gap, for
    one that comes twice the first time.
    """
    day = wall_time(after_ms, zone).date()
    while (next_ms := instant_ms(datetime.combine(day, at), zone)) <= after_ms:
        day += timedelta(days=1)
    return next_ms


def is_due(at: time, last_ms: int, now_ms: int, zone: tzinfo) -> bool:
    """True when it was `at` local time since `last_ms`; one run makes up for any number of missed ones.

    A last run more than a day in the future was made by a clock that was wrong, and counts as none.
    """
    return last_ms > now_ms + DAY_MS or next_time_of_day_ms(at, last_ms, zone) <= now_ms
