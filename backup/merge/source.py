"""The source of a merge: the folders and messages of a mailbox or of the public folder tree.

Damage is passed over and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import (
    DatabaseKind,
    FolderRecord,
    ItemRecord,
    MailboxRecord,
    Table,
    id_key,
    number_of,
    split_item_key,
)
from pillarbox.store.engine.transaction import Reader, ReadTransaction
from pillarbox.store.errors import Corrupt, NotFound
from pillarbox.store.mail import folders, mailboxes, public_folders

PUBLIC_FOLDERS: Final = "/"
FolderPath = tuple[str, ...]


class MergeSource(Protocol):
    """Where mail is recovered from: a mounted database, or a snapshot mounted from a repository."""

    @property
    def guid(self) -> bytes:
        """The GUID of the database."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def kind(self) -> DatabaseKind:
        """Mailbox store or public folder store."""
        ...

    def read(self, actor: Actor) -> ReadTransaction:
        """A read of its present state. Raises Dismounted."""
        ...


class MergeTree(NamedTuple):
    """The folders that a merge reads or writes: those of a mailbox, or with an empty GUID the public folders.

    Public folders are the IPM subtree, which users see, and are called `/`.
    """

    guid: bytes
    name: str
    root_id: int
    roles: dict[str, int]

    @property
    def is_public(self) -> bool:
        """True when the folders are public ones."""
        return not self.guid


def tree_of(reader: Reader, guid: bytes) -> MergeTree:
    """The folders of a mailbox, or with an empty GUID the public folders. Raises NotFound, Refused."""
    if not guid:
        return MergeTree(b"", PUBLIC_FOLDERS, public_folders.root_id(reader), {})
    return _tree(mailboxes.get(reader, guid))


def _tree(box: MailboxRecord) -> MergeTree:
    return MergeTree(box.guid, box.name, box.root_id, box.roles)


def trees_of(source: MergeSource, actor: Actor, names: Sequence[str] = ()) -> list[MergeTree]:
    """The mailboxes of those names in a mailbox store, all without names; the tree of a public folder store.

    Raises NotFound, Dismounted.
    """
    with source.read(actor) as read:
        if source.kind is DatabaseKind.PUBLIC_FOLDER_STORE:
            return [tree_of(read, b"")]
        return [_tree(mailboxes.find(read, name)) for name in names] or list(
            map(_tree, mailboxes.all_of(read))
        )


class SourceFolder(NamedTuple):
    """A folder of the source; `path` is () for the root."""

    record: FolderRecord
    path: FolderPath


class Damage(NamedTuple):
    """Something of the source that cannot be read. `message_id` is 0 where it is not known which message."""

    folder: FolderPath
    message_id: int
    reason: str


Report = Callable[[Damage], None]


def folders_of(reader: Reader, root_id: int, damaged: Report) -> Iterator[SourceFolder]:
    """The root of a tree and every folder below it, each before those in it. Raises Corrupt, NotFound."""
    root = SourceFolder(folders.get(reader, root_id), ())
    yield root
    yield from _inner(reader, root, damaged)


def _inner(reader: Reader, outer: SourceFolder, damaged: Report) -> Iterator[SourceFolder]:
    if len(outer.path) >= folders.DEPTH_MAX:
        return
    folder_id = outer.record.folder_id
    try:
        rows = [row for _, row in reader.indexes(Table.FOLDER_NAME, id_key(folder_id), id_key(folder_id + 1))]
    except Corrupt as error:
        damaged(Damage(outer.path, 0, f"the folders in it cannot be listed: {error}"))
        return
    for row in rows:
        try:
            record = folders.get(reader, number_of(row)[0])
        except (Corrupt, NotFound) as error:
            damaged(Damage(outer.path, 0, f"a folder in it cannot be read: {error}"))
            continue
        inner = SourceFolder(record, (*outer.path, record.name))
        yield inner
        yield from _inner(reader, inner, damaged)


def messages_of(
    reader: Reader, source: SourceFolder, after_uid: int, damaged: Report
) -> Iterator[ItemRecord]:
    """The messages of a folder by UID, those above `after_uid`; a record that is damaged is passed over."""
    at = after_uid
    while True:
        try:
            for item in folders.messages(reader, source.record.folder_id, at):
                at = item.uid
                yield item
            return
        except Corrupt as error:
            passed = _uid_of(error, source.record.folder_id)
            damaged(Damage(source.path, 0, str(error)))
            if passed <= at:
                return
            at = passed


def _uid_of(error: Corrupt, folder_id: int) -> int:
    """The UID of the message whose record is damaged, 0 when that is not what the error is about."""
    if error.table != "item" or len(error.key) != 12:
        return 0
    found, uid = split_item_key(error.key)
    return int(uid) if found == folder_id else 0
