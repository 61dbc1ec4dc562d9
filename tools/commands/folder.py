"""Folders of mailboxes and public folders: create, list, show, rename, move, copy, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.tools.mail_rows import folder_row, placed_folder_row
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, local_time, progress, show, size_text
from pillarbox.tools.parameters import (
    FOLDER,
    FOLDER_OR_ALL,
    MAILBOX,
    YES,
    complete_mailbox,
    complete_target,
)
from pillarbox.tools.serving.performing import operation
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.store.engine.transaction import Reader

TO = click.option(
    "--to",
    "target_path",
    metavar="FOLDER",
    required=True,
    shell_complete=complete_target,
    help="Into this folder; / is the top.",
)
TO_MAILBOX = click.option(
    "--to-mailbox",
    "target_name",
    metavar="MAILBOX",
    default="",
    shell_complete=complete_mailbox,
    help="Whose folder --to is, when it is another mailbox of the same database.",
)


@click.group("folder")
def folder_() -> None:
    """Folders of a mailbox. FOLDER is a path like Lists/2002.

    MAILBOX may be /, or /DATABASE, for the public folders of the server.
    """


def folder_line(each: dict[str, Any]) -> str:
    """A folder in a listing."""
    size = size_text(each["size_bytes"])
    return f"{each['messages']:>8,} messages {each['unread']:>8,} unread {size:>10}  {each['folder']}"


def folder_rows(reader: Reader, folder_id: int, prefix: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Each folder below one, by path."""
    return (
        folder_row("/".join(path), each) for path, each in pillarbox.folders.walk(reader, folder_id, prefix)
    )


@folder_.command("create")
@SERVER
@MAILBOX
@FOLDER
@click.option(
    "--parents", "-p", is_flag=True, help="Make what is missing above it; one that is there is fine."
)
@JSON
def create(server: Path, mailbox_name: str, folder_path: str, parents: bool, as_json: bool) -> None:
    """Make a folder.

    \b
    pillarbox folder create /srv/mail anna Lists
    pillarbox folder create /srv/mail anna Lists/2002/May --parents
    pillarbox folder create /srv/mail / Forum
    """
    with operation(server, "folder.create") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, parents=parents)
    show(data, [f"Folder {data['folder']} is there."], as_json)


@folder_.command("list")
@SERVER
@MAILBOX
@FOLDER_OR_ALL
@JSON
def list_folders(server: Path, mailbox_name: str, folder_path: str, as_json: bool) -> None:
    """All folders of a mailbox, or those in FOLDER.

    \b
    pillarbox folder list /srv/mail anna
    pillarbox folder list /srv/mail anna Lists
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            top = tree.folder(read, folder_path)
            found = list(folder_rows(read, top.folder_id, pillarbox.folders.path_of(read, top.folder_id)))
    show(found, map(folder_line, found) if found else ["There are no folders in it."], as_json)


@folder_.command("show")
@SERVER
@MAILBOX
@FOLDER
@JSON
def show_folder(server: Path, mailbox_name: str, folder_path: str, as_json: bool) -> None:
    """One folder: its identity, its messages, its size.

    \b
    pillarbox folder show /srv/mail anna Inbox
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            data = placed_folder_row(read, tree.folder(read, folder_path))
    lines = [
        f"{data['folder'] or 'the top'}: {counted(data['messages'], 'message')}, {data['unread']} unread,"
        f" {size_text(data['size_bytes'])}",
        f"id {data['id']}, made {local_time(data['created_ms'])},"
        f" UID validity {data['uid_validity']}, next UID {data['uid_next']}",
    ]
    show(data, lines, as_json)


@folder_.command("rename")
@SERVER
@MAILBOX
@FOLDER
@click.argument("name")
@JSON
def rename(server: Path, mailbox_name: str, folder_path: str, name: str, as_json: bool) -> None:
    """Give a folder another name, which is no path. Standard folders keep theirs.

    \b
    pillarbox folder rename /srv/mail anna Lists/2002 old
    """
    with operation(server, "folder.rename") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, name=name)
    show(data, [f"The folder is called {data['folder']}."], as_json)


@folder_.command("move")
@SERVER
@MAILBOX
@FOLDER
@TO
@TO_MAILBOX
@JSON
def move(
    server: Path, mailbox_name: str, folder_path: str, target_path: str, target_name: str, as_json: bool
) -> None:
    """Put a folder, with all that is in it, into another.

    \b
    pillarbox folder move /srv/mail anna Lists/2002 --to Archive
    pillarbox folder move /srv/mail anna Archive/2002 --to /
    """
    with operation(server, "folder.move") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, to=target_path, to_mailbox=target_name)
    show(data, [f"The folder is {data['folder']}."], as_json)


@folder_.command("copy")
@SERVER
@MAILBOX
@FOLDER
@TO
@TO_MAILBOX
@click.option("--name", default="", help="What the copy is called; as the folder is without it.")
@JSON
def copy(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    target_path: str,
    target_name: str,
    name: str,
    as_json: bool,
) -> None:
    """Copy a folder, with all that is in it, into another. Its mail takes no further space.

    \b
    pillarbox folder copy /srv/mail anna Lists --to Archive --name Lists-2024
    """
    with (
        progress("copying", as_json) as step,
        operation(server, "folder.copy", step=step) as perform,
    ):
        data = perform(
            mailbox=mailbox_name, folder=folder_path, to=target_path, to_mailbox=target_name, name=name
        )
    show(data, [f"The copy is {data['folder']}, of {counted(data['messages'], 'message')}."], as_json)


@folder_.command("delete")
@SERVER
@MAILBOX
@FOLDER
@click.option(
    "--with-contents", is_flag=True, help="Also when it holds messages or folders: they go with it."
)
@YES
@JSON
def delete(
    server: Path, mailbox_name: str, folder_path: str, with_contents: bool, yes: bool, as_json: bool
) -> None:
    """Delete a folder, for good. Standard folders stay.

    \b
    pillarbox folder delete /srv/mail anna Lists/empty
    pillarbox folder delete /srv/mail anna Lists --with-contents
    """
    with operation(server, "folder.delete", yes=yes) as perform:
        perform(mailbox=mailbox_name, folder=folder_path, with_contents=with_contents)
    show({"deleted": folder_path}, [f"Folder {folder_path} is gone."], as_json)
