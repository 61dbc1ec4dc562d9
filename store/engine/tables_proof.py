"""Proving the pages of a property file before LMDB is trusted with them (docs/architecture.md).

LMDB has no checksums of pages: a bent one is served, destroys others later, or ends the process. A file that
a clean dismount has left is compared with the sums in its checkpoint, which finds any damage. Where there are
none, as after a crash, the verifier looks at the structure of the whole file: 7 to 12 ms of
processor for a MB, told as event 20034.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import Checkpoint
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.file_sums import STRETCH_BYTES, difference
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables_process import verify_tables
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


def refuse_changed_tables(properties: Path, checkpoint: Checkpoint) -> None:
    """Raise Corrupt when a property file is not as the clean dismount of its checkpoint has left it.

    A checkpoint without sums proves nothing. Raises a disk error.
    """
    if not (checkpoint.clean and checkpoint.tables_sums):
        return
    path = properties / DATA_FILE
    try:
        found = difference(path, checkpoint.tables_sums)
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing", file=str(path)) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error
    if found is not None:
        more = f" and of {found.stretches - 1} more such stretches" if found.stretches > 1 else ""
        raise Corrupt(
            f"{path}: of {STRETCH_BYTES} bytes at {found.offset}{more} the checkpoint says something else",
            file=str(path),
            offset=found.offset,
            hint=_REPAIR,
        )
