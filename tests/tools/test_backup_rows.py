"""The lines about the last backups fit a terminal, and tell no rate that says nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.upkeep.backup_ages import MEASURED_BYTES_MIN, SNAPSHOT_AGE_KEY, rules_from_settings
from pillarbox.store.upkeep.last_backup import LastBackup
from pillarbox.tools.backup_rows import backup_data, backup_lines

AT = 1_795_994_000_000


def lines(known: LastBackup) -> list[str]:
    rules, _ = rules_from_settings({SNAPSHOT_AGE_KEY: 0})  # so that no age is looked at
    return list(backup_lines(backup_data(known, rules)))


def test_the_dates_fit_80_columns_below_the_name_of_a_database() -> None:
    known = LastBackup(snapshot_ms=AT, capture_ms=AT, check_ms=AT, verification_ms=AT)
    assert max(len(line) for line in lines(known)) <= 80 - len("    ")


@pytest.mark.parametrize(
    ("size_bytes", "is_told"), [(MEASURED_BYTES_MIN - 1, False), (MEASURED_BYTES_MIN, True)]
)
def test_the_rate_of_a_small_restore_is_not_told(size_bytes: int, is_told: bool) -> None:
    told = lines(LastBackup(snapshot_ms=AT, restored_bytes=size_bytes, restored_ms=1_000))
    assert any("a second" in line for line in told) is is_told
