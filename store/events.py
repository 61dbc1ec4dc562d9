"""Numbered events as plain data, what is written of them, and the log they are kept in.

Whoever finds something worth an administrator's attention makes an `Event` and hands it to the `Reporter` it
was given; no module of the store sets up logging. Numbers below 20000 are those of DOMAIN.md "Event ids".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol

from xxhash import xxh3_64_hexdigest

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.errors import InvalidSetting, PillarboxError, UnsupportedVersion


class Severity(StrEnum):
    """The degree to which an event asks for attention, from the least on."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"


class Level(IntEnum):
    """The amount that a diagnostic category writes (DOMAIN.md "Access")."""

    NONE = 0
    MINIMUM = 1
    MEDIUM = 2
    MAXIMUM = 3


class Category(StrEnum):
    """Diagnostic categories, `source.category`; events reach Python logging as `pillarbox.<category>`."""

    SYSTEM_GENERAL = "system.general"
    SYSTEM_STORAGE = "system.storage"
    SYSTEM_MAINTENANCE = "system.maintenance"
    SYSTEM_BACKUP = "system.backup"
    MAILBOX_GENERAL = "mailbox.general"
    MAILBOX_ACCESS = "mailbox.access"
    MAILBOX_LIMITS = "mailbox.limits"
    PUBLIC_FOLDER_GENERAL = "public_folder.general"


class EventKind(NamedTuple):
    """The fixed part of an event: `text` names its details in braces."""

    severity: Severity
    category: Category
    text: str
    level: Level


_INFORMATION, _WARNING, _ERROR = Severity.INFORMATION, Severity.WARNING, Severity.ERROR
_GENERAL, _STORAGE = Category.SYSTEM_GENERAL, Category.SYSTEM_STORAGE
_MAINTENANCE, _BACKUP = Category.SYSTEM_MAINTENANCE, Category.SYSTEM_BACKUP
_MAILBOX, _LIMITS, _ACCESS = Category.MAILBOX_GENERAL, Category.MAILBOX_LIMITS, Category.MAILBOX_ACCESS
_FOLDERS = Category.PUBLIC_FOLDER_GENERAL


