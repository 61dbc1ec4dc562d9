"""Size limits of databases: show, set, check, and `watch`, which enforces them each day."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.engine.database_limits import (
    BUFFER_KEY,
    DISK_FLOOR_KEY,
    DISK_WARNING_KEY,
    HOUR_KEY,
    LIMIT_KEY,
    LIMIT_MB_KEY,
    MINUTE_KEY,
    DatabaseLimits,
    assess,
    assess_disk,
)
from pillarbox.store.errors import (
    Dismounted,
    InvalidSetting,
    OverLimit,
    PillarboxError,
    WriterBusy,
)
from pillarbox.store.events import Event, EventId, Level
from pillarbox.tools.error_data import error_of
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import (
    event_line,
    events_to,
    json_text,
    local_time,
    percent_text,
    printable,
    show,
    size_text,
    warn,
)
from pillarbox.tools.parameters import complete_database
from pillarbox.tools.serving.client import find_served
from pillarbox.tools.serving.due import LOOK_AGAIN_MS
from pillarbox.tools.serving.following import Following
from pillarbox.tools.stop_signals import StopSignals, stop_signals

_DEFAULT: Final = -1  # of a limit: let it be what it is without being set
_DIGITS_MAX: Final = 12
_OPTIONS: Final = {
    LIMIT_KEY: "--limit-gb",
    LIMIT_MB_KEY: "--limit-mb",
    BUFFER_KEY: "--buffer-percent",
    DISK_WARNING_KEY: "--disk-warning-mb",
    DISK_FLOOR_KEY: "--disk-floor-mb",
}
Wait = Callable[[int], bool]

ONE_OR_ALL = click.argument(
    "database_name", metavar="[DATABASE]", default="", shell_complete=complete_database
)


@click.group("limits")
def limits_() -> None:
    """Size limits of databases, and their daily check."""


def _databases(server: pillarbox.Server, name: str) -> list[pillarbox.Database]:
    return [server.database(name)] if name else list(server.databases())


# -- show, set


def _data(database: pillarbox.Database, limits: DatabaseLimits) -> dict[str, Any]:
    from pillarbox.store.server import machine_zone
    from pillarbox.store.upkeep.time_of_day import next_time_of_day_ms

    return {
        "database": database.label,
        "limit_bytes": limits.limit_bytes,
        "threshold_bytes": limits.threshold_bytes,
        "buffer_percent": limits.buffer_percent,
        "check_time": f"{limits.check_time:%H:%M}",
        "next_check_ms": next_time_of_day_ms(limits.check_time, SystemClock().now_ms(), machine_zone()),
        "disk_warning_bytes": limits.disk_warning_bytes,
        "disk_floor_bytes": limits.disk_floor_bytes,
    }


def _lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"{data['database']}:"
    yield (
        f"  limit {size_text(data['limit_bytes'])}, warning from {size_text(data['threshold_bytes'])} on"
        f" ({data['buffer_percent']} % below)"
    )
    yield f"  checked daily at {data['check_time']}, next {local_time(data['next_check_ms'])}"
    yield (
        f"  free disk: warning below {size_text(data['disk_warning_bytes'])},"
        f" deliveries refused below {size_text(data['disk_floor_bytes'])}"
    )


def _show(databases: list[pillarbox.Database], as_json: bool) -> None:
    found = [_data(each, each.limits) for each in databases]
    show(found, [line for each in found for line in _lines(each)], as_json)


@limits_.command("show")
@SERVER
@ONE_OR_ALL
@JSON
def show_limits(server: Path, database_name: str, as_json: bool) -> None:
    """The limits of DATABASE, or of all; `pillarbox limits check` compares sizes with them.

    \b
    pillarbox limits show /srv/mail
    """
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        _show(_databases(opened, database_name), as_json)


def _number(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None or value == "default":
        return _DEFAULT if value else None
    if not value.isdecimal() or len(value) > _DIGITS_MAX:
        raise click.BadParameter(f"{value!r} is neither a whole number nor `default`")
    return int(value)


def _time_of_day(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None or value == "default":
        return (_DEFAULT, _DEFAULT) if value else None
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", value)
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise click.BadParameter(f"{value!r} is no time of day: say 05:00")
    return int(match[1]), int(match[2])


@limits_.command("set")
@SERVER
@ONE_OR_ALL
@click.option(
    "--limit-gb", callback=_number, metavar="GB", help="Size limit: 1 to 75 (standard) or 8000 (enterprise)."
)
@click.option("--limit-mb", callback=_number, metavar="MB", help="The same in MB, to try what happens.")
@click.option(
    "--buffer-percent",
    callback=_number,
    metavar="PERCENT",
    help="Warn from this many percent below the limit on.",
)
@click.option("--check-time", callback=_time_of_day, metavar="HH:MM", help="When it is checked, local time.")
@click.option("--disk-warning-mb", callback=_number, metavar="MB", help="Warn when less disk is free.")
@click.option(
    "--disk-floor-mb", callback=_number, metavar="MB", help="Refuse deliveries when less disk is free."
)
@JSON
def set_limits(
    server: Path,
    database_name: str,
    limit_gb: int | None,
    limit_mb: int | None,
    buffer_percent: int | None,
    check_time: tuple[int, int] | None,
    disk_warning_mb: int | None,
    disk_floor_mb: int | None,
    as_json: bool,
) -> None:
    """Change limits of DATABASE, or of all; each may be `default`.

    A running `pillarbox limits watch` follows within a minute, other processes when they next open the
    server. Warns of a limit that a restore would not bring back in the time that server.toml asks for.

    \b
    pillarbox limits set /srv/mail --limit-gb 50
    pillarbox limits set /srv/mail "Mailbox Store" --check-time 03:30
    pillarbox limits set /srv/mail --limit-gb default
    pillarbox limits set /srv/test --limit-mb 20
    """
    hour, minute = check_time or (None, None)
    asked = {
        LIMIT_KEY: limit_gb,
        LIMIT_MB_KEY: limit_mb,
        BUFFER_KEY: buffer_percent,
        HOUR_KEY: hour,
        MINUTE_KEY: minute,
        DISK_WARNING_KEY: disk_warning_mb,
        DISK_FLOOR_KEY: disk_floor_mb,
    }
    settings = {
        key: None if value == _DEFAULT else value for key, value in asked.items() if value is not None
    }
    if not settings:
        raise click.UsageError("say which limit to set; see --help")
    if settings.keys() >= {LIMIT_KEY, LIMIT_MB_KEY}:
        raise click.UsageError("--limit-gb and --limit-mb are one limit: say one of them")
    with pillarbox.Server.open(server, mount=False) as opened:
        databases = _databases(opened, database_name)
        try:
            for database in databases:
                opened.set_limits(database.label, settings)
        except InvalidSetting as error:
            raise _said_of_options(error) from None
        _show(databases, as_json)
        warn(_slow_restores(opened, databases))


def _slow_restores(server: pillarbox.Server, databases: list[pillarbox.Database]) -> Iterator[str]:
    """Warnings of limits that a restore would not bring back in the time that is asked for."""
    from pillarbox.store.upkeep.backup_ages import RESTORE_TIME_KEY, restore_time_ms, span_text
    from pillarbox.store.upkeep.last_backup import read_last_backup

    time_max_ms = server.backup_rules.restore_time_max_ms
    for database in databases if time_max_ms else ():
        known = read_last_backup(server.backups_path, database.guid)
        took_ms = restore_time_ms(known, database.limits.limit_bytes)
        at_most = f"{span_text(time_max_ms)} are asked for ({RESTORE_TIME_KEY})"
        if took_ms is None:
            yield (
                f"pillarbox: {database.label}: how long a restore of {size_text(database.limits.limit_bytes)}"
                f" takes is not known, {at_most}; `pillarbox backup verify` measures it"
            )
        elif took_ms > time_max_ms:
            yield (
                f"pillarbox: {database.label}: a restore of {size_text(database.limits.limit_bytes)} takes"
                f" {span_text(took_ms)} at the rate of the last that was measured, {at_most}"
            )


def _said_of_options(error: InvalidSetting) -> InvalidSetting:
    """The library's words on its settings, said of the options that stand for them."""
    text, hint = str(error), error.hint
    for key, option in _OPTIONS.items():
        text, hint = text.replace(key, option), hint.replace(key, option)
    return InvalidSetting(text, hint=hint)


