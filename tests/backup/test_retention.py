"""Which snapshots are kept, and that freeing the rest never costs a kept one anything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository.pack import BlobId
from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.retention import KeepRules, choose_kept, held_databases
from pillarbox.backup.snapshot import MANIFEST_FORMAT
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.server_config import DatabaseEntry, GroupEntry, ServerConfig, format_config

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def snapshots(*times: datetime) -> list[Snapshot]:
    return [
        Snapshot(f"{number:04x}", int(time.timestamp() * 1000), (), {}) for number, time in enumerate(times)
    ]


def kept(found: list[Snapshot], rules: KeepRules, zone: Any = UTC) -> dict[str, tuple[str, ...]]:
    return {each.snapshot.id: each.reasons for each in choose_kept(found, rules, zone) if each.is_kept}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- choosing -----------------------------------------------------------------------------------------------


def test_the_last_ones() -> None:
    found = snapshots(*(at("2024-03-01") + number * HOUR for number in range(5)))
    assert kept(found, KeepRules(last=2)) == {"0004": ("last",), "0003": ("last",)}
    assert len(kept(found, KeepRules(last=99))) == 5


def test_the_newest_of_each_day_that_has_any() -> None:
    found = snapshots(
        at("2024-03-01T08:00"), at("2024-03-01T20:00"), at("2024-03-05T08:00"), at("2024-03-09T23:59:59")
    )
    assert list(kept(found, KeepRules(daily=2))) == ["0003", "0002"]
    assert list(kept(found, KeepRules(daily=9))) == ["0003", "0002", "0001"]


def test_weeks_are_iso_weeks() -> None:
    found = snapshots(at("2024-12-29T12:00"), at("2024-12-30T12:00"), at("2025-01-05T12:00"))
    assert list(kept(found, KeepRules(weekly=9))) == ["0002", "0000"]
    assert list(kept(found, KeepRules(yearly=9))) == ["0002", "0001"]


def test_months_and_hours() -> None:
    found = snapshots(at("2024-01-31T23:10"), at("2024-01-31T23:50"), at("2024-02-01T00:10"))
    assert list(kept(found, KeepRules(hourly=9))) == ["0002", "0001"]
    assert list(kept(found, KeepRules(monthly=1))) == ["0002"]


def test_within_is_measured_from_the_newest_snapshot() -> None:
    found = snapshots(*(at("2024-03-01") + number * DAY for number in range(10)))
    day_ms = 86_400_000
    assert list(kept(found, KeepRules(within_ms=2 * day_ms))) == ["0009", "0008", "0007"]


def test_a_snapshot_says_every_reason() -> None:
    found = snapshots(at("2024-03-01"))
    reasons = kept(found, KeepRules(1, 1, 1, 1, 1, 1, 1))["0000"]
    assert reasons == ("last", "within", "hourly", "daily", "weekly", "monthly", "yearly")


def test_days_are_those_of_the_zone() -> None:
    found = snapshots(at("2024-03-01T22:30"), at("2024-03-01T23:30"))
    assert len(kept(found, KeepRules(daily=9), UTC)) == 1
    assert len(kept(found, KeepRules(daily=9), ZoneInfo("Europe/Stockholm"))) == 2


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    found = snapshots(at("2024-10-27T00:30"), at("2024-10-27T01:30"))
    assert len(kept(found, KeepRules(hourly=9), ZoneInfo("Europe/Stockholm"))) == 2


@pytest.mark.parametrize("arguments", [{}, {"last": -1}, {"last": 1, "daily": -1}])
def test_rules_that_keep_nothing_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting):
        KeepRules(**arguments)


# --- choosing, by database ----------------------------------------------------------------------------------

STORE, OTHER = b"s" * 16, b"o" * 16
SERVER = b"\x01" * 16


def configured(*guids: bytes) -> str:
    entries = [
        DatabaseEntry(guid.hex()[:4], guid.hex()[:4], guid, DatabaseKind.MAILBOX_STORE) for guid in guids
    ]
    return format_config(ServerConfig(Edition.ENTERPRISE, [GroupEntry("First", "First", entries)]))


def backup(
    number: int,
    *held: bytes,
    day: int,
    has: tuple[bytes, ...] = (),
    server: bytes = SERVER,
    kind: str = "full",
) -> Snapshot:
    """A snapshot of the databases `held`, of a server that has those of `has` too."""
    manifest = {
        "format": MANIFEST_FORMAT,
        "kind": kind,
        "server": "mail",
        "server_guid": server,
        "config": configured(*dict.fromkeys((*held, *has))),
        "group": "First",
        "databases": [{"guid": guid, "name": {STORE: "Store", OTHER: "Other"}[guid]} for guid in held],
    }
    time_ms = int((at("2024-03-01") + day * DAY).timestamp() * 1000)
    return Snapshot(f"{number:04x}", time_ms, (BlobId(b"r" * 32),) * len(held), manifest)


def test_rules_count_for_each_database_by_itself() -> None:
    found = [
        backup(0, STORE, OTHER, day=0),
        backup(1, STORE, OTHER, day=1),
        *(backup(2 + number, OTHER, day=2 + number, has=(STORE,)) for number in range(5)),
    ]
    assert list(kept(found, KeepRules(daily=2))) == ["0006", "0005", "0001", "0000"]
    assert list(kept(found, KeepRules(last=1))) == ["0006", "0001"]


def test_the_newest_that_holds_a_database_stays_though_no_rule_keeps_it() -> None:
    found = [
        backup(0, OTHER, day=0),
        backup(1, STORE, day=1, kind="capture", has=(OTHER,)),
        backup(2, OTHER, day=9, has=(STORE,)),
    ]
    reasons = kept(found, KeepRules(last=1, captures_ms=0))
    assert reasons == {"0002": ("last",), "0001": ("last of Store",)}
    again = [*found, backup(3, OTHER, STORE, day=10, kind="capture")]
    assert kept(again, KeepRules(last=1, captures_ms=0)) == {"0002": ("last",), "0003": ("last of Store",)}


def test_a_database_that_its_server_no_longer_has_stays_for_ever_unless_a_time_is_said() -> None:
    found = [backup(0, STORE, OTHER, day=0), backup(1, OTHER, day=30)]
    day_ms = 86_400_000
    assert kept(found, KeepRules(last=1)) == {"0001": ("last",), "0000": ("last", "last of Store")}
    (gone,) = [held for held in held_databases(found) if held.is_gone]
    assert (gone.name, gone.age_ms, [each.id for each in gone.snapshots]) == ("Store", 30 * day_ms, ["0000"])
    assert list(kept(found, KeepRules(last=1, gone_ms=30 * day_ms))) == ["0001", "0000"]
    assert list(kept(found, KeepRules(last=1, gone_ms=29 * day_ms))) == ["0001"]


def test_a_database_that_is_only_dismounted_is_not_gone() -> None:
    found = [backup(0, STORE, OTHER, day=0), backup(1, OTHER, day=99, has=(STORE,))]
    assert list(kept(found, KeepRules(last=1, gone_ms=0))) == ["0001", "0000"]
    older = [replace(each, manifest={**each.manifest, "config": ""}) for each in found]
    assert list(kept(older, KeepRules(last=1, gone_ms=0))) == ["0001", "0000"], "of before it was said"


def test_a_database_that_two_servers_have_counts_for_each() -> None:
    found = [backup(0, STORE, day=0), backup(1, STORE, day=1, server=b"\x02" * 16)]
    assert list(kept(found, KeepRules(last=1))) == ["0001", "0000"]


counts = st.integers(0, 4)


@given(
    st.lists(st.integers(0, 4 * 366 * 24), max_size=40),
    st.builds(KeepRules, st.integers(1, 4), counts, counts, counts, counts, counts, st.integers(0, 10**11)),
)
@settings(deadline=None)
def test_properties_of_the_choice(hours: list[int], rules: KeepRules) -> None:
    found = snapshots(*(at("2020-01-01") + number * HOUR for number in hours))
    decisions = choose_kept(found, rules)
    assert sorted(each.snapshot.id for each in decisions) == sorted(each.id for each in found)
    for reason in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        assert sum(reason in each.reasons for each in decisions) <= getattr(rules, reason)
    assert sum("last" in each.reasons for each in decisions) == min(rules.last, len(found))
    # Choosing again among the kept keeps them all: a prune that is run twice is as one.
    survivors = [each.snapshot for each in decisions if each.is_kept]
    assert all(each.is_kept for each in choose_kept(survivors, rules))
