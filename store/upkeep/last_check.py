"""The outcome of a database's last check, kept in a small file beside its tables: `checked`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final, NamedTuple

from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError

CHECKED_FILE: Final = "checked"
_FORMAT: Final = {"format": "pillarbox-checked", "version": 1}


class LastCheck(NamedTuple):
    """When a check ended, ms UTC, and how many damaged places it found."""

    checked_ms: int
    damaged_count: int


def last_check(database: Database) -> LastCheck | None:
    """The outcome of the last check of a database, mounted or not; None when nothing tells."""
    try:
        found = json.loads((database.path / CHECKED_FILE).read_bytes())
        checked_ms, damaged_count = found.pop("checked_ms"), found.pop("damaged_count")
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None  # at worst somebody has to name the database, or check it again
    is_ours = found == _FORMAT and isinstance(checked_ms, int) and isinstance(damaged_count, int)
    return LastCheck(checked_ms, damaged_count) if is_ours else None


def keep_last_check(database: Database, damaged_count: int) -> None:
    """Keep the outcome of a check that ended now, for whoever asks what is to be restored.

    One that cannot be written is not kept. A check itself changes nothing: whoever made it calls this.
    """
    record = {**_FORMAT, "checked_ms": database.clock.now_ms(), "damaged_count": damaged_count}
    with suppress(PillarboxError):  # a check may be made by an account that may only read
        write_atomically(database.path / CHECKED_FILE, json.dumps(record).encode())
