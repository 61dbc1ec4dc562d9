"""Databases: create, list, rename, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

import pillarbox
from pillarbox.store.ids import guid_text
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import confirm, show
from pillarbox.tools.parameters import DATABASE, YES, complete_group
from pillarbox.tools.serving.performing import let_go, operation

# Names of `DatabaseKind`.
KINDS: Final = {"mailbox": "MAILBOX_STORE", "public-folder": "PUBLIC_FOLDER_STORE"}


@click.group()
def database() -> None:
    """Databases: mailbox stores and public folder stores."""


@database.command("create")
@SERVER
@click.argument("name")
@click.option(
    "--group",
    "group_name",
    default="",
    shell_complete=complete_group,
    help="Its storage group, where the server has several.",
)
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default="mailbox", show_default=True, help="What it is to hold."
)
@JSON
def create(server: Path, name: str, group_name: str, kind: str, as_json: bool) -> None:
    """Make the empty database NAME.

    \b
    pillarbox database create /srv/mail "Mailbox Store 2"
    pillarbox database create /srv/mail Forum --kind public-folder --group Sales
    """
    with operation(server, "database.create") as perform:
        data = perform(name=name, group=group_name, kind=KINDS[kind])
    show(data, [f"Database {data['database']} ({data['kind']}) is there, and mounted."], as_json)


@database.command("list")
@SERVER
@JSON
def list_databases(server: Path, as_json: bool) -> None:
    """Databases, their kinds, GUIDs and directories.

    \b
    pillarbox database list /srv/mail
    """
    from pillarbox.store.server_config import KIND_TEXTS

    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        found = [
            {
                "group": group.name,
                "database": each.name,
                "kind": KIND_TEXTS[each.kind],
                "guid": guid_text(each.guid),
                "path": str(each.path),
                "mount_at_startup": opened.mounts_at_startup(each.label),
            }
            for group in opened.groups.values()
            for each in group.databases.values()
        ]
    lines = [
        f"{each['group']}/{each['database']}: {each['kind']}, {each['guid']}"
        + ("" if each["mount_at_startup"] else ", kept dismounted")
        for each in found
    ]
    show(found, lines, as_json)


@database.command("rename")
@SERVER
@DATABASE
@click.argument("name")
@JSON
def rename(server: Path, database_name: str, name: str, as_json: bool) -> None:
    """Give a database another name; its files stay where they are.

    \b
    pillarbox database rename /srv/mail "Mailbox Store" Staff
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        renamed = opened.rename_database(database_name, name)
    show({"database": renamed.name}, [f"The database is called {renamed.name}."], as_json)


@database.command("delete")
@SERVER
@DATABASE
@YES
@JSON
def delete(server: Path, database_name: str, yes: bool, as_json: bool) -> None:
    """Delete a database with all the mail in it, for good. No process may have it mounted.

    \b
    pillarbox database delete /srv/mail "Mailbox Store 2"
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        found = opened.database(database_name)
        confirm(f"Delete database {found.label} and all the mail in it?", yes)
        with let_go(server, found.label):
            opened.delete_database(found.label)
    show({"deleted": found.label}, [f"Database {found.label} is gone."], as_json)
