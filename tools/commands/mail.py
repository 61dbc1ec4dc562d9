"""Mail files in and out: import, export."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pillarbox
from pillarbox.store.errors import Corrupt, InvalidContent, NotFound
from pillarbox.store.ids import id_text
from pillarbox.tools.options import ACTOR, JSON, PATH, SERVER
from pillarbox.tools.output import Step, counted, progress, show, size_text, warn
from pillarbox.tools.parameters import FORMATS, MAILBOX, complete_database
from pillarbox.tools.serving.performing import operation
from pillarbox.tools.standard_input import read_message
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.store.files.exporting import ExportFormat, ExportProgress
    from pillarbox.store.files.importing import Found, MailFiles
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
    from pillarbox.store.files.importing import MailFiles
    from pillarbox.store.files.mail_item import MailItem

    files = [path for path in paths if path != STANDARD_INPUT]
    for path in files:
        _refuse_missing_or_closed(path)
    given = [MailItem(read_message(), source="standard input")] if len(files) < len(paths) else []
    found = MailFiles(files, dialect)
    try:
        with (
            progress("importing", as_json) as step,
            operation(server, "message.import", step=step and _of_total(step, found)) as perform,
        ):
            report = perform(
                mailbox=mailbox_name,
                database=database_name,
                lone=[*(item.source for item in given), *found.lone],
                items=_plain(chain((((), item) for item in given), found)),
            )
    except KeyboardInterrupt:
        warn(["What is imported stays; the same import goes on from there."])
        raise
    show(_import_data(report, found), _import_lines(report, found), as_json)
    warn(f"  not read: {each.source}: {each.reason}" for each in found.unreadable.listed)
    if found.unreadable.count:
        raise InvalidContent(
            f"{counted(found.unreadable.count, 'file')} could not be read"
            + (": what could be is imported" if report["imported"] or report["present"] else ""),
            hint="look at what they are and at who may read them; importing again adds nothing twice",
        )


def _plain(found: Iterable[Found]) -> Iterator[list[Any]]:
    """Each message as plain values, which another process takes too."""
    for path, item in found:
        yield [
            list(path),
            item.raw,
            list(item.flags),
            item.received_ms,
            item.source,
            item.position,
            item.damage,
        ]


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


def _of_total(step: Step, found: MailFiles) -> Step:
    """Progress that knows the size of the files; who stores what they hold does not."""
    total = found.total_bytes()
    return lambda done, _, what: step(done, total, what)


def _import_data(report: dict[str, Any], found: MailFiles) -> dict[str, Any]:
    return {
        **report,
        "folders": ["/".join(path) or "Inbox" for path in report["folders"]],
        "unreadable": [each._asdict() for each in found.unreadable.listed],
        "passed_over": [each._asdict() for each in found.passed_over.listed],
    }


def _import_lines(report: dict[str, Any], found: MailFiles) -> Iterator[str]:
    yield (
        f"{counted(report['imported'], 'message')} imported ({size_text(report['size_bytes'])}),"
        f" {report['present']} were there already."
    )
    for each in report["damaged"]:
        yield f"  damaged, imported as it is: {each['source']} at {each['position']}: {each['reason']}"
    for other in found.passed_over.listed:
        yield f"  passed over: {other.source} {other.reason}"


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
