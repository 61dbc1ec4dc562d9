"""The pace of bulk work: how much goes into one transaction, and how long it rests, so that mail goes on."""

from __future__ import annotations

from typing import Final

BATCH_ROWS: Final = 128
_BATCH_ROWS_MIN: Final = 16
# A delivery waits for a batch and for what it is in the line behind: a quarter of a second at most.
_BATCH_MS: Final = 40
# Beside it deliveries keep about two thirds of their rate, and the work takes some three times as long as
# alone: more of the one costs more of the other (docs/benchmarks.md, "Bulk work").
_REST: Final = 1.8
_REST_MS_MAX: Final = 200


class Pace:
    """The pace of one piece of bulk work. `rows` is how many rows its next transaction is to change."""

    def __init__(self, rows_max: int = BATCH_ROWS) -> None:
        self.rows = self._rows_max = rows_max
        self._sequence = 0

    def rest_ms(self, took_ms: int, sequence: int) -> int:
        """The time to rest after a transaction of number `sequence` that took `took_ms`, from its turn on.

        The work rests only where others changed the database since its transaction before.
        """
        self._adapt(took_ms)
        others_are_at_work = 0 < self._sequence < sequence - 1
        self._sequence = sequence
        return min(int(_REST * took_ms), _REST_MS_MAX) if others_are_at_work else 0

    def _adapt(self, took_ms: int) -> None:
        if took_ms > _BATCH_MS:
            self.rows = min(self._rows_max, max(_BATCH_ROWS_MIN, self.rows // 2))
        elif took_ms <= _BATCH_MS // 2:
            self.rows = min(self._rows_max, self.rows * 2)
