"""A clock that orders writes of many stores: wall clock time, pushed on by every stamp that was seen.

A write that knew of another one has the later stamp, whatever the two machines' clocks say. Stamps only
decide between writes that knew nothing of each other. A stamp further ahead than `AHEAD_MS_MAX` is set aside:
it moves no clock and loses against any other stamp, so that one machine that believes to be in 2099 does not
win for ever.
"""

from __future__ import annotations

from typing import Final, NamedTuple

AHEAD_MS_MAX: Final = 24 * 3600 * 1000


class Stamp(NamedTuple):
    """The time of a write: ms UTC, a counter within them, and the replica GUID, in this order."""

    time_ms: int
    counter: int
    origin: bytes

    def is_ahead(self, now_ms: int) -> bool:
        """True when this stamp lies too far in the future of `now_ms` to be believed."""
        return self.time_ms > now_ms + AHEAD_MS_MAX

    def weight(self, now_ms: int) -> tuple[bool, Stamp]:
        """The key by which the last writer wins: a stamp that is set aside comes before all others."""
        return not self.is_ahead(now_ms), self


class HybridClock(NamedTuple):
    """The latest stamp seen or given, without its origin; a value."""

    time_ms: int = 0
    counter: int = 0

    def next(self, now_ms: int) -> HybridClock:
        """The clock after one more write at `now_ms`; later than every stamp witnessed.

        A clock that was itself ahead, by a machine's clock that was wrong, goes back to `now_ms`.
        """
        if now_ms > self.time_ms or self.time_ms > now_ms + AHEAD_MS_MAX:
            return HybridClock(now_ms, 0)
        return HybridClock(self.time_ms, self.counter + 1)

    def witnessed(self, stamp: Stamp, now_ms: int) -> HybridClock:
        """The clock after it saw `stamp`; unchanged by one that is set aside."""
        return self if stamp.is_ahead(now_ms) else max(self, HybridClock(stamp.time_ms, stamp.counter))

    def stamp(self, origin: bytes) -> Stamp:
        """The stamp of a write that `origin` makes at this moment of the clock."""
        return Stamp(self.time_ms, self.counter, origin)
