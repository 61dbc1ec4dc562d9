"""Size limits are what DOMAIN.md "Limits" says: by edition, by size and by free disk."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.engine.database_limits import (
    BUFFER_KEY,
    DISK_FLOOR_KEY,
    DISK_WARNING_KEY,
    GB,
    HOUR_KEY,
    LIMIT_KEY,
    LIMIT_MB_KEY,
    MB,
    MINUTE_KEY,
    Assessment,
    DatabaseLimits,
    DiskState,
    Edition,
    assess,
    assess_disk,
    changed_settings,
    limits_from_settings,
    refuse_below_floor,
    settings_of,
)
from pillarbox.store.errors import DiskFull, InvalidSetting

TINY = DatabaseLimits(limit_bytes=1000, disk_warning_bytes=200, disk_floor_bytes=100)

# Settings


@pytest.mark.parametrize(
    ("edition", "default_gb", "highest_gb"), [(Edition.STANDARD, 18, 75), (Edition.ENTERPRISE, 8000, 8000)]
)
def test_edition_sets_default_and_highest_limit(edition: Edition, default_gb: int, highest_gb: int) -> None:
    found = limits_from_settings({}, edition)
    assert found.rejected == ()
    assert found.limits == DatabaseLimits(default_gb * GB, buffer_percent=10, check_hour=5, check_minute=0)
    highest = limits_from_settings({LIMIT_KEY: highest_gb}, edition)
    assert highest.limits.limit_bytes == highest_gb * GB
    assert highest.rejected == ()


@pytest.mark.parametrize("value", [0, -1, 76, "20", 18.0, True, None, float("nan"), [18]])
def test_a_wrong_limit_is_refused_when_set_and_replaced_when_found(value: object) -> None:
    with pytest.raises(InvalidSetting) as refused:
        settings_of(Edition.STANDARD)[LIMIT_KEY].checked(value)
    assert refused.value.hint == f"set {LIMIT_KEY} to a whole number from 1 to 75"

    found = limits_from_settings({LIMIT_KEY: value, BUFFER_KEY: 20}, Edition.STANDARD)
    assert found.limits.limit_bytes == 18 * GB
    assert found.limits.buffer_percent == 20, "the other settings hold"
    (rejected,) = found.rejected
    assert (rejected.key, rejected.default) == (LIMIT_KEY, 18)
    assert rejected.value is value
    assert "1 to 75" in rejected.reason


def test_settings_are_read_in_their_units() -> None:
    configured = {
        LIMIT_KEY: 30,
        BUFFER_KEY: 25,
        HOUR_KEY: 2,
        MINUTE_KEY: 30,
        DISK_WARNING_KEY: 4,
        DISK_FLOOR_KEY: 3,
        "display_name": "First Mailbox Store",
    }
    assert limits_from_settings(configured, Edition.STANDARD) == (
        DatabaseLimits(30 * GB, 25, 2, 30, 4 * MB, 3 * MB),
        (),
    )


def test_a_limit_in_mb_takes_the_place_of_one_in_gb() -> None:
    found = limits_from_settings({LIMIT_KEY: 30, LIMIT_MB_KEY: 20}, Edition.STANDARD)
    assert (found.limits.limit_bytes, found.rejected) == (20 * MB, ())
    highest = limits_from_settings({LIMIT_MB_KEY: 75 * 1024}, Edition.STANDARD)
    assert highest.limits.limit_bytes == 75 * GB and not highest.rejected
    found = limits_from_settings({LIMIT_KEY: 30, LIMIT_MB_KEY: 75 * 1024 + 1}, Edition.STANDARD)
    assert found.limits.limit_bytes == 30 * GB
    assert [(each.key, each.default) for each in found.rejected] == [(LIMIT_MB_KEY, LIMIT_KEY)]


def test_a_limit_is_set_in_gb_or_in_mb_and_not_in_both() -> None:
    configured = changed_settings({"x": 1}, {LIMIT_KEY: 30}, Edition.STANDARD)
    configured = changed_settings(configured, {LIMIT_MB_KEY: 20}, Edition.STANDARD)
    assert configured == {"x": 1, LIMIT_MB_KEY: 20}
    assert changed_settings(configured, {LIMIT_KEY: None}, Edition.STANDARD) == {"x": 1}
    assert changed_settings(configured, {LIMIT_KEY: 2}, Edition.STANDARD) == {"x": 1, LIMIT_KEY: 2}
    with pytest.raises(InvalidSetting, match="one limit"):
        changed_settings({}, {LIMIT_KEY: 2, LIMIT_MB_KEY: 2}, Edition.STANDARD)


def test_a_floor_above_the_warning_is_replaced_with_both_defaults() -> None:
    found = limits_from_settings({DISK_WARNING_KEY: 10, DISK_FLOOR_KEY: 11}, Edition.STANDARD)
    assert {rejected.key for rejected in found.rejected} == {DISK_WARNING_KEY, DISK_FLOOR_KEY}
    assert found.limits == limits_from_settings({}, Edition.STANDARD).limits


@given(
    st.dictionaries(st.sampled_from(list(settings_of(Edition.STANDARD))), st.integers(-5, 9000) | st.text())
)
@settings(deadline=None)
def test_whatever_is_configured_the_limits_used_are_valid(configured: dict[str, Any]) -> None:
    for edition in Edition:
        limits = limits_from_settings(configured, edition).limits
        assert MB <= limits.limit_bytes <= edition.highest_limit_gb * GB
        assert 1 <= limits.buffer_percent <= 100
        assert limits.check_time == time(limits.check_hour, limits.check_minute)
        assert 0 <= limits.disk_floor_bytes <= limits.disk_warning_bytes


# What a check finds


def not_needed() -> int:
    raise AssertionError("the physical size is enough")


def test_below_the_threshold_the_physical_size_is_enough() -> None:
    assert assess(TINY, 899, not_needed, is_grace_over=True) == Assessment(899, None, (), above=False)


@pytest.mark.parametrize(
    ("is_grace_over", "logical_size_bytes", "events", "above"),
    [
        (False, 899, (), False),
        (True, 899, (), False),
        (False, 900, (9688,), False),
        (True, 900, (9688,), False),
        (True, 1000, (9688,), False),
        (False, 1001, (9688, 9689), True),
        (True, 1001, (9688, 9690), True),
    ],
)
def test_threshold_and_limit(
    is_grace_over: bool, logical_size_bytes: int, events: tuple[int, ...], above: bool
) -> None:
    found = assess(TINY, 5000, lambda: logical_size_bytes, is_grace_over=is_grace_over)
    assert found == Assessment(5000, logical_size_bytes, events, above)


def test_a_threshold_between_two_bytes_begins_at_the_upper_one() -> None:
    limits = DatabaseLimits(18 * GB)
    assert limits.threshold_bytes == 17_394_617_549  # 18 * 2**30 * 0.9 = ...548.8
    assert DatabaseLimits(100, buffer_percent=100).threshold_bytes == 0


# Free disk


@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [(200, DiskState.AMPLE), (199, DiskState.LOW), (100, DiskState.LOW), (99, DiskState.BELOW_FLOOR)],
)
def test_free_disk_is_warned_of_and_then_deliveries_are_refused(free_bytes: int, state: DiskState) -> None:
    assert assess_disk(TINY, free_bytes) is state
    if state is not DiskState.BELOW_FLOOR:
        refuse_below_floor(TINY, free_bytes)
        return
    with pytest.raises(DiskFull, match="below the floor") as refused:
        refuse_below_floor(TINY, free_bytes)
    assert refused.value.retryable
    assert DISK_FLOOR_KEY in refused.value.hint
