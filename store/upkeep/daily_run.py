"""One run of daily work over mounted databases: none keeps the others from theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pillarbox.store.clock import Clock
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, PillarboxError
from pillarbox.store.events import EventId
from pillarbox.store.upkeep.time_of_day import DAY_MS, RETRY_MS


def run_each(
    databases: Iterable[Database], request: str, run_one: Callable[[Database], int], clock: Clock
) -> int:
    """Call `run_one`, which returns when to do so next, for each database; the first of these times, ms UTC.

    One that fails gets event 1025, which names the `request`, and another try after `RETRY_MS`. Only what the
    reporter of events raises comes through.
    """
    began_ms = clock.now_ms()
    wakes_ms: list[int] = []
    for database in databases:
        try:
            wakes_ms.append(run_one(database))
        except Dismounted:
            continue  # by someone else, since it was listed
        except PillarboxError as error:
            database.report(EventId.REQUEST_FAILED, request=request, error=str(error))
            wakes_ms.append(clock.now_ms() + RETRY_MS)
    return min(wakes_ms, default=began_ms + DAY_MS)
