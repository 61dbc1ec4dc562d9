"""Delivery of messages to mailboxes of one database, as far as the disk has room for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.delivery_queue import Delivery
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.mail import messages
from pillarbox.store.mail.messages import PreparedMessage

# Who comes while others are prepared comes along, up to so many in a transaction.
_TOGETHER_MAX: Final = 256


def deliver(
    database: Database, actor: Actor, mailboxes: Sequence[bytes], raw: bytes, *, received_ms: int = 0
) -> list[ItemRecord]:
    """Put a message into the Inbox of each mailbox (GUIDs), durably: all or none.

    What many threads deliver at once is committed together, and each has its own outcome. `received_ms` is
    ms UTC, now when 0. Raises NotFound, Dismounted, ReadOnly, Refused within a transaction of this thread's,
    InvalidSetting for a time of more than 64 bits; DiskFull, which is retryable, also when less disk is left
    than the configured floor (DOMAIN.md "Limits").
    """
    database.refuse_below_disk_floor()
    database.refuse_within_transaction()  # which whoever leads would wait for
    delivery = Delivery(actor, mailboxes, raw, received_ms)
    taken: list[Delivery] = []
    try:
        if database.deliveries.leads(delivery):
            _make(database, taken)
    finally:
        if delivery.is_leader:
            for each in taken:
                each.done()
            database.deliveries.hand_on(delivery)
    return delivery.outcome()


def _make(database: Database, taken: list[Delivery]) -> None:
    """Take deliveries and make them."""
    prepared: list[tuple[Delivery, PreparedMessage]] = []
    while len(taken) < _TOGETHER_MAX and (came := database.deliveries.take(taken)):
        prepared += [(each, ready) for each in came if (ready := _prepare(database, each))]
    for actor in dict.fromkeys(each.actor for each, _ in prepared):
        _commit(database, actor, [(each, ready) for each, ready in prepared if each.actor == actor])


def _prepare(database: Database, delivery: Delivery) -> PreparedMessage | None:
    try:
        return messages.prepare(database.files, delivery.raw)
    except Exception as error:
        delivery.error = error
        return None


def _commit(database: Database, actor: Actor, deliveries: list[tuple[Delivery, PreparedMessage]]) -> None:
    """Commit deliveries together; one that cannot be made costs the others nothing."""
    while deliveries:
        failed: Delivery | None = None
        made: list[list[ItemRecord]] = []
        try:
            with database.transaction(actor) as txn:
                for each, ready in deliveries:
                    failed = each
                    made.append(messages.deliver(txn, each.mailboxes, ready, received_ms=each.received_ms))
                failed = None
        except Exception as error:
            if failed is None and isinstance(error, InvalidSetting) and len(deliveries) > 1:
                # Something of one of them cannot be stored: alone, each has an outcome of its own.
                for alone in deliveries:
                    _commit(database, actor, [alone])
                return
            for each, _ in deliveries:
                if failed is None or each is failed:
                    each.error = error
            deliveries = [(each, ready) for each, ready in deliveries if failed and each is not failed]
        else:
            # Not before: who is told of it may rely on it.
            for (each, _), items in zip(deliveries, made, strict=True):
                each.items = items
            return
