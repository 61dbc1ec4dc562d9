"""Copies that moves of mailboxes make in other databases, and which of them count.

A copy is no mailbox while its move goes on: first it is incomplete and hidden, and then the source is still
there. It counts once its source is gone, unless the source's tombstone says that it was deleted, or went to
another database. What the tombstone or the source cannot tell is told in favour of the copy, and mail that
was acknowledged into one makes a mailbox of it: nothing that somebody may miss is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import (
    MailboxRecord,
    ObjectKind,
    Table,
    TombstoneRecord,
    is_hidden,
    is_id,
    pair_key,
)
from pillarbox.store.engine.change_feed import is_of_future
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.events import EventId
from pillarbox.store.ids import guid_text
from pillarbox.store.mail import folders, mailboxes

_INCOMPLETE = "it was not complete"


def is_incomplete(box: MailboxRecord) -> bool:
    """True when a mailbox is an incomplete copy; before it was hidden, its name told."""
    return is_hidden(box) or box.name == f"{guid_text(box.guid)}/moving"


def copies_in(reader: Reader) -> Iterator[MailboxRecord]:
    """The copies in a database whose moves have not ended, whether they count or not."""
    for _, box in reader.records(Table.MAILBOX, b"", None):
        if box.moved_from or is_incomplete(box):
            yield box


def is_used(reader: Reader, copy: MailboxRecord) -> bool:
    """True when anything in a complete copy has changed since it was complete."""
    walked = [mailboxes.root(reader, copy), *(found for _, found in folders.walk(reader, copy.root_id))]
    last = max(max(folder.highest_cn, folder.change_cn) for folder in walked)
    return max(last, copy.change_cn) > copy.arrived_cn


def unused_copies(reader: Reader) -> list[bytes]:
    """The GUIDs of complete copies in which nothing has changed since."""
    return [box.guid for box in copies_in(reader) if not (is_incomplete(box) or is_used(reader, box))]


def take_for_unused(txn: WriteTransaction, guids: Iterable[bytes]) -> None:
    """Let what was changed in copies until now be no use of them, as of a restore that renews UIDVALIDITY."""
    for guid in guids:
        cn = txn.next_cn()
        copy = mailboxes.get(txn, guid)
        txn.put(Table.MAILBOX, guid, copy._replace(change_cn=cn, arrived_cn=cn))


def why_it_does_not_count(reader: Reader, copy: MailboxRecord, source: Reader) -> str:
    """Why a complete copy is not the mailbox, for an event; empty when it is.

    `source` reads the database that it comes from. A mailbox there that was restored to before the copy was
    complete is no longer what the copy was made of.
    """
    if is_used(reader, copy):
        return ""
    record: MailboxRecord | None = source.record(Table.MAILBOX, copy.guid)
    if record is not None and record.root_id == copy.moved_root_id:
        is_older = is_of_future(source, copy.moved_counter)
        return "" if is_older else "the mailbox is where it was"
    tombstone = _tombstone_of_mailbox(source, copy.moved_root_id)
    if tombstone is None or tombstone.went_to == reader.files.guid:
        return ""
    return "the mailbox went to another database" if tombstone.went_to else "the mailbox was deleted"


def _tombstone_of_mailbox(reader: Reader, root_id: int) -> TombstoneRecord | None:
    if not is_id(root_id):
        return None
    found = reader.records(Table.TOMBSTONE, pair_key(root_id, 0), pair_key(root_id + 1, 0))
    gone = (tombstone for _, tombstone in found if tombstone.kind == ObjectKind.MAILBOX_GONE)
    return next(gone, None)


def discard_copy(database: Database, guid: bytes, source: Database | None, actor: Actor) -> None:
    """Delete the copy of a mailbox that does not count: event 20017 tells.

    `source` is the mounted database that a complete one comes from, None when it cannot be asked: such a copy
    stays. Call it only while nobody moves the mailbox. Raises Dismounted, ReadOnly, DiskFull, Corrupt.
    """
    with database.transaction(actor) as txn:
        copy: MailboxRecord | None = txn.record(Table.MAILBOX, guid)
        if copy is None:
            return
        reason = ""
        if is_incomplete(copy):
            reason = _INCOMPLETE
        elif source is not None and copy.moved_from == source.guid:
            if source.state is MountState.MOUNTED:
                with source.transaction(actor):
                    pass  # refused after a failed write: then a read shows what may be no more
            with source.read(actor) as read:
                reason = why_it_does_not_count(txn, copy, read)
        if reason:
            mailboxes.remove(txn, copy)
            txn.report(EventId.MOVE_UNDONE, mailbox=copy.name, reason=reason)
