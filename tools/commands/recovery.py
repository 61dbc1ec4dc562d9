"""The recovery groups: what is in them, what comes and goes, and a look into what is recovered."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import NotFound
from pillarbox.tools.commands.recovery_look import look, mailboxes, show_
from pillarbox.tools.commands.recovery_merge import merge
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import counting, progress, show
from pillarbox.tools.recovery_sources import Keys
from pillarbox.tools.repository_options import GROUP, OF_ANOTHER, keys, location_of, open_repository
from pillarbox.tools.snapshot_rows import raise_lost

if TYPE_CHECKING:
    from pillarbox.backup.find_snapshot import FoundDatabases
    from pillarbox.backup.recovery_config import RecoveryEntry
    from pillarbox.backup.recovery_group import OnLost, RecoveryGroup
    from pillarbox.store.disk.tables import DatabaseKind
    from pillarbox.store.upkeep.repair_rebuild import LostMessage

DATABASES = click.option("--database", "names", multiple=True, help="Only this database; may be said again.")


@click.group()
def recovery() -> None:
    """The recovery storage group: recovered databases beside the live ones, which no client reaches.

    It takes mailbox stores; public folder stores have a group of their own beside it, the public folder
    recovery group. MAILBOX may be /, or /DATABASE, for recovered public folders.

    `mount` takes a snapshot straight from its repository: only records are copied, content is fetched when it
    is touched, so that the passphrase is needed again by the commands that look into it or merge from it
    (PILLARBOX_PASSPHRASE, --passphrase-file, --key-file).

    \b
    pillarbox recovery mount /srv/mail /backup/mail latest
    pillarbox recovery merge /srv/mail anna --dry-run
    pillarbox recovery merge /srv/mail anna
    pillarbox recovery dismount /srv/mail
    """


recovery.add_command(mailboxes)
recovery.add_command(look)
recovery.add_command(show_)
recovery.add_command(merge)


# -- what is in it


@recovery.command("list")
@SERVER
@JSON
def list_(server: Path, as_json: bool) -> None:
    """The recovered databases of both groups, where they come from, and whether they are mounted.

    \b
    pillarbox recovery list /srv/mail
    """
    from pillarbox.backup.restore import RECOVERY_TITLES
    from pillarbox.store.disk.tables import DatabaseKind
    from pillarbox.store.server_config import KIND_TEXTS

    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        groups = _groups(opened)
        found = {group.kind: group.entries() for group in groups}
        sources = {group.kind: group.source for group in groups}
        override = any(group.override for group in groups)
    source = sources.get(DatabaseKind.MAILBOX_STORE)
    data = {
        "source_server": source and source.server,
        "source_group": source and source.group,
        "override": override,
        "databases": [_entry_data(each, kind) for kind, entries in found.items() for each in entries],
    }
    lines = []
    for kind, entries in found.items():
        come_from = sources[kind]
        if come_from is None:
            lines.append(f"The {RECOVERY_TITLES[kind]} is empty.")
        else:
            lines.append(
                f"{KIND_TEXTS[kind].capitalize()}s of {come_from.group} of server {come_from.server}:"
            )
        lines += map(_entry_line, entries)
    if override:
        lines.append("Restores go to the original place all the same: the override is set.")
    show(data, lines, as_json)


def _groups(server: pillarbox.Server) -> list[RecoveryGroup]:
    """The recovery groups that there are. Raises NotFound when there is none."""
    from pillarbox.backup.recovery_group import RecoveryGroup, recovery_groups

    found = recovery_groups(server, clock=SystemClock())
    return found or [RecoveryGroup.open(server, clock=SystemClock())]


def _entry_data(entry: RecoveryEntry, kind: DatabaseKind) -> dict[str, Any]:
    from pillarbox.store.server_config import KIND_TEXTS

    return {
        "database": entry.name,
        "kind": KIND_TEXTS[kind],
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
    """Set whether a restore to the server goes to the original place while there is a recovery storage group.

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
@click.option("--keep-going", is_flag=True, help="Mount what is whole of a damaged snapshot, name the rest.")
@keys
@JSON
def mount(
    server: Path,
    repo: str,
    snapshot: str,
    group_name: str | None,
    of: str | None,
    names: tuple[str, ...],
    keep_going: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Mount the mailbox stores and public folder stores of SNAPSHOT, straight from the repository.

    Mailbox stores go to the recovery storage group, public folder stores to the public folder recovery group;
    either is made where it is missing. All come, or none; each group takes those of one storage group.
    `latest` and a moment mean the newest that this server's databases are in. A snapshot of another server is
    mounted only with --of, which names that server: a merge from it puts mail into mailboxes of this one.
    Without REPO and SNAPSHOT, databases whose files were restored are mounted.
    Damaged content is met when it is read, and a merge names it; a database with damaged records is mounted
    only with --keep-going, which restores what is whole of it into its group, and names each message that is
    lost.

    \b
    pillarbox recovery mount /srv/mail /backup/mail latest
    pillarbox recovery mount /srv/mail /backup/mail latest --database Sales
    """
    from pillarbox.backup.restore import RECOVERY_TITLES

    if bool(repo) != bool(snapshot):
        raise click.UsageError("say which snapshot of the repository: `latest`, or an id of `backup list`")
    lost: list[LostMessage] = []
    on_lost = (lambda _, message: lost.append(message)) if keep_going else None
    if repo:
        opened_by = Keys(passphrase_file, key_file)
        mounted = _mount_snapshot(
            server, repo, snapshot, (group_name, of), names, opened_by, on_lost, as_json
        )
    else:
        mounted = _mount_restored(server, names)
    lines = [f"{each.name} is mounted in the {RECOVERY_TITLES[kind]}." for kind, each in mounted]
    show([_entry_data(each, kind) for kind, each in mounted], lines, as_json)
    raise_lost(lost)


def _mount_snapshot(
    server: Path,
    repo: str,
    snapshot: str,
    told_apart: tuple[str | None, str | None],
    names: tuple[str, ...],
    opened_by: Keys,
    on_lost: OnLost | None,
    as_json: bool,
) -> list[tuple[DatabaseKind, RecoveryEntry]]:
    from pillarbox.backup.find_snapshot import find_for_server, stores_of_kind
    from pillarbox.backup.recovery_group import RecoveryGroup, recovery_groups
    from pillarbox.backup.snapshot_owner import mark_of
    from pillarbox.store.disk.tables import DatabaseKind

    group_name, of = told_apart
    with pillarbox.Server.open(server, mount=False) as opened, ExitStack() as undo:
        repository = open_repository(repo, *opened_by)
        found = find_for_server(repository, snapshot, mark_of(opened), of=of, group=group_name, names=names)
        chosen = [(kind, each) for kind in DatabaseKind for each in stores_of_kind(found, kind)]
        if not chosen:
            raise NotFound(
                "the snapshot holds no database", hint="see what it holds with `pillarbox backup show`"
            )
        mounted = []
        before = {group.kind for group in recovery_groups(opened, clock=SystemClock())}
        with progress("mounting", as_json) as step:
            told = step and counting(step, sum(_records_bytes(each) for _, each in chosen))
            for kind, each in chosen:
                group = RecoveryGroup.open_or_begin(opened, clock=SystemClock(), kind=kind)
                for entry in group.mount_snapshot(
                    repository,
                    location_of(repo),
                    each.snapshot,
                    names=each.names,
                    foreign=of is not None,
                    on_lost=on_lost,
                    progress=told,
                ):
                    undo.callback(group.delete, entry.name, remove_empty=kind not in before)
                    mounted.append((kind, entry))
        undo.pop_all()
    return mounted


def _records_bytes(found: FoundDatabases) -> int:
    from pillarbox.backup.snapshot import snapshot_databases

    guids = {database.guid for database in found.databases}
    entries = [entry for entry, _ in snapshot_databases(found.snapshot) if entry["guid"] in guids]
    return sum(int(entry.get("records_bytes") or 0) for entry in entries)


def _mount_restored(server: Path, names: tuple[str, ...]) -> list[tuple[DatabaseKind, RecoveryEntry]]:
    with pillarbox.Server.open(server, mount=False) as opened:
        chosen = [
            (group, entry.name)
            for group in _groups_with(_groups(opened), names)
            for entry in group.entries()
            if (_is_named(entry, names) if names else not entry.is_mounted)
        ]
        if not chosen:
            raise NotFound(
                "none of the recovered databases is dismounted",
                hint="name a repository and a snapshot to mount",
            )
        return [(group.kind, group.mount(name)) for group, name in chosen]


@recovery.command()
@SERVER
@DATABASES
@click.option("--delete", is_flag=True, help="Delete restored databases with their files, too.")
@JSON
def dismount(server: Path, names: tuple[str, ...], delete: bool, as_json: bool) -> None:
    """Dismount the recovered databases, of mailboxes and of public folders, or those named.

    A mounted snapshot leaves its group, and its repository is as it was. Databases that were restored stay
    until --delete. A group with nothing in it any more is removed, so that restores go to the original place
    again.

    \b
    pillarbox recovery dismount /srv/mail
    pillarbox recovery dismount /srv/mail --database "Mailbox Store" --delete
    """
    from pillarbox.backup.recovery_group import recovery_groups

    gone = []
    with pillarbox.Server.open(server, mount=False) as opened:
        groups = _groups(opened)
        for group in _groups_with(groups, names):
            chosen = [each.name for each in group.entries() if not names or _is_named(each, names)]
            take_out = group.delete if delete else group.dismount
            gone += [(group.kind, take_out(each, remove_empty=True)) for each in chosen]
            if not names and not chosen:
                group.remove()
        left = {group.kind for group in recovery_groups(opened, clock=SystemClock())}
    data = {"dismounted": [_entry_data(each, kind) for kind, each in gone], "group_removed": not left}
    lines = [_gone_line(each, delete) for _, each in gone]
    lines += [f"The {group.title} is empty, and removed." for group in groups if group.kind not in left]
    show(data, lines, as_json)


def _gone_line(entry: RecoveryEntry, delete: bool) -> str:
    from pillarbox.backup.recovery_config import HeldAs

    if entry.held_as is HeldAs.REPOSITORY:
        return f"{entry.name} is dismounted."
    return f"{entry.name} is {'deleted' if delete else 'dismounted; its files stay until --delete'}."


def _is_named(entry: RecoveryEntry, names: tuple[str, ...]) -> bool:
    from pillarbox.store.names import name_key

    return name_key(entry.name) in map(name_key, names)


def _groups_with(groups: list[RecoveryGroup], names: tuple[str, ...]) -> list[RecoveryGroup]:
    """The groups themselves. Raises NotFound when none of them has a database of one of the names."""
    entries = [entry for group in groups for entry in group.entries()]
    for name in names:
        if not any(_is_named(entry, (name,)) for entry in entries):
            known = ", ".join(entry.name for entry in entries) or "there is none"
            raise NotFound(f"there is no recovered database {name!r}", hint=f"its databases: {known}")
    return groups
