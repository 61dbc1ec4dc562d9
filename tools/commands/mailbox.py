"""Mailboxes: create, list, show, rename, move, disconnect, reconnect, purge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import pillarbox
from pillarbox.store.ids import parse_guid
from pillarbox.tools.mail_rows import mailbox_row
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, local_time, progress, show, size_text, warn
from pillarbox.tools.parameters import DATABASE, MAILBOX, YES, complete_database
from pillarbox.tools.serving.performing import operation


@click.group("mailbox")
def mailbox_() -> None:
    """Mailboxes of a server."""


def _line(box: dict[str, Any]) -> str:
    apart = f"  disconnected {local_time(box['disconnected_ms'])}" if box["disconnected"] else ""
    size = size_text(box["size_bytes"])
    return f"{box['mailbox']:24} {box['messages']:>8,} messages  {size:>10}  {box['database']}{apart}"


@mailbox_.command("create")
@SERVER
@click.argument("name")
@click.option(
    "--database",
    "database_name",
    default="",
    shell_complete=complete_database,
    help="Where it is to be, when the server has several mailbox stores.",
)
@JSON
def create(server: Path, name: str, database_name: str, as_json: bool) -> None:
    """Make the mailbox NAME, with the standard folders.

    \b
    pillarbox mailbox create /srv/mail anna
    pillarbox mailbox create /srv/mail bert --database "Mailbox Store 2"
    """
    with operation(server, "mailbox.create") as perform:
        data = perform(name=name, database=database_name)
    show(data, [f"Mailbox {data['mailbox']} is there, in {data['database']}."], as_json)


@mailbox_.command("list")
@SERVER
@click.option(
    "--database",
    "database_name",
    default="",
    shell_complete=complete_database,
    help="Only mailboxes of this database.",
)
@click.option("--disconnected", is_flag=True, help="Only those that were taken from their users.")
@JSON
def list_mailboxes(server: Path, database_name: str, disconnected: bool, as_json: bool) -> None:
    """Mailboxes, with their sizes and databases.

    \b
    pillarbox mailbox list /srv/mail
    pillarbox mailbox list /srv/mail --disconnected --json
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        stores = [opened.database(database_name)] if database_name else list(opened.databases())
        found = [
            data
            for database in stores
            for data in _mailboxes(opened, database, asked_for=bool(database_name))
            if data["disconnected"] or not disconnected
        ]
    show(found, map(_line, found) if found else ["There are no such mailboxes."], as_json)


def _mailboxes(
    server: pillarbox.Server, database: pillarbox.Database, asked_for: bool
) -> Iterator[dict[str, Any]]:
    from pillarbox.store.disk.tables import DatabaseKind
    from pillarbox.store.engine.database import MountState

    if database.kind != DatabaseKind.MAILBOX_STORE:
        return
    if database.state is MountState.DISMOUNTED and not asked_for:
        label = database.label
        warn(
            [f"pillarbox: {label} is not mounted, its mailboxes are not listed: `pillarbox status` says why"]
        )
        return
    for box in server.mailboxes.all_of(database):
        yield mailbox_row(database, box)


