"""Operations on mailboxes: create, rename, move, disconnect, reconnect, purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pillarbox
from pillarbox.store.errors import Refused
from pillarbox.store.ids import guid_text, id_text
from pillarbox.tools.mail_rows import Row, mailbox_row
from pillarbox.tools.operations.call import Call
from pillarbox.tools.output import counted

if TYPE_CHECKING:
    from pillarbox.store.upkeep.move_mailbox import MoveProgress


def create(call: Call, *, name: str, database: str) -> Row:
    """Make a mailbox in the database named, or in the server's only mailbox store."""
    return mailbox_row(*call.server.mailboxes.create(call.actor, name, database))


def rename(call: Call, *, mailbox: str, name: str) -> Row:
    """Give a mailbox another name."""
    return mailbox_row(*call.server.mailboxes.rename(call.actor, mailbox, name))


def move(call: Call, *, mailbox: str, database: str, skip_damaged_max: int) -> dict[str, Any]:
    """Move a mailbox to another database; up to so many damaged messages are left behind."""

    def tell(at: MoveProgress) -> None:
        call.step(at.messages_count, at.messages_total, "")

    moved = call.server.mailboxes.move(
        call.actor, mailbox, database, skip_damaged_max=skip_damaged_max, progress=tell
    )
    return {
        "mailbox": moved.mailbox,
        "guid": guid_text(moved.guid),
        "database": call.server.database(database).label,
        "folders": moved.folders_count,
        "messages": moved.messages_count,
        "size_bytes": moved.size_bytes,
        "damaged": [
            {"folder": each.folder, "id": id_text(each.message_id), "reason": each.reason}
            for each in moved.damaged
        ],
    }


def disconnect(call: Call, *, mailbox: str) -> Row:
    """Take a mailbox from its user."""
    database, box = call.server.mailboxes.find(mailbox)
    with database.transaction(call.actor) as txn:
        changed = pillarbox.mailboxes.disconnect(txn, box.guid)
    return mailbox_row(database, changed)


def reconnect(call: Call, *, mailbox: str, user: bytes) -> Row:
    """Give a disconnected mailbox to a user, by GUID, or to nobody that is known."""
    database, box = call.server.mailboxes.find(mailbox)
    with database.transaction(call.actor) as txn:
        changed = pillarbox.mailboxes.reconnect(txn, box.guid, user)
    return mailbox_row(database, changed)


def purge(call: Call, *, mailbox: str) -> str:
    """Delete a disconnected mailbox for good, after asking; its name."""
    database, box = call.server.mailboxes.find(mailbox)
    if box.state != pillarbox.mailboxes.DISCONNECTED:
        raise Refused(
            f"mailbox {box.name!r} is connected to a user",
            hint="disconnect it first: `pillarbox mailbox disconnect`",
        )
    call.confirm(f"Delete mailbox {box.name} and its {counted(box.messages_count, 'message')}?")
    with database.transaction(call.actor) as txn:
        pillarbox.mailboxes.purge(txn, box.guid)
    call.server.mailboxes.discard_copies(box.guid)
    database.finish_removals()
    return box.name
