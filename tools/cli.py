"""Commands of `pillarbox`: parse, call the library, print. Exit codes are those of docs/operations.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pillarbox.store import folder, mailbox, message
from pillarbox.store.access import Actor
from pillarbox.store.check import check_database
from pillarbox.store.database import Database, MountState
from pillarbox.store.database_limits import Edition
from pillarbox.store.errors import NotFound, PillarboxError
from pillarbox.store.export_mail import export_mail
from pillarbox.store.ids import id_text, parse_id
from pillarbox.store.import_mail import import_mail
from pillarbox.store.server import Server
from pillarbox.store.tables import ItemRecord, MailboxRecord
from pillarbox.tools.output import megabytes, show

ACTOR = Actor.administrator("command line")
SERVER = click.argument("server", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Group(click.Group):
    """Shows a person's mistakes as one line and a hint, with the exit code of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PillarboxError as error:
            click.echo(f"pillarbox: {error}" + (f"\n  {error.hint}" if error.hint else ""), err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Group)
def cli() -> None:
    """Keep mail in one durable store.

    \b
    pillarbox init /srv/mail
    pillarbox import /srv/mail anna old-mail.mbox
    pillarbox status /srv/mail
    """


@cli.command()
@SERVER
@click.option("--edition", type=click.Choice([each.value for each in Edition]), default="standard")
@JSON
def init(server: Path, edition: str, as_json: bool) -> None:
    """Make a new server at SERVER."""
    Server.create(server, Edition(edition)).close()
    show({"server": str(server), "edition": edition}, [f"{server} is ready ({edition})."], as_json)


@cli.command()
@SERVER
@JSON
def status(server: Path, as_json: bool) -> None:
    """Databases, their sizes against their limits, and mailboxes."""
    with Server.open(server, read_only=True) as opened:
        databases = [_database_status(opened, each) for each in opened.databases()]
    lines = []
    for each in databases:
        lines.append(f"{each['database']}: {each['state']}")
        if "error" in each:
            lines.append(f"  {each['error']}")
            continue
        sizes = (megabytes(each[f"{name}_bytes"]) for name in ("logical_size", "physical_size", "limit"))
        lines.append("  {} used, {} on disk, limit {}".format(*sizes))
        lines += [
            f"  {box['mailbox']}: {box['messages']} messages, {megabytes(box['size_bytes'])}"
            for box in each["mailboxes"]
        ]
    show(databases, lines, as_json)


def _database_status(server: Server, database: Database) -> dict[str, Any]:
    found: dict[str, Any] = {"database": database.name, "state": database.state.value}
    if database.state is MountState.DISMOUNTED:
        reason = server.not_mounted.get(server.label(database)) or database.dismount_reason
        return {**found, "error": str(reason)}
    with database.read(ACTOR) as read:
        boxes = [
            {"mailbox": box.name, "messages": box.messages_count, "size_bytes": box.size}
            for box in mailbox.all_of(read)
        ]
    return {
        **found,
        "logical_size_bytes": database.logical_size_bytes(),
        "physical_size_bytes": database.physical_size_bytes(),
        "limit_bytes": database.limits.limit_bytes,
        "mailboxes": boxes,
    }


@cli.command("import")
@SERVER
@click.argument("mailbox_name", metavar="MAILBOX")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@JSON
def import_(server: Path, mailbox_name: str, paths: tuple[Path, ...], as_json: bool) -> None:
    """Import mbox files, Maildirs, EML files and folders of them. The mailbox is made where it is missing."""
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path}: no such file or folder", hint="look at the path's spelling")
    with Server.open(server) as opened:
        database, box = _find_or_create(opened, mailbox_name)
        report = import_mail(database, ACTOR, box.guid, paths)
    remarks = [f"  {each.source} at {each.position}: {each.reason}" for each in report.damaged]
    remarks += [f"  not read: {each.source}: {each.reason}" for each in report.unreadable]
    data = {
        "imported": report.messages_count,
        "present": report.present_count,
        "damaged": [each._asdict() for each in report.damaged],
        "unreadable": [each._asdict() for each in report.unreadable],
    }
    summary = f"{report.messages_count} messages imported, {report.present_count} were there already."
    show(data, [summary, *remarks], as_json)