@mailbox_.command("show")
@SERVER
@MAILBOX
@JSON
def show_mailbox(server: Path, mailbox_name: str, as_json: bool) -> None:
    """One mailbox: its identity, its size, its folders.

    \b
    pillarbox mailbox show /srv/mail anna
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        database, box = opened.mailboxes.find(mailbox_name)
        with database.read(ACTOR) as read:
            shown: list[dict[str, Any]] = [
                {"folder": "/".join(path), "messages": each.messages_count, "size_bytes": each.size}
                for path, each in pillarbox.folders.walk(read, box.root_id)
            ]
    data = mailbox_row(database, box)
    lines = [
        f"{box.name}: {counted(box.messages_count, 'message')}, {size_text(box.size)}, in {database.label}",
        f"GUID {data['guid']}, user {data['user'] or 'of no directory'}",
    ]
    if data["disconnected"]:
        lines.append(f"disconnected {local_time(box.disconnected_ms)}")
    lines += [
        f"{each['messages']:>8,} {size_text(each['size_bytes']):>10}  {each['folder']}" for each in shown
    ]
    show({**data, "folders": shown}, lines, as_json)


@mailbox_.command("rename")
@SERVER
@MAILBOX
@click.argument("name")
@JSON
def rename(server: Path, mailbox_name: str, name: str, as_json: bool) -> None:
    """Give a mailbox another name.

    \b
    pillarbox mailbox rename /srv/mail anna anna.miller
    """
    with operation(server, "mailbox.rename") as perform:
        data = perform(mailbox=mailbox_name, name=name)
    show(data, [f"The mailbox is called {data['mailbox']}."], as_json)


@mailbox_.command("move")
@SERVER
@MAILBOX
@DATABASE
@click.option(
    "--skip-damaged",
    "skip_damaged_max",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave up to N damaged messages behind; without it one keeps the mailbox where it is.",
)
@JSON
def move(server: Path, mailbox_name: str, database_name: str, skip_damaged_max: int, as_json: bool) -> None:
    """Move a mailbox to another database of the server, with all that is in it.

    The old one goes only when the new one is complete. After an interruption, give the command again.

    \b
    pillarbox mailbox move /srv/mail anna "Mailbox Store 2"
    pillarbox mailbox move /srv/mail anna "Mailbox Store 2" --skip-damaged 10
    """
    with (
        progress("moving", as_json) as step,
        operation(server, "mailbox.move", step=step) as perform,
    ):
        data = perform(mailbox=mailbox_name, database=database_name, skip_damaged_max=skip_damaged_max)
    amount = f"{counted(data['messages'], 'message')}, {size_text(data['size_bytes'])}"
    show(data, [f"Mailbox {data['mailbox']} is in {data['database']}: {amount}."], as_json)
    warn(f"  damaged, left behind: {each['folder']}: {each['reason']}" for each in data["damaged"])


@mailbox_.command("disconnect")
@SERVER
@MAILBOX
@JSON
def disconnect(server: Path, mailbox_name: str, as_json: bool) -> None:
    """Take a mailbox from its user. It is kept, with all its mail, until it is purged.

    \b
    pillarbox mailbox disconnect /srv/mail anna
    """
    with operation(server, "mailbox.disconnect") as perform:
        data = perform(mailbox=mailbox_name)
    show(data, [f"Mailbox {data['mailbox']} is disconnected."], as_json)


@mailbox_.command("reconnect")
@SERVER
@MAILBOX
@click.option("--user", default="", help="GUID of the directory user who gets it.")
@JSON
def reconnect(server: Path, mailbox_name: str, user: str, as_json: bool) -> None:
    """Give a disconnected mailbox to a user again.

    \b
    pillarbox mailbox reconnect /srv/mail anna
    pillarbox mailbox reconnect /srv/mail anna --user "$GUID"
    """
    try:
        guid = parse_guid(user) if user else b""
    except ValueError:
        raise click.BadParameter(f"{user!r} is no GUID", param_hint="--user") from None
    with operation(server, "mailbox.reconnect") as perform:
        data = perform(mailbox=mailbox_name, user=guid)
    show(data, [f"Mailbox {data['mailbox']} is connected."], as_json)


@mailbox_.command("purge")
@SERVER
@MAILBOX
@YES
@JSON
def purge(server: Path, mailbox_name: str, yes: bool, as_json: bool) -> None:
    """Delete a disconnected mailbox with all its mail, for good.

    \b
    pillarbox mailbox disconnect /srv/mail anna
    pillarbox mailbox purge /srv/mail anna
    """
    with operation(server, "mailbox.purge", yes=yes) as perform:
        name = perform(mailbox=mailbox_name)
    show({"purged": name}, [f"Mailbox {name} is gone."], as_json)
