"""Folders of mailboxes and public folders: create, list, show, rename, move, copy, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.ids import id_text
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import confirm, counted, local_time, show, size_text
from pillarbox.tools.parameters import (
    FOLDER,
    FOLDER_OR_ALL,
    MAILBOX,
    YES,
    complete_mailbox,
    complete_target,
)
from pillarbox.tools.tree import Tree, find_tree, refuse_other_database

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import FolderRecord
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


def _data(path: str, record: FolderRecord) -> dict[str, Any]:
    return {
        "folder": path,
        "id": id_text(record.folder_id),
        "messages": record.messages_count,
        "unread": record.unread_count,
        "size_bytes": record.size,
        "created_ms": record.created_ms,
        "uid_validity": record.uid_validity,
        "uid_next": record.uid_next,
    }


def _placed(reader: Reader, record: FolderRecord) -> dict[str, Any]:
    return _data("/".join(pillarbox.folders.path_of(reader, record.folder_id)), record)


def folder_line(each: dict[str, Any]) -> str:
    """A folder in a listing."""
    size = size_text(each["size_bytes"])
    return f"{each['messages']:>8,} messages {each['unread']:>8,} unread {size:>10}  {each['folder']}"


def folder_rows(reader: Reader, folder_id: int, prefix: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Each folder below one, by path."""
    return (_data("/".join(path), each) for path, each in pillarbox.folders.walk(reader, folder_id, prefix))


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
    names = tuple(filter(None, folder_path.split("/")))
    with pillarbox.Server.open(server) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.transaction(ACTOR) as txn:
            if parents:
                made = pillarbox.folders.ensure(txn, tree.root_id, names)
            else:
                parent = tree.folder(txn, "/".join(names[:-1]))
                made = pillarbox.folders.create(txn, parent.folder_id, names[-1] if names else "")
            data = _placed(txn, made)
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
            data = _placed(read, tree.folder(read, folder_path))
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
    with pillarbox.Server.open(server) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.transaction(ACTOR) as txn:
            renamed = pillarbox.folders.rename(txn, tree.folder(txn, folder_path).folder_id, name)
            data = _placed(txn, renamed)
    show(data, [f"The folder is called {data['folder']}."], as_json)


def target_tree(server: pillarbox.Server, tree: Tree, name: str) -> Tree:
    """The tree that --to is in. Raises Refused when it is of another database."""
    if not name:
        return tree
    target = find_tree(server, name)
    refuse_other_database(tree, target)
    return target


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

    with pillarbox.Server.open(server) as opened:
        tree = find_tree(opened, mailbox_name)
        into = target_tree(opened, tree, target_name)
        with tree.database.transaction(ACTOR) as txn:
            source, target = tree.folder(txn, folder_path), into.folder(txn, target_path)
            data = _placed(txn, pillarbox.folders.move(txn, source.folder_id, target.folder_id))
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
    from pillarbox.store.mail.copying import copy_folder

    with pillarbox.Server.open(server) as opened:
        tree = find_tree(opened, mailbox_name)
        into = target_tree(opened, tree, target_name)
        with tree.database.read(ACTOR) as read:
            source, target = tree.folder(read, folder_path), into.folder(read, target_path)
        made = copy_folder(tree.database, ACTOR, source.folder_id, target.folder_id, name)
        with tree.database.read(ACTOR) as read:
            data = _placed(read, made)
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
    with pillarbox.Server.open(server) as opened:
        tree = find_tree(opened, mailbox_name)
        if with_contents:
            confirm(f"Delete folder {folder_path} of {tree.name} and all that is in it?", yes)
        with tree.database.transaction(ACTOR) as txn:
            found = tree.folder(txn, folder_path)
            pillarbox.folders.delete(txn, found.folder_id, with_contents=with_contents)
        tree.database.finish_removals()
    show({"deleted": folder_path}, [f"Folder {folder_path} is gone."], as_json)
