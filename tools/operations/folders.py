"""Operations on folders: create, rename, move, copy, delete. A mailbox may be `/` or `/DATABASE`."""

from __future__ import annotations

import pillarbox
from pillarbox.store.errors import Refused
from pillarbox.tools.mail_rows import Row, placed_folder_row
from pillarbox.tools.operations.call import Call
from pillarbox.tools.tree import Tree, find_tree, refuse_other_database


def create(call: Call, *, mailbox: str, folder: str, parents: bool) -> Row:
    """Make a folder; with `parents` what is missing above it, and one that is there is fine."""
    names = tuple(filter(None, folder.split("/")))
    tree = find_tree(call.server, mailbox)
    with tree.database.transaction(call.actor) as txn:
        if parents:
            made = pillarbox.folders.ensure(txn, tree.root_id, names)
        else:
            parent = tree.folder(txn, "/".join(names[:-1]))
            made = pillarbox.folders.create(txn, parent.folder_id, names[-1] if names else "")
        return placed_folder_row(txn, made)


def rename(call: Call, *, mailbox: str, folder: str, name: str) -> Row:
    """Give a folder another name."""
    tree = find_tree(call.server, mailbox)
    with tree.database.transaction(call.actor) as txn:
        renamed = pillarbox.folders.rename(txn, tree.folder(txn, folder).folder_id, name)
        return placed_folder_row(txn, renamed)


def target_tree(server: pillarbox.Server, tree: Tree, name: str) -> Tree:
    """The tree that a target folder is in. Raises Refused when it is of another database."""
    if not name:
        return tree
    target = find_tree(server, name)
    refuse_other_database(tree, target)
    return target


def move(call: Call, *, mailbox: str, folder: str, to: str, to_mailbox: str) -> Row:
    """Put a folder, with all that is in it, into another."""
    tree = find_tree(call.server, mailbox)
    into = target_tree(call.server, tree, to_mailbox)
    with tree.database.transaction(call.actor) as txn:
        source, target = tree.folder(txn, folder), into.folder(txn, to)
        return placed_folder_row(txn, pillarbox.folders.move(txn, source.folder_id, target.folder_id))


def copy(call: Call, *, mailbox: str, folder: str, to: str, to_mailbox: str, name: str) -> Row:
    """Copy a folder, with all that is in it, into another, under `name` or its own."""
    tree = find_tree(call.server, mailbox)
    into = target_tree(call.server, tree, to_mailbox)
    with tree.database.read(call.actor) as read:
        source, target = tree.folder(read, folder), into.folder(read, to)
    made = pillarbox.copy_folder(
        tree.database,
        call.actor,
        source.folder_id,
        target.folder_id,
        name,
        progress=lambda at: call.step(at[0], at[1], ""),
    )
    with tree.database.read(call.actor) as read:
        return placed_folder_row(read, made)


def delete(call: Call, *, mailbox: str, folder: str, with_contents: bool) -> None:
    """Delete a folder for good; with its contents only after asking."""
    tree = find_tree(call.server, mailbox)
    if with_contents:
        call.confirm(f"Delete folder {folder} of {tree.name} and all that is in it?")
    with tree.database.transaction(call.actor) as txn:
        found = tree.folder(txn, folder)
        pillarbox.folders.delete(txn, found.folder_id, with_contents=with_contents)
    tree.database.finish_removals()


def refuse_root(tree: Tree, folder_id: int) -> None:
    """Raises Refused when a folder is the top of its tree, in which no messages lie."""
    if folder_id == tree.root_id:
        raise Refused("messages lie in folders, not at the top", hint="name a folder")