# -- check


@limits_.command("check")
@SERVER
@ONE_OR_ALL
@JSON
def check(server: Path, database_name: str, as_json: bool) -> None:
    """Compare the size of DATABASE, or of all, with its limit.

    It only looks: nothing is dismounted and no event is written; the daily check is `pillarbox limits watch`.
    Ends with 23 when a database is above its limit, with 21 when one cannot be looked at because it is not
    mounted.

    \b
    pillarbox limits check /srv/mail
    """
    from pillarbox.store.engine.database import MountState

    with pillarbox.Server.open(server, read_only=True) as opened:
        databases = _databases(opened, database_name)
        found = [_assessed(each) for each in databases if each.state is not MountState.DISMOUNTED]
        apart = [each.label for each in databases if each.state is MountState.DISMOUNTED]
    show(found, [_assessed_line(each) for each in found], as_json)
    warn(f"  not mounted: {label}" for label in apart)
    _refuse_above([each["database"] for each in found if each["state"] == "above limit"])
    if apart:
        raise Dismounted(f"not looked at: {', '.join(apart)}", hint="`pillarbox status` says why")


def _refuse_above(databases: list[str]) -> None:
    if databases:
        raise OverLimit(
            f"above the size limit: {', '.join(databases)}",
            hint="delete mail, or raise it: `pillarbox limits set`",
        )


