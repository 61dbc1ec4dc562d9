"""Operations on messages: import, edit, flag, move, copy, delete. A mailbox may be `/` or `/DATABASE`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pillarbox
from pillarbox.store.errors import InvalidName, NotFound
from pillarbox.tools.mail_rows import Row, envelope
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.folders import refuse_root, target_tree
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import ItemRecord
    from pillarbox.store.engine.transaction import WriteTransaction
    from pillarbox.store.files.importing import ImportProgress


def flag(call: Call, *, mailbox: str, messages: list[str], add: list[str], remove: list[str]) -> list[Row]:
    """Set flags and keywords of messages, and take them off; all or none."""
    return _change(
        call,
        mailbox,
        messages,
        lambda txn, item: pillarbox.messages.set_flags(txn, item.message_id, add=add, remove=remove),
    )


def edit(call: Call, *, mailbox: str, message: str) -> Row:
    """Put the one message that the caller gives in the place of a message of a public folder."""
    tree = find_tree(call.server, mailbox)
    (raw,) = call.items()
    prepared = pillarbox.messages.prepare(tree.database.files, raw)
    with tree.database.transaction(call.actor) as txn:
        item = tree.message(txn, message)
        return envelope(pillarbox.messages.replace_content(txn, item.message_id, prepared))


def delete(call: Call, *, mailbox: str, messages: list[str]) -> list[str]:
    """Delete messages for good, all or none; their ids."""

    def gone(txn: WriteTransaction, item: ItemRecord) -> ItemRecord:
        pillarbox.messages.delete(txn, item.message_id)
        return item

    return [row["id"] for row in _change(call, mailbox, messages, gone)]


def _change(
    call: Call,
    mailbox: str,
    messages: Iterable[str],
    change: Callable[[WriteTransaction, ItemRecord], ItemRecord],
) -> list[Row]:
    """Change messages in one transaction, all or none."""
    tree = find_tree(call.server, mailbox)
    with tree.database.transaction(call.actor) as txn:
        return [envelope(change(txn, tree.message(txn, each))) for each in dict.fromkeys(messages)]


def move(call: Call, *, mailbox: str, messages: list[str], to: str, to_mailbox: str) -> list[Row]:
    """Put messages into another folder, all or none."""
    return _put(call, pillarbox.messages.move, mailbox, messages, to, to_mailbox)


def copy(call: Call, *, mailbox: str, messages: list[str], to: str, to_mailbox: str) -> list[Row]:
    """Put copies of messages into another folder, all or none."""
    return _put(call, pillarbox.messages.copy, mailbox, messages, to, to_mailbox)


def _put(
    call: Call,
    put: Callable[[WriteTransaction, int, int], ItemRecord],
    mailbox: str,
    messages: Iterable[str],
    to: str,
    to_mailbox: str,
) -> list[Row]:
    tree = find_tree(call.server, mailbox)
    into = target_tree(call.server, tree, to_mailbox)
    with tree.database.transaction(call.actor) as txn:
        target_id = into.folder(txn, to).folder_id
        refuse_root(into, target_id)
        sources = [tree.message(txn, each).message_id for each in dict.fromkeys(messages)]
        return [envelope(put(txn, each, target_id)) for each in sources]


def import_items(call: Call, *, mailbox: str, database: str, lone: list[str]) -> dict[str, Any]:
    """Add the messages that the caller gives to a mailbox, which is made where it is missing.

    `lone` are the sources of messages that are in no folder. Each item is the path of its folder as a list,
    and the fields of a `MailItem`. What its folder holds already is not added again.
    """
    from pillarbox.store.files.importing import import_found
    from pillarbox.store.files.mail_item import MailItem

    def tell(at: ImportProgress) -> None:
        call.step(at.bytes_read, 0, at.source)

    store, guid = _find_or_create(call, mailbox, database)
    found = (
        (tuple(path), MailItem(raw, tuple(flags), received_ms, source, position, damage))
        for path, raw, flags, received_ms, source, position, damage in call.items()
    )
    report = import_found(store, call.actor, guid, found, lone=lone, progress=tell, processes=None)
    return {
        "imported": report.messages_count,
        "present": report.present_count,
        "size_bytes": report.size_bytes,
        "folders": [list(path) for path in report.folders],
        "damaged": [each._asdict() for each in report.damaged],
    }


def _find_or_create(call: Call, name: str, database_name: str) -> tuple[pillarbox.Database, bytes]:
    """The database and GUID of a mailbox, made where it is missing; no GUID for public folders."""
    if name.startswith("/") and database_name:
        raise InvalidName("--database is for a new mailbox", hint="for public folders, write /DATABASE")
    try:
        tree = find_tree(call.server, name)
    except NotFound:
        if name.startswith("/"):
            raise
        database, box = call.server.mailboxes.create(call.actor, name, database_name)
        return database, box.guid
    return tree.database, tree.mailbox
