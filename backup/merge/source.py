"""What a merge reads: a mailbox's folders and messages, as far as damage lets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import FolderRecord, ItemRecord, Table, id_key, number_of, split_item_key
from pillarbox.store.engine.transaction import Reader, ReadTransaction
from pillarbox.store.errors import Corrupt, NotFound
from pillarbox.store.mail import folders

FolderPath = tuple[str, ...]


class MergeSource(Protocol):
    """Where mail is recovered from: a mounted database, or a snapshot mounted from a repository."""

    def read(self, actor: Actor) -> ReadTransaction:
        """A read of its present state. Raises Dismounted."""
        ...


class SourceFolder(NamedTuple):
    """A folder of the source mailbox; `path` is () for the root."""

    record: FolderRecord
    path: FolderPath


class Damage(NamedTuple):
    """Something of the source that cannot be read. `message_id` is 0 where it is not known which message."""

    folder: FolderPath
    message_id: int
    reason: str


Report = Callable[[Damage], None]


def folders_of(reader: Reader, root_id: int, damaged: Report) -> Iterator[SourceFolder]:
    """The root of a mailbox and every folder below it, each before those in it. Raises Corrupt, NotFound."""
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
