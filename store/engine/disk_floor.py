"""The floor of free disk below which deliveries are refused (DOMAIN.md "Limits"), and how much is free."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillarbox.store.clock import Clock
from pillarbox.store.engine.database_limits import (
    DatabaseLimits,
    DiskState,
    assess_disk,
    refuse_below_floor,
)
from pillarbox.store.events import EventId

_LOOK_INTERVAL_MS: Final = 1000


def free_disk_bytes(path: Path) -> int:
    """Bytes that the disk of a file or directory has left for its owner."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


class DiskFloor:
    """Looks at the disk of a database, at most once a second. For several threads at once."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._looked_ms: int | None = None
        self._free_bytes = 0

    def refuse_below(self, limits: DatabaseLimits, report: Callable[..., None]) -> None:
        """Call before a delivery. Raises DiskFull when the disk has less left than the configured floor.

        When it falls below, event DISK_FLOOR_REACHED goes to `report`, with `free_bytes`.
        """
        now_ms = self._clock.monotonic_ms()
        if self._looked_ms is None or now_ms - self._looked_ms >= _LOOK_INTERVAL_MS:
            was_below = self._looked_ms is not None and self._is_below(limits)
            self._free_bytes = free_disk_bytes(self._path)
            self._looked_ms = now_ms
            if self._is_below(limits) and not was_below:
                report(EventId.DISK_FLOOR_REACHED, free_bytes=self._free_bytes)
        refuse_below_floor(limits, self._free_bytes)

    def _is_below(self, limits: DatabaseLimits) -> bool:
        return assess_disk(limits, self._free_bytes) is DiskState.BELOW_FLOOR
