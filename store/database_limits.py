"""Database size limits: what is configured, when the daily check is due, what it finds (DOMAIN.md "Limits").

Decisions are pure functions; `DailySizeCheck` carries them out over databases given to it. Nothing here
sleeps: a check says when the next one is due, and whoever embeds the store calls again then. Sizes are in
bytes, a GB is 2**30 of them. Event numbers are those of DOMAIN.md "Event ids".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from pillarbox.store.clock import Clock
from pillarbox.store.errors import DiskFull, Dismounted, InvalidSetting, PillarboxError

GB: Final = 1 << 30
MB: Final = 1 << 20
DAY_MS: Final = 86_400_000
CHECK_RETRY_MS: Final = 300_000  # a check that failed, on a damaged or full disk, is tried again after this

REQUEST_FAILED: Final = 1025
SIZE_NEAR_LIMIT: Final = 9688
SIZE_ABOVE_LIMIT: Final = 9689
SIZE_ABOVE_LIMIT_DISMOUNTED: Final = 9690
DISK_SPACE_LOW: Final = 20010

LIMIT_KEY: Final = "database_size_limit_in_gb"
BUFFER_KEY: Final = "database_size_buffer_in_percentage"
HOUR_KEY: Final = "database_size_check_start_time_in_hours_from_midnight"
MINUTE_KEY: Final = "database_size_check_start_minute"
DISK_WARNING_KEY: Final = "free_disk_warning_in_mb"
DISK_FLOOR_KEY: Final = "free_disk_floor_in_mb"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class Edition(Enum):
    """What a server is set up as; it decides what limits a database may have."""

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
    """A whole number that can be configured for a database: its default and its range, both ends included."""

    key: str
    default: int
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

    def validated(self, edition: Edition) -> DatabaseLimits:
        """These limits, when `edition` allows them. Raises InvalidSetting, with what to do in its hint."""
        settings = settings_of(edition)
        limit = settings[LIMIT_KEY]
        if not limit.lowest * GB <= self.limit_bytes <= limit.highest * GB:
            raise InvalidSetting(
                f"a database size limit of {self.limit_bytes / GB:,.2f} GB is outside what the edition"
                f" {edition.value} allows",
                hint=f"set {LIMIT_KEY} to a whole number from {limit.lowest} to {limit.highest}",
            )
        settings[BUFFER_KEY].checked(self.buffer_percent)
        settings[HOUR_KEY].checked(self.check_hour)
        settings[MINUTE_KEY].checked(self.check_minute)
        if not 0 <= self.disk_floor_bytes <= self.disk_warning_bytes:
            raise InvalidSetting(
                f"the free disk floor of {self.disk_floor_bytes} bytes is above the warning's"
                f" {self.disk_warning_bytes} bytes, or negative",
                hint=f"set {DISK_FLOOR_KEY} to {DISK_WARNING_KEY} or less",
            )
        return self


class RejectedSetting(NamedTuple):
    """A configured value that was not used, why, and the default used in its place."""

    key: str
    value: object
    reason: str
    default: int


class ConfiguredLimits(NamedTuple):
    """The limits a configuration gives, and what of it was not used: the caller logs an event for each."""

    limits: DatabaseLimits
    rejected: tuple[RejectedSetting, ...]


def limits_from_settings(configured: Mapping[str, Any], edition: Edition) -> ConfiguredLimits:
    """The limits in a database's configuration, defaults where it is silent or wrong. Other keys are ignored.

    Never raises: a mistake in a file must not keep a database from mounting. Where a person sets a value,
    `Setting.checked` and `DatabaseLimits.validated` refuse it instead.
    """
    values: dict[str, int] = {}
    rejected: list[RejectedSetting] = []
    settings = settings_of(edition)
    for key, setting in settings.items():
        value = configured.get(key, setting.default)
        try:
            values[key] = setting.checked(value)
        except InvalidSetting as error:
            rejected.append(RejectedSetting(key, value, error.hint, setting.default))
            values[key] = setting.default
    if values[DISK_FLOOR_KEY] > values[DISK_WARNING_KEY]:
        for key in (DISK_FLOOR_KEY, DISK_WARNING_KEY):
            reason = f"set {DISK_FLOOR_KEY} to {DISK_WARNING_KEY} or less"
            rejected.append(RejectedSetting(key, values[key], reason, settings[key].default))
            values[key] = settings[key].default
    limits = DatabaseLimits(
        limit_bytes=values[LIMIT_KEY] * GB,
        buffer_percent=values[BUFFER_KEY],
        check_hour=values[HOUR_KEY],
        check_minute=values[MINUTE_KEY],
        disk_warning_bytes=values[DISK_WARNING_KEY] * MB,
        disk_floor_bytes=values[DISK_FLOOR_KEY] * MB,
    )
    return ConfiguredLimits(limits, tuple(rejected))


def next_check_ms(limits: DatabaseLimits, after_ms: int, zone: tzinfo) -> int:
    """The next daily check after `after_ms`, ms UTC."""
    return next_time_of_day_ms(_check_time(limits), after_ms, zone)


def _check_time(limits: DatabaseLimits) -> time:
    return time(limits.check_hour, limits.check_minute)


def next_time_of_day_ms(at: time, after_ms: int, zone: tzinfo) -> int:
    """When it is next `at` local time, after `after_ms`, ms UTC.

    Once a local day: for a time that a change of the clocks skips it is the first instant after the gap, for
    one that comes twice the first time.
    """
    day = (_EPOCH + after_ms * _MS).astimezone(zone).date()
    while (instant_ms := _time_of_day_ms(at, day, zone)) <= after_ms:
        day += timedelta(days=1)
    return instant_ms


def _time_of_day_ms(at: time, day: date, zone: tzinfo) -> int:
    wall = datetime.combine(day, at, tzinfo=zone)
    instant = wall.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != wall.replace(tzinfo=None):
        # PEP 495: in a gap, fold 1 reads the wall time by the offset after it, so before the change.
        instant = _change_of_offset(wall.replace(fold=1).astimezone(UTC), instant, zone)
    return (instant - _EPOCH) // _MS


def _change_of_offset(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first second in `before` < t <= `after` (both UTC) with the offset that `zone` has at `after`."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, (after - before) // timedelta(seconds=1)
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)


def check_is_due(limits: DatabaseLimits, last_check_ms: int | None, now_ms: int, zone: tzinfo) -> bool:
    """Whether a daily check has come due since the last one."""
    return is_due(_check_time(limits), last_check_ms, now_ms, zone)


def is_due(at: time, last_ms: int | None, now_ms: int, zone: tzinfo) -> bool:
    """Whether it was `at` local time since `last_ms`; one run makes up for any number of missed ones.

    A last run more than a day in the future was made by a clock that was wrong, and counts as none.
    """
    if last_ms is None or last_ms > now_ms + DAY_MS:
        return True
    return next_time_of_day_ms(at, last_ms, zone) <= now_ms


class Assessment(NamedTuple):
    """What a size check found: the events to log, in order, and whether to dismount.

    `logical_size_bytes` is None where it was not needed.
    """

    physical_size_bytes: int
    logical_size_bytes: int | None
    events: tuple[int, ...]
    dismount: bool


def assess(
    limits: DatabaseLimits,
    checks_since_mount: int,
    physical_size_bytes: int,
    logical_size_bytes: Callable[[], int],
) -> Assessment:
    """What a size check has to say of a database that was checked `checks_since_mount` times since its mount.

    The logical size is only asked for when the physical size reaches the warning threshold, since it can't
    be the larger one. At the threshold a warning, each time; above the limit the first check after a mount
    only reports, every later one dismounts.
    """
    if physical_size_bytes < limits.threshold_bytes:
        return Assessment(physical_size_bytes, None, (), dismount=False)
    size_bytes = logical_size_bytes()
    events: tuple[int, ...] = ()
    if size_bytes >= limits.threshold_bytes:
        events = (SIZE_NEAR_LIMIT,)
    above = size_bytes > limits.limit_bytes
    dismount = above and checks_since_mount > 0
    if above:
        events += (SIZE_ABOVE_LIMIT_DISMOUNTED if dismount else SIZE_ABOVE_LIMIT,)
    return Assessment(physical_size_bytes, size_bytes, events, dismount)


class DiskState(Enum):
    """How much free disk there is for a database."""

    AMPLE = "ample"
    LOW = "low"
    BELOW_FLOOR = "below floor"


def assess_disk(limits: DatabaseLimits, free_bytes: int) -> DiskState:
    """Whether `free_bytes` of free disk call for a warning, or for deliveries to be refused."""
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


class SizedDatabase(Protocol):
    """What the daily check asks of a mounted database."""

    @property
    def label(self) -> str:
        """What events call it."""
        ...

    @property
    def limits(self) -> DatabaseLimits:
        """As configured now."""
        ...

    @property
    def checks_since_mount(self) -> int:
        """How many times `record_size_check` was called since it was mounted."""
        ...

    @property
    def last_size_check_ms(self) -> int | None:
        """What `record_size_check` was last given, also before the mount; None before the first check."""
        ...

    def physical_size_bytes(self) -> int:
        """Of all its files; quick."""
        ...

    def logical_size_bytes(self) -> int:
        """The physical size less the free space in the files."""
        ...

    def free_disk_bytes(self) -> int:
        """What its files can still grow by."""
        ...

    def record_size_check(self, checked_ms: int) -> None:
        """Keep the time of a check, durably, and count it."""
        ...

    def dismount(self, reason: str) -> None:
        """Dismount at once; those who wait are told `reason`."""
        ...


EventReporter = Callable[[int, str, dict[str, Any]], None]


class DailySizeCheck:
    """Checks the sizes of mounted databases, each at its mount and then every day.

    `databases` gives those mounted now, without those of the recovery storage group, which are not checked.
    `report` is given event id, database label and details. Not for several threads at once.
    """

    def __init__(
        self,
        databases: Callable[[], Iterable[SizedDatabase]],
        *,
        clock: Clock,
        zone: tzinfo,
        report: EventReporter,
    ) -> None:
        self._databases = databases
        self._clock = clock
        self._zone = zone
        self._report = report

    def run_due(self) -> int:
        """Carry out the checks that are due, and return when to call next, ms UTC; call also after a mount.

        A database that can't be checked gets event 1025 and another try after `CHECK_RETRY_MS`; it does
        not keep the others from theirs. Only what `report` raises comes through.
        """
        now_ms = self._clock.now_ms()
        wakes_ms: list[int] = []
        for database in list(self._databases()):
            try:
                wakes_ms.append(self._run_one(database, now_ms))
            except Dismounted:
                continue  # by someone else, since it was listed
            except PillarboxError as error:
                self._report(REQUEST_FAILED, database.label, {"request": "size check", "error": str(error)})
                wakes_ms.append(now_ms + CHECK_RETRY_MS)
        return min(wakes_ms, default=now_ms + DAY_MS)

    def _run_one(self, database: SizedDatabase, now_ms: int) -> int:
        """Check one database if it is due; when its next check is due, ms UTC."""
        limits = database.limits
        last_ms = database.last_size_check_ms if database.checks_since_mount else None
        if last_ms is None or check_is_due(limits, last_ms, now_ms, self._zone):
            self._check(database, limits, now_ms)
            last_ms = now_ms
        return next_check_ms(limits, max(now_ms, last_ms), self._zone)

    def _check(self, database: SizedDatabase, limits: DatabaseLimits, now_ms: int) -> None:
        found = assess(
            limits, database.checks_since_mount, database.physical_size_bytes(), database.logical_size_bytes
        )
        for event_id in found.events:
            self._report(event_id, database.label, _size_details(limits, found))
        if found.dismount:
            # Not recorded: a record can fail, on a full disk, and the next mount begins with a check anyway.
            database.dismount(f"its size is above its limit of {limits.limit_bytes / GB:,.2f} GB")
            return
        free_bytes = database.free_disk_bytes()
        disk = assess_disk(limits, free_bytes)
        if disk is not DiskState.AMPLE:
            self._report(DISK_SPACE_LOW, database.label, {"free_bytes": free_bytes, "state": disk.value})
        database.record_size_check(now_ms)


def _size_details(limits: DatabaseLimits, found: Assessment) -> dict[str, Any]:
    return {
        "logical_size_bytes": found.logical_size_bytes,
        "physical_size_bytes": found.physical_size_bytes,
        "limit_bytes": limits.limit_bytes,
        "threshold_bytes": limits.threshold_bytes,
    }
