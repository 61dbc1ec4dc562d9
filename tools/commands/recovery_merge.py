"""`recovery merge`: recovered mail back into live mailboxes and public folders, or out to files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

import pillarbox
from pillarbox.store.errors import Dismounted, NotFound
from pillarbox.tools.merge_rows import MergeRow, merge_data, merge_lines, merge_step, raise_unmerged
from pillarbox.tools.operations.replicating import notice_return
from pillarbox.tools.options import ACTOR, JSON, PATH, SERVER
from pillarbox.tools.output import progress, show, warn
from pillarbox.tools.parameters import FORMATS, complete_mailbox, moment
from pillarbox.tools.recovery_sources import (
    ONE_DATABASE,
    Keys,
    find_recovered,
    group_of,
    is_public,
    mounted_databases,
)
from pillarbox.tools.repository_options import keys
from pillarbox.tools.serving.performing import let_go
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.backup.merge.filter import MergeFilter
    from pillarbox.backup.merge.merge_mailbox import MergeTarget, MergeTask
    from pillarbox.backup.merge.report import MailboxMerge, MergeOptions
    from pillarbox.backup.merge.source import MergeSource
    from pillarbox.backup.merge.target import MailboxTarget
    from pillarbox.backup.snapshot_mount import RecoveryDatabase
    from pillarbox.store.files.exporting import ExportFormat

MODES: Final = ("merge", "copy")  # those of `MergeMode`
_FILTERS = (
    click.option("--since", "since_ms", callback=moment, metavar="DATE", help="Received then or later."),
    click.option("--before", "before_ms", callback=moment, metavar="DATE", help="Received before then."),
    click.option("--folder", "folders", multiple=True, help="Only this folder and those in it."),
    click.option(
        "--exclude-folder", "folders_excluded", multiple=True, help="Leave out this folder and those in it."
    ),
    click.option("--subject", "subjects", multiple=True, help="The subject is this."),
    click.option("--subject-contains", "subjects_containing", multiple=True, help="The subject holds this."),
    click.option("--attachment", "attachments", multiple=True, help="An attachment has this name."),
    click.option(
        "--attachment-contains",
        "attachments_containing",
        multiple=True,
        help="An attachment's name contains this.",
    ),
)


def filters(command: Any) -> Any:
    """The options that say which messages to merge; each may be said again, any of its values will do."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _filter(asked: dict[str, Any]) -> MergeFilter:
    from pillarbox.backup.merge.filter import MergeFilter

    for name in ("folders", "folders_excluded"):
        asked[name] = tuple(tuple(filter(None, path.split("/"))) for path in asked[name])
    return MergeFilter(**asked)


@dataclass(frozen=True)
class _Asked:
    """The mailboxes to merge, from where, and where to."""

    mailboxes: tuple[str, ...]
    live: bool
    database: str
    to: str
    out: Path | None
    format: ExportFormat


class _Job(NamedTuple):
    """Mailboxes of one source: what is to be merged, and where to by name; what has no target, and why."""

    source: MergeSource
    tasks: list[MergeTask]
    targets: list[str]
    given_up: list[MailboxMerge]


