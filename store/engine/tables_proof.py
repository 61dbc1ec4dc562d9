"""Proving the pages of a property file before LMDB is trusted with them (docs/architecture.md).

LMDB has no checksums of pages: a bent one is served, destroys others later, or ends the process. The verifier
looks at the whole file: 14 to 25 ms for a MB, told as event 20034.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pillarbox.store.clock import Clock
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.tables_process import verify_tables
from pillarbox.store.errors import Corrupt
from pillarbox.store.events import EventId

Report = Callable[..., None]


def problems_of_pages(properties: Path, clock: Clock, report: Report) -> list[str]:
    """The problems of the pages of a property file that nobody writes; `report` gets event 20034."""
    began_ms = clock.monotonic_ms()
    problems = verify_tables(properties)
    report(
        EventId.TABLES_VERIFIED,
        problems=len(problems),
        size_bytes=(properties / DATA_FILE).stat().st_size,
        milliseconds=clock.monotonic_ms() - began_ms,
    )
    return problems


def refuse_bent_pages(properties: Path, clock: Clock, report: Report) -> None:
    """Raise Corrupt when the pages of a property file that nobody writes are not sound."""
    problems = problems_of_pages(properties, clock, report)
    if problems:
        path = properties / DATA_FILE
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Corrupt(
            f"{path}: {problems[0]}{more}",
            file=str(path),
            hint="run `pillarbox repair`: it makes the tables anew from the stream",
        )