class EventId(IntEnum):
    """Every event. A number is never given a second meaning."""

    kind: EventKind

    def __new__(
        cls, number: int, severity: Severity, category: Category, text: str, level: Level = Level.NONE
    ) -> EventId:
        """An event's number together with its kind."""
        event = int.__new__(cls, number)
        event._value_ = number
        event.kind = EventKind(severity, category, text, level)
        return event

    # fmt: off
    REQUEST_FAILED = 1025, _ERROR, _GENERAL, "{request} on database {database} failed: {error}"
    MAXIMUM_SIZE_REACHED = 1112, _ERROR, _STORAGE, "Database {database} has reached its maximum size."
    FREE_SPACE_AFTER_MAINTENANCE = (1221, _INFORMATION, _MAINTENANCE,
        "Database {database} has {free_megabytes} megabytes of free space after online defragmentation has "
        "terminated.")
    DATABASE_MOUNTED = 9523, _INFORMATION, _GENERAL, "Database {database} was mounted.", Level.MINIMUM
    RETENTION_CLEANUP = (9535, _INFORMATION, _MAINTENANCE,
        "Retention cleanup of database {database} is complete: {items} items, {size_bytes}.")
    DATABASE_DISMOUNTED = (9539, _INFORMATION, _GENERAL, "Database {database} was dismounted.",
        Level.MINIMUM)
    MEMORY_CONFIGURATION = 9665, _WARNING, _GENERAL, "The memory settings may not be optimal: {reason}"
    FOLDER_DELETED = (9682, _INFORMATION, _FOLDERS,
        "Folder {folder} with folder ID {folder_id} was deleted by {mailbox}, {account}.", Level.MEDIUM)
    SIZE_NEAR_LIMIT = (9688, _WARNING, _STORAGE,
        "Database {database} holds {logical_size_bytes}, {relation} its limit of {limit_bytes}.")
    SIZE_ABOVE_LIMIT = (9689, _ERROR, _STORAGE,
        "Database {database} holds {logical_size_bytes}, above its limit of {limit_bytes}. The next daily "
        "check dismounts it unless room is made.")
    SIZE_ABOVE_LIMIT_DISMOUNTED = (9690, _ERROR, _STORAGE,
        "Database {database} holds {logical_size_bytes}, above its limit of {limit_bytes}. It is dismounted "
        "until an administrator mounts it.")

    SERVER_OPENED = 20000, _INFORMATION, _GENERAL, "Server {server} was opened.", Level.MINIMUM
    DATABASE_NOT_MOUNTED = 20001, _ERROR, _GENERAL, "Database {database} could not be mounted: {reason}"
    RECOVERY_DONE = (20002, _INFORMATION, _STORAGE,
        "Database {database} was not closed cleanly: {transactions} transactions were replayed.")
    DAMAGE_FOUND = 20003, _ERROR, _STORAGE, "Damage in database {database}: {error}"
    WRITE_FAILURE_DISMOUNTED = (20004, _ERROR, _STORAGE,
        "Database {database} was dismounted because a write failed: {error}")
    SETTING_NOT_USED = (20005, _WARNING, _GENERAL,
        "{key} of database {database} cannot be {value}: {reason}. {default} is used.")
    ACCESS_STRING_NOT_VALID = (20006, _WARNING, _ACCESS,
        "The access settings of mailbox {mailbox} for {protocol} are not valid: access is denied.")
    MAILBOX_NEAR_LIMIT = (20007, _WARNING, _LIMITS,
        "Mailbox {mailbox} in database {database} holds {size_bytes}; its limit is {limit_bytes}.")
    ADMINISTRATOR_ACCESS = 20008, _INFORMATION, _ACCESS, "Administrator {account} opened mailbox {mailbox}."
    MAILBOX_DELETED = 20009, _INFORMATION, _MAILBOX, "Mailbox {mailbox} was deleted by {account}."
    DISK_SPACE_LOW = (20010, _WARNING, _STORAGE,
        "The disk of database {database} has {free_bytes} left: {state}.")
    DISK_FLOOR_REACHED = (20011, _ERROR, _STORAGE,
        "The disk of database {database} has only {free_bytes} left: deliveries are refused.")
    MAILBOX_DISCONNECTED = 20012, _INFORMATION, _MAILBOX, "Mailbox {mailbox} was disconnected by {account}."
    DATABASE_UPGRADED = (20013, _INFORMATION, _STORAGE,
        "Database {database} was upgraded from table layout {before} to {layout}: older programs refuse it.")
    TABLES_SPACE_HELD = (20014, _WARNING, _STORAGE,
        "Process {process}, begun {minutes} minutes ago, reads a state of database {database} that is "
        "{transactions} transactions old: {held_bytes} of its property file wait for it to end.")
    MAILBOX_NAME_TAKEN = (20015, _WARNING, _MAILBOX,
        "Mailbox {mailbox} of database {database} is called {name} now: while its name was not known, one in "
        "{other} got it.")
    MAILBOX_NAMES_UNKNOWN = (20016, _WARNING, _MAILBOX,
        "Mailbox {mailbox} got its name while the names in database {database} are not known: {reason}")
    MOVE_UNDONE = (20017, _INFORMATION, _MAILBOX,
        "What an interrupted move of mailbox {mailbox} left in database {database} was removed: {reason}.")
    IMPORT_FINISHED = 20020, _INFORMATION, _MAILBOX, "{messages} messages were imported into {mailbox}."
    IMPORT_FINISHED_DAMAGED = (20021, _WARNING, _MAILBOX,
        "{messages} messages were imported into {mailbox}, {damaged} of them damaged.")
    CHECK_FINISHED = 20030, _INFORMATION, _MAINTENANCE, "The check of database {database} found no damage."
    CHECK_FOUND_DAMAGE = (20031, _ERROR, _MAINTENANCE,
        "The check of database {database} found {damaged} damaged places.")
    REPAIR_FINISHED = (20032, _WARNING, _MAINTENANCE,
        "The repair of database {database} kept {kept} messages and lost {lost}.")
    COMPACTION_FINISHED = (20033, _INFORMATION, _MAINTENANCE,
        "Compaction of database {database} freed {freed_bytes}.", Level.MINIMUM)
    TABLES_VERIFIED = (20034, _INFORMATION, _MAINTENANCE,
        "The pages of the tables of database {database} were verified: {problems} problems in {size_bytes}, "
        "{milliseconds} ms.", Level.MINIMUM)
    TABLES_COMPACTED = (20035, _INFORMATION, _MAINTENANCE,
        "The property file of database {database} was compacted from {before_bytes} to {after_bytes}, "
        "{milliseconds} ms.", Level.MINIMUM)
    TABLES_NOT_VERIFIED = (20036, _WARNING, _MAINTENANCE,
        "The pages of the tables of database {database} were not verified: {reason}")
    SNAPSHOT_FINISHED = (20040, _INFORMATION, _BACKUP,
        "Snapshot {snapshot} of database {database} is complete.")
    SNAPSHOT_FAILED = 20041, _ERROR, _BACKUP, "The snapshot of database {database} failed: {error}"
    RESTORE_FINISHED = 20042, _INFORMATION, _BACKUP, "Database {database} was restored from {snapshot}."
    REPOSITORY_DAMAGED = 20043, _ERROR, _BACKUP, "Damage in backup repository {repository}: {error}"
    MERGE_FINISHED = (20044, _INFORMATION, _BACKUP,
        "{messages} messages of mailbox {source} were merged into {mailbox} by {account}; "
        "{damaged} are damaged.")
    MESSAGES_ARCHIVED = (20045, _INFORMATION, _BACKUP,
        "{messages} messages of mailbox {source} were archived and removed by {account}.")
    BACKUP_NEEDS_ATTENTION = (20046, _WARNING, _BACKUP,
        "Backups of database {database} need attention: {state}.")
    PUBLIC_FOLDERS_MERGED = (20047, _INFORMATION, _BACKUP,
        "{messages} messages of public folders were merged into database {database} by {account}; "
        "{damaged} are damaged.")
    FOLDER_DELETED_ELSEWHERE = (20050, _INFORMATION, _FOLDERS,
        "Folder {folder} with folder ID {folder_id} was deleted at another store by {account}.", Level.MEDIUM)
    REPLICATION_NOTICE = (20051, _INFORMATION, _FOLDERS,
        "Replication of database {database}, folder {folder}: {notice}.", Level.MEDIUM)
    REPLICATION_NEEDS_ATTENTION = (20052, _WARNING, _FOLDERS,
        "Replication of database {database}, folder {folder}: {notice}.")
    REPLICATION_REFUSED = (20053, _WARNING, _FOLDERS,
        "Database {database} refused {count} frames from the store {hop} by their {reason}: {error}.")
    CONNECTIONS_REFUSED = (20054, _WARNING, _FOLDERS,
        "Replication of database {database} refused {count} connections, the last one since: {error}.")
    # fmt: on


