"""Delivery of messages to mailboxes and folders of one database, as far as the disk has room for it."""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.store.access import Actor
from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import messages
from pillarbox.store.mail.mailboxes import MailboxName, named
from pillarbox.store.mail.messages import RAW_WANTED


def deliver(
    database: Database,
    actor: Actor,
    mailboxes: MailboxName | Iterable[MailboxName],
    raw: bytes,
    *,
    received_ms: int = 0,
) -> list[ItemRecord]:
    """Put a message into the Inbox of one mailbox or many, durably: all or none.

    A mailbox is named by its GUID or its name, and gets the message once however often it is named.
    What many threads deliver at once is committed together, and each has its own outcome. Interrupted, it
    may be made. `received_ms` is ms UTC, now when 0. Raises NotFound, Dismounted, ReadOnly, Refused within a
    transaction of this thread's, InvalidSetting for a time of more than 64 bits; DiskFull, which is
    retryable, also when less disk is left than the configured floor (DOMAIN.md "Limits").
    """
    _refuse_wrong(database, actor, raw)
    names = named(mailboxes)
    database.refuse_below_disk_floor()
    files = database.files
    return database.change(
        actor,
        lambda: messages.prepare(files, raw),
        lambda txn, prepared: messages.deliver(txn, names, prepared, received_ms=received_ms),
        len(raw),
    )


def append(
    database: Database,
    actor: Actor,
    folder_id: int,
    raw: bytes,
    *,
    flags: Iterable[str] = (),
    received_ms: int = 0,
) -> ItemRecord:
    """Put a message into a folder, durably, with IMAP flags and keywords.

    `received_ms` is ms UTC, now when 0. Raises as `deliver`, and InvalidSetting for what is no flag.
    """
    _refuse_wrong(database, actor, raw)
    given = flags if isinstance(flags, str) else tuple(flags)
    database.refuse_below_disk_floor()
    files = database.files
    return database.change(
        actor,
        lambda: messages.prepare(files, raw),
        lambda txn, prepared: messages.append(txn, folder_id, prepared, flags=given, received_ms=received_ms),
        len(raw),
    )


def _refuse_wrong(database: Database, actor: Actor, raw: bytes) -> None:
    check_kind(database, "database", Database, "a mounted database: `server.database(name)`")
    check_kind(actor, "actor", Actor, "who asks, such as `Actor.transport()`")
    check_kind(raw, "raw", bytes, RAW_WANTED)
