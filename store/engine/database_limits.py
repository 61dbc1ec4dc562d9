"""Database size limits: what is configured, and what a size and a free disk mean by it (DOMAIN.md "Limits").

Pure functions; `daily_size_check` carries them out. Sizes are in bytes, a GB is 2**30 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import time
from enum import Enum
from typing import Any, Final, NamedTuple

from pillarbox.store.errors import DiskFull, InvalidSetting
from pillarbox.store.events import EventId

GB: Final = 1 << 30
MB: Final = 1 << 20

LIMIT_KEY: Final = "database_size_limit_in_gb"
LIMIT_MB_KEY: Final = "database_size_limit_in_mb"
BUFFER_KEY: Final = "database_size_buffer_in_percentage"
HOUR_KEY: Final = "database_size_check_start_time_in_hours_from_midnight"
MINUTE_KEY: Final = "database_size_check_start_minute"
DISK_WARNING_KEY: Final = "free_disk_warning_in_mb"
DISK_FLOOR_KEY: Final = "free_disk_floor_in_mb"
LIMIT_KEYS: Final = frozenset({LIMIT_KEY, LIMIT_MB_KEY})


class Edition(Enum):
    """The edition of a server; it decides what limits a database may have."""

    STANDARD = "standard"
    ENTERPRISE = "enterprise"

    @property
    def default_limit_gb(self) -> int:
        """The size limit of a database that has none configured."""
        return 18 if self is Edition.STANDARD else 8000

    @property
    def highest_limit_gb(self) -> int:
        """The highest size limit that may be configured."""
        return 75 if self is Edition.STANDARD else 8000


class Setting(NamedTuple):
    """A whole number that can be configured for a database: its default and its range, both ends included.

    A setting without a default has another one in its place while it is not configured.
    """

    key: str
    default: int | None
    lowest: int
    highest: int

    def checked(self, value: object) -> int:
        """`value`, when it is a whole number in the range. Raises InvalidSetting."""
        if isinstance(value, int) and not isinstance(value, bool) and self.lowest <= value <= self.highest:
            return value
        raise InvalidSetting(
            f"{self.key} cannot be {value!r}",
            hint=f"set {self.key} to a whole number from {self.lowest} to {self.highest}",
        )


def settings_of(edition: Edition) -> dict[str, Setting]:
    """Every setting of this module by its key, as it stands in a database's configuration."""
    settings = (
        Setting(LIMIT_KEY, edition.default_limit_gb, 1, edition.highest_limit_gb),
        Setting(LIMIT_MB_KEY, None, 1, edition.highest_limit_gb * 1024),
        Setting(BUFFER_KEY, 10, 1, 100),
        Setting(HOUR_KEY, 5, 0, 23),
        Setting(MINUTE_KEY, 0, 0, 59),
        Setting(DISK_WARNING_KEY, 2048, 0, 1 << 30),
        Setting(DISK_FLOOR_KEY, 512, 0, 1 << 30),
    )
    return {setting.key: setting for setting in settings}


class DatabaseLimits(NamedTuple):
    """The limits of one database.

    `buffer_percent` of `limit_bytes` below the limit the warning begins; the daily check is at
    `check_hour`:`check_minute` local time. Below `disk_warning_bytes` of free disk a warning is given, below
    `disk_floor_bytes` deliveries are refused.
    """

    limit_bytes: int
    buffer_percent: int = 10
    check_hour: int = 5
    check_minute: int = 0
    disk_warning_bytes: int = 2048 * MB
    disk_floor_bytes: int = 512 * MB

    @property
    def threshold_bytes(self) -> int:
        """The smallest size that is near the limit."""
        return self.limit_bytes - self.limit_bytes * self.buffer_percent // 100

    @property
    def check_time(self) -> time:
        """When the daily check is, local time."""
        return time(self.check_hour, self.check_minute)


class RejectedSetting(NamedTuple):
    """A configured value that was not used, why, and the default used in its place."""

    key: str
    value: object
    reason: str
    default: int | str


class ConfiguredLimits(NamedTuple):
    """The limits a configuration gives, and what of it was not used: the caller logs an event for each."""

    limits: DatabaseLimits
    rejected: tuple[RejectedSetting, ...]


