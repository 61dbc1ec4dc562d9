"""A return in time, noticed where a store is changed and no node has looked yet: by a command, say.

The fence is compared before the first number is given, as a node does at its start. Where it does not agree
the database is marked as restored: the next change made here begins a numbering, and so does the next node.
"""

from __future__ import annotations

from typing import Final

from pillarbox.replication.core.identity import Fence, Mark, Return, reason_to_number_anew
from pillarbox.replication.node.fence import FenceFile
from pillarbox.store.access import Actor
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.ids import GUID_BYTES

ACTOR: Final = Actor.task("replication")


def notice_return(database: Database, fence_file: FenceFile) -> Return | None:
    """See before a change whether a mounted database is the one that numbered its changes before; None when
    it is.

    If not, its next change is numbered anew, and the fence is written as that of the database as it is now.
    If it is, its next change is numbered anew all the same where a node has run under its numbering: files
    and fence may have been put back together, which only others could tell.

    Raises Refused in a database that has joined no organisation, and as `FenceFile` and a transaction do.
    """
    fence, place = fence_file.read()
    with database.read(ACTOR) as reader:
        is_restored = reader.state().restored
        reason = reason_to_number_anew(database.guid, is_restored, _mark_of(reader), fence, place)
        if reason is None:
            if fence is not None:
                _doubt_what_a_node_gave(reader, fence, fence_file)
            return None
    with database.transaction(ACTOR) as txn:
        txn.restored = True
        nonce = numbering.renew_nonce(txn, fence.nonce if fence else b"")
    fence_file.write(Fence(database.guid, 0, nonce, fence_file.nowhere, is_open=False))
    return reason


def _doubt_what_a_node_gave(reader: Reader, fence: Fence, fence_file: FenceFile) -> None:
    """Have the next change numbered anew where a node has run under the numbering of now."""
    number = reader.state().numbering
    if not number or numbering.replica(reader, number).incarnation > fence.incarnation:
        return
    if not fence.is_doubted:
        fence_file.write(fence._replace(is_doubted=True))
    reader.files.unsure_numbering = number


def _mark_of(reader: Reader) -> Mark:
    own = [each.incarnation for _, each in numbering.replicas(reader) if each.database == reader.files.guid]
    nonces = numbering.nonces(reader)
    return Mark(max(own, default=0), nonces[:GUID_BYTES], nonces[GUID_BYTES:])
