"""Mailboxes of a mailbox store: create, find, rename, disconnect and reconnect, purge (DOMAIN.md "Store")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pillarbox.store.arguments import check_kind, check_several, wrong_type
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    DatabaseKind,
    FolderRecord,
    MailboxRecord,
    ObjectKind,
    Table,
    is_hidden,
)
from pillarbox.store.engine.change_feed import bury
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import AlreadyExists, InvalidName, NotFound, Refused
from pillarbox.store.events import EventId
from pillarbox.store.ids import GUID_BYTES, guid_text
from pillarbox.store.mail import folders
from pillarbox.store.mail.rights import STORE, Right, check_reader, require, require_change
from pillarbox.store.names import NAME_CHARS_MAX, check_name, name_key

CONNECTED: Final = 0
DISCONNECTED: Final = 1

INBOX: Final = "inbox"
MailboxName = bytes | str
"""A mailbox as callers name it: by its GUID or its name."""

STANDARD_FOLDERS: Final = {
    INBOX: "Inbox",
    "sent": "Sent Items",
    "deleted": "Deleted Items",
    "drafts": "Drafts",
    "outbox": "Outbox",
    "junk": "Junk E-mail",
    "calendar": "Calendar",
    "contacts": "Contacts",
    "tasks": "Tasks",
    "notes": "Notes",
    "journal": "Journal",
}


def create(txn: WriteTransaction, name: str, *, guid: bytes = b"", user: bytes = b"") -> MailboxRecord:
    """Make a mailbox with its standard folders, connected to the directory user of GUID `user`.

    Without `guid` it gets a new one. Raises InvalidName, AlreadyExists, and Refused in a public folder store.
    """
    require_change(txn, Right.MANAGE_STORE, STORE)
    check_name(name)
    identity = txn.record(Table.META, IDENTITY_KEY)
    if identity is not None and identity.kind != DatabaseKind.MAILBOX_STORE:
        raise Refused("a public folder store holds no mailboxes", hint="name a mailbox store")
    _refuse_taken_name(txn, name)
    if not isinstance(guid, bytes) or len(guid) not in (0, GUID_BYTES):
        raise wrong_type(guid, "guid", f"{GUID_BYTES} bytes, or none for a new one")
    check_kind(user, "user", bytes, "the GUID of a directory user")
    guid = guid or txn.new_guid()
    if txn.record(Table.MAILBOX, guid) is not None:
        raise AlreadyExists(f"mailbox {guid_text(guid)} is in this database already")
    root = folders.insert(txn, guid, 0, guid_text(guid))
    roles = {
        role: folders.insert(txn, guid, root.folder_id, title).folder_id
        for role, title in STANDARD_FOLDERS.items()
    }
    record = MailboxRecord(
        guid=guid,
        name=name,
        user=user,
        state=CONNECTED,
        disconnected_ms=0,
        root_id=root.folder_id,
        roles=roles,
        size=0,
        messages_count=0,
        change_cn=txn.next_cn(),
        properties={},
    )
    txn.insert(Table.MAILBOX, guid, record)
    return record


def _refuse_taken_name(txn: WriteTransaction, name: str) -> None:
    if txn.index(Table.MAILBOX_NAME, name_key(name)) is not None:
        raise AlreadyExists(f"there is a mailbox {name!r} already", hint="choose another name")


def get(reader: Reader, guid: bytes) -> MailboxRecord:
    """The mailbox of that GUID. Raises NotFound, also for one whose move to here is not complete."""
    check_reader(reader)
    check_kind(guid, "guid", bytes, "the GUID of a mailbox: `guid` of its record; a name is for `find`")
    if len(guid) != GUID_BYTES:
        raise NotFound(f"{guid[:GUID_BYTES].hex()!r} is no GUID of a mailbox", hint="a GUID has 16 bytes")
    record: MailboxRecord | None = reader.record(Table.MAILBOX, guid)
    if record is None:
        raise NotFound(f"there is no mailbox {guid_text(guid)}")
    if is_hidden(record):
        raise NotFound(
            f"mailbox {guid_text(guid)} is not here yet: it is being moved",
            hint="find it by name and try again",
        )
    return record


def find(reader: Reader, name: str) -> MailboxRecord:
    """The mailbox of that name, in any case. Raises NotFound, InvalidName for what no name can be."""
    check_reader(reader)
    check_kind(name, "name", str, "the name of a mailbox; a GUID is for `get`")
    if not name or len(name) > NAME_CHARS_MAX:
        raise InvalidName(f"{name[:80]!r} cannot be the name of a mailbox")
    guid = reader.index(Table.MAILBOX_NAME, name_key(name))
    if guid is None:
        raise NotFound(f"there is no mailbox {name!r}", hint="list those there are with `pillarbox status`")
    return get(reader, guid)


def named(mailboxes: MailboxName | Iterable[MailboxName]) -> list[MailboxName]:
    """One mailbox or many, each by its GUID or its name, as a list. Raises InvalidArgument."""
    wanted = "mailboxes, each by its GUID (bytes) or its name (str)"
    if isinstance(mailboxes, bytes | str):
        return [mailboxes]
    check_several(mailboxes, "mailboxes", wanted)
    found = list(mailboxes)
    for mailbox in found:
        if not isinstance(mailbox, bytes | str):
            raise wrong_type(mailbox, "mailboxes", wanted)
    return found


def all_of(reader: Reader) -> Iterator[MailboxRecord]:
    """Every mailbox, by name."""
    require(reader, Right.MANAGE_STORE, STORE)
    return (get(reader, guid) for _, guid in reader.indexes(Table.MAILBOX_NAME, b"", None))


def rename(txn: WriteTransaction, guid: bytes, name: str) -> MailboxRecord:
    """Give a mailbox another name. Raises NotFound, InvalidName, AlreadyExists."""
    require_change(txn, Right.MANAGE_STORE, guid)
    check_name(name)
    record = get(txn, guid)
    if name_key(name) != name_key(record.name):
        _refuse_taken_name(txn, name)
    return _change(txn, record, name=name)


def set_property(txn: WriteTransaction, guid: bytes, key: str, value: Any) -> MailboxRecord:
    """Set one of a mailbox's properties, or remove it with None. Raises NotFound."""
    require_change(txn, Right.MANAGE_STORE, guid)
    record = get(txn, guid)
    return _change(txn, record, properties=folders.with_property(record.properties, key, value))


