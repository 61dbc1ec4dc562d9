"""The pace of bulk work: how much goes into one transaction, and how long it rests, so that mail goes on."""

from __future__ import annotations

from typing import Final

BATCH_ROWS: Final = 128
# While others change the database bulk work rests for so many times what a batch took: they keep their rate.
_REST: Final = 2
_REST_MS_MAX: Final = 200


class Pace:
    """The pace of one piece of bulk work. `rows` is how many rows its next transaction is to change."""

    def __init__(self, rows_max: int = BATCH_ROWS) -> None:
        self.rows = rows_max
        self._sequence = 0

    def rest_ms(self, took_ms: int, sequence: int) -> int:
        """How long to rest after a transaction of number `sequence` that took `took_ms`."""
        others_are_at_work = 0 < self._sequence < sequence - 1
        self._sequence = sequence
        return min(_REST * took_ms, _REST_MS_MAX) if others_are_at_work else 0
