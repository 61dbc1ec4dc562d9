"""The operation of mail transports: deliver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pillarbox
from pillarbox.store.errors import InvalidName, NotFound, PillarboxError
from pillarbox.store.events import EventId
from pillarbox.store.ids import id_text
from pillarbox.tools.error_data import error_data
from pillarbox.tools.operations.call import Call

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import ItemRecord, MailboxRecord

    Recipients = dict[pillarbox.Database, list[MailboxRecord]]
    Delivered = list[tuple[pillarbox.Database, MailboxRecord, ItemRecord]]

TRANSPORT: Final = pillarbox.Actor.transport()


def deliver(call: Call, *, mailboxes: list[str]) -> dict[str, Any]:
    """Deliver the one message that the caller gives to the Inbox of each mailbox: to all, or to none.

    `delivered` has a row for each mailbox, in which the message is durable. When one of the mailboxes is not
    there, `missing` is what the server says of it, and nobody got the message.
    """
    found: Recipients = {}
    for name in mailboxes:
        try:
            database, box = call.server.mailboxes.find(name)
        except (NotFound, InvalidName) as error:
            return {"delivered": [], "missing": error_data(error)}
        boxes = found.setdefault(database, [])
        if box not in boxes:
            boxes.append(box)
    (raw,) = call.items()
    delivered = deliver_to_all(found, raw)
    return {"delivered": _rows(delivered), "missing": None}


def _rows(delivered: Sequence[tuple[pillarbox.Database, MailboxRecord, ItemRecord]]) -> list[dict[str, str]]:
    return [
        {"mailbox": box.name, "database": database.label, "id": id_text(item.message_id)}
        for database, box, item in delivered
    ]


def deliver_to_all(recipients: Recipients, raw: bytes) -> Delivered:
    """Deliver in each database; what the ones before took is deleted again when one refuses.

    What cannot be deleted stays delivered, which event 1025 tells. Raises the error of the one that refused.
    """
    delivered: Delivered = []
    try:
        for database, boxes in recipients.items():
            items = pillarbox.deliver(database, TRANSPORT, [box.guid for box in boxes], raw)
            delivered += [(database, box, item) for box, item in zip(boxes, items, strict=True)]
    except BaseException:
        for database, box, item in delivered:
            try:
                with database.transaction(TRANSPORT) as txn:
                    pillarbox.messages.delete(txn, item.message_id)
            except PillarboxError as error:
                what = f"taking back {id_text(item.message_id)} from mailbox {box.name}"
                database.report(EventId.REQUEST_FAILED, request=what, error=str(error))
        raise
    return delivered
