"""The recovery storage group: what is in it, what comes and goes, and a look into recovered mailboxes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import NotFound
from pillarbox.tools.commands.folder import folder_line, folder_rows
from pillarbox.tools.commands.message import envelope, envelope_line, show_raw
from pillarbox.tools.commands.recovery_merge import merge
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, counting, progress, show, show_each, size_text
from pillarbox.tools.parameters import COUNT
from pillarbox.tools.recovery_sources import (
    ONE_DATABASE,
    Keys,
    find_recovered,
    mounted_databases,
)
from pillarbox.tools.repository_options import GROUP, OF_ANOTHER, keys, location_of, open_repository
from pillarbox.tools.tree import find_message

if TYPE_CHECKING:
    from pillarbox.backup.find_snapshot import FoundDatabases
    from pillarbox.backup.merge.merge_mailbox import MailboxMatch
    from pillarbox.backup.recovery_config import RecoveryEntry

DATABASES = click.option("--database", "names", multiple=True, help="Only this database; may be said again.")
MAILBOX = click.argument("mailbox_name", metavar="MAILBOX")


@click.group()
def recovery() -> None:
    """The recovery storage group: recovered databases beside the live ones, which no client reaches.

    `mount` takes a snapshot straight from its repository: only records are copied, content is fetched when it
    is touched, so that the passphrase is needed again by the commands that look into it or merge from it
    (PILLARBOX_PASSPHRASE, --passphrase-file, --key-file).

    \b
    pillarbox recovery mount /srv/mail /backup/mail latest
    pillarbox recovery merge /srv/mail anna --dry-run
    pillarbox recovery merge /srv/mail anna
    pillarbox recovery dismount /srv/mail
    """


recovery.add_command(merge)


# -- what is in it


@recovery.command("list")
@SERVER
@JSON
def list_(server: Path, as_json: bool) -> None:
    """The databases in the recovery storage group, where they come from, and whether they are mounted.

    \b
    pillarbox recovery list /srv/mail
    """
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, read_only=True, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        entries, source, override = group.entries(), group.source, group.override
    data = {
        "source_server": source and source.server,
        "source_group": source and source.group,
        "override": override,
        "databases": [_entry_data(each) for each in entries],
    }
    lines = [f"Databases of {source.group} of server {source.server}:"] if source else ["It is empty."]
    lines += [_entry_line(each) for each in entries]
    if override:
        lines.append("Restores go to the original place all the same: the override is set.")
    show(data, lines, as_json)


def _entry_data(entry: RecoveryEntry) -> dict[str, Any]:
    return {
        "database": entry.name,
        "held_as": str(entry.held_as),
        "mounted": entry.is_mounted,
        "snapshot": entry.snapshot,
        "repository": entry.repository,
    }


def _entry_line(entry: RecoveryEntry) -> str:
    from pillarbox.backup.recovery_config import HeldAs

    state = "mounted" if entry.is_mounted else "dismounted"
    how = "from" if entry.held_as is HeldAs.REPOSITORY else "restored from"
    return f"  {entry.name}: {state}, snapshot {entry.snapshot[:12]} {how} {entry.repository}"


@recovery.command()
@SERVER
@JSON
def create(server: Path, as_json: bool) -> None:
    """Make an empty recovery storage group, so that `backup restore --server` restores into it.

    \b
    pillarbox recovery create /srv/mail
    pillarbox backup restore /backup/mail latest --server /srv/mail
    pillarbox recovery mount /srv/mail
    """
    from pillarbox.backup.recovery_group import RecoveryGroup

    with pillarbox.Server.open(server, mount=False) as opened:
        RecoveryGroup.create(opened, clock=SystemClock()).close()
    show({"created": True}, ["The server has a recovery storage group now; restores go there."], as_json)


@recovery.command()
@SERVER
@click.argument("state", type=click.Choice(["on", "off"]))
@JSON
def override(server: Path, state: str, as_json: bool) -> None:
    """Whether a restore to the server goes to the original place while there is a recovery storage group.

    \b
    pillarbox recovery override /srv/mail on
    """
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        group.set_override(state == "on")
    where = "to their original place" if state == "on" else "to the recovery storage group"
    show({"override": state == "on"}, [f"Restores to this server go {where}."], as_json)


# -- databases that come and go


@recovery.command()
@SERVER
@click.argument("repo", default="")
@click.argument("snapshot", default="")
@GROUP
@OF_ANOTHER
@DATABASES
@keys
@JSON
def mount(
    server: Path,
    repo: str,
    snapshot: str,
    group_name: str | None,
    of: str | None,
    names: tuple[str, ...],
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Mount the mailbox stores of SNAPSHOT in the recovery storage group, straight from the repository.

    `latest` and a moment mean the newest that this server's databases are in. A snapshot of another server is
    mounted only with --of, which names that server: a merge from it puts mail into mailboxes of this one. The
    group is made where it is missing. Without REPO and SNAPSHOT, databases that were restored into the
    group are mounted. All come from one storage group; public folder stores are left out.

    \b
    pillarbox recovery mount /srv/mail /backup/mail latest
    pillarbox recovery mount /srv/mail /backup/mail latest --database Sales
    """
    if bool(repo) != bool(snapshot):
        raise click.UsageError("say which snapshot of the repository: `latest`, or an id of `backup list`")
    if repo:
        mounted = _mount_snapshot(
            server, repo, snapshot, (group_name, of), names, Keys(passphrase_file, key_file), as_json
        )
    else:
        mounted = _mount_restored(server, names)
    lines = [f"{each.name} is mounted in the recovery storage group." for each in mounted]
    show([_entry_data(each) for each in mounted], lines, as_json)


