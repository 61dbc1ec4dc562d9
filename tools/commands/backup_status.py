"""The command that tells whether the backups of a server are as new as it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.errors import Incomplete
from pillarbox.store.events import EventId
from pillarbox.tools.backup_rows import backup_data, backup_lines
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import show
from pillarbox.tools.repository_options import keys, open_repository
from pillarbox.tools.snapshot_rows import warn_unreadable

if TYPE_CHECKING:
    from pillarbox.backup.repository.repository import Repository
    from pillarbox.store.upkeep.last_backup import LastBackup


@click.command("status")
@SERVER
@click.argument("repo", default="")
@keys
@JSON
def status(
    server: Path, repo: str, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Tell how old the last snapshot, capture, check and verification of each database are.

    Ends with 54, and writes event 20046, when one is older than the table `backups` in server.toml allows (a
    snapshot of 48 hours, unless it says otherwise), was never made, or found damage. Without REPO it goes by
    what the server noted when it was backed up; with REPO by what that repository holds.

    \b
    pillarbox backup status /srv/mail
    pillarbox backup status /srv/mail s3://offsite/mail
    """
    repository = open_repository(repo, passphrase_file, key_file) if repo else None
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        found = _rows(opened, _known(opened, repository))
        for database in opened.databases():
            for concern in found[database.label]["concerns"]:
                database.report(
                    EventId.BACKUP_NEEDS_ATTENTION,
                    what=concern["what"],
                    state=concern["state"],
                    age_ms=concern["age_ms"],
                    repository=repo,
                )
    lines = []
    for label, row in found.items():
        lines += [f"{label}:", *(f"  {line}" for line in backup_lines(row))]
    show(list(found.values()), lines, as_json)
    if repository is not None:
        warn_unreadable(repository.unreadable_snapshots())
    _raise_concerns(found)


def _known(server: pillarbox.Server, repository: Repository | None) -> dict[bytes, LastBackup]:
    from pillarbox.backup.last_backups import last_backups
    from pillarbox.backup.snapshot import database_guids
    from pillarbox.store.upkeep.last_backup import read_last_backup

    if repository is None:
        guids = [database.guid for database in server.databases()]
        return {guid: read_last_backup(server.backups_path, guid) for guid in guids}
    held = [(snapshot, database_guids(snapshot)) for snapshot in repository.snapshots()]
    return last_backups(held, repository.reports(), repository.id)


def _rows(server: pillarbox.Server, known: dict[bytes, LastBackup]) -> dict[str, dict[str, Any]]:
    """The rows for each database, by its label."""
    from pillarbox.store.upkeep.last_backup import LastBackup

    return {
        database.label: {
            "group": group.name,
            "database": database.name,
            **backup_data(known.get(database.guid, LastBackup()), server.backup_rules),
        }
        for group in server.groups.values()
        for database in group.databases.values()
    }


def _raise_concerns(found: dict[str, dict[str, Any]]) -> None:
    labels = [label for label, row in found.items() if row["concerns"]]
    if labels:
        raise Incomplete(
            f"backups need attention: {', '.join(labels)}",
            hint="what is said of each says what to do: back up, check the repository, or verify a snapshot",
        )