EVENTS: Final[Mapping[int, EventKind]] = {int(event): event.kind for event in EventId}


class Event(NamedTuple):
    """Something that happened.

    `time_ms` is ms UTC; `database` is its label at that time (`Database.label`), or ""; `details` is plain
    data.
    """

    event_id: int
    severity: Severity
    category: str
    time_ms: int
    database: str
    text: str
    details: dict[str, Any]


class Reporter(Protocol):
    """Where events go. May be called in any thread."""

    def report(self, event: Event) -> None:
        """Take notice of an event."""
        ...


DETAIL_CHARS_MAX: Final = 1000
DETAILS_MAX: Final = 32


def make_event(event_id: int, now_ms: int, database: str = "", **details: Any) -> Event:
    """An event of `EVENTS` with its text filled in; details without a value show as "?".

    Details come from outside as often as not (names, subjects): each is cut to `DETAIL_CHARS_MAX` characters.
    Raises KeyError for a number that is no event.
    """
    kind = EVENTS[event_id]
    plain = {name: _plain(value) for name, value in list(details.items())[:DETAILS_MAX]}
    shown = _Shown({name: _shown(name, value) for name, value in plain.items()}, database=database)
    text = kind.text.format_map(shown)
    # One event is one line wherever it is written: no text from outside may begin another.
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return Event(int(event_id), kind.severity, kind.category, now_ms, database, text, plain)