def limits_from_settings(configured: Mapping[str, Any], edition: Edition) -> ConfiguredLimits:
    """The limits in a database's configuration, defaults where it is silent or wrong. Other keys are ignored.

    A limit in MB takes the place of one in GB. Never raises: a mistake in a file must not keep a database
    from mounting. Where a person sets a value, `changed_settings` refuses what is rejected here.
    """
    settings = settings_of(edition)
    values = {key: setting.default for key, setting in settings.items() if setting.default is not None}
    rejected: list[RejectedSetting] = []
    for key in settings.keys() & configured.keys():
        try:
            values[key] = settings[key].checked(configured[key])
        except InvalidSetting as error:
            rejected.append(RejectedSetting(key, configured[key], error.hint, values.get(key, LIMIT_KEY)))
    if values[DISK_FLOOR_KEY] > values[DISK_WARNING_KEY]:
        for key in (DISK_FLOOR_KEY, DISK_WARNING_KEY):
            reason, default = (
                f"set {DISK_FLOOR_KEY} to {DISK_WARNING_KEY} or less",
                settings[key].default or 0,
            )
            rejected.append(RejectedSetting(key, values[key], reason, default))
            values[key] = default
    limits = DatabaseLimits(
        limit_bytes=values[LIMIT_MB_KEY] * MB if LIMIT_MB_KEY in values else values[LIMIT_KEY] * GB,
        buffer_percent=values[BUFFER_KEY],
        check_hour=values[HOUR_KEY],
        check_minute=values[MINUTE_KEY],
        disk_warning_bytes=values[DISK_WARNING_KEY] * MB,
        disk_floor_bytes=values[DISK_FLOOR_KEY] * MB,
    )
    return ConfiguredLimits(limits, tuple(rejected))


def changed_settings(
    configured: Mapping[str, Any], changes: Mapping[str, int | None], edition: Edition
) -> dict[str, Any]:
    """A database's configuration after changes of its settings; None gives one its default again.

    A limit in GB takes the place of one in MB, and the other way round. Raises InvalidSetting for an unknown
    key, for a value that the edition does not allow, and for values that do not fit each other.
    """
    known = settings_of(edition)
    changed = dict(configured)
    for key, value in changes.items():
        if key not in known:
            raise InvalidSetting(f"{key!r} is no setting", hint=f"one of {', '.join(known)}")
        if key in LIMIT_KEYS:
            if changes.keys() >= LIMIT_KEYS:
                raise InvalidSetting(f"{LIMIT_KEY} and {LIMIT_MB_KEY} are one limit", hint="set one of them")
            for limit_key in LIMIT_KEYS:
                changed.pop(limit_key, None)
        changed.pop(key, None)
        if value is not None:
            changed[key] = known[key].checked(value)
    for setting in limits_from_settings(changed, edition).rejected:
        if setting.key in changes:
            raise InvalidSetting(f"{setting.key} cannot be {setting.value!r}", hint=setting.reason)
    return changed


class Assessment(NamedTuple):
    """The outcome of a size check: the events to log, in order, and whether the database is above its limit.

    `logical_size_bytes` is None where it was not needed.
    """

    physical_size_bytes: int
    logical_size_bytes: int | None
    events: tuple[EventId, ...]
    above: bool


def assess(
    limits: DatabaseLimits,
    physical_size_bytes: int,
    logical_size_bytes: Callable[[], int],
    *,
    is_grace_over: bool,
) -> Assessment:
    """Decide what a size check says of a database.

    The logical size is only asked for when the physical size reaches the warning threshold, since it can't
    be the larger one. At the threshold a warning, each time; above the limit it is reported, and once the
    grace is over the event says that the database is dismounted.
    """
    if physical_size_bytes < limits.threshold_bytes:
        return Assessment(physical_size_bytes, None, (), above=False)
    size_bytes = logical_size_bytes()
    events: tuple[EventId, ...] = ()
    if size_bytes >= limits.threshold_bytes:
        events = (EventId.SIZE_NEAR_LIMIT,)
    above = size_bytes > limits.limit_bytes
    if above:
        events += (EventId.SIZE_ABOVE_LIMIT_DISMOUNTED if is_grace_over else EventId.SIZE_ABOVE_LIMIT,)
    return Assessment(physical_size_bytes, size_bytes, events, above)


class DiskState(Enum):
    """The state of the free disk of a database."""

    AMPLE = "ample"
    LOW = "low"
    BELOW_FLOOR = "below floor"


def assess_disk(limits: DatabaseLimits, free_bytes: int) -> DiskState:
    """Decide whether `free_bytes` of free disk call for a warning, or for deliveries to be refused."""
    if free_bytes < limits.disk_floor_bytes:
        return DiskState.BELOW_FLOOR
    return DiskState.LOW if free_bytes < limits.disk_warning_bytes else DiskState.AMPLE


def refuse_below_floor(limits: DatabaseLimits, free_bytes: int) -> None:
    """Call before a delivery. Raises DiskFull, which is retryable, when free disk is below the floor."""
    if assess_disk(limits, free_bytes) is DiskState.BELOW_FLOOR:
        raise DiskFull(
            f"{free_bytes // MB} MB of free disk is below the floor of {limits.disk_floor_bytes // MB} MB",
            hint=f"free some disk space, or lower {DISK_FLOOR_KEY}; reading and deleting go on",
        )