def disconnect(txn: WriteTransaction, guid: bytes) -> MailboxRecord:
    """Take a mailbox from its user; it is kept until it is purged. Disconnected already: nothing.

    Raises NotFound.
    """
    require_change(txn, Right.MANAGE_STORE, guid)
    record = get(txn, guid)
    if record.state == DISCONNECTED:
        return record
    txn.report(EventId.MAILBOX_DISCONNECTED, mailbox=record.name, account=txn.actor.account)
    properties = folders.with_property(record.properties, "former_user", record.user.hex() or None)
    return _change(
        txn, record, state=DISCONNECTED, disconnected_ms=txn.now_ms, user=b"", properties=properties
    )


def reconnect(txn: WriteTransaction, guid: bytes, user: bytes = b"") -> MailboxRecord:
    """Give a disconnected mailbox to a user. Raises NotFound; Refused when it is connected."""
    require_change(txn, Right.MANAGE_STORE, guid)
    record = get(txn, guid)
    if record.state != DISCONNECTED:
        raise Refused(
            f"mailbox {record.name!r} is connected to a user",
            hint="disconnect it first: `pillarbox mailbox disconnect`",
        )
    return _change(txn, record, state=CONNECTED, disconnected_ms=0, user=user)


def purge(txn: WriteTransaction, guid: bytes) -> None:
    """Delete a mailbox with all that is in it, for good; event 20009 tells who did. Raises NotFound.

    It is gone when the transaction is durable; its messages are removed as those of `folders.delete`.
    """
    require_change(txn, Right.MANAGE_STORE, guid)
    record = get(txn, guid)
    txn.report(EventId.MAILBOX_DELETED, mailbox=record.name, account=txn.actor.account)
    remove(txn, record)


def remove(txn: WriteTransaction, record: MailboxRecord, went_to: bytes = b"") -> None:
    """Take a mailbox with all that is in it out of this database.

    `went_to` is the GUID of the database where it lives on: its tombstone tells, for a deletion nothing.
    """
    folders.hide(txn, folders.get_or_hidden(txn, record.root_id))
    txn.delete(Table.MAILBOX, record.guid)
    bury(txn, ObjectKind.MAILBOX_GONE, record.root_id, went_to)


def root(reader: Reader, record: MailboxRecord) -> FolderRecord:
    """The folder that holds all others of a mailbox. Raises NotFound when it is missing."""
    return folders.get(reader, record.root_id)


def _change(txn: WriteTransaction, record: MailboxRecord, **fields: Any) -> MailboxRecord:
    changed = record._replace(change_cn=txn.next_cn(), **fields)
    txn.put(Table.MAILBOX, record.guid, changed)
    return changed