class _Shown(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "?"


def _plain(value: object) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    return (value.hex() if isinstance(value, bytes) else str(value))[:DETAIL_CHARS_MAX]


def _shown(name: str, value: str | int | float | None) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / (1 << 30):,.2f} GB" if value >= 1 << 30 else f"{value / (1 << 20):,.2f} MB"
    return str(value)


class Diagnostics:
    """The level of each diagnostic category; `lowest` where nothing, or less, was set."""

    def __init__(self, levels: Mapping[str, str] | None = None, *, lowest: Level = Level.NONE) -> None:
        """`levels` is from a configuration. Raises InvalidSetting for an unknown category or level."""
        self._lowest = lowest
        self._levels: dict[str, Level] = {}
        for category, level in (levels or {}).items():
            self.set_level(category, level)

    def level(self, category: str) -> Level:
        """The level of a category."""
        return max(self._levels.get(category, Level.NONE), self._lowest)

    def set_level(self, category: str, level: str) -> None:
        """Set a category's level by name, in any case. Raises InvalidSetting for an unknown one."""
        if category not in set(Category):
            raise InvalidSetting(f"{category!r} is no category", hint=f"one of {', '.join(Category)}")
        try:
            self._levels[category] = Level[str(level).upper()]
        except KeyError:
            names = ", ".join(known.name.lower() for known in Level)
            raise InvalidSetting(f"{level!r} is no diagnostic level", hint=f"one of {names}") from None

    def writes(self, event: Event) -> bool:
        """True when the event's level is within that of its category."""
        kind = EVENTS.get(event.event_id)
        return kind is None or kind.level <= self.level(event.category)

    def filter(self, sink: Reporter) -> Reporter:
        """A reporter that passes on what is to be written."""
        return _Function(lambda event: sink.report(event) if self.writes(event) else None)


class _Function:
    def __init__(self, function: Callable[[Event], None]) -> None:
        self.report = function


def tee(*sinks: Reporter) -> Reporter:
    """A reporter that gives each event to all of `sinks`; if some raise, the others get it all the same."""

    def report(event: Event) -> None:
        errors: list[Exception] = []
        for sink in sinks:
            try:
                sink.report(event)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    return _Function(report)


_LOGGING_LEVELS: Final = {
    Severity.INFORMATION: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
}


class PythonLoggingSink:
    """Gives events to Python's logging: logger `pillarbox.<category>`, record attribute `event`."""

    def report(self, event: Event) -> None:
        """Log one event."""
        logger = logging.getLogger(f"pillarbox.{event.category}")
        logger.log(
            _LOGGING_LEVELS[event.severity], "%d %s", event.event_id, event.text, extra={"event": event}
        )


# --- the log on disk ------------------------------------------------------------------------------------
#
# A directory of numbered files. Each is lines of JSON: first the header, then one event a line, beginning
# with a checksum (16 hexadecimal digits, XXH3-64) of the line without it (docs/format.md, "Event log").

