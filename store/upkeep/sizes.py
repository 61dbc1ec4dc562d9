"""Sizes of a database in bytes, and what its daily size check remembers. All raise Dismounted."""

from __future__ import annotations

from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.disk.env import PAGE_BYTES
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.held_space import HeldSpace, held_since_checkpoint

_ACTOR: Final = Actor.task("size check")


def physical_size_bytes(database: Database) -> int:
    """Bytes of the property file and of the stream."""
    return database.files.env.file_bytes() + database.stream.total_bytes()


def logical_size_bytes(database: Database) -> int:
    """The physical size less the free space in the files, from counters alone."""
    used, _ = database.files.env.pages_used_and_total()
    with database.read(_ACTOR) as read:
        return min(used * PAGE_BYTES + read.state().live_bytes, physical_size_bytes(database))


def held_space(database: Database) -> HeldSpace | None:
    """The process that keeps much of the property file from being used again, or None.

    It reads a state from before the last checkpoint.
    """
    return held_since_checkpoint(database.path, database.files.env, database.tuning)


def last_size_check_ms(database: Database) -> int | None:
    """When the size was last checked, ms UTC; None before the first check."""
    with database.read(_ACTOR) as read:
        return read.state().checked_ms or None


def above_limit_ms(database: Database) -> int | None:
    """When the size was first reported above its limit, ms UTC; None while it is not."""
    with database.read(_ACTOR) as read:
        return read.state().above_limit_ms or None


def record_size_check(database: Database, checked_ms: int, since_ms: int | None = None) -> None:
    """Keep, durably, when the size was checked and since when it is above its limit, ms UTC.

    Raises as `Database.transaction`.
    """
    with database.transaction(_ACTOR) as txn:
        txn.set_size_check(checked_ms, since_ms or 0)
