"""Merge of recovered mail into live mailboxes, or out to mail files (DOMAIN.md "Recovery", mailbox merge).

Public folders are merged as mailboxes are; an empty GUID stands for those of a public folder store.

The source is read only and may be a snapshot; the target goes on being used meanwhile. Messages are added in
batches, each a transaction of its own, and marked with what they were made from: a merge that was
interrupted, or is run again, adds what is still missing and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from pillarbox.backup.merge.filter import MergeFilter
from pillarbox.backup.merge.report import MailboxMerge, MergeOptions, MergeProgress
from pillarbox.backup.merge.run import MergeRun
from pillarbox.backup.merge.source import Damage, MergeSource, folders_of, tree_of, trees_of
from pillarbox.backup.merge.target import FileDestination, FileTarget, MailboxDestination, MailboxTarget
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind, MailboxRecord, Table
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import Conflict, Corrupt, NotFound, Refused
from pillarbox.store.events import EventId
from pillarbox.store.files.exporting import mail_files
from pillarbox.store.ids import guid_text
from pillarbox.store.mail import mailboxes
from pillarbox.store.names import name_key

MergeTarget = MailboxTarget | FileTarget
Progress = Callable[[MergeProgress], None]


def merge_mailbox(
    source: MergeSource,
    source_guid: bytes,
    target: MergeTarget,
    actor: Actor,
    options: MergeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> MailboxMerge:
    """Merge one mailbox (GUID) of `source`, or with an empty GUID its public folders, into `target`.

    A batch is durable when `progress` is next called. A message of the source that is damaged is listed, and
    the others go on. Raises NotFound for a mailbox that is not there; Refused for a source that is the
    target, for a mailbox and public folders, and for a source that cannot be written in archive mode;
    AlreadyExists for a directory that holds something; Dismounted, ReadOnly, DiskFull; Corrupt for damage in
    the target. What was added before stays, and the same merge goes on there.
    """
    options = options or MergeOptions()
    _refuse(source, source_guid, target, options)
    run = MergeRun(source, source_guid, actor, options, progress)
    if isinstance(target, MailboxTarget):
        run.run(MailboxDestination(target, actor, run.origin, run.folders))
    elif options.dry_run:
        run.run(FileDestination(target, lambda path, item, title: None))
    else:
        _write_files(run, target, options)
    report = run.report()
    if not options.dry_run:
        _report_events(source, target, actor, report)
    return report


def _report_events(source: MergeSource, target: MergeTarget, actor: Actor, report: MailboxMerge) -> None:
    name, account = report.mailbox, actor.account
    if isinstance(target, MailboxTarget):
        counts = {"messages": report.merged_count, "damaged": report.damaged_count}
        if not target.guid:
            target.database.report(EventId.PUBLIC_FOLDERS_MERGED, account=account, **counts)
        else:
            with target.database.read(actor) as read:
                into = tree_of(read, target.guid).name
            target.database.report(
                EventId.MERGE_FINISHED, source=name, mailbox=into, account=account, **counts
            )
    if report.removed_count and isinstance(source, Database):
        source.report(EventId.MESSAGES_ARCHIVED, messages=report.removed_count, source=name, account=account)


def _write_files(run: MergeRun, target: FileTarget, options: MergeOptions) -> None:
    with mail_files(target.out, target.format, target.dialect) as add:
        destination = FileDestination(target, add)
        run.run(destination)
    if options.archive:
        run.remove(destination.written, destination.proven_files())


def _refuse(source: MergeSource, source_guid: bytes, target: MergeTarget, options: MergeOptions) -> None:
    if isinstance(target, MailboxTarget) and bool(source_guid) != bool(target.guid):
        raise Refused(
            "mail of a mailbox and posts of public folders are not merged into each other",
            hint="merge them out to files, and import these",
        )
    if isinstance(target, MailboxTarget) and source is target.database and source_guid == target.guid:
        raise Refused("a mailbox is not merged into itself", hint="name another target")
    if options.archive and not (isinstance(source, Database) and source.state is MountState.MOUNTED):
        raise Refused(
            "archiving removes messages from the source, which is not a database mounted for writing",
            hint="merge without it, or name a live mailbox",
        )


class MergeTask(NamedTuple):
    """A mailbox (GUID) of the source, and where it goes."""

    source_guid: bytes
    target: MergeTarget


def merge_mailboxes(
    source: MergeSource,
    tasks: Iterable[MergeTask],
    actor: Actor,
    options: MergeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> list[MailboxMerge]:
    """Merge many mailboxes of `source`, one after the other; a report for each.

    A mailbox that cannot be merged by itself (not there, damaged in the target, its directory taken) is
    reported with `error`, and the others go on. Raises Refused, Dismounted, ReadOnly, DiskFull as
    `merge_mailbox`.
    """
    reports = []
    for task in tasks:
        try:
            report = merge_mailbox(source, task.source_guid, task.target, actor, options, progress=progress)
        except (NotFound, Corrupt, Conflict) as error:
            name = _name_of(source, actor, task.source_guid)
            report = MailboxMerge(name, error=str(error))
        reports.append(report)
    return reports


def _name_of(source: MergeSource, actor: Actor, guid: bytes) -> str:
    try:
        with source.read(actor) as read:
            return tree_of(read, guid).name
    except (NotFound, Corrupt):
        return guid_text(guid)


# -- which mailboxes


def refuse_unknown_folders(
    sources: Iterable[tuple[MergeSource, Sequence[str]]], actor: Actor, chosen: MergeFilter
) -> None:
    """Call before a merge of mailboxes, given by name for each source; no names stand for all in it, and in a
    public folder store for its tree.

    Raises NotFound for a folder that the filter names, to take it or to leave it out, and none of them has:
    nobody means that.
    """
    unknown = dict.fromkeys((*chosen.folders, *chosen.folders_excluded))
    unlisted: list[Damage] = []
    for source, names in sources:
        if not unknown:
            return
        trees = trees_of(source, actor, names)
        with source.read(actor) as read:
            for tree in trees:
                for each in folders_of(read, tree.root_id, unlisted.append):
                    path = tuple(map(name_key, each.path))
                    unknown = {known: None for known in unknown if tuple(map(name_key, known)) != path}
    if unknown and not unlisted:  # what cannot be listed may be what is meant
        raise NotFound(
            f"there is no folder {'/'.join(next(iter(unknown)))!r} in what is to be merged",
            hint="list its folders with `pillarbox recovery look`",
        )


class MailboxMatch(NamedTuple):
    """A mailbox of the source and the live one it belongs to, found `by` its GUID or its name.

    `target` is None where there is none, or several have the name.
    """

    source: MailboxRecord
    target: MailboxTarget | None
    target_name: str
    by: Literal["guid", "name", "none", "several"]


def match_mailboxes(
    source: MergeSource, databases: Iterable[Database], actor: Actor, names: Sequence[str] = ()
) -> list[MailboxMatch]:
    """The mailboxes of `source`, or those `names`, each with the live mailbox of `databases` it belongs to.

    By GUID in the database of the source's GUID, then in any other, then by name (DOMAIN.md "Recovery").
    Databases that are not mounted are passed over. Raises NotFound for a name that the source does not have.
    """
    with source.read(actor) as read:
        origin = read.files.guid
        found = [mailboxes.find(read, name) for name in names] if names else list(mailboxes.all_of(read))
    live = sorted(filter(_may_take, databases), key=lambda each: each.guid != origin)
    return [_match(record, live, actor) for record in {each.guid: each for each in found}.values()]


def match_public_folders(source: MergeSource, databases: Iterable[Database]) -> Database | None:
    """The public folder store of `databases` that `source` was a state of.

    By GUID, mounted or not, else the one of the name. None when there is none, or several have the name.
    """
    live = [each for each in databases if each.kind is DatabaseKind.PUBLIC_FOLDER_STORE]
    same = [each for each in live if each.guid == source.guid]
    same = same or [each for each in live if name_key(each.name) == name_key(source.name)]
    return same[0] if len(same) == 1 else None


def _may_take(database: Database) -> bool:
    return database.kind is DatabaseKind.MAILBOX_STORE and database.state is not MountState.DISMOUNTED


def _match(record: MailboxRecord, live: Sequence[Database], actor: Actor) -> MailboxMatch:
    for database in live:
        with database.read(actor) as read:
            same: MailboxRecord | None = read.record(Table.MAILBOX, record.guid)
        if same is not None:
            return MailboxMatch(record, MailboxTarget(database, same.guid), same.name, "guid")
    named = [(database, found) for database in live if (found := _named(database, actor, record.name))]
    if len(named) != 1:
        return MailboxMatch(record, None, "", "several" if named else "none")
    database, called = named[0]
    return MailboxMatch(record, MailboxTarget(database, called.guid), called.name, "name")


def _named(database: Database, actor: Actor, name: str) -> MailboxRecord | None:
    with database.read(actor) as read:
        guid = read.index(Table.MAILBOX_NAME, name_key(name))
        return None if guid is None else mailboxes.get(read, guid)
