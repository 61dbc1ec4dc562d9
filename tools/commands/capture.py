"""Point in time: captures of a storage group at an interval, between backups."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import Retryable
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import json_text, local_time, show, warn
from pillarbox.tools.parameters import complete_group, duration
from pillarbox.tools.repository_options import REPOSITORY, keys, open_repository
from pillarbox.tools.snapshot_source import open_source, raise_left_out
from pillarbox.tools.stop_signals import stop_signals

if TYPE_CHECKING:
    from pillarbox.backup.repository.repository import Repository, Snapshot
    from pillarbox.backup.snapshot import SnapshotSource


@click.command("capture")
@SERVER
@REPOSITORY
@click.option(
    "--every", callback=duration, default="60s", show_default=True, metavar="TIME", help="Between captures."
)
@click.option("--once", is_flag=True, help="Capture once, and end.")
@click.option("--group", "group_name", shell_complete=complete_group, help="The storage group to capture.")
@keys
@JSON
def capture_(
    server: Path,
    repo: str,
    every: int,
    once: bool,
    group_name: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Capture a storage group again and again, to restore it as it stood at any of those moments.

    A capture stores what changed since the backup or capture before it, and nothing when nothing did; each is
    a snapshot to `restore` and `recovery mount`. Other processes read and write the databases meanwhile.
    `prune` keeps captures for two days, or --keep-captures.

    \b
    pillarbox backup capture /srv/mail /backup/mail --every 5m
    pillarbox backup capture /srv/mail /backup/mail --once
    pillarbox backup restore /backup/mail @2026-11-25T10:00:00Z --to /tmp/before
    """
    repository = open_repository(repo, passphrase_file, key_file)
    if once:
        made, source = capture_once(server, repository, group_name)
        show(
            {"snapshot": made and made.id, "time_ms": made and made.time_ms},
            [_line(made) if made else "Nothing changed since the newest snapshot."],
            as_json,
        )
        raise_left_out(source)
        return
    told: set[str] = set()

    def capture() -> Snapshot | None:
        made, source = capture_once(server, repository, group_name)
        warn_left_out(source, told)
        return made

    with stop_signals() as stop:
        capture_until(capture, lambda: stop.came.wait(every / 1000), as_json)
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt


def capture_once(
    server: Path, repository: Repository, group_name: str | None
) -> tuple[Snapshot | None, SnapshotSource]:
    """Open the server, capture one storage group, and let it go again; the capture, and what it is of.

    Raises as `open_source` and `Capture.capture`.
    """
    from pillarbox.backup.capture import Capture

    with open_source(server, group_name) as source:
        return Capture(source, repository, clock=SystemClock()).capture(), source


def warn_left_out(source: SnapshotSource, told: set[str]) -> None:
    """Say on stderr which databases are left out, but for those in `told`, which then has all that are."""
    left_out = {f"{each.database.name} is not captured: {each.reason}" for each in source.left_out}
    warn(f"pillarbox: {line}" for line in sorted(left_out - told))
    told.clear()
    told.update(left_out)


def capture_until(capture: Callable[[], Snapshot | None], ended: Callable[[], bool], as_json: bool) -> None:
    """Capture until `ended`, which waits an interval, says so; of what another try may mend it only warns."""
    while True:
        try:
            made = capture()
        except Retryable as error:
            warn([f"pillarbox: not captured: {error}"])
        else:
            if made is not None:
                data = {"snapshot": made.id, "time_ms": made.time_ms}
                click.echo(json_text(data) if as_json else _line(made))
        if ended():
            return


def _line(made: Snapshot) -> str:
    return f"{local_time(made.time_ms)}  captured as {made.id}"
