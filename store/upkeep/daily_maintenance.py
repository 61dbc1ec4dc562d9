"""The daily window of online maintenance: when it is due, and its run over the databases of a server.

Nothing here sleeps: a run says when the next one is due, and whoever embeds the store calls again then. When
a database was last maintained stands in a small file beside its tables, so that a window missed while the
server was down is made up for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import time, tzinfo
from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import Corrupt
from pillarbox.store.upkeep.daily_run import run_each
from pillarbox.store.upkeep.time_of_day import is_due, next_time_of_day_ms

WINDOW_START: Final = time(1, 0)
WINDOW_MS: Final = 4 * 3600 * 1000
MAINTAINED_FILE: Final = "maintained"
_FORMAT: Final = {"format": "pillarbox-maintained", "version": 1}


def last_maintenance_ms(database: Database) -> int | None:
    """When the last daily run of a database began, ms UTC; None when nothing tells."""
    try:
        found = json.loads((database.path / MAINTAINED_FILE).read_bytes())
        began_ms = found.pop("began_ms")
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None  # at worst one run too many
    return began_ms if found == _FORMAT and isinstance(began_ms, int) else None


class DailyMaintenance:
    """Maintains every mounted database once a day, from 01:00 local time on, for at most 4 hours (DOMAIN.md).

    `databases` gives those mounted now, without those of the recovery storage group, which are not
    maintained. Not for several threads at once; a run may take long, so give it a thread of its own.
    """

    def __init__(
        self,
        databases: Callable[[], Iterable[Database]],
        *,
        clock: Clock,
        zone: tzinfo,
        start: time = WINDOW_START,
        window_ms: int = WINDOW_MS,
    ) -> None:
        """`start` is local time in `zone`; after `window_ms` no further task is begun."""
        self._databases = databases
        self._clock = clock
        self._zone = zone
        self._start = start
        self._window_ms = window_ms
        self._refused_ms: dict[bytes, int] = {}  # when a run last ended with damage, by GUID

    def run_due(self) -> int:
        """Carry out the runs that are due, and return when to call next, ms UTC.

        A database that can't be maintained gets event 1025 and another try after `RETRY_MS`, a damaged one in
        the next window; it does not keep the others from theirs. Only what the reporter of events raises
        comes through.
        """
        began_ms = self._clock.now_ms()
        mounted = (each for each in list(self._databases()) if each.state is MountState.MOUNTED)
        return run_each(mounted, "maintenance", lambda each: self._run_one(each, began_ms), self._clock)

    def _run_one(self, database: Database, began_ms: int) -> int:
        """Maintain one database if it is due; when it is due next, ms UTC."""
        began_before_ms = (last_maintenance_ms(database), self._refused_ms.get(database.guid))
        last_ms = max((each for each in began_before_ms if each is not None), default=None)
        if last_ms is None or is_due(self._start, last_ms, began_ms, self._zone):
            # Loaded here: every server has a window, and few programs stay open until it begins.
            from pillarbox.store.upkeep.maintenance import run_maintenance

            try:
                run_maintenance(database, Actor.task("maintenance"), until_ms=began_ms + self._window_ms)
            except Corrupt:
                self._refused_ms[database.guid] = began_ms  # it would be found, and told, with each try
                raise
            record = json.dumps(_FORMAT | {"began_ms": began_ms})
            write_atomically(database.path / MAINTAINED_FILE, record.encode())
            last_ms = began_ms
        return next_time_of_day_ms(self._start, max(began_ms, last_ms), self._zone)
