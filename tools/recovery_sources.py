"""What commands on the recovery storage group share: its databases, opened, and their mailboxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

import pillarbox
from pillarbox.store.errors import InvalidName, NotFound
from pillarbox.tools.options import ACTOR
from pillarbox.tools.repository_options import open_repository

if TYPE_CHECKING:
    from pillarbox.backup.recovery_config import RecoveryEntry
    from pillarbox.backup.recovery_group import RecoveryGroup
    from pillarbox.backup.repository.repository import Repository
    from pillarbox.backup.snapshot_mount import RecoveryDatabase
    from pillarbox.store.disk.tables import MailboxRecord

ONE_DATABASE = click.option(
    "--database", "database_name", default="", help="This database of the recovery storage group."
)


class Keys(NamedTuple):
    """The files that open the repository of a mounted snapshot; without either the environment has it."""

    passphrase_file: Path | None
    key_file: Path | None


class RecoveredMailbox(NamedTuple):
    """A mailbox in the recovery storage group."""

    database: RecoveryDatabase
    record: MailboxRecord


def mounted_databases(group: RecoveryGroup, name: str, keys: Keys) -> list[RecoveryDatabase]:
    """The mounted databases of the group, or the one of that name; each repository is opened once.

    Raises NotFound when there is none, Dismounted for the named one; as `open_repository` and
    `RecoveryGroup.database`.
    """
    entries = [group.entry(name)] if name else [each for each in group.entries() if each.is_mounted]
    if not entries:
        raise NotFound(
            "no database is mounted in the recovery storage group",
            hint="mount a snapshot: `pillarbox recovery mount SERVER REPO latest`",
        )
    repositories: dict[str, Repository] = {}
    return [group.database(each.name, _repository(each, keys, repositories)) for each in entries]


def _repository(entry: RecoveryEntry, keys: Keys, opened: dict[str, Repository]) -> Repository | None:
    from pillarbox.backup.recovery_config import HeldAs

    if entry.held_as is not HeldAs.REPOSITORY:
        return None
    if entry.repository not in opened:
        try:
            opened[entry.repository] = open_repository(entry.repository, *keys)
        except NotFound as error:
            raise NotFound(
                f"the repository of database {entry.name} is not at {entry.repository} any more",
                hint="put it there, or dismount the database and mount it from where the repository is now",
            ) from error
    return opened[entry.repository]


def find_recovered(databases: Sequence[RecoveryDatabase], name: str) -> RecoveredMailbox:
    """The mailbox of that name, in any case. Raises NotFound; InvalidName when several databases have one."""
    found = []
    for database in databases:
        with database.read(ACTOR) as read:
            try:
                found.append(RecoveredMailbox(database, pillarbox.mailboxes.find(read, name)))
            except NotFound:
                continue
    if not found:
        raise NotFound(
            f"there is no mailbox {name!r} in the recovery storage group",
            hint="see which there are with `pillarbox recovery mailboxes`",
        )
    if len(found) > 1:
        names = ", ".join(each.database.name for each in found)
        raise InvalidName(
            f"several databases of the recovery storage group have a mailbox {name!r}",
            hint=f"name one of them with --database: {names}",
        )
    return found[0]
