"""Time as an argument: nothing below the edges reads the wall clock.

Times are integers of milliseconds since 1970-01-01 UTC, without leap seconds.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The time, and waiting, as the engine asks for them."""

    def now_ms(self) -> int:
        """The wall clock: milliseconds since the epoch, UTC. May jump."""
        ...

    def monotonic_ms(self) -> int:
        """A clock that never goes back, for time-outs and intervals."""
        ...

    def sleep_ms(self, duration_ms: int) -> None:
        """Wait. Under simulation this only moves time on."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def sleep_ms(self, duration_ms: int) -> None:
        time.sleep(duration_ms / 1000)


class VirtualClock:
    """A clock that stands still until it is moved: for tests, simulation and embedding programs' tests."""

    def __init__(self, start_ms: int = 1_000_000_000_000) -> None:
        self._now_ms = start_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def sleep_ms(self, duration_ms: int) -> None:
        self.advance_ms(duration_ms)

    def advance_ms(self, duration_ms: int) -> None:
        """Move both clocks on."""
        self._now_ms += duration_ms
        self._monotonic_ms += duration_ms

    def set_ms(self, now_ms: int) -> None:
        """Make the wall clock jump; the monotonic clock does not move."""
        self._now_ms = now_ms
