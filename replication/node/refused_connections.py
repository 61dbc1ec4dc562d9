"""Connections that a transport refused, as events: the first at once, then every ten minutes how many."""

from __future__ import annotations

import threading
from typing import Final

from pillarbox.replication.node.gate import REPORT_EVERY_MS
from pillarbox.store.engine.database import Database
from pillarbox.store.events import EventId

ERROR_CHARACTERS_MAX: Final = 300


class RefusedConnections:
    """Counts refusals, of strangers too, from any thread: whoever makes many fills no event log."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._unreported = 0
        self._reported_ms: int | None = None

    def add(self, error: str) -> None:
        """Count one, for the reason `error`, and report those since the last report when that is due."""
        now_ms = self._database.clock.monotonic_ms()
        with self._lock:
            self._unreported += 1
            if self._reported_ms is not None and now_ms - self._reported_ms < REPORT_EVERY_MS:
                return
            count, self._unreported, self._reported_ms = self._unreported, 0, now_ms
        error = error[:ERROR_CHARACTERS_MAX]
        self._database.report(EventId.CONNECTIONS_REFUSED, count=count, error=error)