LOG_VERSION: Final = 1
LINE_BYTES_MAX: Final = 1 << 17
_HEADER: Final = b'{"format":"pillarbox-events","version":%d}' % LOG_VERSION
_ANY_HEADER: Final = re.compile(rb'\{"format":"pillarbox-events","version":(\d{1,9})\}')
_CHECKSUM: Final = re.compile(rb'\{"checksum":"([0-9a-f]{16})",')
_NAME: Final = re.compile(r"events-(\d{8})\.jsonl")
_BLOCK_BYTES: Final = 1 << 16
_LOGGER: Final = logging.getLogger("pillarbox.events")


def _encode(event: Event) -> bytes:
    fields = event._asdict()
    body = json.dumps(fields, separators=(",", ":"), default=str).encode()
    if len(body) >= LINE_BYTES_MAX - 64:
        fields.update(text=event.text[:DETAIL_CHARS_MAX], details={})
        body = json.dumps(fields, separators=(",", ":")).encode()
    # The line feed comes first: what an interrupted write left unfinished costs only itself.
    return b'\n{"checksum":"%s",%s' % (xxh3_64_hexdigest(body).encode(), body[1:])


def _decode(line: bytes) -> Event | None:
    found = _CHECKSUM.match(line)
    if found is None:
        return None
    body = b"{" + line[found.end() :]
    if xxh3_64_hexdigest(body).encode() != found[1]:
        return None
    try:
        fields = json.loads(body)
        event = Event(**{**fields, "severity": Severity(fields["severity"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    plain = (event.event_id, event.category, event.time_ms, event.database, event.text, event.details)
    fits = all(map(isinstance, plain, (int, str, int, str, str, dict)))
    return event if fits else None


class EventLog:
    """The log on disk: `files_max` files of about `file_bytes_max` bytes, the oldest of which go.

    Any number of processes and threads may write and read it at the same time. Lines are not flushed to disk
    one by one: a power loss may cost the last few.
    """

    def __init__(self, directory: PathLike, *, file_bytes_max: int = 4 << 20, files_max: int = 8) -> None:
        """Nothing is created or read before the first event or query."""
        directory = as_path(directory, "directory")
        self.lost_count = 0
        self._directory = directory
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._descriptor = -1
        self._lock = threading.Lock()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. A later event opens it again."""
        with self._lock:
            if self._descriptor >= 0:
                # First forgotten: interrupted between the two, the file of another would be closed.
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    def report(self, event: Event) -> None:
        """Append one event.

        A log that cannot be written must not stop the store: then the event is counted in `lost_count` and
        goes to Python logging, `pillarbox.events`.
        """
        line = _encode(event)
        with self._lock:
            try:
                if self._descriptor < 0 or self._is_over(self._descriptor, len(line)):
                    self._open_newest(len(line))
                # One write to a file opened for appending: lines of several processes never mix.
                if os.write(self._descriptor, line) == len(line):
                    return
                reason = "the disk is full"
            except (OSError, UnsupportedVersion) as error:
                reason = str(error)
            self.lost_count += 1
        _LOGGER.error("event %d was not written to %s: %s", event.event_id, self._directory, reason)

    def query(
        self,
        *,
        since_ms: int | None = None,
        event_id: int | None = None,
        category: str | None = None,
        severity_min: Severity | None = None,
        databases: Collection[str] | None = None,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> EventQuery:
        """The events that were kept, by order of writing; None leaves a condition out.

        `databases` are labels as they were when the events happened.
        Files are read as the answer is consumed: the last few events cost little however long the log is.
        Raises PillarboxError when the directory cannot be read.
        """

        severities = list(Severity)[list(Severity).index(severity_min) if severity_min else 0 :]

        def wanted(event: Event) -> bool:
            return (
                (since_ms is None or event.time_ms >= since_ms)
                and (event_id is None or event.event_id == event_id)
                and (category is None or event.category == category)
                and event.severity in severities
                and (databases is None or event.database in databases)
            )

        try:
            files = [self._path(number) for number in self._numbers()]
        except OSError as error:
            raise _unreadable(self._directory, error) from error
        return EventQuery(files[::-1] if newest_first else files, wanted, limit, newest_first)

    def _path(self, number: int) -> Path:
        return self._directory / f"events-{number:08}.jsonl"

    def _numbers(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def _is_over(self, descriptor: int, line_bytes: int) -> bool:
        """True when a file is full, or was deleted."""
        found = os.fstat(descriptor)
        full = found.st_size > len(_HEADER) and found.st_size + line_bytes > self._file_bytes_max
        return full or found.st_nlink == 0

    def _open_newest(self, line_bytes: int) -> None:
        """Open the newest file that has room, beginning another where none has; drop the oldest."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._rotation():
            numbers = self._numbers() or [1]
            descriptor = self._open(numbers[-1])
            if self._is_over(descriptor, line_bytes):
                os.close(descriptor)
                numbers.append(numbers[-1] + 1)
                descriptor = self._open(numbers[-1])
            self._descriptor = descriptor
            for number in numbers[: -self._files_max]:
                self._path(number).unlink(missing_ok=True)

    @contextmanager
    def _rotation(self) -> Iterator[None]:
        """Only one process at a time decides which file is the newest."""
        lock = os.open(self._directory / "events.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self, number: int) -> int:
        path = self._path(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size == 0:
                os.write(descriptor, _HEADER)
            _check_header(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _check_header(descriptor: int, path: Path) -> None:
    """Raises UnsupportedVersion. A damaged header is one damaged line: the others have checksums."""
    header = _ANY_HEADER.match(os.pread(descriptor, 100, 0))
    if header and int(header[1]) != LOG_VERSION:
        raise UnsupportedVersion(
            f"{path} is an event log of version {int(header[1])}",
            hint=f"this program reads version {LOG_VERSION}; use a newer one",
        )


class EventQuery:
    """The answer of a query: iterate it once. `damaged_count` tells how many lines were skipped so far.

    Iteration raises UnsupportedVersion, or PillarboxError when a file cannot be read.
    """

    def __init__(
        self, files: list[Path], wanted: Callable[[Event], bool], limit: int | None, newest_first: bool
    ) -> None:
        self.damaged_count = 0
        self._wanted = wanted
        self._limit = limit
        self._events = self._read(files, newest_first)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._limit is not None:
            if self._limit <= 0:
                raise StopIteration
            self._limit -= 1
        return next(self._events)

    def _read(self, files: list[Path], newest_first: bool) -> Iterator[Event]:
        for path in files:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # the oldest one went after it was listed
            except OSError as error:
                raise _unreadable(path, error) from error
            try:
                _check_header(descriptor, path)
                for line in (_lines_backwards if newest_first else _lines)(descriptor):
                    event = _decode(line)
                    if event is None:
                        self.damaged_count += line != _HEADER
                    elif self._wanted(event):
                        yield event
            except OSError as error:
                raise _unreadable(path, error) from error
            finally:
                os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> PillarboxError:
    return PillarboxError(f"{path}: {error.strerror}", hint="look at the disk and at who may read the file")


def _lines(descriptor: int) -> Iterator[bytes]:
    """Lines from the beginning. One that is too long comes cut, and is then found damaged."""
    at, head = 0, b""
    while block := os.pread(descriptor, _BLOCK_BYTES, at):
        at += len(block)
        *lines, head = (head + block).split(b"\n")
        yield from lines
        head = head[:LINE_BYTES_MAX]
    yield head


def _lines_backwards(descriptor: int) -> Iterator[bytes]:
    """Lines from the end on. One that is too long comes cut, and is then found damaged."""
    at, tail = os.fstat(descriptor).st_size, b""
    while at > 0:
        start = max(0, at - _BLOCK_BYTES)
        tail, *lines = (os.pread(descriptor, at - start, start) + tail).split(b"\n")
        yield from reversed(lines)
        tail, at = tail[:LINE_BYTES_MAX], start
    yield tail
