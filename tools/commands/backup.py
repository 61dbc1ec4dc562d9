"""Backups: snapshots of storage groups, what is in them, restores, retention."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pillarbox.store.clock import SystemClock
from pillarbox.store.ids import guid_text
from pillarbox.tools.commands import backup_status, capture, repository, restore, retention
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, counting, progress, show, size_text
from pillarbox.tools.parameters import complete_group
from pillarbox.tools.repository_options import (
    DATABASES,
    GROUP,
    OF,
    REPOSITORY,
    SNAPSHOT,
    keys,
    open_repository,
)
from pillarbox.tools.snapshot_rows import database_lines, snapshot_data, snapshot_line, warn_unreadable
from pillarbox.tools.snapshot_source import open_source, raise_left_out

if TYPE_CHECKING:
    from pillarbox.backup.database_snapshot import StoredDatabase
    from pillarbox.backup.diff import FolderDiff
    from pillarbox.backup.repository.repository import Repository, Snapshot
    from pillarbox.store.engine.transaction import Reader

# Those of `SnapshotKind` that a person asks for: captures have commands of their own.
KINDS: Final = ("full", "copy", "incremental", "differential")


@click.group()
def backup() -> None:
    """Snapshots of storage groups in a repository, and restores.

    REPO is a directory or s3://BUCKET/PREFIX. What it holds is encrypted unless it was made with
    --no-encryption; the passphrase comes from PILLARBOX_PASSPHRASE, --passphrase-file, or --key-file.
    SNAPSHOT is an id or how one begins, `latest`, or a moment: @2026-11-25T10:00:00Z. Where REPO holds
    several servers, `latest` and a moment need --of NAME or --of ID, but in commands that name a SERVER.

    \b
    export PILLARBOX_PASSPHRASE='correct horse battery staple'
    pillarbox backup init /backup/mail
    pillarbox backup create /srv/mail /backup/mail
    pillarbox backup list /backup/mail
    """


# -- snapshots


for part in (
    repository.init,
    repository.check,
    repository.copy,
    capture.capture_,
    retention.run_due_,
    retention.prune_,
    retention.forget,
    restore.restore,
    restore.discard_replaced_,
    backup_status.status,
):
    backup.add_command(part)


@backup.command()
@SERVER
@REPOSITORY
@click.option("--group", "group_name", shell_complete=complete_group, help="The storage group to back up.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default=KINDS[0],
    show_default=True,
    help="How it is marked; each stores only what is new, and restores by itself.",
)
@keys
@JSON
def create(
    server: Path,
    repo: str,
    group_name: str | None,
    kind: str,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Take a snapshot of a storage group: all its databases at one moment, while other processes use them.

    A database that is not mounted is left out: the others are backed up, and the command ends with 54.

    \b
    pillarbox backup create /srv/mail /backup/mail
    pillarbox backup create /srv/mail /backup/mail --kind incremental
    """
    from pillarbox.backup.repository.repository import SnapshotKind
    from pillarbox.backup.snapshot import GroupSnapshot

    repository = open_repository(repo, passphrase_file, key_file)
    with open_source(server, group_name) as source, progress("backing up", as_json) as step:
        total = sum(database.stream.total_bytes() for database in source.databases)
        run = GroupSnapshot(
            source,
            repository,
            clock=SystemClock(),
            kind=SnapshotKind(kind),
            progress=step and counting(step, total),
        )
        snapshot = run.run()
    data = {**snapshot_data(snapshot), "freeze_ms": run.freeze_ms}
    show(
        data, [f"Snapshot {snapshot.id} of {source.group} is in {repo}.", *database_lines(snapshot)], as_json
    )
    raise_left_out(source)


