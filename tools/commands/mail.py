"""Mail files in and out: import, export."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pillarbox
from pillarbox.store.errors import Corrupt, InvalidContent, InvalidName, NotFound
from pillarbox.store.ids import id_text
from pillarbox.tools.options import ACTOR, JSON, PATH, SERVER
from pillarbox.tools.output import Step, counted, progress, show, size_text, warn
from pillarbox.tools.parameters import FORMATS, MAILBOX, complete_database
from pillarbox.tools.standard_input import read_message
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.store.files.exporting import ExportFormat, ExportProgress
    from pillarbox.store.files.importing import ImportProgress, ImportReport
    from pillarbox.store.files.mbox import Dialect

STANDARD_INPUT = Path("-")
DIALECTS: Final = ("mboxo", "mboxrd", "mboxcl", "mboxcl2")


@click.command("import")
@SERVER
@MAILBOX
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@click.option(
    "--dialect", type=click.Choice(DIALECTS), help="Of the mbox files; found by looking at each without it."
)
@click.option(
    "--database",
    "database_name",
    default="",
    shell_complete=complete_database,
    help="Where a new mailbox is to be, when the server has several mailbox stores.",
)
@JSON
def import_(
    server: Path,
    mailbox_name: str,
    paths: tuple[Path, ...],
    dialect: Dialect | None,
    database_name: str,
    as_json: bool,
) -> None:
    """Import mbox files, Maildirs, EML files, and directories that hold any of these.

    The mailbox is made where it is missing; / or /DATABASE stands for the public folders of the server. Each
    mbox file and each directory becomes a folder of its name; a lone EML file goes to the Inbox, which public
    folders do not have. An import may be run again: what its folder holds already is not added
    twice. A PATH of - stands for one message on standard input. A damaged message is imported as it is, and
    listed. When something could not be read, what could
    be is imported, the rest is listed on stderr, and the command ends with 29.

    \b
    pillarbox import /srv/mail anna old-mail.mbox Maildir/
    pillarbox import /srv/mail anna letter.eml --json
    pillarbox import /srv/mail / announcements.mbox
    pillarbox import /srv/mail anna - < letter.eml
    """
    from pillarbox.store.files.importing import import_mail
    from pillarbox.store.files.mail_item import MailItem

    files = [path for path in paths if path != STANDARD_INPUT]
    for path in files:
        _refuse_missing_or_closed(path)
    given = [MailItem(read_message(), source="standard input")] if len(files) < len(paths) else []
    with pillarbox.Server.open(server) as opened:
        database, guid = _find_or_create(opened, mailbox_name, database_name)
        try:
            with progress("importing", as_json) as step:
                told = step and _import_step(step)
                report = import_mail(
                    database,
                    ACTOR,
                    guid,
                    files,
                    given=given,
                    dialect=dialect,
                    progress=told,
                    processes=None,
                )
        except KeyboardInterrupt:
            warn(["What is imported stays; the same import goes on from there."])
            raise
    show(_import_data(report), _import_lines(report), as_json)
    warn(f"  not read: {each.source}: {each.reason}" for each in report.unreadable)
    if report.unreadable_count:
        raise InvalidContent(
            f"{counted(report.unreadable_count, 'file')} could not be read"
            + (": what could be is imported" if report.messages_count or report.present_count else ""),
            hint="look at what they are and at who may read them; importing again adds nothing twice",
        )


def _refuse_missing_or_closed(path: Path) -> None:
    """Raises NotFound, or NoPermission for what may not be read. What else is wrong the import lists."""
    from pillarbox.store.disk.stream import disk_error
    from pillarbox.store.files.mail_item import path_text

    if not path.exists():
        raise NotFound(f"{path_text(path)}: no such file or folder", hint="look at the path's spelling")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError as error:
        raise disk_error(error, path_text(path)) from error
    except OSError:
        return


def _import_step(step: Step) -> Any:
    def told(each: ImportProgress) -> None:
        step(each.bytes_read, each.bytes_total, each.source)

    return told


def _import_data(report: ImportReport) -> dict[str, Any]:
    return {
        "imported": report.messages_count,
        "present": report.present_count,
        "size_bytes": report.size_bytes,
        "folders": ["/".join(path) or "Inbox" for path in report.folders],
        "damaged": [each._asdict() for each in report.damaged],
        "unreadable": [each._asdict() for each in report.unreadable],
        "passed_over": [each._asdict() for each in report.passed_over],
    }


def _import_lines(report: ImportReport) -> Iterator[str]:
    yield (
        f"{counted(report.messages_count, 'message')} imported ({size_text(report.size_bytes)}),"
        f" {report.present_count} were there already."
    )
    for each in report.damaged:
        yield f"  damaged, imported as it is: {each.source} at {each.position}: {each.reason}"
    for each in report.passed_over:
        yield f"  passed over: {each.source} {each.reason}"


def _find_or_create(
    server: pillarbox.Server, name: str, database_name: str
) -> tuple[pillarbox.Database, bytes]:
    """The database and GUID of a mailbox, made where it is missing; no GUID for public folders."""
    if name.startswith("/") and database_name:
        raise InvalidName("--database is for a new mailbox", hint="for public folders, write /DATABASE")
    try:
        tree = find_tree(server, name)
    except NotFound:
        if name.startswith("/"):
            raise
        database, box = server.mailboxes.create(ACTOR, name, database_name)
        return database, box.guid
    return tree.database, tree.mailbox


@click.command()
@SERVER
@MAILBOX
@click.argument("out", type=PATH)
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option(
    "--dialect", type=click.Choice(DIALECTS), default="mboxrd", show_default=True, help="Of mbox files."
)
@JSON
def export(
    server: Path, mailbox_name: str, out: Path, format_: ExportFormat, dialect: Dialect, as_json: bool
) -> None:
    """Write a mailbox to files in the directory OUT, which must be new or empty.

    MAILBOX may be /, or /DATABASE, for the public folders of the server.
    Every message goes out byte for byte as it came in; its flags go along into a Maildir only. Of the mbox
    dialects, mboxo alone cannot give back every message as it was. A message that is damaged in the store is
    listed, the others are written, and the command ends with 30.

    \b
    pillarbox export /srv/mail anna out --format eml
    pillarbox export /srv/mail anna Maildir --format maildir
    pillarbox export /srv/mail / forums --format mbox
    """
    from pillarbox.store.files.exporting import export_mail

    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with progress("exporting", as_json) as step:
            report = export_mail(
                tree.database,
                ACTOR,
                tree.mailbox,
                out,
                format_,
                dialect=dialect,
                progress=step and _export_step(step),
            )
    damaged = [
        f"{'/'.join(each.folder)}, {id_text(each.message_id)}: {each.reason}" for each in report.damaged
    ]
    data = {
        "exported": report.messages_count,
        "folders": report.folders_count,
        "size_bytes": report.size_bytes,
        "damaged": damaged,
    }
    summary = f"{counted(report.messages_count, 'message')} exported to {out}."
    show(data, [summary], as_json)
    warn(f"  damaged, not exported: {each}" for each in damaged)
    if damaged:
        raise Corrupt(f"damaged, and missing from {out}: {counted(len(damaged), 'message')}")


def _export_step(step: Step) -> Any:
    def told(each: ExportProgress) -> None:
        step(each.messages_count, each.messages_total, "/".join(each.folder))

    return told
