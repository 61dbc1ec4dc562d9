"""The changes between two states of a database, folder by folder, from their records alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from pillarbox.store.disk.tables import FolderRecord, ItemRecord, ItemRole, Table
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import NotFound
from pillarbox.store.mail import folders, mailboxes


class FolderDiff(NamedTuple):
    """The changes of one folder.

    `mailbox` is the mailbox's name, empty for public folders. `path` is where the folder is, or was when it
    is gone, "" for the root; `path_before` is where it was. Messages that changed are those whose flags,
    categories or properties did; moved ones are added in one folder and removed in the other. Bytes are those
    of messages as they came.
    """

    mailbox: str
    path: str
    path_before: str
    is_new: bool = False
    is_gone: bool = False
    added_count: int = 0
    added_bytes: int = 0
    removed_count: int = 0
    removed_bytes: int = 0
    changed_count: int = 0

    @property
    def is_changed(self) -> bool:
        """True when there is anything to tell."""
        messages_count = self.added_count + self.removed_count + self.changed_count
        return self.is_new or self.is_gone or self.path != self.path_before or messages_count > 0


def diff_database(before: Reader | None, after: Reader | None) -> list[FolderDiff]:
    """The folders that changed from one state to another, by mailbox and path; None where there was none yet.

    Memory is in proportion to the number of folders. Raises Corrupt.
    """
    found: dict[int, FolderDiff] = {}
    folder_ids = {each.folder_id for reader in (before, after) for each in _folders(reader)}
    for folder_id in folder_ids:
        here, there = _place(before, folder_id), _place(after, folder_id)
        name, path = there or here or ("", "")
        path_before = here[1] if here else path
        found[folder_id] = FolderDiff(name, path, path_before, here is None, there is None)
    for old, new in _pairs(_items(before), _items(after)):
        item = new or old
        assert item is not None, "a pair has one side at least"
        found[item.folder_id] = _counted(found[item.folder_id], old, new)
    return sorted(each for each in found.values() if each.is_changed)


def _counted(diff: FolderDiff, old: ItemRecord | None, new: ItemRecord | None) -> FolderDiff:
    if old is None and new is not None:
        return diff._replace(added_count=diff.added_count + 1, added_bytes=diff.added_bytes + new.size)
    if new is None and old is not None:
        return diff._replace(
            removed_count=diff.removed_count + 1, removed_bytes=diff.removed_bytes + old.size
        )
    return diff._replace(changed_count=diff.changed_count + (old != new))


def _folders(reader: Reader | None) -> Iterator[FolderRecord]:
    if reader is not None:
        yield from folders.all_of(reader)


def _place(reader: Reader | None, folder_id: int) -> tuple[str, str] | None:
    """(mailbox name, path) of a folder; None where it is not."""
    if reader is None:
        return None
    try:
        record = folders.get(reader, folder_id)
    except NotFound:
        return None
    name = mailboxes.get(reader, record.mailbox).name if record.mailbox else ""
    return name, "/".join(folders.path_of(reader, folder_id))


def _items(reader: Reader | None) -> Iterator[tuple[bytes, ItemRecord]]:
    if reader is not None:
        for key, item in reader.records(Table.ITEM, b"", None):
            if item.role != ItemRole.VERSION and folders.is_there(reader, item.folder_id):
                yield key, item


def _pairs(
    before: Iterator[tuple[bytes, ItemRecord]], after: Iterator[tuple[bytes, ItemRecord]]
) -> Iterator[tuple[ItemRecord | None, ItemRecord | None]]:
    """The messages at each place of either state, both in the order of their keys."""
    nothing: Any = (None, None)
    olds, news = chain(before, [nothing]), chain(after, [nothing])
    old_key, old = next(olds)
    new_key, new = next(news)
    while old_key is not None or new_key is not None:
        if new_key is None or (old_key is not None and old_key < new_key):
            yield old, None
            old_key, old = next(olds)
        elif old_key is None or new_key < old_key:
            yield None, new
            new_key, new = next(news)
        else:
            if old.message_id == new.message_id:
                yield old, new
            else:  # in a database that was restored, a UID may have been given out again
                yield old, None
                yield None, new
            old_key, old = next(olds)
            new_key, new = next(news)
