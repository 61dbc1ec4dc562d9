"""The sources of commands on the recovery groups: databases, opened, their mailboxes and public folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import InvalidName, NotFound
from pillarbox.tools.options import ACTOR
from pillarbox.tools.repository_options import open_repository

if TYPE_CHECKING:
    from pillarbox.backup.merge.source import MergeTree
    from pillarbox.backup.recovery_config import RecoveryEntry
    from pillarbox.backup.recovery_group import RecoveryGroup
    from pillarbox.backup.repository.repository import Repository
    from pillarbox.backup.snapshot_mount import RecoveryDatabase

ONE_DATABASE = click.option(
    "--database", "database_name", default="", help="This one of the recovered databases."
)


class Keys(NamedTuple):
    """The files that open the repository of a mounted snapshot; without either the environment has it."""

    passphrase_file: Path | None
    key_file: Path | None


class Recovered(NamedTuple):
    """A mailbox or the public folders of a recovered database."""

    database: RecoveryDatabase
    tree: MergeTree


def is_public(name: str) -> bool:
    """True when a MAILBOX argument means public folders: `/`, or `/DATABASE`."""
    return name.startswith("/")


def group_of(server: pillarbox.Server, name: str) -> RecoveryGroup:
    """The recovery group for what a MAILBOX argument means. Raises as `RecoveryGroup.open`."""
    from pillarbox.backup.recovery_group import RecoveryGroup
    from pillarbox.store.disk.tables import DatabaseKind

    kind = DatabaseKind.PUBLIC_FOLDER_STORE if is_public(name) else DatabaseKind.MAILBOX_STORE
    return RecoveryGroup.open(server, clock=SystemClock(), kind=kind)


def mounted_databases(group: RecoveryGroup, name: str, keys: Keys) -> list[RecoveryDatabase]:
    """The mounted databases of the group, or the one of that name; each repository is opened once.

    Raises NotFound when there is none, Dismounted for the named one; as `open_repository` and
    `RecoveryGroup.database`.
    """
    entries = [group.entry(name)] if name else [each for each in group.entries() if each.is_mounted]
    if not entries:
        raise NotFound(
            f"no database is mounted in the {group.title}",
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


def find_recovered(databases: Sequence[RecoveryDatabase], name: str) -> Recovered:
    """The mailbox that a MAILBOX argument names, in any case, or with `/` or `/DATABASE` the public folders.

    Raises NotFound; InvalidName when several databases have one.
    """
    found = [
        Recovered(database, tree)
        for database in databases
        for tree in (_public_folders(database, name) if is_public(name) else _mailbox(database, name))
    ]
    if not found:
        what = f"public folder store {name[1:]!r}" if is_public(name) else f"mailbox {name!r}"
        raise NotFound(
            f"there is no {what} among the recovered databases",
            hint="see which there are with `pillarbox recovery list`, or with `pillarbox recovery mailboxes`",
        )
    if len(found) > 1:
        names = ", ".join(each.database.name for each in found)
        raise InvalidName(
            f"several of the recovered databases have {name!r}",
            hint=f"name one of them with --database: {names}",
        )
    return found[0]


def _public_folders(database: RecoveryDatabase, name: str) -> list[MergeTree]:
    from pillarbox.backup.merge.source import trees_of
    from pillarbox.store.names import name_key

    return trees_of(database, ACTOR) if name_key(name[1:]) in (b"", name_key(database.name)) else []


def _mailbox(database: RecoveryDatabase, name: str) -> list[MergeTree]:
    from pillarbox.backup.merge.source import trees_of

    try:
        return trees_of(database, ACTOR, [name])
    except NotFound:
        return []
