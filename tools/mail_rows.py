"""Mailboxes, folders and messages as the rows that listings show and `--json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pillarbox
from pillarbox.store.ids import guid_text, id_text

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import FolderRecord, ItemRecord, MailboxRecord
    from pillarbox.store.engine.transaction import Reader

Row = dict[str, Any]
_IMPORTANCE: Final = ("low", "normal", "high")


def mailbox_row(database: pillarbox.Database, box: MailboxRecord) -> Row:
    """The fields of a mailbox in a listing."""
    return {
        "mailbox": box.name,
        "guid": guid_text(box.guid),
        "database": database.label,
        "messages": box.messages_count,
        "size_bytes": box.size,
        "user": guid_text(box.user) if box.user else None,
        "disconnected": box.state == pillarbox.mailboxes.DISCONNECTED,
        "disconnected_ms": box.disconnected_ms or None,
    }


def folder_row(path: str, record: FolderRecord) -> Row:
    """The fields of a folder in a listing."""
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


def placed_folder_row(reader: Reader, record: FolderRecord) -> Row:
    """The fields of a folder, with the path where it is now."""
    return folder_row("/".join(pillarbox.folders.path_of(reader, record.folder_id)), record)


def envelope(item: ItemRecord) -> Row:
    """The fields of a message in a listing."""
    return {
        "id": id_text(item.message_id),
        "uid": item.uid,
        "from": item.sender,
        "to": item.to,
        "cc": item.cc,
        "subject": item.subject,
        "internet_message_id": item.internet_message_id,
        "in_reply_to": item.in_reply_to,
        "conversation": item.conversation.hex(),
        "date_ms": item.date_ms,
        "received_ms": item.received_ms,
        "size_bytes": item.size,
        "importance": _IMPORTANCE[item.importance],
        "flags": list(pillarbox.messages.flag_names(item)),
        "categories": list(item.categories),
        "has_attachment": item.has_attachment,
        "is_conflict": item.is_conflict,
    }