def _mount_snapshot(
    server: Path,
    repo: str,
    snapshot: str,
    told_apart: tuple[str | None, str | None],
    names: tuple[str, ...],
    opened_by: Keys,
    as_json: bool,
) -> list[RecoveryEntry]:
    from pillarbox.backup.find_snapshot import find_for_server, mailbox_stores
    from pillarbox.backup.recovery_group import RecoveryGroup
    from pillarbox.backup.snapshot_owner import mark_of

    group_name, of = told_apart
    with pillarbox.Server.open(server, mount=False) as opened:
        repository = open_repository(repo, *opened_by)
        found = find_for_server(repository, snapshot, mark_of(opened), of=of, group=group_name, names=names)
        chosen = found if names else mailbox_stores(found)
        with (
            RecoveryGroup.open_or_begin(opened, clock=SystemClock()) as group,
            progress("mounting", as_json) as step,
        ):
            told = step and counting(step, sum(map(_records_bytes, chosen)))
            return [
                entry
                for each in chosen
                for entry in group.mount_snapshot(
                    repository,
                    location_of(repo),
                    each.snapshot,
                    names=each.names,
                    foreign=of is not None,
                    progress=told,
                )
            ]


def _records_bytes(found: FoundDatabases) -> int:
    from pillarbox.backup.snapshot import snapshot_databases

    guids = {database.guid for database in found.databases}
    entries = [entry for entry, _ in snapshot_databases(found.snapshot) if entry["guid"] in guids]
    return sum(int(entry.get("records_bytes") or 0) for entry in entries)


def _mount_restored(server: Path, names: tuple[str, ...]) -> list[RecoveryEntry]:
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        chosen = names or [each.name for each in group.entries() if not each.is_mounted]
        if not chosen:
            raise NotFound(
                "no dismounted database is in the recovery storage group",
                hint="name a repository and a snapshot to mount",
            )
        return [group.mount(each) for each in chosen]


