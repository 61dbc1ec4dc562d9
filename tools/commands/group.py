"""Storage groups: create, list, rename, delete."""

from __future__ import annotations

from pathlib import Path

import click

import pillarbox
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import show
from pillarbox.tools.parameters import complete_group

GROUP = click.argument("group_name", metavar="GROUP", shell_complete=complete_group)


@click.group()
def group() -> None:
    """Storage groups: databases that are backed up together."""


@group.command("create")
@SERVER
@click.argument("name")
@JSON
def create(server: Path, name: str, as_json: bool) -> None:
    """Make the empty storage group NAME. Standard servers have one, enterprise ones up to four.

    \b
    pillarbox group create /srv/mail "Second Storage Group"
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        made = opened.create_group(name)
    show({"group": made.name}, [f"Storage group {made.name} is there."], as_json)


@group.command("list")
@SERVER
@JSON
def list_groups(server: Path, as_json: bool) -> None:
    """Storage groups and their databases.

    \b
    pillarbox group list /srv/mail
    """
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        found = [{"group": each.name, "databases": list(each.databases)} for each in opened.groups.values()]
    show(found, [f"{each['group']}: {', '.join(each['databases']) or 'empty'}" for each in found], as_json)


@group.command("rename")
@SERVER
@GROUP
@click.argument("name")
@JSON
def rename(server: Path, group_name: str, name: str, as_json: bool) -> None:
    """Give a storage group another name; its files stay where they are.

    \b
    pillarbox group rename /srv/mail "First Storage Group" Staff
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        renamed = opened.rename_group(group_name, name)
    show({"group": renamed.name}, [f"The storage group is called {renamed.name}."], as_json)


@group.command("delete")
@SERVER
@GROUP
@JSON
def delete(server: Path, group_name: str, as_json: bool) -> None:
    """Delete a storage group that holds no database.

    \b
    pillarbox group delete /srv/mail Staff
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        opened.delete_group(group_name)
    show({"deleted": group_name}, [f"Storage group {group_name} is gone."], as_json)