@backup.command("list")
@REPOSITORY
@click.option("--captures", is_flag=True, help="With the captured moments between snapshots.")
@keys
@JSON
def list_(
    repo: str, captures: bool, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """The snapshots in a repository, oldest first.

    \b
    pillarbox backup list /backup/mail
    pillarbox backup list /backup/mail --captures --json
    """
    from pillarbox.backup.retention import is_capture

    repository = open_repository(repo, passphrase_file, key_file)
    found = [each for each in repository.snapshots() if captures or not is_capture(each)]
    rows = [snapshot_data(each) for each in found]
    show(rows, [snapshot_line(each) for each in found] or ["There is no snapshot yet."], as_json)
    warn_unreadable(repository.unreadable_snapshots())


@backup.command("show")
@REPOSITORY
@SNAPSHOT
@GROUP
@OF
@keys
@JSON
def show_(
    repo: str,
    snapshot: str,
    group_name: str | None,
    of: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Show a snapshot: databases, mailboxes, folders, sizes.

    \b
    pillarbox backup show /backup/mail latest
    pillarbox backup show /backup/mail @2026-11-25T10:00:00Z --json
    """
    from pillarbox.backup.database_snapshot import read_stored_database
    from pillarbox.backup.find_snapshot import find_snapshot
    from pillarbox.backup.snapshot import snapshot_databases

    repository = open_repository(repo, passphrase_file, key_file)
    found = find_snapshot(repository, snapshot, group=group_name, of=of)
    data = snapshot_data(found)
    lines = [snapshot_line(found)]
    for entry, (_, root) in zip(data["databases"], snapshot_databases(found), strict=True):
        stored = read_stored_database(repository, root)
        entry["contents"] = _contents(repository, stored)
        lines.append(f"{entry['database']} ({size_text(entry['stream_bytes'] + entry['records_bytes'])})")
        for box in entry["contents"]:
            name = box["mailbox"] or "public folders"
            lines.append(f"  {name}: {counted(box['messages'], 'message')}, {size_text(box['size_bytes'])}")
            lines += [
                f"    {each['messages']:>8,}  {size_text(each['size_bytes']):>9}  {each['folder']}"
                for each in box["folders"]
            ]
    show(data, lines, as_json)


def _contents(repository: Repository, stored: StoredDatabase) -> list[dict[str, Any]]:
    """Mailboxes with their folders, and public folders under no mailbox's name."""
    from pillarbox.backup.stored_contents import read_folders, read_mailboxes

    folders = {each.folder_id: each for each in read_folders(repository, stored.contents)}
    paths: dict[int, str] = {}

    def path_of(folder_id: int, depth: int = 0) -> str:
        each = folders.get(folder_id)
        if each is None or each.parent_id not in folders or depth > len(folders):
            return ""
        if folder_id not in paths:
            outer = path_of(each.parent_id, depth + 1)
            paths[folder_id] = f"{outer}/{each.name}" if outer else each.name
        return paths[folder_id]

    boxes: list[dict[str, Any]] = [
        {
            "mailbox": each.name,
            "guid": each.guid,
            "messages": each.messages_count,
            "size_bytes": each.size_bytes,
        }
        for each in read_mailboxes(repository, stored.contents)
    ]
    public = [each for each in folders.values() if not each.mailbox]
    if public:
        totals = {"messages": sum(each.messages_count for each in public)}
        boxes.append(
            {"mailbox": "", "guid": b"", **totals, "size_bytes": sum(each.size_bytes for each in public)}
        )
    for box in boxes:
        inner = [each for each in folders.values() if each.mailbox == box["guid"] and path_of(each.folder_id)]
        box["folders"] = [
            {
                "folder": path_of(each.folder_id),
                "messages": each.messages_count,
                "size_bytes": each.size_bytes,
            }
            for each in sorted(inner, key=lambda each: path_of(each.folder_id))
        ]
        box["guid"] = guid_text(box["guid"]) if box["guid"] else ""
    return boxes


@backup.command()
@REPOSITORY
@click.argument("before")
@click.argument("after")
@GROUP
@OF
@keys
@JSON
def diff(
    repo: str,
    before: str,
    after: str,
    group_name: str | None,
    of: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Show what changed from snapshot BEFORE to snapshot AFTER, folder by folder.

    Their records are read, no content. A message that was moved is added in one folder, removed in another.

    \b
    pillarbox backup diff /backup/mail 3f2a latest
    """
    from pillarbox.backup.diff import diff_database
    from pillarbox.backup.find_snapshot import find_snapshot

    repository = open_repository(repo, passphrase_file, key_file)
    rows = []
    with ExitStack() as stack:
        olds = _readers(stack, repository, find_snapshot(repository, before, group=group_name, of=of))
        news = _readers(stack, repository, find_snapshot(repository, after, group=group_name, of=of))
        for guid in {**olds, **news}:
            name, old = olds.get(guid, ("", None))
            new_name, new = news.get(guid, (name, None))
            rows += [_diff_data(new_name, each) for each in diff_database(old, new)]
    show(rows, [_diff_line(each) for each in rows] or ["Nothing changed."], as_json)


def _readers(
    stack: ExitStack, repository: Repository, snapshot: Snapshot
) -> dict[bytes, tuple[str, Reader | None]]:
    """Name and records of each database of a snapshot, by GUID, brought to a place that goes with `stack`."""
    from tempfile import TemporaryDirectory

    from pillarbox.backup.restore import restorable_databases, restore_records
    from pillarbox.backup.snapshot_mount import open_snapshot_mount

    found: dict[bytes, tuple[str, Reader | None]] = {}
    for each in restorable_databases(snapshot):
        place = Path(stack.enter_context(TemporaryDirectory(prefix="pillarbox-diff-"))) / "database"
        restore_records(repository, each, place)
        opened = open_snapshot_mount(repository, each, place)
        stack.callback(opened.close)
        found[each.guid] = each.name, stack.enter_context(opened.read(ACTOR))
    return found


def _diff_data(database: str, each: FolderDiff) -> dict[str, Any]:
    return {"database": database, **each._asdict()}


def _diff_line(row: dict[str, Any]) -> str:
    where = "/".join(filter(None, (row["mailbox"] or row["database"], row["path"])))
    said = []
    if row["is_gone"]:
        said.append("gone")
    elif row["is_new"]:
        said.append("new")
    elif row["path_before"] != row["path"]:
        said.append(f"was {row['path_before']}")
    for word, sign in (("added", "+"), ("removed", "-")):
        if row[f"{word}_count"]:
            size = size_text(row[f"{word}_bytes"])
            said.append(f"{sign}{counted(row[f'{word}_count'], 'message')} ({size})")
    if row["changed_count"]:
        said.append(f"{row['changed_count']} changed")
    return f"{where}: {', '.join(said)}"


@backup.command()
@REPOSITORY
@SNAPSHOT
@GROUP
@OF
@DATABASES
@keys
@JSON
def verify(
    repo: str,
    snapshot: str,
    group_name: str | None,
    of: str | None,
    names: tuple[str, ...],
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Restore a snapshot to scratch and run the store's integrity check on it. Damage ends with 30.

    What came of it is kept in REPO, for `pillarbox backup status`; backups store anew what was found damaged.
    Needs as much disk as the snapshot's databases, for as long as it runs, where temporary files go (TMPDIR).

    \b
    pillarbox backup verify /backup/mail latest
    """
    from tempfile import TemporaryDirectory

    from pillarbox.backup.find_snapshot import find_snapshot
    from pillarbox.backup.verification import verify_snapshot

    repository = open_repository(repo, passphrase_file, key_file)
    found = find_snapshot(repository, snapshot, group=group_name, of=of)
    with (
        TemporaryDirectory(prefix="pillarbox-verify-") as scratch,
        progress("verifying", as_json) as step,
    ):
        restored = verify_snapshot(
            repository,
            found,
            Path(scratch),
            names=names,
            clock=SystemClock(),
            progress=step and counting(step, _stream_bytes(found)),
        )
    data = {"snapshot": found.id, "verified": [each.name for each in restored]}
    show(data, [f"{each.name}: whole" for each in restored], as_json)


def _stream_bytes(snapshot: Snapshot) -> int:
    from pillarbox.backup.snapshot import snapshot_databases

    return sum(int(entry.get("stream_bytes") or 0) for entry, _ in snapshot_databases(snapshot))