def _assessed(database: pillarbox.Database) -> dict[str, Any]:
    from pillarbox.store.engine.disk_floor import free_disk_bytes
    from pillarbox.store.upkeep import sizes

    limits = database.limits
    size_bytes = sizes.logical_size_bytes(database)
    found = assess(limits, sizes.physical_size_bytes(database), lambda: size_bytes, is_grace_over=False)
    state = "above limit" if found.above else "near limit" if found.events else "within limit"
    free_bytes = free_disk_bytes(database.path)
    return {
        "database": database.label,
        "state": state,
        "logical_size_bytes": size_bytes,
        "physical_size_bytes": found.physical_size_bytes,
        "limit_bytes": limits.limit_bytes,
        "threshold_bytes": limits.threshold_bytes,
        "free_disk_bytes": free_bytes,
        "disk": assess_disk(limits, free_bytes).value,
        "last_size_check_ms": sizes.last_size_check_ms(database),
    }


def _assessed_line(each: dict[str, Any]) -> str:
    used, limit = each["logical_size_bytes"], each["limit_bytes"]
    return (
        f"{each['database']}: {each['state']}, {size_text(used)} of {size_text(limit)}"
        f" ({percent_text(used, limit)}); free disk {size_text(each['free_disk_bytes'])}, {each['disk']}"
    )


# -- watch


@limits_.command("watch")
@SERVER
@click.option("--once", is_flag=True, help="Carry out the daily check now, and end.")
@JSON
def watch_limits(server: Path, once: bool, as_json: bool) -> None:
    """Enforce the size limits each day, until interrupted. `pillarbox serve` does that too, and all else.

    Holds all databases mounted, and prints each event as it happens (one JSON object a line with --json).
    A database above its limit is reported first, and dismounted by the first daily check after that,
    whichever process carries it out. It stays dismounted for all processes until `pillarbox mount`, which
    gives it until the next daily check again. Other processes can read meanwhile; those that write find the
    databases in use. A database that another process has is waited for. Changed settings, mounts and
    dismounts are followed within a minute. Ends cleanly on SIGINT and SIGTERM.

    With --once, for a timer: the daily check of all databases at once, at whatever time. Ends with 23 when a
    database is above its limit, with 11 when another process has one, which is not checked then.

    \b
    pillarbox limits watch /srv/mail
    pillarbox limits watch /srv/mail --once
    """

    above: list[str] = []

    def show_event(event: Event) -> None:
        if event.event_id in (EventId.SIZE_ABOVE_LIMIT, EventId.SIZE_ABOVE_LIMIT_DISMOUNTED):
            above.append(event.database)
        data = event._asdict()
        click.echo(json_text(data) if as_json else printable(event_line(data)))

    with stop_signals() as stop, events_to(show_event):
        if once:
            missing, busy = _check_once(server)
        else:
            _refuse_served(server)
            with pillarbox.Server.open(server, diagnostics_min=Level.MINIMUM) as opened:
                watch(opened, wait_for(stop))
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt
    if once:
        _refuse_above(above)
        if missing is not None:
            raise missing
        if busy:
            raise WriterBusy(
                f"not checked, another process has them: {', '.join(busy)}",
                hint="that process may check them itself; if not, give the command again when it has ended",
            )


def _check_once(server: Path) -> tuple[PillarboxError | None, list[str]]:
    """Carry out the daily check now; why a database was not checked, and those that another process has."""
    if (connected := find_served(server)) is not None:
        with connected:
            found = connected.call("database.check_sizes")
        return error_of(found["not_mounted"]), found["busy"]
    with pillarbox.Server.open(server, daily_check=True, diagnostics_min=Level.NONE) as opened:
        reasons = [why for why in opened.not_mounted.values() if not isinstance(why, WriterBusy)]
        return (reasons[0].anew() if reasons else None), list(opened.not_mounted)


def _refuse_served(server: Path) -> None:
    if (connected := find_served(server)) is not None:
        connected.close()
        raise WriterBusy(
            f"{server} is served by another process", hint="`pillarbox serve` enforces its limits already"
        )


def watch(server: pillarbox.Server, wait: Wait) -> None:
    """Check sizes when they are due until `wait`, which is given when that is (ms UTC), says no.

    Mounts, dismounts and settings of other processes are followed each time.
    """
    following = Following(server)
    while wait(server.check_sizes()):
        try:
            following.follow()
        except PillarboxError as error:
            warn([f"pillarbox: {error}; the settings stay as they were"])


def wait_for(stop: StopSignals) -> Wait:
    """A wait that is over at a time, after `LOOK_AGAIN_MS` at most, or with False when a signal has come."""
    clock = SystemClock()

    def wait(until_ms: int) -> bool:
        left_ms = min(max(until_ms - clock.now_ms(), 0), LOOK_AGAIN_MS)
        return not stop.came.wait(left_ms / 1000)

    return wait
