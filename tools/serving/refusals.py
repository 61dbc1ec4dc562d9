"""Refusals of a transport in the log: whoever makes them, a stranger or a disk, cannot flood it."""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from pillarbox.store.clock import Clock
from pillarbox.tools.serving.log import WARNING, Log

SAY_EVERY_MS: Final = 600_000
REASONS_MAX: Final = 64


class _Said(NamedTuple):
    at_ms: int
    unsaid_count: int


class Refusals:
    """Says each reason at once, and then every ten minutes at most, with how often it was given since; of
    more than 64 reasons in ten minutes only how many there were. From any thread."""

    def __init__(self, log: Log, clock: Clock, what: str) -> None:
        """`what` begins each line."""
        self._log = log
        self._clock = clock
        self._what = what
        self._changing = threading.Lock()
        self._said: dict[str, _Said] = {}
        self._others_count = 0

    def say(self, reason: str) -> None:
        """Say why something was refused."""
        line = self._line_of(reason)
        if line:
            self._log.say(WARNING, line)

    def _line_of(self, reason: str) -> str:
        now_ms = self._clock.monotonic_ms()
        with self._changing:
            said = self._said.get(reason)
            if said is not None and now_ms - said.at_ms < SAY_EVERY_MS:
                self._said[reason] = _Said(said.at_ms, said.unsaid_count + 1)
                return ""
            if len(self._said) >= REASONS_MAX:
                self._said = {
                    known: each for known, each in self._said.items() if now_ms - each.at_ms < SAY_EVERY_MS
                }
            if len(self._said) >= REASONS_MAX:
                self._others_count += 1
                return ""
            others, self._others_count = self._others_count, 0
            self._said[reason] = _Said(now_ms, 0)
        more = [f"{said.unsaid_count} times more since the last line"] if said and said.unsaid_count else []
        more += [f"and {others} times for other reasons"] * bool(others)
        return f"{self._what}: {reason}" + (f" ({', '.join(more)})" if more else "")
