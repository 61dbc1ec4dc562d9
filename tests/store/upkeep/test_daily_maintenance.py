"""Maintenance runs once a day at its time, what was missed is made up for, and one failure stops no other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import DiskFull
from pillarbox.store.events import EventId
from pillarbox.store.upkeep import maintenance
from pillarbox.store.upkeep.daily_maintenance import MAINTAINED_FILE, DailyMaintenance, last_maintenance_ms
from pillarbox.store.upkeep.time_of_day import DAY_MS, RETRY_MS

ZONE = ZoneInfo("Europe/Berlin")
HOUR_MS = 3_600_000


def local_ms(day: int, hour: int, minute: int = 0) -> int:
    return int(datetime(2026, 3, day, hour, minute, tzinfo=ZONE).astimezone(UTC).timestamp() * 1000)


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def report(self, event: Any) -> None:
        self.seen.append((event.database, event.event_id))

    def runs(self) -> list[str]:
        return [name for name, event_id in self.seen if event_id == EventId.FREE_SPACE_AFTER_MAINTENANCE]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(local_ms(10, 12))


@pytest.fixture
def databases(tmp_path: Path, events: Events, clock: VirtualClock) -> Iterator[list[Database]]:
    made = [
        Database(
            tmp_path / name,
            name.encode() * 16,
            name,
            DatabaseKind.MAILBOX_STORE,
            clock=clock,
            rng=random.Random(1),
            reporter=events,
        )
        for name in ("a", "b")
    ]
    for each in made:
        each.create()
        each.mount()
    yield made
    for each in made:
        each.dismount()


def daily(databases: list[Database], clock: VirtualClock) -> DailyMaintenance:
    return DailyMaintenance(lambda: databases, clock=clock, zone=ZONE)


def test_each_database_is_maintained_once_a_day_at_one_in_the_night(
    databases: list[Database], clock: VirtualClock, events: Events
) -> None:
    run = daily(databases, clock)
    assert run.run_due() == local_ms(11, 1)
    assert events.runs() == ["a", "b"], "never maintained before"
    clock.advance_ms(local_ms(11, 1) - clock.now_ms() - 1)
    assert run.run_due() == local_ms(11, 1)
    assert events.runs() == ["a", "b"]
    clock.advance_ms(1)
    assert run.run_due() == local_ms(12, 1)
    assert events.runs() == ["a", "b"] * 2
    clock.advance_ms(5 * HOUR_MS)
    assert run.run_due() == local_ms(12, 1)
    assert events.runs() == ["a", "b"] * 2


def test_what_was_missed_while_the_server_was_down_is_made_up_for_once(
    databases: list[Database], clock: VirtualClock, events: Events
) -> None:
    daily(databases, clock).run_due()
    for each in databases:
        each.dismount()
    clock.advance_ms(3 * DAY_MS)
    for each in databases:
        each.mount()
    again = daily(databases, clock)
    assert again.run_due() == local_ms(14, 1)
    assert again.run_due() == local_ms(14, 1)
    assert events.runs() == ["a", "b"] * 2


def test_a_start_of_the_server_within_the_same_day_maintains_nothing(
    databases: list[Database], clock: VirtualClock, events: Events
) -> None:
    daily(databases, clock).run_due()
    clock.advance_ms(HOUR_MS)
    assert daily(databases, clock).run_due() == local_ms(11, 1)
    assert events.runs() == ["a", "b"]


def test_a_database_that_fails_is_tried_again_and_the_others_have_their_run(
    databases: list[Database], clock: VirtualClock, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_maintenance = maintenance.run_maintenance
    full = [databases[0]]

    def run(database: Database, *args: Any, **options: Any) -> Any:
        if database in full:
            raise DiskFull("no space left on the disk")
        return run_maintenance(database, *args, **options)

    monkeypatch.setattr(maintenance, "run_maintenance", run)
    it = daily(databases, clock)
    assert it.run_due() == clock.now_ms() + RETRY_MS
    assert events.runs() == ["b"] and ("a", EventId.REQUEST_FAILED) in events.seen
    full.clear()
    clock.advance_ms(RETRY_MS)
    assert it.run_due() == local_ms(11, 1)
    assert events.runs() == ["b", "a"]


def test_damage_is_told_once_a_day_and_the_run_made_up_for_after_a_repair(
    databases: list[Database], clock: VirtualClock, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified every few minutes the same damage would be found, and told, all day."""
    problems = ["page 7 is bent"]
    monkeypatch.setattr(maintenance, "problems_in_use", lambda _: problems)
    it = daily(databases[:1], clock)
    for day in (11, 12):
        events.seen.clear()
        while it.run_due() < local_ms(day, 1):
            clock.advance_ms(RETRY_MS)
        assert events.seen == [("a", EventId.DAMAGE_FOUND), ("a", EventId.REQUEST_FAILED)]
        assert last_maintenance_ms(databases[0]) is None
        clock.advance_ms(local_ms(day, 1) - clock.now_ms())
    problems.clear()
    it.run_due()
    assert events.runs() == ["a"]


def test_a_dismounted_database_is_passed_over(
    databases: list[Database], clock: VirtualClock, events: Events
) -> None:
    databases[0].dismount()
    daily(databases, clock).run_due()
    assert events.runs() == ["b"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b'{"began_ms": 5}', b'{"began_ms":"x"}'])
def test_a_file_that_tells_nothing_counts_as_never(databases: list[Database], data: bytes) -> None:
    (databases[0].path / MAINTAINED_FILE).write_bytes(data)
    assert last_maintenance_ms(databases[0]) is None
