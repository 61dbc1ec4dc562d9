"""Proving the pages of a property file before LMDB is trusted with them (docs/architecture.md).

LMDB has no checksums of pages: a bent one is served, destroys others later, or ends the process. The pages of
the last checkpoint's state are compared with the sums in it, which finds any damage. The verifier looks at
the structure of the whole file, after a crash of the machine for one: 7 to 12 ms of processor for a MB, told
as event 20034.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import Checkpoint
from pillarbox.store.disk.env import DATA_FILE, PAGE_BYTES, meta_pages_of
from pillarbox.store.disk.page_sums import Difference, difference
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables import STATE_KEY, StateRecord, Table, decode_record
from pillarbox.store.disk.tables_process import TableRows, verify_tables
from pillarbox.store.errors import Corrupt
from pillarbox.store.events import EventId

Report = Callable[..., None]

_REPAIR: Final = "run `pillarbox repair`: it makes the tables anew from the stream"


def problems_of_pages(properties: Path, clock: Clock, report: Report) -> list[str]:
    """The problems of the pages of a property file that nobody writes; `report` gets event 20034.

    Raises Corrupt when it is missing, a disk error.
    """
    path = properties / DATA_FILE
    began_ms = clock.monotonic_ms()
    try:
        problems = verify_tables(properties)
        size_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing", file=str(path)) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error
    report(
        EventId.TABLES_VERIFIED,
        problems=len(problems),
        size_bytes=size_bytes,
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
            hint=_REPAIR,
        )


def sequence_reached(properties: Path) -> int:
    """The last transaction in tables that may be bent. Raises Corrupt, a disk error."""
    path = properties / DATA_FILE
    try:
        rows = TableRows(properties, (Table.META,))
        values = [value for table, key, value in rows if (table, key) == (Table.META, STATE_KEY)]
    except OSError as error:
        raise disk_error(error, str(path)) from error
    if not values:
        problem = rows.problems[0] if rows.problems else "meta[state] is missing"
        raise Corrupt(f"{path}: {problem}", file=str(path), hint=_REPAIR)
    record = decode_record(Table.META, STATE_KEY, values[0])
    assert isinstance(record, StateRecord)
    return record.sequence


def refuse_changed_tables(properties: Path, checkpoint: Checkpoint) -> None:
    """Raise Corrupt when a property file has not all pages of the state of its checkpoint as they were.

    Under a clean checkpoint its meta pages must lead there, too. A checkpoint without sums proves nothing.
    Nobody may write the file meanwhile, unless the checkpoint is clean. Raises a disk error.
    """
    if not checkpoint.tables_sums:
        return
    path = properties / DATA_FILE
    try:
        found = difference(path, checkpoint.tables_sums)
        if checkpoint.clean and meta_pages_of(properties) != checkpoint.meta_pages:
            found = Difference(0, 1 if found is None else 1 + found.pages)
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing", file=str(path)) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error
    if found is not None:
        more = f" and of {found.pages - 1} more pages" if found.pages > 1 else ""
        raise Corrupt(
            f"{path}: of page {found.offset // PAGE_BYTES}{more} the checkpoint says something else",
            file=str(path),
            offset=found.offset,
            hint=_REPAIR,
        )