@click.command()
@SERVER
@click.argument("mailboxes", metavar="[MAILBOX...]", nargs=-1, shell_complete=complete_mailbox)
@click.option("--all", "all_", is_flag=True, help="All mailboxes of the source.")
@ONE_DATABASE
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=MODES[0],
    show_default=True,
    help="Into the folders they were in, or into a new folder `Recovered Data ...`.",
)
@click.option("--dry-run", is_flag=True, help="Say what would come, and change nothing.")
@click.option("--to", default="", metavar="MAILBOX", help="Into this mailbox; made where it is missing.")
@click.option("--to-files", "out", type=PATH, help="Into mail files in this directory.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="eml", help="Of the mail files.")
@click.option("--live", is_flag=True, help="From a live mailbox, not from the recovery storage group.")
@click.option(
    "--archive", is_flag=True, help="With --live: remove from there what has arrived and is proven."
)
@filters
@keys
@JSON
def merge(
    server: Path,
    mailboxes: tuple[str, ...],
    all_: bool,
    database_name: str,
    mode: str,
    dry_run: bool,
    to: str,
    out: Path | None,
    format_: ExportFormat,
    live: bool,
    archive: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
    **filtered: Any,
) -> None:
    """Merge recovered mailboxes, or with / public folders, into the live ones they were, without duplicates.

    A mailbox goes into the live one of the same GUID, or else of the same name, or where --to or --to-files
    says; public folders likewise, by their store. Messages that are there already, wherever they were moved
    and whatever was changed in them, are not added again; so the same merge may be run again, and goes on
    after an interruption. Permissions and rules of folders are left as they are; but a public folder that is
    made anew has its own, and what comes back to one is read for those who had read it. What is damaged is
    listed, the rest merged, and the command ends with 30; with 20 when a mailbox could not be merged at all.

    \b
    pillarbox recovery merge /srv/mail anna --dry-run
    pillarbox recovery merge /srv/mail anna bert --mode copy
    pillarbox recovery merge /srv/mail --all --exclude-folder "Deleted Items"
    pillarbox recovery merge /srv/mail anna --to-files /tmp/anna --format mbox
    pillarbox recovery merge /srv/mail / --folder Announcements
    """
    from pillarbox.backup.merge.merge_mailbox import refuse_unknown_folders
    from pillarbox.backup.merge.report import MergeMode, MergeOptions

    asked = _Asked(mailboxes, live, database_name, to, out, format_)
    _refuse_unclear(asked, all_, archive)
    options = MergeOptions(MergeMode(mode), _filter(filtered), archive, dry_run)
    only_reads = not archive and (dry_run or out is not None)
    with (
        nullcontext() if only_reads else let_go(server),
        pillarbox.Server.open(server, read_only=only_reads) as opened,
        ExitStack() as stack,
    ):
        if not only_reads:
            notice_return(opened)
        sources = _sources(opened, asked, Keys(passphrase_file, key_file), stack)
        refuse_unknown_folders(sources, ACTOR, options.filter)
        jobs = [_job(opened, source, names, asked, only_reads) for source, names in sources]
        reports = _run(jobs, options, as_json)
    show([merge_data(each) for each in reports], merge_lines(reports, dry_run), as_json)
    raise_unmerged([each.report for each in reports])


def _refuse_unclear(asked: _Asked, all_: bool, archive: bool) -> None:
    if all_ == bool(asked.mailboxes):
        raise click.UsageError("name the mailboxes to merge, or say --all")
    public = [name for name in asked.mailboxes if is_public(name)]
    if asked.live and public:
        raise click.UsageError("--live is for mailboxes: public folders are merged from a backup")
    if asked.to and bool(public) is not is_public(asked.to):
        raise click.UsageError("--to names a mailbox for a mailbox, and /DATABASE for public folders")
    if asked.to and asked.out:
        raise click.UsageError("say --to or --to-files, not both")
    if asked.to and len(asked.mailboxes) != 1:
        raise click.UsageError("--to takes one mailbox at a time")
    if asked.live and not asked.to and not asked.out:
        raise click.UsageError("--live needs --to or --to-files: a mailbox is not merged into itself")
    if archive and not asked.live:
        raise click.UsageError("--archive is for live mailboxes: nothing is removed from a backup")
    if asked.live and asked.database:
        raise click.UsageError("--database is one of the recovery storage group; leave it out with --live")


# -- from where to where


def _sources(
    server: pillarbox.Server, asked: _Asked, opened_by: Keys, stack: ExitStack
) -> Sequence[tuple[pillarbox.Database | RecoveryDatabase, Sequence[str]]]:
    """The databases to merge from, and the names of their mailboxes; none for all."""
    if asked.live:
        return _live(server, asked.mailboxes)
    found = []
    for public in (False, True):
        names = [name for name in asked.mailboxes if is_public(name) is public]
        if names or not (asked.mailboxes or public):
            group = stack.enter_context(group_of(server, "/" if public else ""))
            found += _recovered(mounted_databases(group, asked.database, opened_by), names)
    return found


def _live(server: pillarbox.Server, names: Sequence[str]) -> list[tuple[pillarbox.Database, list[str]]]:
    from pillarbox.store.disk.tables import DatabaseKind
    from pillarbox.store.engine.database import MountState

    if not names:
        mounted = [each for each in server.databases() if each.state is not MountState.DISMOUNTED]
        return [(each, []) for each in mounted if each.kind is DatabaseKind.MAILBOX_STORE]
    return [(database, [box.name]) for database, box in map(server.mailboxes.find, names)]


def _recovered(
    databases: Sequence[RecoveryDatabase], names: Sequence[str]
) -> list[tuple[RecoveryDatabase, list[str]]]:
    if not names:
        return [(each, []) for each in databases]
    found: dict[bytes, tuple[RecoveryDatabase, list[str]]] = {}
    for database, tree in (find_recovered(databases, name) for name in names):
        found.setdefault(database.guid, (database, []))[1].append(tree.name)
    return list(found.values())


def _job(
    server: pillarbox.Server,
    source: pillarbox.Database | RecoveryDatabase,
    names: Sequence[str],
    asked: _Asked,
    only_reads: bool,
) -> _Job:
    from pillarbox.backup.merge.merge_mailbox import MergeTask, match_mailboxes
    from pillarbox.backup.merge.report import MailboxMerge
    from pillarbox.backup.merge.target import FileTarget
    from pillarbox.backup.restore import check_path_part
    from pillarbox.store.disk.tables import DatabaseKind

    if source.kind is DatabaseKind.PUBLIC_FOLDER_STORE:
        return _public_folders_job(server, source, asked)
    origin = next((each for each in server.databases() if each.guid == source.guid), None)
    if not asked.to and not asked.out:
        _refuse_dismounted(server, origin)
    job = _Job(source, [], [], [])
    for match in match_mailboxes(source, server.databases(), ACTOR, names):
        target: MergeTarget | None = match.target
        name = match.target_name
        if asked.out is not None:
            many = len(asked.mailboxes) != 1
            out = asked.out / check_path_part(match.source.name) if many else asked.out
            target, name = FileTarget(out, asked.format), str(out)
        elif asked.to:
            target, name = _find_or_create(server, asked.to, origin, only_reads), asked.to
        if target is None:
            job.given_up.append(MailboxMerge(match.source.name, error=_UNMATCHED[match.by]))
        else:
            job.tasks.append(MergeTask(match.source.guid, target))
            job.targets.append(name)
    return job


def _public_folders_job(
    server: pillarbox.Server, source: pillarbox.Database | RecoveryDatabase, asked: _Asked
) -> _Job:
    from pillarbox.backup.merge.merge_mailbox import MergeTask, match_public_folders
    from pillarbox.backup.merge.report import MailboxMerge
    from pillarbox.backup.merge.source import PUBLIC_FOLDERS
    from pillarbox.backup.merge.target import FileTarget, MailboxTarget
    from pillarbox.backup.restore import check_path_part

    if asked.out is not None:
        out = asked.out / check_path_part(source.name) if len(asked.mailboxes) != 1 else asked.out
        return _Job(source, [MergeTask(b"", FileTarget(out, asked.format))], [str(out)], [])
    if asked.to:
        database: pillarbox.Database | None = find_tree(server, asked.to).database
    else:
        database = match_public_folders(source, server.databases())
        _refuse_dismounted(server, database)
    if database is None:
        return _Job(source, [], [], [MailboxMerge(PUBLIC_FOLDERS, error=_NO_PUBLIC_FOLDERS)])
    return _Job(source, [MergeTask(b"", MailboxTarget(database, b""))], [f"/{database.label}"], [])


_NO_PUBLIC_FOLDERS = "there is no live public folder store of its GUID or name; --to /DATABASE names one"
_UNMATCHED = {
    "none": "there is no live mailbox of its GUID or name; --to names one, and makes it where it is missing",
    "several": "several live mailboxes have its name; --to names one of another name",
}


def _refuse_dismounted(server: pillarbox.Server, origin: pillarbox.Database | None) -> None:
    """Refuse a mailbox whose own database is not mounted: it must not go to another one of the name."""
    from pillarbox.store.engine.database import MountState

    if origin is not None and origin.state is MountState.DISMOUNTED:
        label = origin.label
        if reason := server.not_mounted.get(label):
            raise reason.anew()
        raise Dismounted(
            f"database {label}, to merge into, is dismounted", hint="mount it with `pillarbox mount`"
        )


def _find_or_create(
    server: pillarbox.Server, name: str, origin: pillarbox.Database | None, only_reads: bool
) -> MailboxTarget:
    from pillarbox.backup.merge.target import MailboxTarget
    from pillarbox.store.engine.database import MountState

    try:
        database, box = server.mailboxes.find(name)
    except NotFound as error:
        if only_reads:
            raise NotFound(
                str(error),
                hint="a merge makes it, with all that `pillarbox recovery look` shows; this makes nothing",
            ) from error
        is_there = origin is not None and origin.state is MountState.MOUNTED
        where = origin.label if origin is not None and is_there else ""
        database, box = server.mailboxes.create(ACTOR, name, where)
    return MailboxTarget(database, box.guid)


# -- doing it, and telling of it


def _run(jobs: Sequence[_Job], options: MergeOptions, as_json: bool) -> list[MergeRow]:
    from pillarbox.backup.merge.merge_mailbox import merge_mailboxes

    done: list[MergeRow] = []
    try:
        with progress("merging", as_json) as step:
            for job in jobs:
                told = step and merge_step(step)
                reports = merge_mailboxes(job.source, job.tasks, ACTOR, options, progress=told)
                done += map(MergeRow, reports, job.targets)
                done += [MergeRow(each, "") for each in job.given_up]
    except KeyboardInterrupt:
        warn(["What is merged stays; the same merge goes on from there."])
        raise
    return done