@recovery.command()
@SERVER
@DATABASES
@click.option("--delete", is_flag=True, help="Delete restored databases with their files, too.")
@JSON
def dismount(server: Path, names: tuple[str, ...], delete: bool, as_json: bool) -> None:
    """Dismount the databases of the recovery storage group, or those named.

    A mounted snapshot leaves the group, and its repository is as it was. Databases that were restored stay
    until --delete. A group with nothing in it any more is removed, so that restores go to the original place
    again.

    \b
    pillarbox recovery dismount /srv/mail
    pillarbox recovery dismount /srv/mail --database "Mailbox Store" --delete
    """
    from pillarbox.backup.recovery_group import RecoveryGroup, has_recovery_group

    with (
        pillarbox.Server.open(server, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        chosen = names or [each.name for each in group.entries()]
        take_out = group.delete if delete else group.dismount
        gone = [take_out(each, remove_empty=True) for each in chosen]
        if not chosen:
            group.remove()
        is_removed = not has_recovery_group(opened)
    data = {"dismounted": [_entry_data(each) for each in gone], "group_removed": is_removed}
    lines = [f"{each.name} is dismounted." for each in gone]
    if is_removed:
        lines.append("The recovery storage group is empty, and removed.")
    show(data, lines, as_json)


# -- a look inside


@recovery.command()
@SERVER
@ONE_DATABASE
@keys
@JSON
def mailboxes(
    server: Path, database_name: str, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """The mailboxes in the recovery storage group, and the live mailbox that each would be merged into.

    It is found by GUID, or else by name.

    \b
    pillarbox recovery mailboxes /srv/mail
    """
    from pillarbox.backup.merge.merge_mailbox import match_mailboxes
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, read_only=True) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        rows = [
            _match_data(database.name, match)
            for database in mounted_databases(group, database_name, Keys(passphrase_file, key_file))
            for match in match_mailboxes(database, opened.databases(), ACTOR)
        ]
    show(rows, [_match_line(each) for each in rows] or ["There are no mailboxes in it."], as_json)


def _match_data(database: str, match: MailboxMatch) -> dict[str, Any]:
    return {
        "database": database,
        "mailbox": match.source.name,
        "messages": match.source.messages_count,
        "size_bytes": match.source.size,
        "live_mailbox": match.target_name if match.target else None,
        "matched_by": match.by,
    }


def _match_line(row: dict[str, Any]) -> str:
    where = {
        "none": "no live mailbox",
        "several": "several live mailboxes of this name",
    }.get(row["matched_by"], f"live: {row['live_mailbox']}")
    bulk = f"{counted(row['messages'], 'message')}, {size_text(row['size_bytes'])}"
    return f"{row['database']}: {row['mailbox']}  {bulk}  ({where})"


@recovery.command()
@SERVER
@MAILBOX
@click.argument("folder_path", metavar="[FOLDER]", default="")
@ONE_DATABASE
@click.option("--limit", type=COUNT, help="List at most this many messages.")
@keys
@JSON
def look(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    database_name: str,
    limit: int | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """The folders of a recovered mailbox, or the messages of FOLDER. No content is fetched.

    \b
    pillarbox recovery look /srv/mail anna
    pillarbox recovery look /srv/mail anna Lists/2002 --limit 20
    """
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, read_only=True, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        databases = mounted_databases(group, database_name, Keys(passphrase_file, key_file))
        database, box = find_recovered(databases, mailbox_name)
        with database.read(ACTOR) as read:
            if folder_path:
                found = pillarbox.folders.by_path(read, box.root_id, folder_path)
                items = islice(pillarbox.folders.messages(read, found.folder_id), limit)
                empty = "There are no messages in it."
                show_each(map(envelope, items), envelope_line, as_json, empty=empty)
            else:
                show_each(folder_rows(read, box.root_id), folder_line, as_json)


@recovery.command("show")
@SERVER
@MAILBOX
@click.argument("message_id", metavar="MESSAGE-ID")
@ONE_DATABASE
@keys
@JSON
def show_(
    server: Path,
    mailbox_name: str,
    message_id: str,
    database_name: str,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Print a message of a recovered mailbox byte for byte; MESSAGE-ID is as `recovery look` shows it.

    \b
    pillarbox recovery show /srv/mail anna 1-2f > message.eml
    """
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, read_only=True, mount=False) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        databases = mounted_databases(group, database_name, Keys(passphrase_file, key_file))
        database, box = find_recovered(databases, mailbox_name)
        with database.read(ACTOR) as read:
            item = find_message(read, box.guid, message_id)
            if item is None:
                raise NotFound(
                    f"mailbox {box.name} has no message {message_id} there",
                    hint="see which it has with `pillarbox recovery look`",
                )
            show_raw(item, pillarbox.messages.content(read, item), as_json)
