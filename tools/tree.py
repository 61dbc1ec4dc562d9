"""The folders that a MAILBOX argument names: of a mailbox, or with `/` the public folders of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pillarbox
from pillarbox.store.errors import NotFound, Refused
from pillarbox.store.ids import parse_id
from pillarbox.tools.options import ACTOR

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import FolderRecord, ItemRecord
    from pillarbox.store.engine.transaction import Reader


class Tree(NamedTuple):
    """The folders below one root. `mailbox` is the GUID of the mailbox, empty for public folders."""

    name: str
    database: pillarbox.Database
    root_id: int
    mailbox: bytes

    def folder(self, reader: Reader, path: str) -> FolderRecord:
        """The folder at `A/B`; the root at `/`. Raises NotFound."""
        return pillarbox.folders.by_path(reader, self.root_id, path)

    def message(self, reader: Reader, text: str) -> ItemRecord:
        """The message of an id as listings show it. Raises NotFound."""
        item = find_message(reader, self.mailbox, text)
        if item is None:
            raise NotFound(
                f"{self.name} has no message {text}", hint="its folders and messages: `pillarbox list`"
            )
        return item

    def path_of(self, reader: Reader, item: ItemRecord) -> str:
        """The path of the folder that a message is in."""
        return "/".join(pillarbox.folders.path_of(reader, item.folder_id))


def find_message(reader: Reader, mailbox: bytes, text: str) -> ItemRecord | None:
    """The message of an id as listings show it, when it is in that mailbox (GUID, empty: public folders)."""
    number = parse_id(text)
    if number is None:
        return None
    try:
        item = pillarbox.messages.get(reader, number)
        return item if pillarbox.folders.get(reader, item.folder_id).mailbox == mailbox else None
    except NotFound:
        return None


def find_tree(server: pillarbox.Server, name: str) -> Tree:
    """The folders that `name` stands for. Raises as `MailboxDirectory.find` and `Server.database`."""
    if not name.startswith("/"):
        database, box = server.mailboxes.find(name)
        return Tree(f"mailbox {box.name}", database, box.root_id, box.guid)
    subtree = pillarbox.public_folders.IPM_SUBTREE
    if name[1:].lower() == pillarbox.public_folders.LOST_AND_FOUND.lower():
        name, subtree = "/", pillarbox.public_folders.LOST_AND_FOUND
    database = server.database(name[1:]) if name[1:] else _only_public_folder_store(server)
    with database.read(ACTOR) as read:
        root_id = pillarbox.public_folders.root_id(read, subtree)
    return Tree(f"the tree of {database.label}", database, root_id, b"")


def _only_public_folder_store(server: pillarbox.Server) -> pillarbox.Database:
    from pillarbox.store.disk.tables import DatabaseKind

    stores = [each for each in server.databases() if each.kind == DatabaseKind.PUBLIC_FOLDER_STORE]
    if len(stores) != 1:
        names = ", ".join(f"/{each.label}" for each in stores) or "there is none"
        raise Refused(f"the server has {len(stores)} public folder stores", hint=f"name one of them: {names}")
    return stores[0]


def refuse_other_database(source: Tree, target: Tree) -> None:
    """Raises Refused when two trees are of different databases: what is one transaction stays in one."""
    if source.database is not target.database:
        raise Refused(
            f"{source.name} is in database {source.database.label}, {target.name} in {target.database.label}",
            hint="export what is to go there and import it",
        )
