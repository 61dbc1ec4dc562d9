"""Delivery of messages to mailboxes of one database, as far as the disk has room for it."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import messages


def deliver(
    database: Database, actor: Actor, mailboxes: Sequence[bytes], raw: bytes, *, received_ms: int = 0
) -> list[ItemRecord]:
    """Put a message into the Inbox of each mailbox (GUIDs), durably: all or none.

    What many threads deliver at once is committed together, and each has its own outcome. Interrupted, it
    may be made. `received_ms` is ms UTC, now when 0. Raises NotFound, Dismounted, ReadOnly, Refused within a
    transaction of this thread's, InvalidSetting for a time of more than 64 bits; DiskFull, which is
    retryable, also when less disk is left than the configured floor (DOMAIN.md "Limits").
    """
    database.refuse_below_disk_floor()
    database.refuse_within_transaction()
    with database.preparing(len(raw)):
        prepared = messages.prepare(database.files, raw)
        return database.change(
            actor,
            lambda txn: messages.deliver(txn, mailboxes, prepared, received_ms=received_ms),
            len(raw),
        )
