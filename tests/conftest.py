"""Small databases for the engine's tests: tiny segments and checkpoints, fixed time and randomness."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.group_commit import Tuning

GUID = bytes(range(16))
TINY = Tuning(16 << 10, checkpoint_stream_bytes=24 << 10, checkpoint_pages=64, checkpoint_beside=False)

OpenDatabase = Callable[..., Database]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a short campaign only the first seed of each slow test runs."""
    if os.environ.get("PILLARBOX_CAMPAIGN") != "short":
        return
    seeds: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        if item.get_closest_marker("slow"):
            seeds[item.nodeid.split("[")[0]] += 1
        (left_out if seeds[item.nodeid.split("[")[0]] > 1 else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[OpenDatabase]:
    """Gives the database at a path, made when it is not there, mounted; all are dismounted in the end."""
    opened: list[Database] = []

    def open_one(
        path: Path | None = None,
        *,
        tuning: Tuning = TINY,
        kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
        seed: int = 1,
    ) -> Database:
        where = path or tmp_path / "database"
        database = Database(
            where, GUID, "DB", kind, clock=VirtualClock(), rng=random.Random(seed), tuning=tuning
        )
        if not where.exists():
            database.create()
        database.mount()
        opened.append(database)
        return database

    yield open_one
    for database in opened:
        database.dismount()


@pytest.fixture
def database(open_database: OpenDatabase) -> Database:
    """A new mailbox store, mounted."""
    return open_database()
