"""Counters of folders and mailboxes: one arithmetic for transactions, check and repair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pillarbox.store.disk.tables import FolderRecord, ItemRecord, ItemRole, MailboxRecord
from pillarbox.store.mail.flags import SEEN_BIT


class Counts(NamedTuple):
    """The numbers of messages and of unread ones, and their bytes; negative for messages that leave."""

    messages: int = 0
    unread: int = 0
    size: int = 0

    def __neg__(self) -> Counts:
        return Counts(-self.messages, -self.unread, -self.size)


def unread_of(item: ItemRecord) -> int:
    """1 for an unread message, 0 for a read one."""
    return 0 if item.flags & SEEN_BIT else 1


def counts_of(item: ItemRecord) -> Counts:
    """The counts of one message; a version of several counts nothing beside the message that shows them."""
    if item.role == ItemRole.VERSION:
        return Counts()
    return Counts(1, unread_of(item), item.size)


def counts_of_folder(record: FolderRecord) -> Counts:
    """The counts in a folder's record."""
    return Counts(record.messages_count, record.unread_count, record.size)


def with_counts(record: FolderRecord, change: Counts, cn: int, uids: int = 0) -> FolderRecord:
    """A folder after a change of its messages that has the change number `cn` and uses up `uids` UIDs."""
    return record._replace(
        uid_next=record.uid_next + uids,
        messages_count=record.messages_count + change.messages,
        unread_count=record.unread_count + change.unread,
        size=record.size + change.size,
        highest_cn=max(record.highest_cn, cn),
    )


def with_counts_of_folder(record: MailboxRecord, change: Counts) -> MailboxRecord:
    """A mailbox after a change of the messages in one of its folders."""
    return record._replace(
        messages_count=record.messages_count + change.messages, size=record.size + change.size
    )


class FolderSums:
    """The messages and tombstones of one folder, added up to be compared with what its record says."""

    def __init__(self) -> None:
        self.messages = self.unread = self.size = 0
        self.highest_uid = self.highest_cn = 0

    def add(self, item: ItemRecord) -> None:
        """Count a message."""
        counts = counts_of(item)
        self.messages += counts.messages
        self.unread += counts.unread
        self.size += counts.size
        self.note(item.uid, item.modseq)

    def note(self, uid: int, cn: int) -> None:
        """Take notice of a UID and a change number that were used, as by a tombstone."""
        self.highest_uid = max(self.highest_uid, uid)
        self.highest_cn = max(self.highest_cn, cn)

    @property
    def counts(self) -> Counts:
        """The counts that belong into the folder's record."""
        return Counts(self.messages, self.unread, self.size)

    def corrected(self, record: FolderRecord) -> FolderRecord:
        """A folder's record with these sums; UIDs and change numbers are never given out a second time."""
        return record._replace(
            messages_count=self.messages,
            unread_count=self.unread,
            size=self.size,
            uid_next=max(record.uid_next, self.highest_uid + 1),
            highest_cn=max(record.highest_cn, self.highest_cn),
        )

    def problems(self, record: FolderRecord) -> Iterator[tuple[str, Any, Any]]:
        """(field, right value, stored value) of each counter of a folder's record that is wrong."""
        return _differences(record, self.corrected(record))


class MailboxSums:
    """The folders of one mailbox, added up."""

    def __init__(self) -> None:
        self.messages = self.size = 0

    def add(self, counts: Counts) -> None:
        """Count what one folder holds."""
        self.messages += counts.messages
        self.size += counts.size

    def corrected(self, record: MailboxRecord) -> MailboxRecord:
        """A mailbox's record with these sums."""
        return record._replace(messages_count=self.messages, size=self.size)

    def problems(self, record: MailboxRecord) -> Iterator[tuple[str, Any, Any]]:
        """(field, right value, stored value) of each counter of a mailbox's record that is wrong."""
        return _differences(record, self.corrected(record))


def _differences(
    stored: FolderRecord | MailboxRecord, right: FolderRecord | MailboxRecord
) -> Iterator[tuple[str, Any, Any]]:
    for name, was, expected in zip(stored._fields, stored, right, strict=True):
        if was != expected:
            yield name, expected, was
