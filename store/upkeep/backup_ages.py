"""The ages that backups may have, by the table `[backups]` of server.toml. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pillarbox.store.engine.database_limits import RejectedSetting, Setting
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.upkeep.last_backup import CLOCK_SLACK_MS, LastBackup

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS

MEASURED_BYTES_MIN: Final = 16 << 20
"""The bytes below which a restore tells nothing of its rate: it takes its time to begin and to end."""

SNAPSHOT_AGE_KEY: Final = "snapshot_age_max_in_hours"
CAPTURE_AGE_KEY: Final = "capture_age_max_in_minutes"
CHECK_AGE_KEY: Final = "check_age_max_in_days"
VERIFICATION_AGE_KEY: Final = "verification_age_max_in_days"
RESTORE_TIME_KEY: Final = "restore_time_max_in_minutes"
_TEN_YEARS_IN_DAYS: Final = 3650
_SNAPSHOT: Final = "snapshot"
BACKUP_SETTINGS: Final = {
    setting.key: setting
    for setting in (
        Setting(SNAPSHOT_AGE_KEY, 48, 0, _TEN_YEARS_IN_DAYS * 24),
        Setting(CAPTURE_AGE_KEY, 0, 0, _TEN_YEARS_IN_DAYS * 24 * 60),
        Setting(CHECK_AGE_KEY, 0, 0, _TEN_YEARS_IN_DAYS),
        Setting(VERIFICATION_AGE_KEY, 0, 0, _TEN_YEARS_IN_DAYS),
        Setting(RESTORE_TIME_KEY, 0, 0, _TEN_YEARS_IN_DAYS * 24 * 60),
    )
}


class BackupRules(NamedTuple):
    """The highest ages of backups, and the longest time of a restore, in ms; 0 where nobody watches."""

    snapshot_age_max_ms: int = 48 * _HOUR_MS
    capture_age_max_ms: int = 0
    check_age_max_ms: int = 0
    verification_age_max_ms: int = 0
    restore_time_max_ms: int = 0


def rules_from_settings(configured: Mapping[str, Any]) -> tuple[BackupRules, tuple[RejectedSetting, ...]]:
    """The rules in the table `[backups]`, defaults where it is silent or wrong; and what was not used."""
    values: dict[str, int] = {}
    rejected = []
    for key, setting in BACKUP_SETTINGS.items():
        default = setting.default or 0
        try:
            values[key] = setting.checked(configured.get(key, default))
        except InvalidSetting as error:
            rejected.append(RejectedSetting(key, configured[key], error.hint, default))
            values[key] = default
    rules = BackupRules(
        values[SNAPSHOT_AGE_KEY] * _HOUR_MS,
        values[CAPTURE_AGE_KEY] * _MINUTE_MS,
        values[CHECK_AGE_KEY] * _DAY_MS,
        values[VERIFICATION_AGE_KEY] * _DAY_MS,
        values[RESTORE_TIME_KEY] * _MINUTE_MS,
    )
    return rules, tuple(rejected)


class Reason(StrEnum):
    """Why somebody is to look after the backups of a database."""

    NEVER = "never"
    TOO_OLD = "too old"
    TO_COME = "to come"
    DAMAGED = "damaged"


class Concern(NamedTuple):
    """Something to look after: `what` is snapshot, capture, check or verification; ages in ms."""

    what: str
    reason: Reason
    age_ms: int | None
    age_max_ms: int

    def explain(self) -> str:
        """The concern in words: "the last snapshot is 3 days old, more than 2 days"."""
        if self.reason is Reason.NEVER:
            return f"no {self.what} was ever made"
        if self.reason is Reason.TO_COME:
            return f"the last {self.what} is of a time to come: a clock was wrong"
        if self.reason is Reason.DAMAGED and self.what == _SNAPSHOT:
            return "no snapshot is left that is not damaged"
        if self.reason is Reason.DAMAGED:
            return f"the last {self.what} found damage"
        age, age_max = span_text(self.age_ms or 0), span_text(self.age_max_ms)
        return f"the last {self.what} is {age} old, more than {age_max}"


def find_concerns(known: LastBackup, rules: BackupRules, now_ms: int) -> tuple[Concern, ...]:
    """The backups of a database that are older than the rules allow, were never made, or found damage.

    The age of a capture is that of the newest moment that can be restored, a snapshot too. A time that is to
    come, as after a clock went back, counts for nothing: nobody knows how old such a backup is.
    """
    return tuple(_concerns(known, rules, now_ms))


def _concerns(known: LastBackup, rules: BackupRules, now_ms: int) -> Iterator[Concern]:
    is_watched = rules.snapshot_age_max_ms > 0
    has_damage = known.check_damaged or known.verification_damaged
    is_none_whole = is_watched and known.snapshot_ms is None and has_damage
    moments = [time_ms for time_ms in (known.capture_ms, known.snapshot_ms) if time_ms is not None]
    past = [time_ms for time_ms in moments if time_ms <= now_ms + CLOCK_SLACK_MS]
    for what, time_ms, age_max_ms, damaged in (
        (_SNAPSHOT, known.snapshot_ms, rules.snapshot_age_max_ms, is_none_whole),
        ("capture", max(past or moments, default=None), rules.capture_age_max_ms, False),
        ("check", known.check_ms, rules.check_age_max_ms, known.check_damaged),
        ("verification", known.verification_ms, rules.verification_age_max_ms, known.verification_damaged),
    ):
        reason = Reason.DAMAGED if damaged else _reason(time_ms, age_max_ms, now_ms)
        if reason is not None:
            age_ms = None if time_ms is None else max(0, now_ms - time_ms)
            yield Concern(what, reason, age_ms, age_max_ms)


def _reason(time_ms: int | None, age_max_ms: int, now_ms: int) -> Reason | None:
    if not age_max_ms:
        return None
    if time_ms is None:
        return Reason.NEVER
    if time_ms > now_ms + CLOCK_SLACK_MS:
        return Reason.TO_COME
    return Reason.TOO_OLD if now_ms - time_ms > age_max_ms else None


def restore_time_ms(known: LastBackup, size_bytes: int) -> int | None:
    """The time of a restore of so many bytes at the rate of the last that was measured; None where none
    was, or only one of so few bytes that it says nothing.
    """
    if known.restored_bytes < MEASURED_BYTES_MIN:
        return None
    return size_bytes * known.restored_ms // known.restored_bytes


def span_text(span_ms: int) -> str:
    """A length of time for a person, in the largest unit of which it has two: 90 minutes, 3 days."""
    for unit_ms, unit in ((_DAY_MS, "days"), (_HOUR_MS, "hours"), (_MINUTE_MS, "minutes")):
        if span_ms >= 2 * unit_ms:
            return f"{span_ms // unit_ms:,} {unit}"
    return f"{span_ms // 1000} seconds"
