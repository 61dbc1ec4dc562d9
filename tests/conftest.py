"""Small databases for the engine's tests: tiny segments and checkpoints, fixed time and randomness."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk import tables
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine import upgrade
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.removal import Remover
from pillarbox.store.upkeep import repair_gather, repair_rebuild

GUID = bytes(range(16))
TINY = Tuning(
    16 << 10,
    checkpoint_stream_bytes=24 << 10,
    checkpoint_pages=64,
    checkpoint_beside=False,
    remove_beside=False,
)

OpenDatabase = Callable[..., Database]
WAKE = Remover.wake


@pytest.fixture(autouse=True, scope="session")
def removal_waits() -> Iterator[None]:
    """Rows of what was deleted go when a test asks for it: beside it they would change what it compares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remover, "wake", lambda self: None)
        yield


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


# -- a newer program

NEW_TABLE: Final = 99


def _with_a_field_more(kind: type[tables.Record]) -> type[tables.Record]:
    """A record type that has gained the field `colour`; "red" where nothing else is said."""
    fields = (*kind._fields, "colour")

    def replaced(record: Any, **changes: Any) -> Any:
        return type(record)(*[changes.get(name, value) for name, value in zip(fields, record, strict=True)])

    def made(cls: Any, *values: Any, **named: Any) -> Any:
        given = dict(zip(fields, values, strict=False)) | named
        return tuple.__new__(cls, [given[name] if name in given else defaults[name] for name in fields])

    defaults = {**kind._field_defaults, "colour": "red"}
    body = {
        "__new__": made,
        "_fields": fields,
        "_field_defaults": defaults,
        "_replace": replaced,
        "colour": property(lambda record: record[-1]),
    }
    evolved: type[tables.Record] = type(kind.__name__, (kind,), body)
    return evolved


@pytest.fixture
def newer_program(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[Table]]:
    """Within its context there is a layout more: a field in every record, a table, and an upgrade step."""

    @contextmanager
    def evolved() -> Iterator[Table]:
        with monkeypatch.context() as patch:
            table = int.__new__(Table, NEW_TABLE)
            table._name_, table._value_ = "COLOUR", NEW_TABLE
            patch.setitem(Table._member_map_, "COLOUR", table)
            patch.setitem(Table._value2member_map_, NEW_TABLE, table)
            patch.setattr(Table, "_member_names_", [*Table._member_names_, "COLOUR"])
            patch.setitem(tables.NAMES, table, b"colour")
            patch.setitem(tables._TEXT_NAMES, table, "colour")
            layout = tables.LAYOUT_VERSION + 1
            for module in ("disk.tables", "disk.checkpoint", "engine.database"):
                patch.setattr(f"pillarbox.store.{module}.LAYOUT_VERSION", layout)
            patch.setitem(upgrade.STEPS, layout, lambda txn: True)
            for room in (repair_gather, repair_rebuild):
                patch.setattr(room, "PRIMARY", (*tables.PRIMARY, table))
            patch.setitem(tables.RECORD_TYPES, table, tables.SegmentRecord)
            for types in (tables.RECORD_TYPES, tables.META_TYPES):
                for key, kind in types.items():
                    patch.setitem(types, key, _with_a_field_more(kind))
            yield table

    return evolved
