"""Delivery of one message to mailboxes of one database, as far as the disk has room for it."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.store import message
from pillarbox.store.access import Actor
from pillarbox.store.database import Database
from pillarbox.store.tables import ItemRecord


def deliver(
    database: Database, actor: Actor, mailboxes: Sequence[bytes], raw: bytes, *, received_ms: int = 0
) -> list[ItemRecord]:
    """Put a message into the Inbox of each mailbox (GUIDs), durably: all or none.

    `received_ms` is ms UTC, now when 0. Raises NotFound, Dismounted, ReadOnly; DiskFull, which is retryable,
    also when less disk is left than the configured floor (DOMAIN.md "Limits").
    """
    database.refuse_below_disk_floor()
    prepared = message.prepare(database.files, raw)
    with database.transaction(actor) as txn:
        return message.deliver(txn, mailboxes, prepared, received_ms=received_ms)