def _find_or_create(server: Server, name: str) -> tuple[Database, MailboxRecord]:
    try:
        return server.find_mailbox(name)
    except NotFound:
        return server.create_mailbox(ACTOR, name)


@cli.command()
@SERVER
@click.argument("mailbox_name", metavar="MAILBOX")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(["eml", "mbox", "maildir"]), required=True)
@JSON
def export(server: Path, mailbox_name: str, out: Path, format_: Any, as_json: bool) -> None:
    """Write a mailbox to files in OUT."""
    with Server.open(server, read_only=True) as opened:
        database, box = opened.find_mailbox(mailbox_name)
        report = export_mail(database, ACTOR, box.guid, out, format_)
    damaged = [f"{id_text(each.message_id)}: {each.reason}" for each in report.damaged]
    data = {"exported": report.messages_count, "folders": report.folders_count, "damaged": damaged}
    show(data, [f"{report.messages_count} messages exported to {out}.", *damaged], as_json)


@cli.command("list")
@SERVER
@click.argument("mailbox_name", metavar="MAILBOX")
@click.argument("folder_path", metavar="[FOLDER]", default="")
@JSON
def list_(server: Path, mailbox_name: str, folder_path: str, as_json: bool) -> None:
    """The folders of a mailbox, or the messages of FOLDER (`Lists/2002`)."""
    with Server.open(server, read_only=True) as opened:
        database, box = opened.find_mailbox(mailbox_name)
        with database.read(ACTOR) as read:
            if folder_path:
                found = folder.by_path(read, box.root_id, folder_path)
                items = [_envelope(item) for item in folder.messages(read, found.folder_id)]
                lines = [f"{each['id']:>8}  {each['from'][:30]:30}  {each['subject']}" for each in items]
            else:
                items = [
                    {"folder": "/".join(path), "messages": each.messages_count, "unread": each.unread_count}
                    for path, each in folder.walk(read, box.root_id)
                ]
                lines = [f"{each['messages']:>8}  {each['folder']}" for each in items]
    show(items, lines, as_json)


def _envelope(item: ItemRecord) -> dict[str, Any]:
    return {
        "id": id_text(item.message_id),
        "uid": item.uid,
        "from": item.sender,
        "to": item.to,
        "subject": item.subject,
        "date_ms": item.date_ms,
        "size_bytes": item.size,
        "flags": list(message.flag_names(item)),
        "has_attachment": item.has_attachment,
    }


@cli.command("show")
@SERVER
@click.argument("mailbox_name", metavar="MAILBOX")
@click.argument("message_id", metavar="MESSAGE-ID")
@JSON
def show_(server: Path, mailbox_name: str, message_id: str, as_json: bool) -> None:
    """Print a message, byte for byte as it came. MESSAGE-ID is as `list` shows it."""
    number = parse_id(message_id)
    with Server.open(server, read_only=True) as opened:
        database, box = opened.find_mailbox(mailbox_name)
        with database.read(ACTOR) as read:
            missing = NotFound(f"mailbox {mailbox_name} has no message {message_id}")
            if number is None:
                raise missing
            item = message.get(read, number)
            if folder.get(read, item.folder_id).mailbox != box.guid:
                raise missing
            raw = message.content(read, item)
    if as_json:
        show({**_envelope(item), "content": raw.decode("utf-8", "replace")}, [], as_json)
    else:
        sys.stdout.buffer.write(raw)


@cli.command()
@SERVER
@JSON
@click.pass_context
def check(ctx: click.Context, server: Path, as_json: bool) -> None:
    """Prove every database whole. Exit code 0: clean, 1: damage was found."""
    found: list[str] = []
    with Server.open(server, read_only=True) as opened:
        for database in opened.databases():
            if database.state is MountState.DISMOUNTED:
                reason = opened.not_mounted.get(opened.label(database)) or database.dismount_reason
                found.append(f"{database.name}: {reason}")
            else:
                report = check_database(database, ACTOR)
                found += [f"{database.name}: {finding}" for finding in report.findings]
    show({"clean": not found, "findings": found}, found or ["No damage was found."], as_json)
    ctx.exit(1 if found else 0)
