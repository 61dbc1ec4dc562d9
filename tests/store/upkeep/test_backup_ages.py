"""When somebody is told of backups: by the rules of server.toml, and never by a time that is to come."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.store.upkeep.backup_ages import (
    BackupRules,
    Reason,
    find_concerns,
    restore_time_ms,
    rules_from_settings,
    span_text,
)
from pillarbox.store.upkeep.last_backup import CLOCK_SLACK_MS, LastBackup

NOW_MS = 1_800_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
RULES = BackupRules(2 * HOUR_MS, 10 * MINUTE_MS, 7 * DAY_MS, 30 * DAY_MS)
WELL = LastBackup(NOW_MS, "a", "r", NOW_MS, NOW_MS, False, NOW_MS, False)


def told(known: LastBackup, rules: BackupRules = RULES, now_ms: int = NOW_MS) -> list[tuple[str, Reason]]:
    return [(concern.what, concern.reason) for concern in find_concerns(known, rules, now_ms)]


def test_what_is_new_enough_is_not_told() -> None:
    assert told(WELL) == []
    assert told(WELL, now_ms=NOW_MS + 10 * MINUTE_MS) == []


def test_each_is_told_once_it_is_older_than_its_rule() -> None:
    old = Reason.TOO_OLD
    assert told(WELL, now_ms=NOW_MS + 10 * MINUTE_MS + 1) == [("capture", old)]
    assert told(WELL, now_ms=NOW_MS + 2 * HOUR_MS + 1) == [("snapshot", old), ("capture", old)]
    everything = [("snapshot", old), ("capture", old), ("check", old), ("verification", old)]
    assert told(WELL, now_ms=NOW_MS + 30 * DAY_MS + 1) == everything


def test_what_was_never_made_is_told_where_somebody_watches() -> None:
    assert told(LastBackup()) == [
        (what, Reason.NEVER) for what in ("snapshot", "capture", "check", "verification")
    ]
    assert told(LastBackup(), BackupRules(0)) == []
    assert told(LastBackup(), BackupRules()) == [("snapshot", Reason.NEVER)]


def test_where_every_snapshot_is_damaged_none_is_called_never_made() -> None:
    (first, _) = find_concerns(known(snapshot_ms=None, check_damaged=True), RULES, NOW_MS)
    assert (first.what, first.reason) == ("snapshot", Reason.DAMAGED)
    assert first.explain() == "no snapshot is left that is not damaged"


def test_a_backup_is_a_moment_to_restore_to_as_a_capture_is() -> None:
    assert told(known(capture_ms=None)) == []
    assert told(known(capture_ms=NOW_MS - DAY_MS)) == []
    assert told(known(capture_ms=NOW_MS, snapshot_ms=None)) == [("snapshot", Reason.NEVER)]


def known(**fields: Any) -> LastBackup:
    return LastBackup(**{**{name: getattr(WELL, name) for name in WELL.__dataclass_fields__}, **fields})


def test_damage_is_told_whatever_the_rules_say() -> None:
    damaged = known(check_damaged=True, verification_damaged=True)
    expected = [("check", Reason.DAMAGED), ("verification", Reason.DAMAGED)]
    assert told(damaged) == expected
    assert told(damaged, BackupRules(0)) == expected


def test_a_time_to_come_is_told_and_not_believed() -> None:
    ahead_ms = NOW_MS + CLOCK_SLACK_MS
    assert told(known(snapshot_ms=ahead_ms)) == []
    assert told(known(snapshot_ms=ahead_ms + 1)) == [("snapshot", Reason.TO_COME)]
    assert told(known(snapshot_ms=ahead_ms + 1, capture_ms=NOW_MS - DAY_MS)) == [
        ("snapshot", Reason.TO_COME),
        ("capture", Reason.TOO_OLD),
    ]


def test_what_is_told_says_how_old_it_is() -> None:
    (concern,) = find_concerns(WELL, BackupRules(2 * HOUR_MS), NOW_MS + 3 * DAY_MS)
    assert concern.explain() == "the last snapshot is 3 days old, more than 2 hours"
    assert (concern.age_ms, concern.age_max_ms) == (3 * DAY_MS, 2 * HOUR_MS)


def test_rules_come_from_the_table_and_what_is_none_is_said() -> None:
    rules, rejected = rules_from_settings(
        {"snapshot_age_max_in_hours": 3, "check_age_max_in_days": "weekly", "colour": "blue"}
    )
    assert rules == BackupRules(3 * HOUR_MS)
    assert [(setting.key, setting.value, setting.default) for setting in rejected] == [
        ("check_age_max_in_days", "weekly", 0)
    ]
    rules, _ = rules_from_settings({"capture_age_max_in_minutes": 5, "restore_time_max_in_minutes": 240})
    assert (rules.capture_age_max_ms, rules.restore_time_max_ms) == (5 * MINUTE_MS, 4 * HOUR_MS)
    assert rules_from_settings({}) == (BackupRules(), ())


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [
        (59_000, "59 seconds"),
        (119 * MINUTE_MS, "119 minutes"),
        (47 * HOUR_MS, "47 hours"),
        (2 * DAY_MS, "2 days"),
    ],
)
def test_spans_for_a_person(span_ms: int, text: str) -> None:
    assert span_text(span_ms) == text


def test_the_time_of_a_restore_is_told_by_the_last_that_was_large_enough() -> None:
    measured = LastBackup(restored_bytes=32 << 20, restored_ms=1000)
    assert restore_time_ms(measured, 1 << 30) == 32_000
    assert restore_time_ms(LastBackup(restored_bytes=(16 << 20) - 1, restored_ms=1000), 1 << 30) is None
    assert restore_time_ms(LastBackup(), 1 << 30) is None
