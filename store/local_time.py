"""Local time and instants: what becomes of a wall clock's time where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


def wall_time(instant_ms: int, zone: tzinfo) -> datetime:
    """The date and time that a clock on the wall shows at `instant_ms` (ms UTC), without its zone."""
    return (_EPOCH + instant_ms * _MS).astimezone(zone).replace(tzinfo=None)


def instant_ms(wall: datetime, zone: tzinfo) -> int:
    """When a clock on the wall shows `wall` (without a zone), ms UTC.

    For a time that a change of the clocks skips it is the first instant after the gap, for one that comes
    twice the first time. A later `wall` is never an earlier instant.
    """
    there = wall.replace(tzinfo=zone, fold=0)
    instant = there.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != wall.replace(fold=0):
        # PEP 495: in a gap, fold 1 reads the wall time by the offset after it, so before the change.
        instant = _change_of_offset(there.replace(fold=1).astimezone(UTC), instant, zone)
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
